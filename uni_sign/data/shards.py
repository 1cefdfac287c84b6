"""Prepared poses: Arrow files of many clips each, read by memory mapping.

A row is a clip: name, size and time of change of its pose file; its frames and the number of the first of them; the
normalised parts of the whole clip; the points that they were made of, for when not all frames fit into a clip's limit
(the box that normalises is that of the chosen frames); or the sentence that says why it cannot be read. Parts and
points are raw bytes in planes of x, y and score, so that reading is a view of the mapped file.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from uni_sign.data.arrow_shards import (
    ABSENT,
    OUTDATED,
    UNREADABLE,
    MappedFiles,
    places_in,
    read_batches,
    shard_files,
)
from uni_sign.data.samples import Blobs, Fingerprint, Sample, fingerprint
from uni_sign.data.wholebody import LIMIT, MAX_FRAMES, ORIGINS, PARTS, THRESHOLD, USED_POINTS
from uni_sign.errors import SampleError

# A change of what parts are makes other shards; so must one of how they are computed: raise the number.
_LAYOUT = hashlib.blake2b(repr((1, PARTS, ORIGINS, THRESHOLD)).encode(), digest_size=8).hexdigest()
SCHEMA = pa.schema(
    [
        pa.field("name", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("parts", pa.large_binary(), nullable=False),
        pa.field("points", pa.large_binary(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
    ],
    metadata={"uni_sign.layout": _LAYOUT},
)
_NUMBERS = ("size", "mtime_ns", "frames", "start")
_VALUES = 3 * USED_POINTS  # of a frame
_WIDTHS = [len(points) for points in PARTS.values()]


def parts_bytes(parts: dict[str, np.ndarray]) -> bytes:
    """Parts (T, V, 3) as a shard holds them: float32, part by part, in planes (3, T, V)."""
    return b"".join(part.astype(np.float32, copy=False).transpose(2, 0, 1).tobytes() for part in parts.values())


class Shards:
    """All clips in a folder's shards; each process that reads maps the files for itself.

    ``frames``, ``starts``: of each row. Raises InputError, naming the file, for a shard that is damaged, or of another
    version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = shard_files(folder)
        found = [_read_index(path) for path in self.files]
        self._names = Blobs(name for index in found for name in index["name"])
        self._problems = Blobs(problem.encode() for index in found for problem in index["problem"])
        columns = {name: _joined(index[name] for index in found) for name in _COLUMNS}
        self._sizes, self._times = columns["size"], columns["mtime_ns"]
        self.frames, self.starts = columns["frames"], columns["start"]
        self._parts_at, self._points_at = columns["parts_at"], columns["points_at"]
        self._point_bytes = columns["point_bytes"]
        self._shard_of = np.repeat(np.arange(len(found)), [len(index["frames"]) for index in found])
        self._maps = MappedFiles(self.files)

    def __len__(self) -> int:
        return len(self.frames)

    def locate(self, samples: Iterable[Sample]) -> np.ndarray:
        """The row of each clip, int64, or `ABSENT`, `OUTDATED` or `UNREADABLE`."""
        keys = self._keys()
        rows = dict.fromkeys(keys, UNREADABLE)
        rows |= {keys[row]: row for row in np.flatnonzero(self.frames).tolist()}
        names = {key[0] for key in keys}
        found = [rows.get(key, OUTDATED if key[0] in names else ABSENT) for key in map(fingerprint, samples)]
        return np.array(found, np.int64)

    def known_frames(self, samples: Iterable[Sample]) -> dict[Path, int]:
        """Frames of each pose file that a row holds."""
        listed = list(samples)
        rows = zip(listed, self.locate(listed).tolist(), strict=True)
        return {sample.pose_path: int(self.frames[row]) for sample, row in rows if row >= 0}

    def problems(self, samples: Iterable[Sample]) -> list[str]:
        """The sentences that are recorded for those of these clips that are unreadable."""
        unreadable = {key for key, row in self._located(samples) if row == UNREADABLE}
        return [self._problems[row].decode() for row, key in enumerate(self._keys()) if key in unreadable]

    def without(self, samples: Iterable[Sample]) -> list[Path]:
        """The shards that hold no row of any of these clips."""
        wanted = set(map(fingerprint, samples))
        used = {int(self._shard_of[row]) for row, key in enumerate(self._keys()) if key in wanted}
        return [path for number, path in enumerate(self.files) if number not in used]

    def _keys(self) -> list[Fingerprint]:
        return list(zip(self._names, self._sizes.tolist(), self._times.tolist(), strict=True))

    def _located(self, samples: Iterable[Sample]) -> Iterator[tuple[Fingerprint, int]]:
        listed = list(samples)
        yield from zip(map(fingerprint, listed), self.locate(listed).tolist(), strict=True)

    def parts(self, row: int) -> dict[str, np.ndarray]:
        """All parts of a clip, (T, V, 3) float32: read-only views of the mapped file."""
        data = self._maps[int(self._shard_of[row])]
        frames, place = int(self.frames[row]), int(self._parts_at[row])
        flat: np.ndarray = np.ndarray(frames * _VALUES, np.float32, data, place)
        self._check(row, flat, 1)
        parts, done = {}, 0
        for name, width in zip(PARTS, _WIDTHS, strict=True):
            values = 3 * frames * width
            parts[name] = flat[done : done + values].reshape(3, frames, width).transpose(1, 2, 0)
            done += values
        return parts

    def points(self, row: int, chosen: np.ndarray) -> np.ndarray:
        """x, y and score of the parts' points in the chosen frames (n,): a copy, (3, n, `USED_POINTS`)."""
        data = self._maps[int(self._shard_of[row])]
        shape = (3, int(self.frames[row]), USED_POINTS)
        dtype = np.dtype(f"f{self._point_bytes[row]}")
        planes = np.ndarray(shape, dtype, data, int(self._points_at[row])).take(chosen, axis=1)
        self._check(row, planes, LIMIT)
        return planes

    def _check(self, row: int, values: np.ndarray, limit: float) -> None:
        if not (values.min() >= -limit and values.max() <= limit):  # false for NaN, too
            raise SampleError(
                f"{self.files[self._shard_of[row]]} holds values of {os.fsdecode(self._names[row])} that no pose has: "
                "delete it and run `uni-sign prepare` again."
            )


