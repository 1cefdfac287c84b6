"""Sequences of frames in every form that users have, what is wrong with others, and their windows."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_holistic import frame

from uni_sign.data.sequences import Sequences, first_part, padded_window, read_sequences, windows_of
from uni_sign.errors import InputError


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def test_arrays_and_lists_of_frames(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((5, 143, 3))
    array[2, 68:89] = 0
    listed = [frame(0), frame(1, left_hand=None)]
    path = write(tmp_path / "a.pkl", {"sequences": [array, listed], "names": ["one", "two"]})
    found = read_sequences(path)
    assert found.names == ["one", "two"]
    assert found.lengths.tolist() == [5, 2]
    assert found.points.dtype == np.float32
    np.testing.assert_allclose(found.points[:5], array, rtol=1e-6)
    assert found.present[:, 1].tolist() == [True, True, False, True, True, True, False]
    assert found.present[:, [0, 2, 3]].all()
    assert read_sequences(write(tmp_path / "b.pkl", [array])).names == ["00000"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"sequences": []}, "no list under 'sequences'"),
        ({"frames": [1]}, "no list under 'sequences'"),
        ({"sequences": [np.zeros((4, 133, 3))]}, r"sequence 0 is of shape \(4, 133, 3\)"),
        ({"sequences": [np.zeros((0, 143, 3))]}, r"sequence 0 is of shape \(0, 143, 3\)"),
        ({"sequences": [np.full((4, 143, 3), np.nan)]}, "sequence 0 holds a value that is no number"),
        ({"sequences": [7]}, "sequence 0 is neither an array"),
        ({"sequences": [np.ones((2, 143, 3)), [3]]}, "sequence 1: frame 0 is neither a dict"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        read_sequences(write(tmp_path / "video_sequences.pkl", content))
    assert "video_sequences.pkl" in str(raised.value)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(2, 8), st.integers(1, 8))
def test_windows(lengths: list[int], seq_len: int, least: int) -> None:
    bounds = np.cumsum([0, *lengths])
    zeros = np.zeros((bounds[-1], 1))
    sequences = Sequences(zeros, zeros, bounds, [str(i) for i in range(len(lengths))])
    chosen = np.arange(0, len(lengths), 2)
    windows = windows_of(sequences, seq_len, least, chosen)
    expected = [
        (clip, bounds[clip] + start, min(lengths[clip], seq_len))
        for clip in chosen
        if lengths[clip] >= least
        for start in range(max(lengths[clip] - seq_len, 0) + 1)
    ]
    assert list(zip(windows.sequence, windows.first, windows.length, strict=True)) == expected
    assert windows.dropped == sum(lengths[clip] < least for clip in chosen)


def test_a_short_window_repeats_its_last_frame() -> None:
    values = np.arange(10)
    rows, padding = padded_window(values, 4, 3, 5)
    assert rows.tolist() == [4, 5, 6, 6, 6]
    assert padding.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(("count", "trains"), [(2, 1), (3, 2), (10, 8), (1, 1)])
def test_the_first_part_trains_and_something_is_held_out(count: int, trains: int) -> None:
    assert first_part(count).tolist() == [True] * trains + [False] * (count - trains)
