"""Frames are counted once per file; what cannot be read or has changed is counted anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.frame_counts import UNREADABLE, FrameCounts, count_frames
from uni_sign.data.wholebody import read_pose


@pytest.fixture
def files(demo_root: Path, tmp_path: Path) -> list[Path]:
    folder = tmp_path / "poses"
    folder.mkdir()
    sources = sorted((demo_root / "dataset" / "Demo" / "pose_format").glob("train-*.pkl"))[:3]
    return [Path(shutil.copy(source, folder)) for source in sources]


def test_frames_of_a_file(files: list[Path], tmp_path: Path) -> None:
    assert [count_frames(file) for file in files] == [len(read_pose(file).keypoints) for file in files]
    files[0].write_bytes(b"garbage")
    assert count_frames(files[0]) == count_frames(tmp_path / "none.pkl") == UNREADABLE


def test_counts_are_found_again_until_the_file_changes(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / ".cache" / "counts.npz"
    assert FrameCounts(cache).lookup(files).tolist() == [-1, -1, -1]
    counts = FrameCounts(cache)
    counts.store(files[:2], [7, UNREADABLE])
    assert counts.lookup(files).tolist() == FrameCounts(cache).lookup(files).tolist() == [7, 0, -1]
    FrameCounts(cache).store(files[2:], [9])
    os.utime(files[0], ns=(1, 1))
    files[1].write_bytes(files[1].read_bytes() + b"\0")
    assert FrameCounts(cache).lookup(files).tolist() == [-1, -1, 9]
    assert os.listdir(cache.parent) == ["counts.npz"]


def test_a_vanished_file_is_not_known(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "counts.npz"
    gone = tmp_path / "gone.pkl"
    FrameCounts(cache).store([gone, files[0]], [5, 6])
    assert FrameCounts(cache).lookup([gone, files[0]]).tolist() == [-1, 6]


def _damaged(whole: bytes) -> list[bytes]:
    return [b"", whole[: len(whole) // 2], b"PK" + whole[2:200], bytes(len(whole))]


def test_a_damaged_cache_holds_nothing_and_is_replaced(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "counts.npz"
    FrameCounts(cache).store(files, [1, 2, 3])
    for content in _damaged(cache.read_bytes()):
        cache.write_bytes(content)
        assert FrameCounts(cache).lookup(files).tolist() == [-1, -1, -1]
    strange = (
        {"keys": np.zeros((2, 16), np.uint8)},
        {"keys": np.zeros((2, 16), np.uint8), "frames": np.zeros(3, np.int64)},
        {"keys": np.zeros((2, 15), np.uint8), "frames": np.zeros(2, np.int64)},
        {"keys": np.zeros((2, 16), np.int64), "frames": np.zeros(2, np.int64)},
        {"keys": np.zeros((2, 16), np.uint8), "frames": np.zeros(2)},
        {"keys": np.zeros((2, 16), np.uint8), "frames": np.zeros((2, 1), np.int64)},
        {"keys": np.zeros((2, 1, 16), np.uint8), "frames": np.zeros((2, 1), np.int64)},
        {"keys": np.zeros((0, 16), np.uint8), "frames": np.int64(0)},
    )
    for arrays in strange:
        np.savez(cache, **arrays)
        assert FrameCounts(cache).lookup(files).tolist() == [-1, -1, -1]
    FrameCounts(cache).store(files, [1, 2, 3])
    assert FrameCounts(cache).lookup(files).tolist() == [1, 2, 3]


@given(st.binary(max_size=300))
def test_any_cache_file_is_read_or_ignored(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    cache = tmp_path_factory.getbasetemp() / "any_counts.npz"
    cache.write_bytes(content)
    assert FrameCounts(cache).lookup([cache]).tolist() == [-1]


def test_a_failed_write_leaves_the_old_counts(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "counts.npz"
    FrameCounts(cache).store(files, [1, 2, 3])

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        FrameCounts(cache).store(files, [4, 5, 6])
    assert FrameCounts(cache).lookup(files).tolist() == [1, 2, 3]
    assert os.listdir(cache.parent) == ["counts.npz"]