def told_shares(folder: Path, rows: Mapping[str, np.ndarray]) -> str:
    """How many clips of each split come from the shards, in one sentence."""
    shares = ", ".join(f"{int((found >= 0).sum())} of {len(found)} {split}" for split, found in rows.items())
    outdated = sum(int((found == OUTDATED).sum()) for found in rows.values())
    more = f"; {outdated} have changed since, run `uni-sign prepare` again" if outdated else ""
    return f"Poses from prepared shards in {folder}: {shares} clips{more}."


def open_shards(folder: Path) -> Shards | None:
    """The shards in a folder, or None where there are none."""
    shards = Shards(folder)
    return shards if shards.files else None


# --- where the bytes of the rows lie -----------------------------------------------------------------------

_COLUMNS = (*_NUMBERS, "parts_at", "points_at", "point_bytes")
_Index = dict[str, Any]


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _read_index(path: Path) -> _Index:
    batches = read_batches(path, SCHEMA, _read_batch, "poses")
    index: _Index = {name: _joined(batch[name] for batch in batches) for name in _COLUMNS}
    for name in ("name", "problem"):
        index[name] = [value for batch in batches for value in batch[name]]
    return index


def _read_batch(batch: pa.RecordBatch, whole: pa.Buffer) -> _Index:
    index: _Index = {name: batch.column(name).to_numpy() for name in _NUMBERS}
    index["name"], index["problem"] = batch.column("name").to_pylist(), batch.column("problem").to_pylist()
    index["parts_at"], parts = places_in(batch.column("parts"), whole)
    index["points_at"], points = places_in(batch.column("points"), whole)
    frames, start = index["frames"], index["start"]
    index["point_bytes"] = points // np.maximum(frames * _VALUES, 1)
    unreadable = np.array([bool(problem) for problem in index["problem"]], bool)
    right = (frames >= 0) & (frames <= MAX_FRAMES) & (start >= 0) & (start <= np.iinfo(np.int64).max - MAX_FRAMES)
    right &= (parts == frames * _VALUES * 4) & (points == frames * _VALUES * index["point_bytes"])
    right &= (frames == 0) == unreadable
    right &= unreadable | np.isin(index["point_bytes"], (4, 8))
    if not right.all():
        raise ValueError("frames and sizes disagree")
    return index
