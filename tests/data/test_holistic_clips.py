"""Clips of 143 points, a file each, and many in an Arrow file."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from test_holistic import frame

from uni_sign.data.holistic_clips import clip_extractor, read_arrow, read_clip, write_arrow, write_clip
from uni_sign.errors import InputError

MADE_BY = {"name": "mediapipe-holistic", "version": "1", "mode": "video"}


def clip(frames: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.random((frames, 143, 3)).astype(np.float32), draw.random((frames, 4)) > 0.3


def test_npz_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        write_clip(file, *clip(), MADE_BY)
    points, present = read_clip(path)
    assert np.array_equal(points, clip()[0])
    assert np.array_equal(present, clip()[1])
    assert clip_extractor(path) == MADE_BY
    assert clip_extractor(tmp_path / "none.npz") is None


def test_pickles_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    for content in ([frame(0), frame(1)], {"keypoints": [frame(0), frame(1)]}, np.ones((2, 143, 3))):
        path.write_bytes(pickle.dumps(content))
        points, present = read_clip(path)
        assert points.shape == (2, 143, 3)
        assert present.shape == (2, 4)


def test_damaged_clips(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(InputError, match=r"is not an \.npz file of plain arrays"):
        read_clip(path)
    np.savez(path, points=np.zeros((2, 143, 3)), present=np.zeros((3, 4), bool))
    with pytest.raises(InputError, match="present is of shape"):
        read_clip(path)
    path.with_suffix(".pkl").write_bytes(pickle.dumps({"keypoints": 3}))
    with pytest.raises(InputError, match=r"neither an array \(T, 143, 3\) nor a list"):
        read_clip(path.with_suffix(".pkl"))


def test_arrow_round_trip(tmp_path: Path) -> None:
    path, clips = tmp_path / "clips.arrow", [clip(3), clip(1, seed=1)]
    write_arrow(path, ["a", "字"], iter(clips))
    found = read_arrow(path)
    assert found.names == ["a", "字"]
    assert found.lengths.tolist() == [3, 1]
    assert np.array_equal(found.points, np.concatenate([points for points, _ in clips]))
    assert np.array_equal(found.present, np.concatenate([present for _, present in clips]))


def test_damaged_arrow(tmp_path: Path) -> None:
    path = tmp_path / "clips.arrow"
    write_arrow(path, ["a"], iter([clip()]))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is no Arrow file of clips"):
        read_arrow(path)
    write_arrow(path, ["a"], iter([(np.full((1, 143, 3), np.nan), clip(1)[1])]))
    with pytest.raises(InputError, match="a value that is no number"):
        read_arrow(path)
    write_arrow(path, ["a"], iter([(np.ones((1, 100, 3)), clip(1)[1])]))
    with pytest.raises(InputError, match="clip a holds no whole frames"):
        read_arrow(path)
