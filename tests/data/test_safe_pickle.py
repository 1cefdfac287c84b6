"""Strangers' pickles: plain data comes back exactly, nothing else runs, and every failure is one clear sentence."""

from __future__ import annotations

import _codecs
import argparse
import collections
import contextlib
import gzip
import io
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uni_sign.data import safe_pickle
from uni_sign.data.safe_pickle import load_pickle
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def load_bytes(folder: Path, data: bytes, **options: Any) -> Any:
    path = folder / "file.pkl"
    path.write_bytes(data)
    return load_pickle(path, **options)


def refusal(folder: Path, data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        load_bytes(folder, data)
    message = str(caught.value)
    assert "file.pkl" in message
    assert "\n" not in message
    return message


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal in value and in every type, with arrays writable."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype.newbyteorder("=")  # numpy itself does so for protocols up to 4
        assert ours.flags.writeable
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


# --- plain data --------------------------------------------------------------------------------------------

numbers = st.integers() | st.floats() | st.complex_numbers() | st.booleans() | st.none()
scalars = st.sampled_from([np.float32(0.3), np.int64(-7), np.bool_(True), np.str_("手"), np.complex64(1j)])
arrays = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in ("<f4", "f8", ">f8", "i1", ">i4", "u8", "?", "c16", "U3", "S5")]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
leaves = numbers | scalars | arrays | st.text() | st.binary() | st.binary().map(bytearray)
keys = st.text() | st.integers(-(1 << 70), 1 << 70) | st.none() | st.tuples(st.text(), st.integers())
data = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(value=data, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int) -> None:
    written = pickle.dumps(value, protocol)
    assert_same(load_bytes(tmp_path_factory.getbasetemp(), written), pickle.loads(written))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_label_files(tmp_path: Path, protocol: int, pack: Any) -> None:
    labels = {f"S{i}": {"name": f"S{i}", "text": "今天很好", "gloss": ["今天", "好"], "length": i} for i in range(500)}
    assert load_bytes(tmp_path, pack(pickle.dumps(labels, protocol))) == labels


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("stack", [False, True])
def test_lists_of_arrays(tmp_path: Path, protocol: int, stack: bool) -> None:
    rng = np.random.default_rng(0)
    alike = [rng.random((1, 133, 2)) for _ in range(100)]
    ragged = [rng.random((n % 3, 133), np.float32) for n in range(100)]
    columns = [np.asfortranarray(rng.random((3, 4))) for _ in range(5)]
    value = {
        "alike": alike,
        "ragged": ragged,
        "columns": columns,
        "again": alike,
        "same": columns[:1] * 5,
        "one": (alike[0], [alike[0]]),
        "none": [],
    }
    loaded = load_bytes(tmp_path, pickle.dumps(value, protocol), stack=stack)
    if stack:
        assert type(loaded["alike"]) is np.ndarray
        np.testing.assert_array_equal(loaded["alike"], np.stack(alike))
        assert loaded["again"] is loaded["alike"]
        loaded["one"] = (loaded["one"][0], list(loaded["one"][1]))
        loaded["alike"], loaded["again"] = list(loaded["alike"]), list(loaded["again"])
    assert_same(loaded, value)


def test_shared_and_cyclic_containers_stay_so(tmp_path: Path) -> None:
    shared = [np.arange(3)]
    value: dict[str, Any] = {"a": shared, "b": shared, "pair": (shared, shared)}
    value["self"] = value
    loaded = load_bytes(tmp_path, pickle.dumps(value))
    assert loaded["self"] is loaded
    assert loaded["a"] is loaded["b"] is loaded["pair"][0]
    np.testing.assert_array_equal(loaded["a"][0], np.arange(3))


def numpy_named(core: str, protocol: int, value: Any) -> bytes:
    """A pickle as the numpy version with that name for its core would write it."""
    written = pickle.dumps(value, protocol)
    for module in ("multiarray", "numeric"):
        ours, theirs = np.ndarray.__reduce__(np.zeros(1))[0].__module__.split(".")[1], core
        old, new = f"numpy.{ours}.{module}".encode(), f"numpy.{theirs}.{module}".encode()
        written = written.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
        written = written.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    return written


