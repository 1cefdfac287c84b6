"""Token ids of a split's targets: made once, and kept on disk where they are many."""

import hashlib
import uuid
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from uni_sign.data.samples import Ids, Samples
from uni_sign.data.tokenizer import Tokenizer

_KEPT_FROM = 20_000  # targets: below, encoding them is as fast
_AT_ONCE = 1000  # targets: as lists their ids take ten times the memory
_VERSION = b"1"


def target_ids(samples: Samples, tokenizer: Tokenizer, folder: Path | None) -> Ids:
    """The ids of each target, its end included; with a ``folder`` those of many targets are kept there.

    A file there is named by the tokenizer and all texts. Where it is damaged, or none can be written, they are made.
    """
    if folder is None or len(samples) < _KEPT_FROM:
        return _encoded(samples.targets, tokenizer)
    digest = hashlib.blake2b(_VERSION + tokenizer.model_bytes, digest_size=16)
    samples.update_with_targets(digest)
    path = folder / f"{digest.hexdigest()}.ids.npz"
    found = _read(path, len(samples), len(tokenizer))
    if found is None:
        found = _encoded(samples.targets, tokenizer)
        with suppress(OSError):
            _write(path, found)
    return found


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> Ids:
    starts = range(0, max(1, len(texts)), _AT_ONCE)
    parts = [Ids(tokenizer.encode_all(texts[start : start + _AT_ONCE])) for start in starts]
    return Ids.of(np.concatenate([part.flat for part in parts]), np.concatenate([part.lengths for part in parts]))


def _read(path: Path, count: int, pieces: int) -> Ids | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, lengths = arrays["ids"], arrays["lengths"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    plain = ids.dtype == np.int32 and lengths.dtype == np.int64 and lengths.shape == (count,) and ids.ndim == 1
    if not plain or lengths.min() < 1 or lengths.sum() != len(ids) or ids.min() < 0 or ids.max() >= pieces:
        return None
    return Ids.of(ids, lengths)


def _write(path: Path, ids: Ids) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, ids=ids.flat, lengths=ids.lengths)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
