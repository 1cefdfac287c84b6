"""Prepared poses: Arrow files of many clips each, read by memory mapping.

A row is a clip: name, size and time of change of its pose file; its frames and the number of the first of them; the
normalised parts of the whole clip; the points that they were made of, for when not all frames fit into a clip's limit
(the box that normalises is that of the chosen frames); or the sentence that says why it cannot be read. Parts and
points are raw bytes in planes of x, y and score, so that reading is a view of the mapped file.
"""

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from uni_sign.data.arrow_shards import (
    ABSENT,
    OUTDATED,
    UNREADABLE,
    MappedFiles,
    batches_of,
    places_in,
    read_batches,
    shard_files,
)
from uni_sign.data.samples import Blobs, Fingerprint, Sample, Samples, fingerprints
from uni_sign.data.wholebody import LIMIT, MAX_FRAMES, ORIGINS, PARTS, THRESHOLD, USED_POINTS
from uni_sign.errors import InputError, SampleError

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
NUMBERS = ("size", "mtime_ns", "frames", "start")
_VALUES = 3 * USED_POINTS  # of a frame
_WIDTHS = [len(points) for points in PARTS.values()]


def parts_bytes(parts: dict[str, np.ndarray]) -> bytes:
    """Parts (T, V, 3) as a shard holds them: float32, part by part, in planes (3, T, V)."""
    return b"".join(part.astype(np.float32, copy=False).transpose(2, 0, 1).tobytes() for part in parts.values())


Index = dict[str, Any]  # rows of a shard, column by column


class Source(Protocol):
    """Shards that lie elsewhere: what their index says, and one of them when it is asked for."""

    @property
    def folder(self) -> str: ...

    @property
    def files(self) -> Sequence[Path]: ...

    @property
    def index(self) -> Sequence[Index]: ...

    def open(self, shard: int) -> mmap.mmap:
        """A copy of the shard, mapped."""
        ...

    def still_open(self, shard: int) -> bool:
        """Whether the copy is still there, so that a new process could map it."""
        ...