def unframed(written: bytes) -> bytes:
    """Without the frame, whose length is no longer right once a name has changed."""
    at = written.find(b"\x95")
    return written[:at] + written[at + 9 :] if at == 2 else written


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_1_and_numpy_2_pickles(tmp_path: Path, core: str, protocol: int) -> None:
    value = {"points": [np.arange(6.0).reshape(2, 3), np.arange(4)], "scalar": np.float32(0.5)}
    written = unframed(numpy_named(core, protocol, value))
    assert f"numpy.{core}.".encode() in written
    assert_same(load_bytes(tmp_path, written), value)


# --- attacks -----------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.called


def attacks(mark: Path) -> dict[str, Any]:
    touch = f"touch {mark}"
    write = f"open({str(mark)!r}, 'w').close()"
    return {
        os.system.__module__ + ".system": Call(os.system, touch),
        "builtins.eval": Call(eval, write),
        "builtins.exec": Call(exec, write),
        "builtins.getattr": Call(getattr, "text", "upper"),
        "builtins.__import__": Call(__import__, "antigravity"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(mark)]),
        "numpy.load": Call(np.load, str(mark)),
        "numpy.fromfile": Call(np.fromfile, str(mark)),
        "numpy.save": Call(np.save, str(mark), np.zeros(3)),
        "_io.BytesIO": Call(io.BytesIO, b"x"),
        "_codecs.encode with the codec 'rot13'": Call(_codecs.encode, "x", "rot13"),
        "_codecs.decode": Call(_codecs.decode, b"x", "zip"),
        "numpy.memmap": Call(np.memmap, str(mark), "u1", "w+", 0, 10),
        "collections.OrderedDict": collections.OrderedDict(a=1),
        "argparse.Namespace": argparse.Namespace(a=1),
        "random.Random": random.Random(0),
    }


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calls_are_refused_by_name_and_never_made(tmp_path: Path, protocol: int, pack: Any) -> None:
    mark = tmp_path / "ran"
    for name, attack in attacks(mark).items():
        value = {"keypoints": [np.zeros((1, 133, 2)), {"deep": (attack,)}]}
        message = refusal(tmp_path, pack(pickle.dumps(value, protocol)))
        assert not mark.exists(), name
        assert name.split(".")[-1] in message or "copy_reg._reconstructor" in message


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"cos\nsystem\n(S'touch ran'\ntR.", "os.system"),
        (b"(S'touch ran'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'touch ran'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "os.system"),
        (b"\x80\x02csubprocess\nPopen\n(X\x04\x00\x00\x00true\x85}\x92.", "subprocess.Popen"),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85\x81.", "os.system"),
        (b"\x80\x02U\x03idaQ.", "a persistent id"),
        (b"\x80\x02\x82\x01.", "an extension code"),
        (b"\x80\x04\x8f.", "a set"),
        (b"\x80\x05\x97.", "a buffer beside the file"),
        (b"\x80\x02cnumpy\nndarray\n.", "a function or a class"),
        (b"\x80\x02}cnumpy\nndarray\nNs.", "a function or a class"),
        (b"cevil\n\x1b[31mname\\with\rcontrol\n.", "evil"),
    ],
)
def test_hand_written_programs_are_refused_by_name(tmp_path: Path, program: bytes, named: str) -> None:
    message = refusal(tmp_path, program)
    assert named in message
    assert message.isprintable()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
F8 = DTYPE + b"X\x02\x00\x00\x00f8\x85R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
EMPTY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"


