"""Arrow files of many rows, written once and read by memory mapping.

Arrow's own reader is needed once, to find where the bytes of each row lie. It reads message by message, so that
nothing of a stranger's file is trusted before it is checked: no dictionaries, no compression that could fill the
memory, no place outside the file.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from uni_sign.data.safe_pickle import check_file
from uni_sign.errors import InputError

SUFFIX = ".arrow"
ABSENT, OUTDATED, UNREADABLE = -1, -2, -3  # in place of a row: no clip of this name; of another file; a sentence
_MAGIC = b"ARROW1"


def shard_files(*folders: Path) -> list[Path]:
    """The complete shards of some folders, sorted within each."""
    found = (path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}")))
    return [path for path in found if not path.name.startswith(".")]


class MappedFiles:
    """Files that are mapped when they are first read, by each process for itself."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        self._maps: dict[int, mmap.mmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __getitem__(self, number: int) -> mmap.mmap:
        """The content of a file; no SampleError, for its clips are too many to be left out."""
        if number not in self._maps:
            path = self._files[number]
            try:
                with path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    if (status.st_size, status.st_mtime_ns) != self._states[number]:
                        raise InputError(f"{path} has changed since the start: start again, nothing else may write it.")
                    self._maps[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}): start again.") from error
        return self._maps[number]


def read_batches(path: Path, schema: pa.Schema, read: Any, kind: str) -> list[Any]:
    """``read(batch, whole file)`` of each record batch; InputError for what is no shard of ``kind``, or damaged."""
    check_file(path)
    try:
        with pa.memory_map(str(path)) as source:
            whole = source.read_buffer()
    except Exception:
        raise _damaged(path, kind) from None
    return batches_of(path, whole, schema, read, kind)


def batches_of(path: Path, whole: pa.Buffer, schema: pa.Schema, read: Any, kind: str) -> list[Any]:
    """`read_batches` of a file's content; ``path`` is what errors name."""
    try:
        return [read(batch, whole) for batch in record_batches(whole, schema)]
    except AnotherVersionError:
        raise InputError(f"{path} is of another version: delete it and run `uni-sign prepare` again.") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory: delete it and run `uni-sign prepare` again.") from None
    except Exception:  # of damage pyarrow and numpy raise a dozen types
        raise _damaged(path, kind) from None


def _damaged(path: Path, kind: str) -> InputError:
    return InputError(
        f"{path} is not a shard of {kind}, or is damaged or cut short: delete it and run `uni-sign prepare` again."
    )


class AnotherVersionError(Exception):
    """The shard holds other columns, or columns of another layout."""


def record_batches(whole: pa.Buffer, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow file, in its order; the index at its end is not needed, so it is not trusted."""
    if whole[:8].to_pybytes() != _MAGIC + b"\0\0" or whole[-6:].to_pybytes() != _MAGIC:
        raise ValueError("no Arrow file, or cut short")
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(whole[8:]))
    first = messages.read_next_message()
    if first.type != "schema" or not pa.ipc.read_schema(first).equals(schema, check_metadata=True):
        raise AnotherVersionError
    for message in messages:
        if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
            raise ValueError("a message that no shard has")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise ValueError("a value that is missing")
        yield batch


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's message has the field that names a codec: its fourth (Arrow's Message.fbs)."""
    message = _number(metadata, 0, 4)
    header = _field(metadata, message, 2)
    batch = header + _number(metadata, header, 4)
    return _field(metadata, batch, 3) != batch


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table lies; the table itself where the field is left out."""
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    entry = vtable + 4 + 2 * number
    return table + (_number(data, entry, 2) if entry < vtable + _number(data, vtable, 2) else 0)


def _number(data: bytes, at: int, width: int) -> int:
    if not 0 <= at <= len(data) - width:
        raise ValueError("a place outside the message")
    return int.from_bytes(data[at : at + width], "little")


def places_in(column: pa.Array, whole: pa.Buffer) -> tuple[np.ndarray, np.ndarray]:
    """Where each row's bytes begin in the file, and how many they are."""
    _, ends, data = column.buffers()
    bounds = np.frombuffer(ends, np.int64, len(column) + 1, column.offset * 8) if len(column) else np.zeros(1, np.int64)
    first = data.address - whole.address if data is not None and data.size else 0
    if not (0 <= first <= first + int(bounds[-1]) <= whole.size):
        raise ValueError("bytes outside the file")
    return first + bounds[:-1], np.diff(bounds)
