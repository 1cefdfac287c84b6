"""mBART from a local folder: its shape, its weights, its tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer, MBartConfig, MBartForConditionalGeneration

from uni_sign.errors import InputError
from uni_sign.models.pretrained import first_line, load_pretrained

_SIZES = (
    *("vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads"),
    *("decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings"),
)
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id")
_RATES = ("dropout", "attention_dropout", "activation_dropout")
_LARGEST = 1 << 24
_MOST_LAYERS = 100
_ADVICE = "put facebook/mbart-large-50 there, or point --mbart_model_path elsewhere"


def read_mbart_config(folder: Path) -> MBartConfig:
    """The mBART configuration of a local folder; raises InputError where there is none or it is broken."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"No mBART model in {folder} (config.json is missing): {_ADVICE}.")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        return mbart_config(
            {name: given[name] for name in (*_SIZES, *_IDS, *_RATES, "scale_embedding") if name in given}
        )
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not an mBART configuration: {error}.") from error


def mbart_config(plain: dict[str, Any]) -> MBartConfig:
    """A configuration from plain values, such as `plain_config` gives. Raises ValueError for impossible ones.

    Of what a stranger's file says only these values count: others can name code to load.
    """
    for name, value in plain.items():
        if name in _SIZES:
            most = _MOST_LAYERS if name.endswith("layers") else _LARGEST
            good = type(value) is int and 0 < value <= most
        elif name in _IDS:
            good = value is None or (type(value) is int and 0 <= value < _LARGEST)
        else:
            good = type(value) in (int, float, bool) and 0 <= value <= 1
        if not good:
            raise ValueError(f"{name} has an impossible value")
    return MBartConfig(**plain, tie_word_embeddings=True)


def plain_config(config: MBartConfig) -> dict[str, Any]:
    """What `mbart_config` makes the same configuration from."""
    return {name: getattr(config, name, None) for name in (*_SIZES, *_IDS, *_RATES, "scale_embedding")}


def load_mbart(folder: Path) -> MBartForConditionalGeneration:
    """The pretrained mBART of a local folder in float32; raises InputError where weights are missing or wrong."""
    tied = ("embed_tokens", "lm_head")
    model: MBartForConditionalGeneration = load_pretrained(
        MBartForConditionalGeneration,
        folder,
        read_mbart_config(folder),
        "mBART",
        lambda name: any(part in name for part in tied),
    )
    return model


class Start(NamedTuple):
    """The pieces that a text begins with: what the decoder is given first, and the first one it must write, if any."""

    decoder_start: int
    forced: int | None


class MBartTexts:
    """Text to the piece ids that mBART's decoder learns, and back, by the tokenizer of its folder."""

    def __init__(self, folder: Path, language: str) -> None:
        if not folder.is_dir():
            raise InputError(f"No mBART model in {folder} (no such folder): {_ADVICE}.")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise InputError(f"No mBART tokenizer in {folder} can be read ({first_line(error)}): {_ADVICE}.") from error
        if language:
            if language not in self._tokenizer.get_vocab() or not hasattr(self._tokenizer, "tgt_lang"):
                raise InputError(f"--tgt_lang {language} is no language of the tokenizer in {folder}, such as en_XX.")
            self._tokenizer.tgt_lang = language

    def __len__(self) -> int:
        return len(self._tokenizer)

    def encode_all(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Labels of texts, special pieces as mBART sets them, at most ``most`` of them."""
        encoded: list[list[int]] = self._tokenizer(text_target=list(texts), truncation=True, max_length=most)[
            "input_ids"
        ]
        return encoded

    def decode_all(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of piece ids, special ones left out."""
        return [text.strip() for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def start(self) -> Start:
        """How every text begins: mBART puts the last piece of the labels before them."""
        special = self.encode_all([""], 8)[0]
        forced = special[0] if len(special) > 1 and special[0] != self._tokenizer.eos_token_id else None
        return Start(special[-1], forced)