@pytest.mark.parametrize(
    "program",
    {
        "bytes as large as memory": b"c__builtin__\nbytes\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
        "bytearray as large as memory": b"cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
        "ndarray called": NDARRAY + b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x85R.",
        "ndarray built anew": NDARRAY + b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x85\x81.",
        "another class reconstructed": RECONSTRUCT + DTYPE + b"K\x00\x85C\x01b\x87R.",
        "a shape larger than its bytes": EMPTY + b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85" + F8 + b"\x89C\x00tb.",
        "a negative shape": EMPTY + b"(K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86" + F8 + b"\x89C\x08ABCDEFGHtb.",
        "a shape that is none": EMPTY + b"(K\x01N" + F8 + b"\x89C\x00tb.",
        "an array of objects": EMPTY
        + b"(K\x01K\x01\x85"
        + F8.replace(b"f8", b"O8")
        + b"\x89C\x08\x41\x41\x41\x41\x41\x41\x41\x41tb.",
        "a type without bytes": EMPTY
        + b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85"
        + F8.replace(b"f8", b"S0")
        + b"\x89C\x00tb.",
        "fields that reach outside": EMPTY
        + b"(K\x01K\x01\x85"
        + DTYPE
        + b"X\x02\x00\x00\x00V4\x85R(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00a"
        + F8
        + b"\x8a\x06\x00\x00\x00\x00\x00\x01\x86sK\x04K\x01K\x00tb\x89C\x04abcdtb.",
        "the global f8 with bytes swapped": DTYPE + b"X\x02\x00\x00\x00f8\x89\x89\x87R(K\x03X\x01\x00\x00\x00>tb.",
        "an array never filled": EMPTY + b".",
        "an array filled twice": EMPTY + 2 * (b"(K\x01K\x01\x85" + F8 + b"\x89C\x08ABCDEFGHtb") + b".",
        "a maker changed for later files": RECONSTRUCT + b"}X\x08\x00\x00\x00__call__NsN\x86b.",
        "a maker's class changed": RECONSTRUCT + b"}X\x09\x00\x00\x00__class__Nsb.",
        "latin-1 of what is no text": b"c_codecs\nencode\nK\x01X\x06\x00\x00\x00latin1\x86R.",
        "an array as a key": b"}" + EMPTY + b"(K\x01K\x01\x85" + F8 + b"\x89C\x08ABCDEFGHtbNs.",
        "a memo index of 64 GB": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "a memo index in decimal": b"Np4000000000\n.",
        "a string of 16 EB": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "a frame of 16 EB": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
        "a number of 5000 digits": b"I" + b"9" * 5000 + b"\n.",
        "no mark": b"\x80\x02Nt.",
        "an empty stack": b"\x80\x02.",
        "a future protocol": b"\x80\x63N.",
        "text": b"hello, world\n",
        "a zip": b"PK\x03\x04" + bytes(40),
        "zeros": bytes(100),
    }.items(),
    ids=lambda program: program[0].replace(" ", "-"),
)
def test_programs_that_lie_are_refused(tmp_path: Path, program: tuple[str, bytes]) -> None:
    refusal(tmp_path, program[1])
    assert np.dtype("f8").isnative
    assert_same(load_bytes(tmp_path, pickle.dumps([np.arange(3.0)])), [np.arange(3.0)])


def test_deep_nesting_neither_crashes_nor_hangs(tmp_path: Path) -> None:
    deep = 300_000
    assert "deep" in refusal(tmp_path, b"\x80\x04" + b"]" * deep + b"a" * (deep - 1) + b".")
    assert "deep" in refusal(tmp_path, b"\x80\x04)" + b"\x85" * deep + b".")
    assert "deep" in refusal(tmp_path, b"\x80\x04})" + b"\x85" * deep + b"Ns.")  # as a key: hashed by recursion in C
    assert "tuples" in refusal(tmp_path, b"\x80\x04)" + b"\x85" * (safe_pickle.MAX_TUPLES + 1) + b".")


def test_doubling_by_reference_stays_small(tmp_path: Path) -> None:
    """Fifty lists, each of twice the one before: 2^50 items to those who copy."""
    program = b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(50)) + b"."
    loaded = load_bytes(tmp_path, program)
    assert loaded[0] is loaded[1]


