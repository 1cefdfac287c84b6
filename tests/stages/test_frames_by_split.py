"""Frames of a corpus: read once, from whoever knows them, and harmless where a clip cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.corpora import load_corpus
from uni_sign.data.splits import Split, read_split
from uni_sign.data.wholebody import read_pose
from uni_sign.stages import _frame_counts
from uni_sign.stages._frame_counts import frames_by_split, with_unreadable_spread


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def splits(demo_root: Path, tmp_path: Path) -> dict[str, Split]:
    root = tmp_path / "root"
    shutil.copytree(demo_root, root)
    corpus = load_corpus("Demo", root)
    return {name: read_split(corpus, "SLT", name) for name in ("train", "dev", "test")}


def true_frames(split: Split) -> list[int]:
    return [len(read_pose(sample.pose_path).keypoints) for sample in split.samples]


def test_counts_are_true_cut_and_read_once(
    splits: dict[str, Split], accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, longest = tmp_path / "counts.npz", 40
    read: list[Path] = []
    count = _frame_counts.count_frames
    monkeypatch.setattr(_frame_counts, "_ROUND", 5)
    monkeypatch.setattr(_frame_counts, "count_frames", lambda file: read.append(file) or count(file))
    expected = {name: [min(n, longest) for n in true_frames(split)] for name, split in splits.items()}
    assert frames_by_split(splits, longest, cache, accelerator) == (expected, [])
    assert len(read) == sum(map(len, expected.values()))
    assert any(n == longest for n in expected["train"])
    read.clear()
    assert frames_by_split(splits, longest, cache, accelerator) == (expected, [])
    assert not read


def test_known_frames_are_not_read(splits: dict[str, Split], accelerator: Accelerator, tmp_path: Path) -> None:
    files = [sample.pose_path for sample in splits["train"].samples]
    known = {file: 11 + number for number, file in enumerate(files)}
    counts, _ = frames_by_split(splits, 256, tmp_path / "counts.npz", accelerator, known)
    assert counts["train"] == list(known.values())
    assert counts["dev"] == true_frames(splits["dev"])


def test_counts_that_cannot_be_kept_are_said_and_used(
    splits: dict[str, Split], accelerator: Accelerator, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    counts, notes = frames_by_split(splits, 256, tmp_path / "file" / "counts.npz", accelerator)
    assert counts["test"] == true_frames(splits["test"])
    assert len(notes) == 1
    assert "are not kept" in notes[0]


def test_an_unreadable_clip_takes_a_length_of_its_split(
    splits: dict[str, Split], accelerator: Accelerator, tmp_path: Path
) -> None:
    splits["train"].samples[3].pose_path.write_bytes(b"garbage")
    counts, _ = frames_by_split(splits, 256, tmp_path / "counts.npz", accelerator)
    readable = [n for i, n in enumerate(counts["train"]) if i != 3]
    assert counts["train"][3] in readable


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_unreadable_clips_are_spread_over_the_lengths(counts: list[int]) -> None:
    spread = with_unreadable_spread(np.array(counts, np.int64))
    readable = [n for n in counts if n]
    assert [new for new, old in zip(spread, counts, strict=True) if old] == readable
    assert spread.min() >= 1
    assert set(spread.tolist()) <= set(readable or [1])
    if counts.count(0) >= 2:
        assert {min(readable, default=1), max(readable, default=1)} <= set(spread.tolist())
