"""Pose files to shards: what is written stands complete under its name, or not at all."""

import fcntl
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from uni_sign.data.arrow_shards import SUFFIX
from uni_sign.data.pose_facts import Reading, read_clip
from uni_sign.data.samples import Sample, fingerprint
from uni_sign.data.shards import SCHEMA, parts_bytes
from uni_sign.data.wholebody import normalized_parts, used_planes
from uni_sign.errors import InputError

_BATCH_BYTES = 32 << 20  # of poses in memory, before they go to the file
_ROW_BYTES = 256  # about what the other columns take


class Row(NamedTuple):
    """A clip as a shard holds it, column by column; ``problem`` says why it has no poses."""

    name: bytes
    size: int
    mtime_ns: int
    frames: int = 0
    start: int = 0
    parts: bytes = b""
    points: bytes = b""
    problem: str = ""


def row_of(sample: Sample, reading: Reading | None = None) -> Row:
    """The row of a clip, whose pose file is read unless ``reading`` is what it holds."""
    reading = reading or read_clip(sample.pose_path)
    own, pose = fingerprint(sample), reading.pose
    if pose is None:
        return Row(*own, problem=reading.problem)
    planes = used_planes(pose.keypoints, pose.scores)
    points = planes.tobytes()  # before they are normalised in place
    return Row(*own, planes.shape[1], pose.start, parts_bytes(normalized_parts(planes)), points)


class ShardWriter:
    """Appends rows to shards of about ``shard_bytes`` in ``folder``; ``share`` names this writer among all at work.

    The open shard is a hidden file: a killed writer loses it alone, and the next of the same share overwrites it.
    Raises InputError where the folder cannot be written, or another process writes the same share.
    """

    def __init__(self, folder: Path, share: str, shard_bytes: int, schema: pa.Schema = SCHEMA) -> None:
        self._folder, self._partial, self._shard_bytes = folder, folder / f".{share}.partial", shard_bytes
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._held = self._written = 0
        self._file: Any = None
        self._arrow: pa.RecordBatchFileWriter | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def append(self, row: tuple[Any, ...]) -> None:
        """Add a row, whose values are those of the schema's columns; what is full is written."""
        self._rows.append(row)
        self._held += sum(len(value) for value in row if isinstance(value, bytes)) + _ROW_BYTES
        if self._held >= _BATCH_BYTES or self._written + self._held >= self._shard_bytes:
            self._flush()
        if self._written >= self._shard_bytes:
            self.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(zip(*self._rows, strict=True), self._schema, strict=True)
        batch = pa.record_batch([pa.array(column, field.type) for column, field in columns], self._schema)
        try:
            if self._arrow is None:
                self._open()
            assert self._arrow is not None
            self._arrow.write_batch(batch)
        except OSError as error:
            raise self._unwritable(error) from error
        self._written += self._held
        self._rows, self._held = [], 0

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._file = open_partial(self._partial)
        except BlockingIOError:
            raise InputError(
                f"{self._partial} is being written by another process: wait for it, or give each its own --shard_index."
            ) from None
        self._arrow = pa.ipc.new_file(self._file, self._schema)

    def close(self) -> None:
        """Complete the open shard: on the disk first, then under its name."""
        self._flush()
        if self._arrow is None:
            return
        try:
            self._arrow.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._partial.rename(self._folder / f"{uuid.uuid4().hex}{SUFFIX}")
            _sync_folder(self._folder)
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from error
        self._arrow, self._written = None, 0

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self._folder} cannot be written ({error.strerror or error}): free space or set prepared_dir in the "
            "corpus file, then start again to go on."
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_partial(path: Path, wait: bool = False) -> BinaryIO:
    """A new hidden file, which `remove_leftovers` leaves alone while it is open.

    Where another process has it open this one waits, or BlockingIOError is raised.
    """
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Before it was locked it may have been removed, or have become a shard.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    file.truncate(0)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def remove_leftovers(folder: Path) -> None:
    """Open shards of killed writers; for when no clip is left that anyone could be writing."""
    for path in folder.glob(".*.partial"):
        # Another share that ends now may be writing the index.
        with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:  # NFS locks what can be written
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
