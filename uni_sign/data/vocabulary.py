"""A part of mT5's vocabulary: which pieces a corpus needs, and a SentencePiece model of these alone.

Every text whose pieces are all kept is cut into the same pieces as before. The best segmentation is still there, and
nothing better came in: where a single character lost its piece, the unknown piece stands for it, which SentencePiece
scores 10 below the lowest piece of all. So the lowest-scored piece is kept, and the highest-scored one, from which
SentencePiece derives the score of user-defined pieces. Of equal segmentations the one found first wins, then as now.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from uni_sign.data.safe_pickle import check_file
from uni_sign.data.tokenizer import EOS, PAD, UNKNOWN, Tokenizer
from uni_sign.errors import InputError

KEPT_FILE = "kept_pieces.json"
_SPECIAL = [PAD, EOS, UNKNOWN]
_NORMAL, _UNUSED = ModelProto.SentencePiece.NORMAL, ModelProto.SentencePiece.UNUSED
# Matrix kernels in 16 bits want whole groups of rows; mT5's own 250,112 rows are 250,100 pieces filled up to one.
_MULTIPLE = 64
_MOST_ROWS = 1 << 24
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Kept:
    """The pieces of a full vocabulary that a trimmed one keeps: the row of each is its place in ``ids``.

    ``ids``: places in the full vocabulary, ascending from 0, 1, 2; ``rows``: those of the full embedding, which can be
    more than there are pieces; ``tokenizer``: `tokenizer_digest` of the full vocabulary; ``described``: whether all
    pieces of the corpus's descriptions are among them.
    """

    ids: tuple[int, ...]
    rows: int
    tokenizer: str
    described: bool

    def __str__(self) -> str:
        digest = hashlib.blake2b(repr(self).encode(), digest_size=4).hexdigest()
        return f"{len(self.ids):,} pieces ({digest})"

    def plain(self) -> dict[str, Any]:
        """As it lies in checkpoints and in ``kept_pieces.json``; `kept_from` reads it."""
        return {**asdict(self), "ids": list(self.ids)}


def kept_from(value: Any, source: str) -> Kept:
    """What `Kept.plain` gave; raises InputError naming ``source`` for anything else."""
    try:
        kept = Kept(**{**value, "ids": tuple(value["ids"])})
    except (TypeError, KeyError) as error:
        raise InputError(f"{source} does not name the kept pieces: make it anew.") from error
    ids, rows = kept.ids, kept.rows
    ascending = all(type(i) is int for i in ids) and all(a < b for a, b in pairwise(ids))
    right = type(rows) is int and ascending and list(ids[:3]) == _SPECIAL and ids[-1] < rows <= _MOST_ROWS
    if not right or type(kept.tokenizer) is not str or type(kept.described) is not bool:
        raise InputError(f"{source} names pieces that no vocabulary can have: make it anew.")
    return kept


def read_kept(folder: Path) -> Kept | None:
    """The kept pieces of an mT5 folder that `uni-sign trim` wrote; None for an untrimmed one."""
    path = folder / KEPT_FILE
    if not path.exists():
        return None
    try:
        if check_file(path) > _MAX_BYTES:
            raise InputError(f"{path} is larger than any such file: make it anew.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: make the folder anew with `uni-sign trim`.") from error
    return kept_from(value, str(path))


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """32 hex digits of the SentencePiece model."""
    return hashlib.blake2b(tokenizer.model_bytes, digest_size=16).hexdigest()


def needed_pieces(tokenizer: Tokenizer, texts: Iterable[Sequence[str]]) -> tuple[int, ...]:
    """Ids, ascending, of the pieces that ``texts`` (in portions) and others of the same scripts need.

    These are the pieces of the texts; all bytes, control and user-defined pieces; ASCII, and every single character
    of a script that the texts use, alone or at the start of a word; and, up to a multiple of 64, the most frequent
    others. Raises InputError where the SentencePiece model cannot be taken apart.
    """
    pieces = _parsed(tokenizer).pieces
    kept = set(_SPECIAL)
    for portion in texts:
        kept.update(i for row in tokenizer.encode_all(portion) for i in row)
    normal = [i for i, piece in enumerate(pieces) if piece.type == _NORMAL]
    scripts = {_script(character) for i in kept.intersection(normal) for character in pieces[i].piece} - {""}
    by_score = sorted(normal, key=lambda i: pieces[i].score)
    kept.update(by_score[:1], by_score[-1:])
    kept.update(i for i, piece in enumerate(pieces) if piece.type not in (_NORMAL, _UNUSED))
    kept.update(i for i in normal if _is_character(pieces[i].piece.removeprefix("▁"), scripts))
    others = (i for i in reversed(by_score) if i not in kept)
    kept.update(list(islice(others, -len(kept) % _MULTIPLE)))
    return tuple(sorted(kept))


def kept_tokenizer(tokenizer: Tokenizer, ids: Sequence[int]) -> Tokenizer:
    """The tokenizer of the pieces ``ids`` alone, numbered by their places in ``ids``."""
    model = _parsed(tokenizer)
    pieces = [model.pieces[i] for i in ids]
    del model.pieces[:]
    model.pieces.extend(pieces)
    model.trainer_spec.vocab_size = len(pieces)
    if "self_test_data" in model.DESCRIPTOR.fields_by_name:  # until 0.2.1 loading compares with the full model's pieces
        model.ClearField("self_test_data")
    return tokenizer.with_model(model.SerializeToString(deterministic=True))


def _parsed(tokenizer: Tokenizer) -> Any:
    try:
        model = ModelProto.FromString(tokenizer.model_bytes)
        _ = [piece.piece for piece in model.pieces]
    except (DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{tokenizer.path} cannot be trimmed: copy it again from google/mt5-base.") from error
    return model


def _is_character(text: str, scripts: set[str]) -> bool:
    return len(text) < 2 and (text.isascii() or _script(text) in scripts)


def _script(character: str) -> str:
    """The first word of a character's Unicode name: LATIN, CJK, HIRAGANA, IDEOGRAPHIC (FULL STOP)."""
    return re.split("[ -]", unicodedata.name(character, ""))[0]
