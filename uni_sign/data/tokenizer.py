"""mT5's own tokenizer: SentencePiece, plus the end-of-sentence id (exact, byte fallback included)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from uni_sign.errors import InputError

PAD, EOS, UNKNOWN = 0, 1, 2


class Tokenizer:
    """Text to the token ids the checkpoints were trained with, and back.

    Reads ``spiece.model`` of a local mT5 folder; raises InputError where it is missing or broken. A literal
    ``</s>`` in a text is text, never the end of the sentence.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spiece.model"
        if not self.path.is_file():
            raise InputError(f"No tokenizer in {folder} (spiece.model is missing): copy it there from google/mt5-base.")
        self._load(self.path.read_bytes())

    def _load(self, model: bytes) -> None:
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self._processor.id_to_piece(list(range(len(self._processor))))  # or decoding a stray byte would fail later
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path} is not a SentencePiece model: copy it again from google/mt5-base."
            ) from error
        if len(self._processor) < 4:
            raise InputError(f"{self.path} is an empty SentencePiece model: copy it again from google/mt5-base.")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "model": self._model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._load(state["model"])

    def with_model(self, model: bytes) -> "Tokenizer":
        """The tokenizer of another SentencePiece model; errors name the same file."""
        other = object.__new__(Tokenizer)
        other.__setstate__({"path": self.path, "model": model})
        return other

    def __len__(self) -> int:
        return len(self._processor)

    @property
    def model_bytes(self) -> bytes:
        """The SentencePiece model as stored."""
        return self._model

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Token ids with the end-of-sentence id last, at most ``max_length`` of them."""
        return self.encode_all([text], max_length)[0]

    def encode_all(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """``encode`` of many texts at once."""
        encoded: list[list[int]] = self._processor.encode(list(texts))
        for ids in encoded:
            if max_length is not None:
                del ids[max_length - 1 :]
            ids.append(EOS)
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special ids and those beyond the vocabulary left out."""
        size = len(self._processor)
        return str(self._processor.decode([int(i) for i in ids if UNKNOWN < i < size]))