class Shards:
    """All clips in the shards of some folders, or in those of a source; each process that reads maps the files itself.

    ``frames``, ``starts``: of each row; ``file_of``: the place of its shard in ``files``. Raises InputError, naming
    the file, for a shard that is damaged, or of another version.
    """

    def __init__(self, *folders: Path, source: Source | None = None) -> None:
        self.folder = ", ".join(map(str, folders)) if source is None else source.folder
        self._source = source
        self.files: Sequence[Path] = shard_files(*folders) if source is None else source.files
        found: Sequence[Index] = [_read_index(path) for path in self.files] if source is None else source.index
        self._names = Blobs(name for index in found for name in index["name"])
        self._problems = Blobs(problem.encode() for index in found for problem in index["problem"])
        columns = {name: _joined(index[name] for index in found) for name in NUMBERS}
        self._sizes, self._times = columns["size"], columns["mtime_ns"]
        self.frames, self.starts = columns["frames"], columns["start"]
        # Of a source's shard, they are known once it is here.
        unknown = [np.full(len(index["frames"]), -1, np.int64) for index in found]
        self._places = {name: _joined(map(dict.get, found, [name] * len(found), unknown)) for name in _PLACES}
        self.file_of = np.repeat(np.arange(len(found)), [len(index["frames"]) for index in found])
        self._maps = MappedFiles(self.files) if source is None else _FetchedFiles(source, self._arrived)

    def __len__(self) -> int:
        return len(self.frames)

    def locate(self, samples: Iterable[Sample]) -> np.ndarray:
        """The row of each clip, int64, or `ABSENT`, `OUTDATED` or `UNREADABLE`."""
        keys = self._keys()
        rows = dict.fromkeys(keys, UNREADABLE)
        rows |= {keys[row]: row for row in np.flatnonzero(self.frames).tolist()}
        names = {key[0] for key in keys}
        found = [rows.get(key, OUTDATED if key[0] in names else ABSENT) for key in fingerprints(samples)]
        return np.array(found, np.int64)

    def states(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of each pose file that has a row, by its name; of several rows the newest."""
        keys = sorted(self._keys(), key=lambda key: key[2])
        return {os.fsdecode(name): (size, time) for name, size, time in keys}

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
        wanted = set(fingerprints(samples))
        used = {int(self.file_of[row]) for row, key in enumerate(self._keys()) if key in wanted}
        return [path for number, path in enumerate(self.files) if number not in used]

    def rows_of(self, shard: int) -> Index:
        """The columns of a shard's rows, without the poses."""
        rows = np.flatnonzero(self.file_of == shard).tolist()
        columns = (self._sizes, self._times, self.frames, self.starts)
        index: Index = {name: column[rows] for name, column in zip(NUMBERS, columns, strict=True)}
        index["name"] = [self._names[row] for row in rows]
        index["problem"] = [self._problems[row].decode() for row in rows]
        return index

    def _keys(self) -> list[Fingerprint]:
        return list(zip(self._names, self._sizes.tolist(), self._times.tolist(), strict=True))

    def _located(self, samples: Iterable[Sample]) -> Iterator[tuple[Fingerprint, int]]:
        listed = samples if isinstance(samples, Samples) else list(samples)
        yield from zip(fingerprints(listed), self.locate(listed).tolist(), strict=True)

    def parts(self, row: int) -> dict[str, np.ndarray]:
        """All parts of a clip, (T, V, 3) float32: read-only views of the mapped file."""
        data = self._maps[int(self.file_of[row])]
        frames, place = int(self.frames[row]), int(self._places["parts_at"][row])
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
        data = self._maps[int(self.file_of[row])]
        shape = (3, int(self.frames[row]), USED_POINTS)
        dtype = np.dtype(f"f{self._places['point_bytes'][row]}")
        planes = np.ndarray(shape, dtype, data, int(self._places["points_at"][row])).take(chosen, axis=1)
        self._check(row, planes, LIMIT)
        return planes

    def _check(self, row: int, values: np.ndarray, limit: float) -> None:
        if not (values.min() >= -limit and values.max() <= limit):  # false for NaN, too
            raise SampleError(
                f"{self.files[self.file_of[row]]} holds values of {os.fsdecode(self._names[row])} that no pose has: "
                "delete it and run `uni-sign prepare` again."
            )

    def _arrived(self, shard: int, data: mmap.mmap) -> None:
        """Check a source's shard against what the source's index says of it, and note where its poses lie."""
        assert self._source is not None
        said = self._source.index[shard]
        try:
            index = _index_of(self.files[shard], pa.py_buffer(data))
        except InputError as error:
            raise InputError(f"{self.folder}: {error}") from None
        if not all(np.array_equal(index[name], said[name]) for name in (*NUMBERS, "name", "problem")):
            raise InputError(
                f"{self.folder}: {self.files[shard]} is another one than the index says: run `uni-sign prepare` again "
                "where the poses are, and copy the whole folder."
            )
        rows = np.flatnonzero(self.file_of == shard)
        for name in _PLACES:
            self._places[name][rows] = index[name]


class _FetchedFiles:
    """A source's shards, mapped while its cache holds them, by each process for itself."""

    def __init__(self, source: Source, arrived: Callable[[int, mmap.mmap], None]) -> None:
        self._source, self._arrived = source, arrived
        self._maps: dict[int, mmap.mmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __getitem__(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            data = self._source.open(shard)
            self._arrived(shard, data)
            # What made room takes its own until no one has it mapped.
            self._maps = {known: kept for known, kept in self._maps.items() if self._source.still_open(known)}
            self._maps[shard] = data
        return self._maps[shard]


def told_shares(folder: str, rows: Mapping[str, np.ndarray]) -> str:
    """How many clips of each split come from the shards, in one sentence."""
    shares = ", ".join(f"{int((found >= 0).sum())} of {len(found)} {split}" for split, found in rows.items())
    outdated = sum(int((found == OUTDATED).sum()) for found in rows.values())
    more = f"; {outdated} have changed since, run `uni-sign prepare` again" if outdated else ""
    return f"Poses from prepared shards in {folder}: {shares} clips{more}."


def open_shards(*folders: Path) -> Shards | None:
    """The shards in these folders, or None where there are none."""
    shards = Shards(*folders)
    return shards if shards.files else None


# --- where the bytes of the rows lie -----------------------------------------------------------------------

_PLACES = ("parts_at", "points_at", "point_bytes")


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _read_index(path: Path) -> Index:
    return _joined_index(read_batches(path, SCHEMA, _read_batch, "poses"))


def _index_of(path: Path, whole: pa.Buffer) -> Index:
    return _joined_index(batches_of(path, whole, SCHEMA, _read_batch, "poses"))


def _joined_index(batches: list[Index]) -> Index:
    """The rows of a shard, and where the poses of each lie."""
    index: Index = {name: _joined(batch[name] for batch in batches) for name in (*NUMBERS, *_PLACES)}
    for name in ("name", "problem"):
        index[name] = [value for batch in batches for value in batch[name]]
    return index


def _read_batch(batch: pa.RecordBatch, whole: pa.Buffer) -> Index:
    index: Index = {name: batch.column(name).to_numpy() for name in NUMBERS}
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
