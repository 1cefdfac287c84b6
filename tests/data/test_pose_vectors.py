"""Poses as vectors and back: what the model sees of a pose that was put together again is what it was made of."""

from pathlib import Path

import numpy as np

from uni_sign.data.pose_vectors import POSE_VALUES, joints, pose_of_vectors, pose_vectors
from uni_sign.data.wholebody import PARTS, THRESHOLD, read_pose, split_parts, write_npz
from uni_sign.models import signing_flow


def parts_of(root: Path) -> dict[str, np.ndarray]:
    pose = read_pose(sorted((root / "dataset" / "Demo" / "pose_format").glob("train-*"))[0])
    return split_parts(pose.keypoints, pose.scores)


def test_parts_come_back_through_a_pose_file(demo_root: Path, tmp_path: Path) -> None:
    parts = parts_of(demo_root)
    vectors = pose_vectors(parts)
    assert vectors.shape == (len(parts["body"]), POSE_VALUES)
    made = pose_of_vectors(vectors)
    with (tmp_path / "clip.npz").open("wb") as file:
        write_npz(file, made.keypoints, made.scores, {"name": "a", "version": "b", "mode": "c"})
    read = read_pose(tmp_path / "clip.npz")
    again = split_parts(read.keypoints, read.scores)
    for name in PARTS:
        np.testing.assert_allclose(again[name], parts[name], atol=1e-5)


def test_hands_and_face_hang_on_wrists_and_nose(demo_root: Path) -> None:
    parts = parts_of(demo_root)
    xy, scores = joints(pose_vectors(parts))
    assert xy.shape == (len(parts["body"]), 69, 2)
    body = parts["body"][..., :2] / 2 + 0.5
    np.testing.assert_allclose(xy[:, :9], body, atol=1e-6)
    for first, size, anchor in ((9, 21, 7), (30, 21, 8), (51, 18, 0)):
        own = list(PARTS)[(9, 30, 51).index(first) + 1]
        np.testing.assert_allclose(xy[:, first : first + size] - body[:, None, anchor], parts[own][..., :2], atol=1e-6)
    np.testing.assert_array_equal(scores > THRESHOLD, pose_vectors(parts).reshape(len(xy), 69, 3)[..., 2] > 0)


def test_models_and_files_have_the_same_values() -> None:
    assert POSE_VALUES == signing_flow.POSE_VALUES
    assert {name: len(points) for name, points in PARTS.items()} == {
        name: points for name, (points, _) in signing_flow.GRAPHS.items()
    }


def test_points_that_no_part_has_were_not_seen() -> None:
    pose = pose_of_vectors(np.ones((2, POSE_VALUES), np.float32))
    used = {point for points in PARTS.values() for point in points}
    assert set(np.flatnonzero(pose.scores[0])) == used
    assert pose_of_vectors(np.full((1, POSE_VALUES), 9.0)).scores.max() == 1.0
