"""Files of 143 points: every form that users have, what is missing, what is wrong, and how values are scaled."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.holistic import REGIONS, SLICES, Normalization, read_frames, training_part
from uni_sign.errors import InputError


def frame(seed: int = 0, **changes: Any) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    regions = {name: draw.random((count, 3)).astype(np.float32) for name, count in REGIONS.items()}
    return {**regions, **changes}


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize(
    "form",
    [
        lambda frames: frames,
        lambda frames: {"keypoints": frames},
        lambda frames: {"train": {"keypoints": frames}, "val": {"keypoints": []}},
        lambda frames: {"train": frames},
        lambda frames: {"keypoints": [np.concatenate(list(one.values())) for one in frames]},
    ],
)
def test_every_form_holds_the_same_frames(form: Callable[[Any], Any], tmp_path: Path) -> None:
    frames = [frame(0), frame(1)]
    found = read_frames(write(tmp_path / "k.pkl", form(frames)))
    assert found.points.shape == (2, 143, 3)
    assert found.present.all()
    for number, one in enumerate(frames):
        for name, own in SLICES.items():
            np.testing.assert_array_equal(found.points[number, own], one[name])


def test_missing_regions_are_zeros_and_known(tmp_path: Path) -> None:
    without = frame(0, left_hand=None)
    del without["face"]
    found = read_frames(write(tmp_path / "k.pkl", [without, {}, frame(1, pose=np.ones((33, 2)))]))
    assert found.present.tolist() == [[False, False, True, True], [False] * 4, [True] * 4]
    assert not found.points[0, SLICES["face"]].any()
    assert found.points[2, SLICES["pose"]].tolist() == [[1, 1, 0]] * 33


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([frame(face=np.zeros((60, 3)))], r"frame 0: face is of shape \(60, 3\), not \(68, 3\)"),
        ([frame(), frame(pose=np.full((33, 3), np.nan))], "frame 1: pose holds a value that no point has"),
        ([frame(pose=np.full((33, 3), 1e9))], "pose holds a value that no point has"),
        ([frame(pose=["a"] * 33)], "pose is no table of 33 rows of three numbers"),
        ([frame(pose=[[1, 2, 3], [1]])], "pose is no table of 33 rows of three numbers"),
        ([5], "frame 0 is neither a dict of regions nor an array"),
        ([np.zeros((142, 3))], "frame 0 is neither a dict of regions nor an array"),
        ([], "holds no list of frames"),
        ({"keypoints": "text"}, "holds no list of frames"),
        ({"train": 5}, "holds no list of frames"),
        (5, "holds no list of frames"),
    ],
)
def test_what_is_wrong_is_said(content: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "k.pkl", content)
    with pytest.raises(InputError, match=said) as error:
        read_frames(path)
    assert str(path) in str(error.value)


def test_clips_are_the_pictures_folders(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.png", "b/1.png"]
    found = read_frames(write(tmp_path / "k.pkl", {"keypoints": [frame()] * 3, "image_paths": names}))
    assert found.clips == ["a", "a", "b"]
    found = read_frames(write(tmp_path / "k.pkl", {"keypoints": [frame()] * 3, "image_paths": names[:2]}))
    assert found.clips == ["0", "1", "2"]


def test_golden_normalization(golden: Callable[[str], Any]) -> None:
    """Where nothing is missing; there, missing regions were scaled like points at the corner."""
    drawn = golden("09_keypoint_drawing.npz")
    points, present = np.zeros((4, 143, 3), np.float32), np.zeros((4, 4), bool)
    for number in range(4):
        for place, (name, own) in enumerate(SLICES.items()):
            if f"{number}/{name}" in drawn:
                points[number, own], present[number, place] = drawn[f"{number}/{name}"], True
    scale = Normalization.of(points, present, "file")
    np.testing.assert_array_equal(scale.low, drawn["dataset/kp_min"])
    np.testing.assert_array_equal(scale.high, drawn["dataset/kp_max"])
    scaled = scale.apply(points, present)
    seen = np.repeat(present, list(REGIONS.values()), axis=1)
    np.testing.assert_allclose(scaled[seen], drawn["dataset/keypoints"][seen], atol=1e-6)
    assert not scaled[~seen].any()
    np.testing.assert_allclose(scale.undo(scaled)[seen], points[seen], atol=1e-6)


def test_a_coordinate_that_never_changes_is_no_division_by_zero() -> None:
    points, present = np.ones((2, 143, 3), np.float32), np.ones((2, 4), bool)
    assert not Normalization.of(points, present, "file").apply(points, present).any()
    with pytest.raises(InputError, match="file: no frame that trains has a region"):
        Normalization.of(points, np.zeros((2, 4), bool), "file")


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40), st.floats(0.1, 0.9))
def test_no_clip_is_in_both_parts(clips: list[str], share: float) -> None:
    trains = training_part(clips, share)
    assert trains.any()
    if len(set(clips)) > 1:
        assert not trains.all()
        chosen = {clip for clip, own in zip(clips, trains, strict=True) if own}
        assert not chosen & {clip for clip, own in zip(clips, trains, strict=True) if not own}


def test_frames_that_name_no_clip_are_split_four_to_one() -> None:
    assert training_part([str(number) for number in range(10)]).tolist() == [True] * 8 + [False] * 2
    assert training_part(["a"] * 10).tolist() == [True] * 8 + [False] * 2
