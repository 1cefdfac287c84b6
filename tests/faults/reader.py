"""What a reader under attack is, and the odd values that all formats share."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uni_sign.data import pose_format, safe_pickle, wholebody
from uni_sign.data.corpora import Corpus

GOLDEN = Path(__file__).parents[1] / "golden"
MAX_BYTES, MAX_PROGRAM = 16 << 20, 1 << 20  # the readers' own bounds, scaled down with the memory allowed here


@dataclass(frozen=True)
class Seed:
    """A valid file: what is damaged, and how a whole file is made of it again (zipped, say, with right checksums)."""

    content: bytes
    packed: Callable[[bytes], bytes] = bytes


@dataclass(frozen=True)
class Reader:
    """`read` takes the path of `file`, whose name its errors must hold, or what matches `named` instead."""

    file: str
    read: Callable[[Path], Any]
    seeds: Sequence[Seed]
    attacks: Sequence[bytes]
    made_up: st.SearchStrategy[bytes]
    words: Sequence[bytes] = ()
    pickled: bool = False
    named: str = ""


def prepare(folder: Path) -> None:
    """The files round the one that is read, and the scaled bounds; once in a process."""
    codecs.lookup("raw_unicode_escape")  # pickletools imports it on demand
    safe_pickle.MAX_BYTES = wholebody.MAX_BYTES = pose_format.MAX_BYTES = MAX_BYTES
    safe_pickle.MAX_PROGRAM = MAX_PROGRAM
    (folder / "poses").mkdir()
    (folder / "poses" / "a.pkl").write_bytes(b"x")
    (folder / "spiece.model").write_bytes((GOLDEN / "02_tokenizer" / "spiece.model").read_bytes())


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.called


def calls(folder: Path) -> list[Any]:
    touch, write = f"touch {folder / 'witness'}", f"open({str(folder / 'witness')!r}, 'w').close()"
    walk = "().__class__.__base__.__subclasses__()"
    return [
        Call(os.system, touch),
        Call(eval, write),
        Call(exec, write),
        Call(eval, walk),
        Call(__import__, "antigravity"),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(np.fromfile, str(folder / "poses" / "a.pkl")),
        Call(np.memmap, str(folder / "witness"), "u1", "w+", 0, 10),
    ]


DTYPES = st.sampled_from(["<f4", "f8", ">f8", "f2", "i1", ">i4", "u8", "?", "c16", "U3", "S5"]).map(np.dtype)
ANY_ARRAY = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
_SHAPES = st.sampled_from(
    [(1, 133, 2), (133, 2), (1, 133), (133,), (2, 133, 2), (2, 133), (0, 133, 2), (0,), (3, 3), ()]
)
_FILLS = st.sampled_from([0, 0.5, 1, 1e30, float("nan"), float("inf"), -1e7])
FRAME = st.builds(np.full, _SHAPES, _FILLS, st.sampled_from(["f4", "f8", "f2"]).map(np.dtype)) | ANY_ARRAY
NUMBER = st.integers() | st.integers(-2, 9) | st.floats() | st.integers(0, 40).map(lambda n: 10 ** (n * 400))
LEAF = (
    st.none()
    | st.booleans()
    | NUMBER
    | st.text(max_size=20)
    | st.sampled_from(["a", "a.mp4", "x" * 5000, "\ud800", "../a"])
)


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=6)


VALUE = nested(LEAF)


def fields(required: Sequence[str], value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Dicts of some of the names a reader knows, and now and then of one that it does not."""
    known = st.dictionaries(st.sampled_from(list(required)), value, max_size=len(required))
    return st.builds(
        lambda some, more: {**some, **more}, known, st.just({}) | st.dictionaries(st.text(), value, max_size=1)
    )


ENTRY = ("name", "video_path", "video", "pose", "text", "gloss", "language")


def odd_values() -> list[Any]:
    deep: Any = "a"
    wide: Any = "a"
    for _ in range(300):
        deep = [deep]
    for _ in range(40):
        wide = [wide, wide]
    return [
        1 << 20_000,
        np.ones(3),
        wide,
        deep,
        "a\nb",
        "\ud800",
        "\0",
        {},
        ["a", 1],
        b"a",
        "x" * 100_000,
        float("nan"),
    ]


def corpus_of(folder: Path, labels: str, label_format: str) -> Corpus:
    files = dict.fromkeys(("train", "dev", "test"), folder / labels)
    return Corpus("Mine", "Chinese", files, folder / "poses", (folder,), label_format=label_format)


# What does not go together is said of flags: they can come from several files.
CONFLICT = r"^--(hidden_dim .* multiple|\w+ needs|eval scores|min_lr .* above|warmup_epochs .* more)"
