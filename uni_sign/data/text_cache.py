"""Features of descriptions on disk, for a text encoder that no longer changes.

A cache folder holds shards, each a pair of append-only files: `<shard>.keys`, 16-byte digests of the texts, and
`<shard>.bin`, the raw float32 features in the same order. A row counts once both files hold it, so a killed
writer loses at most the batch it was writing. Every writer has a shard of its own; readers map all of them.
"""

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uni_sign.errors import InputError

_DIGEST = 16


def text_key(text: str) -> bytes:
    """The 16-byte digest under which a text's feature is kept."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=_DIGEST).digest()


class TextFeatures:
    """Look-up of text features of width ``dim`` in ``folder``; safe to hand to data-loading workers."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        self._shards: list[np.memmap] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Map every complete row that any writer has stored so far."""
        self._shards, self._places = [], {}
        row_bytes = 4 * self.dim
        for keys_path in sorted(self.folder.glob("*.keys")):
            keys = keys_path.read_bytes()
            rows_path = keys_path.with_suffix(".bin")
            stored = rows_path.stat().st_size if rows_path.is_file() else 0
            count = min(len(keys) // _DIGEST, stored // row_bytes)
            if count == 0:
                continue
            shard = len(self._shards)
            self._shards.append(np.memmap(rows_path, np.float32, "r", shape=(count, self.dim)))
            for row in range(count):
                self._places[keys[row * _DIGEST : (row + 1) * _DIGEST]] = (shard, row)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts that have no feature yet, in order of first appearance."""
        return [text for text in dict.fromkeys(texts) if text_key(text) not in self._places]

    def lookup(self, texts: Sequence[str]) -> np.ndarray:
        """Features of known texts: (U, dim) float32; raises InputError for a text never stored."""
        rows = np.empty((len(texts), self.dim), np.float32)
        for i, text in enumerate(texts):
            place = self._places.get(text_key(text))
            if place is None:
                raise InputError(
                    f"{self.folder} lacks the feature of {text[:40]!r}: put --text_cache where all nodes see it."
                )
            shard, row = place
            rows[i] = self._shards[shard][row]
        return rows

    def writer(self) -> "TextFeatureWriter":
        """A shard of its own to append to."""
        return TextFeatureWriter(self.folder, self.dim)


class TextFeatureWriter:
    """Appends (texts, features) batches to one new shard."""

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / uuid.uuid4().hex
        self._dim = dim
        self._rows = open(stem.with_suffix(".bin"), "ab")  # noqa: SIM115 - closed by close()
        self._keys = open(stem.with_suffix(".keys"), "ab")  # noqa: SIM115 - closed by close()

    def append(self, texts: Sequence[str], features: np.ndarray) -> None:
        """Store features (U, dim); the rows reach the disk before their keys do."""
        self._rows.write(np.ascontiguousarray(features, np.float32).reshape(len(texts), self._dim).tobytes())
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self._keys.write(b"".join(text_key(text) for text in texts))
        self._keys.flush()

    def close(self) -> None:
        """Close both files."""
        self._rows.close()
        self._keys.close()
