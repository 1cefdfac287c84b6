"""The index of a folder of shards: all rows without their poses, so that shards need not be fetched to know them.

An Arrow file, one record batch a shard: the columns of its rows that are not poses, its name and its size.
"""

import os
import re
import uuid
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from uni_sign.data.arrow_shards import AnotherVersionError, record_batches
from uni_sign.data.shard_writer import open_partial
from uni_sign.data.shards import NUMBERS, Index, Shards
from uni_sign.data.shards import SCHEMA as POSES
from uni_sign.data.wholebody import MAX_FRAMES
from uni_sign.errors import InputError

NAME = "shards.index"
MAX_BYTES = 1 << 30  # of an index: about ten million clips
_ROWS = ("name", *NUMBERS, "problem")
SCHEMA = pa.schema(
    [
        *(POSES.field(name) for name in _ROWS),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("shard_bytes", pa.int64(), nullable=False),
    ],
    metadata=POSES.metadata,
)
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,120}\.arrow", re.ASCII)
_SENTENCE = "run `uni-sign prepare` where the poses are, and copy the whole folder"


class Listed(NamedTuple):
    """What an index says: names, bytes and rows of the shards."""

    files: list[Path]
    sizes: list[int]
    rows: list[Index]


def write_index(folder: Path) -> None:
    """Write the index of a folder's shards into it, whole or not at all."""
    shards, target = Shards(folder), folder / NAME
    partial = target.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with open_partial(partial, wait=True) as file:
            with pa.ipc.new_file(file, SCHEMA) as arrow:
                for number, path in enumerate(shards.files):
                    arrow.write_batch(_batch(shards, number, path))
            file.flush()
            os.fsync(file.fileno())
            partial.replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror or error}): free space, start again.") from error
    finally:
        partial.unlink(missing_ok=True)


def _batch(shards: Shards, number: int, path: Path) -> pa.RecordBatch:
    columns = shards.rows_of(number)
    count, size = len(columns["name"]), path.stat().st_size
    columns |= {"shard": [path.name] * count, "shard_bytes": [size] * count}
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], SCHEMA)


def parse_index(content: bytes, where: str) -> Listed:
    """An index of these bytes; raises InputError, naming ``where``, for one that is damaged or of another version."""
    try:
        listed = Listed([], [], [])
        for batch in record_batches(pa.py_buffer(content), SCHEMA):
            name, size, rows = _shard_of(batch)
            listed.files.append(Path(name))
            listed.sizes.append(size)
            listed.rows.append(rows)
        if len(set(listed.files)) < len(listed.files) or not listed.files:
            raise ValueError("a shard twice, or none")
        return listed
    except AnotherVersionError:
        raise InputError(f"{where} is of another version: {_SENTENCE}.") from None
    except Exception:  # of damage pyarrow and numpy raise a dozen types
        raise InputError(f"{where} is no index of shards, or is damaged or cut short: {_SENTENCE}.") from None


def _shard_of(batch: pa.RecordBatch) -> tuple[str, int, Index]:
    rows: Index = {name: batch.column(name).to_numpy() for name in NUMBERS}
    rows |= {name: batch.column(name).to_pylist() for name in ("name", "problem")}
    names, sizes = set(batch.column("shard").to_pylist()), set(batch.column("shard_bytes").to_pylist())
    [name], [size] = names, sizes
    frames, start = rows["frames"], rows["start"]
    right = (frames >= 0) & (frames <= MAX_FRAMES) & (start >= 0) & (start <= np.iinfo(np.int64).max - MAX_FRAMES)
    right &= (frames == 0) == np.array([bool(problem) for problem in rows["problem"]], bool)
    # The name becomes one in the cache's folder: it must not lead out of it.
    if not right.all() or size <= 0 or not _SHARD_NAME.fullmatch(name):
        raise ValueError("rows or shards that cannot be")
    return name, size, rows
