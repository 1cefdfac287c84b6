"""Skeletons as pictures: the points of golden drawings, what is missing, and pictures that are kept."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uni_sign.data.holistic import REGIONS, SLICES, frames_of
from uni_sign.data.skeleton_images import SkeletonImages, draw_skeleton, face_alone


@pytest.fixture(scope="module")
def cases(golden: Callable[[str], Any]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Points, regions and the published drawing of each golden case."""
    held = golden("09_keypoint_drawing.npz")
    found = []
    for number in range(7):
        frame = {name: held[f"{number}/{name}"] for name in REGIONS if f"{number}/{name}" in held}
        points, present = frames_of([frame], "golden")
        found.append((points[0], present[0], held[f"{number}/img256"]))
    return found


def test_every_point_is_where_the_published_drawing_has_it(cases: list[Any]) -> None:
    for points, present, published in cases:
        ours = draw_skeleton(points, present)
        places = (points[:, :2][np.repeat(present, list(REGIONS.values()))] * 256).astype(int)
        places = places[((places >= 2) & (places < 254)).all(axis=1)]
        assert (published[places[:, 1], places[:, 0]] == 0).mean() > 0.99
        # A hand stands off from what lies behind it, so that single points of the body may be hidden.
        assert (ours[places[:, 1], places[:, 0]] < 128).mean() > 0.97


def test_lines_are_those_of_the_published_drawing(cases: list[Any]) -> None:
    points, present, published = cases[3]
    assert present.tolist() == [False, False, False, True]
    ours = draw_skeleton(points, present)
    assert ((ours < 128) == (published < 128)).mean() > 0.98


def test_it_is_smooth_and_the_same_each_time(cases: list[Any]) -> None:
    points, present, _ = cases[0]
    first = draw_skeleton(points, present, 128)
    draw_skeleton(*cases[1][:2], 128)
    assert np.array_equal(first, draw_skeleton(points, present, 128))
    assert first.shape == (128, 128)
    assert len(np.unique(first)) > 20


@pytest.mark.parametrize("region", REGIONS)
def test_a_missing_region_is_not_drawn(cases: list[Any], region: str) -> None:
    points, present = cases[0][0].copy(), np.zeros(4, bool)
    assert (draw_skeleton(points, present) == 255).all()
    present[list(REGIONS).index(region)] = True
    alone = draw_skeleton(points, present)
    points[SLICES["pose" if region != "pose" else "face"]] = 0.5
    assert np.array_equal(draw_skeleton(points, present), alone)
    assert (alone < 128).any()


def test_hands_lie_over_the_body() -> None:
    points, present = np.full((143, 3), 0.9, np.float32), np.array([False, True, False, True])
    points[SLICES["pose"]][11], points[SLICES["pose"]][12] = (0.1, 0.5, 0), (0.9, 0.5, 0)
    hand = points[SLICES["left_hand"]]
    hand[:, 0], hand[:, 1] = 0.5, np.linspace(0.3, 0.7, 21)
    with_hand = draw_skeleton(points, present)
    # Beside the hand's line is the paper that sets it off from the shoulders' line behind.
    assert with_hand[128, 128] < 64
    assert with_hand[128, 131] > 200
    assert with_hand[128, 140] < 64


def test_faces_alone() -> None:
    faces = np.random.default_rng(0).random((3, 68, 3)).astype(np.float32)
    points, present = face_alone(faces)
    assert points.shape == (3, 143, 3)
    assert np.array_equal(points[:, SLICES["face"]], faces)
    assert present.tolist() == [[True, False, False, False]] * 3


def test_pictures_are_kept_and_what_is_damaged_is_drawn_anew(
    cases: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, present = (np.stack([case[i] for case in cases]) for i in range(2))
    images = SkeletonImages(points, present, 64, tmp_path / "kept")
    expected = [draw_skeleton(*one, 64) for one in zip(points, present, strict=True)]
    assert np.array_equal(images[2], expected[2])
    drawn: list[int] = []

    def counted(*args: Any) -> np.ndarray:
        drawn.append(1)
        return draw_skeleton(*args)

    monkeypatch.setattr("uni_sign.data.skeleton_images.draw_skeleton", counted)
    again = SkeletonImages(points, present, 64, tmp_path / "kept")
    assert np.array_equal(again[2], expected[2])
    assert not drawn
    [file] = (tmp_path / "kept").iterdir()
    with file.open("r+b") as torn:
        torn.seek(2 * (64 * 64 + 4) + 100)
        torn.write(b"\1\2\3")
    assert np.array_equal(SkeletonImages(points, present, 64, tmp_path / "kept")[2], expected[2])
    assert len(drawn) == 1
    SkeletonImages(points + 0.01, present, 64, tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_where_nothing_can_be_kept_pictures_are_drawn_each_time(cases: list[Any], tmp_path: Path) -> None:
    points, present = (np.stack([case[i] for case in cases]) for i in range(2))
    (tmp_path / "file").touch()
    images = SkeletonImages(points, present, 64, tmp_path / "file")
    assert "drawn each time" in images.note
    assert np.array_equal(images[0], draw_skeleton(points[0], present[0], 64))


def test_a_full_disk_costs_speed_alone(cases: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points, present = (np.stack([case[i] for case in cases]) for i in range(2))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    images = SkeletonImages(points, present, 64, tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        assert np.array_equal(images[1], draw_skeleton(points[1], present[1], 64))
