"""Hostile shards of prepared poses: compressed, of other columns, of lies about sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from reader import Reader, Seed

from uni_sign.data.shards import SCHEMA, Shards
from uni_sign.data.wholebody import USED_POINTS

FRAME = 3 * USED_POINTS * 4


def row(length: int = 2, **changes: Any) -> dict[str, Any]:
    values = np.linspace(-1, 1, length * 3 * USED_POINTS, dtype=np.float32).tobytes()
    told = {"name": b"a.pkl", "size": 5, "mtime_ns": 7, "frames": length, "start": 0, "problem": ""}
    return {**told, "parts": values, "points": values, **changes}


def arrow(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, make: Callable[..., Any] = pa.ipc.new_file,
          **options: Any) -> bytes:  # fmt: skip
    sink = pa.BufferOutputStream()
    with make(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return sink.getvalue().to_pybytes()


def shard(_: Path) -> Reader:
    def read(path: Path) -> None:
        shards = Shards(path.parent)
        for number in np.flatnonzero(shards.frames)[:20].tolist():
            shards.points(number, np.arange(min(8, shards.frames[number])))
            shards.parts(number)

    unreadable = row(0, problem="a.pkl is empty: get it anew.")
    good = arrow([row(), row(3, name=b"b.npz", points=np.zeros(3 * FRAME // 4).tobytes()), unreadable])
    zeros = bytes(160 << 20)
    nothing = {"parts": b"", "points": b""}
    plain = SCHEMA.remove_metadata()
    worded = SCHEMA.set(7, pa.field("problem", pa.dictionary(pa.int32(), pa.string()), nullable=False))
    loose = SCHEMA.set(0, pa.field("name", pa.binary()))
    lies = [
        *({"frames": n} for n in (0, 1, 3, -2, 1 << 40, (1 << 63) - 1)),
        *({"start": n} for n in (-1, (1 << 63) - 1)),
        *({"parts": value} for value in (b"", b"x" * 2 * FRAME, np.full(FRAME // 2, np.nan, np.float32).tobytes())),
        *({"points": value} for value in (b"", b"\xff" * 2 * FRAME, b"\xff" * 4 * FRAME, b"x" * 3 * FRAME)),
        {"problem": "both"},
        {"name": b"\xff\n\0", "parts": b"\xff" * 2 * FRAME},
    ]
    numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-1, 4)
    values = st.binary(max_size=9) | st.integers(0, 4).map(lambda n: bytes(n * FRAME))
    some = {"frames": numbers, "start": numbers, "parts": values, "points": values, "problem": st.text(max_size=3)}
    rows = st.lists(st.fixed_dictionaries({}, optional=some).map(lambda told: row(**told)), max_size=4)
    attacks = [
        *(arrow([row(**lie)]) for lie in lies),
        *(arrow([row()], compression=codec) for codec in ("zstd", "lz4")),
        arrow([row(parts=zeros, points=zeros)], compression="zstd"),
        arrow([row()], make=pa.ipc.new_stream),
        arrow([row()], schema=plain),
        arrow([row()], schema=worded),
        arrow([row(name=None)], schema=loose),
        arrow([{**row(0), **nothing}] * 1000),
        good[: len(good) // 2],
        good[:-1],
        good[:300] + b"ARROW1",
        b"ARROW1\0\0" + b"\xff" * 8 + b"ARROW1",
        b"ARROW1\0\0ARROW1",
        b"ARROW1",
    ]
    pa.default_memory_pool().release_unused()  # what the bomb was made of must not hide what it takes
    return Reader(
        "a.arrow",
        read,
        [Seed(good), Seed(arrow([row()])), Seed(arrow([]))],
        attacks,
        rows.map(arrow),
        [b"\xff\xff\xff\xff", b"\0" * 8, (1 << 62).to_bytes(8, "little"), b"\x08\0\0\0", b"ARROW1"],
    )
