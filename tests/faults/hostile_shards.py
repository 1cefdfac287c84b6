"""Hostile shards of prepared poses: compressed, of other columns, of lies about sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from reader import Reader, Seed

from uni_sign.data.shard_index import NAME, parse_index
from uni_sign.data.shard_index import SCHEMA as INDEX_SCHEMA
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


def shard_index(_: Path) -> Reader:
    def listed(**changes: Any) -> dict[str, Any]:
        told = {"name": b"a.pkl", "size": 5, "mtime_ns": 7, "frames": 2, "start": 0, "problem": ""}
        return {**told, "shard": "0a.arrow", "shard_bytes": 5000, **changes}

    def read(path: Path) -> None:
        found = parse_index(path.read_bytes(), str(path))
        assert len(found.files) == len(found.sizes) == len(found.rows)
        for file in found.files:
            assert file.name == str(file)
            assert file.suffix == ".arrow"
            assert not file.name.startswith(".")

    unreadable = {"frames": 0, "problem": "a.pkl is empty: get it anew."}
    good = arrow([listed(), listed(name=b"b.npz", frames=9), listed(**unreadable)], INDEX_SCHEMA)
    names = ["../a.arrow", "/a.arrow", "a/b.arrow", ".a.arrow", "a.arrow\n", "a\0.arrow", "", "..", "ä.arrow"]
    lies = [
        *({"frames": n} for n in (0, -2, 1 << 40)),
        *({"start": n} for n in (-1, (1 << 63) - 1)),
        *({"shard_bytes": n} for n in (0, -1)),
        *({"shard": name} for name in names),
        {"problem": "both"},
    ]
    numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-1, 4)
    some = {"frames": numbers, "start": numbers, "shard_bytes": numbers, "shard": st.text(max_size=3)}
    rows = st.lists(st.fixed_dictionaries({}, optional=some).map(lambda told: listed(**told)), max_size=4)
    return Reader(
        NAME,
        read,
        [Seed(good)],
        [
            *(arrow([listed(**lie)], INDEX_SCHEMA) for lie in lies),
            *(arrow([listed(), listed(**other)], INDEX_SCHEMA) for other in ({"shard": "1.arrow"}, {"shard_bytes": 1})),
            arrow([listed(problem="x" * (20 << 20))], INDEX_SCHEMA, compression="zstd"),
            arrow([listed()], INDEX_SCHEMA, make=pa.ipc.new_stream),
            arrow([row()]),
            good[:-1],
            b"ARROW1\0\0ARROW1",
            b"",
        ],
        rows.map(lambda some: arrow(some, INDEX_SCHEMA)),
        [b"\xff\xff\xff\xff", b"\0" * 8, (1 << 62).to_bytes(8, "little"), b"../", b".arrow", b"ARROW1"],
    )
