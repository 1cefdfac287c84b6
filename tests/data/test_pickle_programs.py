"""What is looked at before a pickle runs: runs of instructions checked in one step, which no text can hide from."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_safe_pickle import EMPTY, NDARRAY, PROTOCOLS, leaves, load_bytes, refusal

from uni_sign.data import safe_pickle
from uni_sign.data.safe_pickle import check_program

# What a text may not hide: each is refused, or damage, where it stands for an instruction.
HOSTILE = [
    *(b"P1\n", b"Q", b"0", b"1", b"2", b"\x8f", b"\x97", b"\x82\x01", b"\xff"),
    *(b"r\xff\xff\xff\x7f", b"p4000000000\n", b"\x8c\xff", b"X\x00\x00\x00\x7f", b"\x8d" + b"\xff" * 8),
]
PIECES = [
    *(*HOSTILE, b"cos\nsystem\n", b"\x93", b"R", b"b", b"t", b"\x85\x86", b".", b"(", b"e", b"u", b"h\x00", b"I1\n"),
    *(b"\x8c", b"\x8c\x02ab", b"X\x02\x00\x00\x00ab", b"X\x02\x00", b"U\x02ab", b"C\x02ab", b"r\x00\x01\x00\x00"),
]
spelled = st.text(st.sampled_from("a(t.Q0\n\x85手"), max_size=20) | st.integers(250, 260).map(lambda n: "Q" * n)
wordy = st.recursive(
    spelled | leaves, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(spelled, inner)
)


def decided(program: bytes) -> int | str:
    """The tuples of a program, or why it is none."""
    try:
        return check_program(program)
    except (safe_pickle.RefusedError, ValueError, IndexError, OverflowError) as error:
        return f"{type(error).__name__}: {error}"


@settings(max_examples=100, deadline=None)
@given(
    value=wordy,
    protocol=st.sampled_from(PROTOCOLS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(PIECES)), max_size=4),
)
def test_a_run_with_texts_decides_as_its_steps_do(
    value: Any, protocol: int, changes: list[tuple[float, int, bytes]]
) -> None:
    program = pickle.dumps(value, protocol)
    for place, left_out, put_in in changes:
        at = int(place * len(program))
        program = program[:at] + put_in + program[at + left_out :]
    at_once = decided(program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safe_pickle, "_TEXTS", b"")
        step_by_step = decided(program)
    if isinstance(at_once, int) and isinstance(step_by_step, int):
        with contextlib.suppress(ValueError):  # pickletools decodes texts
            tuples = sum(code.name.startswith("TUPLE") for code, _, _ in pickletools.genops(program))
            assert at_once >= tuples
    else:
        assert at_once == step_by_step


@pytest.mark.parametrize("length", [0, 1, 46, 127, 128, 254, 255, 256, 70_000])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_text_hides_nothing_and_nothing_hides_behind_it(length: int, protocol: int) -> None:
    texts = pickle.dumps([letter * length for letter in "a.Qt"], protocol)
    assert check_program(texts) == 0
    for piece in HOSTILE:
        assert type(decided(texts[:-1] + piece + b".")) is str, piece
        hidden = pickle.dumps(["a", piece.decode("latin-1") * length, "b"], protocol)
        assert type(decided(hidden)) is int
    if length:
        cut = b"\x80\x04" + (b"\x8c" + bytes([length]) if length < 256 else b"X" + length.to_bytes(4, "little"))
        assert type(decided(cut + b"." * length)) is str  # the text takes what would end the program
    assert check_program(texts[:-1] + b"\x86\x85t.") == 3


@pytest.mark.parametrize("start", [b"", b"\x8c\x01a", b"N" * 70_000 + b"\x8c\x01a"])
def test_an_index_of_the_memo_is_no_larger_than_the_file(start: bytes) -> None:
    for bit in range(32):
        program = b"\x80\x04" + start + b"r" + (1 << bit).to_bytes(4, "little") + b"."
        assert (decided(program) == 0) == (1 << bit < 1 << len(program).bit_length())


def test_lists_that_hold_themselves(tmp_path: Path) -> None:
    value: list[Any] = [np.arange(3)]
    value += [value, (value,)]
    loaded = load_bytes(tmp_path, pickle.dumps(value))
    assert loaded[1] is loaded[2][0] is loaded


def test_instructions_among_texts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_PROGRAM", 1000)
    text = b"X\x28\x00\x00\x00" + b"." * 40
    assert load_bytes(tmp_path, b"\x80\x02" + text * 190 + b".") == "." * 40
    assert "more lists" in refusal(tmp_path, b"\x80\x02" + text * 210 + b".")


def test_tuples_among_texts_are_counted(tmp_path: Path) -> None:
    for code in (b"t", b"\x85", b"\x86", b"\x87"):
        for text in (b"\x8c\x01a", b"X\x01\x00\x00\x00a", b"]"):
            assert check_program(b"\x80\x04(\x8c\x01a" + (text + code) * 2 + code + b"N.") == 3
    many = safe_pickle.MAX_TUPLES + 1
    assert "tuples" in refusal(tmp_path, b"\x80\x04(" + b"\x8c\x01a\x85" * many + b"t.")
    assert "deep" in refusal(tmp_path, b"\x80\x04)" + b"\x8c\x01a\x86" * 300_000 + b".")


@pytest.mark.parametrize("start", [b"", b"\x8c\x01a", b"X\x01\x00\x00\x00a"])
@pytest.mark.parametrize("step", [b"]", b"\x8c\x01a", b"h\x00", b"(t"])
def test_checking_a_long_run_takes_no_memory(start: bytes, step: bytes) -> None:
    program = b"\x80\x04" + start + step * 100_000 + b"."
    check_program(start + b".")
    tracemalloc.start()
    check_program(program)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20  # a quarter of what matching all of it at once would take


@pytest.mark.parametrize("step", [b"]", b"N", b"I1\n"])
@pytest.mark.parametrize("more", range(-2, 3))
def test_a_run_that_goes_on_ends_as_others_do(step: bytes, more: int) -> None:
    run = b"\x80\x04" + step * (safe_pickle._LONGEST_RUN + more)
    assert check_program(run + b"\x8c\x01a\x85.") == 1
    assert check_program(run + b".") == 0
    assert "persistent" in str(decided(run + b"Q."))
    assert "IndexError" in str(decided(run))


@pytest.mark.parametrize("around", [b"]%sa.", b"]X\x01\x00\x00\x00aa]%saa.", b"}K\x01%ss.", b"%s\x85.", b"}%sNs."])
def test_names_are_refused_wherever_they_stand(tmp_path: Path, around: bytes) -> None:
    refusal(tmp_path, b"\x80\x02" + around % NDARRAY)
    refusal(tmp_path, b"\x80\x02" + around % EMPTY)
