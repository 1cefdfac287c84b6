"""What our errors quote of strangers' files stays one short, printable line."""

from __future__ import annotations

import pickle

import pytest

from uni_sign.errors import InputError, SampleError


@pytest.mark.parametrize("kind", [InputError, SampleError])
def test_a_message_is_one_printable_line(kind: type[InputError]) -> None:
    assert str(kind("clip 手.pkl: a\nb\x1b[31m\ud800")) == r"clip 手.pkl: a\nb\x1b[31m\ud800"
    assert str(pickle.loads(pickle.dumps(kind("a\nb")))) == r"a\nb"  # as from a worker process


def test_a_long_message_keeps_both_ends() -> None:
    for odd in ("x", "\n", "\ud800"):
        message = str(InputError("labels.train: clip " + odd * 10**6 + " is empty: leave it out."))
        assert len(message) < 1010
        assert message.startswith("labels.train: clip ")
        assert message.endswith(" is empty: leave it out.")