@pytest.mark.parametrize(
    "once",
    [
        b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R",
        b"cbuiltins\nbytearray\nh\x01\x85R",
        EMPTY + b"(K\x01M\xe8\x03\x85h\x02\x89h\x01tb",
        b"cnumpy._core.numeric\n_frombuffer\n(h\x01h\x02M\xe8\x03\x85X\x01\x00\x00\x00FtR",
    ],
    ids=["text", "bytearray", "array", "buffer"],
)
def test_one_value_copied_many_times_is_refused(tmp_path: Path, once: bytes) -> None:
    """A short program that asks for the same thousand bytes again and again."""
    u1 = F8.replace(b"f8", b"u1").replace(b"<", b"|")
    start = b"\x80\x02]X\xe8\x03\x00\x00" + b"x" * 1000 + b"q\x00aB\xe8\x03\x00\x00" + b"y" * 1000 + b"q\x01a"
    assert len(load_bytes(tmp_path, start + u1 + b"q\x02a" + once + b"a.")) == 4
    refusal(tmp_path, start + u1 + b"q\x02a" + (once + b"a") * 50 + b".")


@pytest.mark.parametrize("packed", [False, True])
def test_size_is_bounded(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 1 << 20)
    bomb = pickle.dumps(bytes(3 << 20))
    assert "1,048,576 bytes" in refusal(tmp_path, gzip.compress(bomb) if packed else bomb)


def test_number_of_containers_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_PROGRAM", 1000)
    assert "more lists" in refusal(tmp_path, b"\x80\x04" + b"]" * 1001 + b".")


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 32), changes=st.integers(1, 4), protocol=st.sampled_from(PROTOCOLS))
def test_damaged_files_raise_only_input_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, changes: int, protocol: int
) -> None:
    value = {"keypoints": [np.arange(6.0), np.arange(4.0)], "n": [1, 2.5, "x", ("y", b"z")], "scalar": np.float32(1)}
    damaged = bytearray(pickle.dumps(value, protocol))
    rng = random.Random(seed)
    for _ in range(changes):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    with contextlib.suppress(InputError):
        load_bytes(tmp_path_factory.getbasetemp(), bytes(damaged[: rng.randrange(1, 2 * len(damaged))]))


@given(junk=st.binary(min_size=1, max_size=60), protocol=st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]))
@settings(deadline=None)
def test_junk_raises_only_input_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes, protocol: bytes) -> None:
    with contextlib.suppress(InputError):
        load_bytes(tmp_path_factory.getbasetemp(), protocol + junk)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_pickle, load_tensors])
def test_files_that_are_none(tmp_path: Path, load: Any) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, word in (("missing", "not exist"), ("empty", "empty"), ("pipe", "not a file"), (".", "not a file")):
        with pytest.raises(InputError, match=word):
            load(tmp_path / path)
    with pytest.raises(InputError, match="cannot be read"):
        load("a\0b")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / ("x" * 300))


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read anything
    assert "permissions" in refusal(tmp_path, pickle.dumps(1))


def test_cut_files(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": [np.zeros(300), "text", (1, 2.0)]})
    for length in range(1, len(whole), 7):
        refusal(tmp_path, whole[:length])
    packed = gzip.compress(whole)
    for length in (2, 5, 12, len(packed) // 2, len(packed) - 1):
        assert "gzip" in refusal(tmp_path, packed[:length])
    assert "gzip" in refusal(tmp_path, packed[:30] + b"\xff" + packed[31:])


# --- canaries: why Python's and numpy's own will not do ------------------------------------------------------


def test_numpy_still_believes_any_state_of_a_dtype() -> None:
    liar = np.dtype("V4", copy=True)
    liar.__setstate__((3, "|", None, ("a",), {"a": (np.dtype("f8"), 1 << 40)}, 4, 1, 0))
    assert liar.fields["a"][1] > liar.itemsize  # reading the field would read a terabyte away


def test_python_still_crashes_on_nested_keys() -> None:
    code = "import pickle; pickle.loads(b'\\x80\\x04})' + b'\\x85' * 2_000_000 + b'Ns.')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode < 0
