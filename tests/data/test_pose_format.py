"""`.pose` files: versions, components in any order, people, what is refused; and pose-format's own files."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pose_files import PACKAGE, body, component, header, pose_file

from uni_sign.data.corpora import Corpus
from uni_sign.data.frame_counts import count_frames
from uni_sign.data.pose_format import read_pose_format
from uni_sign.data.samples import Sample
from uni_sign.data.shard_writer import row_of
from uni_sign.data.splits import read_split
from uni_sign.data.wholebody import Pose, read_pose
from uni_sign.errors import SampleError

PLACES = {"BODY": (0, 23), "FEET": (17, 6), "FACE": (23, 68), "LEFT_HAND": (91, 21), "RIGHT_HAND": (112, 21)}


def read(folder: Path, content: bytes) -> Pose:
    path = folder / "clip.pose"
    path.write_bytes(content)
    return read_pose(path)


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(SampleError) as caught:
        read(folder, content)
    assert "clip.pose" in str(caught.value)
    return str(caught.value)


def numbered(components: Sequence[tuple[str, int]]) -> bytes:
    """One frame in which point p of the 133 lies at pixel (p, p / 10), with confidence (p + 1) / 200."""
    places = [PLACES[name][0] + i for name, count in components for i in range(count)]
    points = np.array(places, np.float32)
    coordinates = np.stack([points, points / 10], -1)[None, None]
    named = [component(*told) for told in components]
    return header(named, size=(200, 100)) + body(coordinates, (points[None, None] + 1) / 200)


@pytest.mark.parametrize(("version", "dimensions"), [(0.1, 2), (0.2, 2), (0.1, 3), (0.2, 3)])
def test_pixels_become_shares(tmp_path: Path, version: float, dimensions: int) -> None:
    pose = read(tmp_path, pose_file(4, 1, version, dimensions, seed=7))
    rng = np.random.default_rng(7)
    pixels = rng.random((4, 1, 133, dimensions), np.float32) * 100
    np.testing.assert_array_equal(pose.keypoints, pixels[:, 0, :, :2] / np.array([200, 100], np.float32))
    np.testing.assert_array_equal(pose.scores, rng.random((4, 133), np.float32) * 0.9 + 0.1)
    assert (pose.keypoints.dtype, pose.start) == (np.float32, 0)
    content = read_pose_format(tmp_path / "clip.pose")
    assert (content["fps"], content["width"], content["height"]) == (25, 200, 100)


@given(st.permutations(PACKAGE), st.booleans())
def test_components_come_in_any_order(tmp_path_factory: pytest.TempPathFactory, order: list, split: bool) -> None:
    if split:
        order = [told for name, n in order for told in ([("BODY", 17), ("FEET", 6)] if n == 23 else [(name, n)])]
    pose = read(tmp_path_factory.mktemp("pose"), numbered(order))
    points = np.arange(133, dtype=np.float32)
    np.testing.assert_array_equal(pose.keypoints[0, :, 0], points / 200)
    np.testing.assert_array_equal(pose.keypoints[0, :, 1], points / 10 / 100)
    np.testing.assert_array_equal(pose.scores[0], (points + 1) / 200)


def test_feet_may_be_missing(tmp_path: Path) -> None:
    pose = read(tmp_path, numbered([("BODY", 17), *PACKAGE[1:]]))
    assert not pose.scores[0, 17:23].any()
    assert pose.scores[0, 23] == np.float32(24 / 200)


def test_one_component_of_133_points_is_in_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points, scores = rng.random((2, 1, 133, 2)), rng.random((2, 1, 133)) + 0.1
    pose = read(tmp_path, header([component("whatever", 133)], size=(1, 1)) + body(points, scores))
    np.testing.assert_array_equal(pose.keypoints, points[:, 0].astype(np.float32))


def test_names_that_differ_in_writing_alone(tmp_path: Path) -> None:
    named = [component(name.lower().replace("_", "-") + "_133", count) for name, count in PACKAGE]
    content = pose_file()
    whole = header([component(*told) for told in PACKAGE])
    assert len(read(tmp_path, header(named) + content[len(whole) :]).keypoints) == 3


def test_points_of_no_confidence_are_nowhere(tmp_path: Path) -> None:
    points, scores = np.full((2, 1, 133, 2), np.nan), np.zeros((2, 1, 133))
    points[1], scores[1] = 50, 0.5
    pose = read(tmp_path, header([component("all", 133)]) + body(points, scores))
    assert not pose.keypoints[0].any()
    assert (pose.keypoints[1] == [0.25, 0.5]).all()
    points[1, 0, 3] = np.nan
    assert "not finite" in refusal(tmp_path, header([component("all", 133)]) + body(points, scores))


def test_of_several_people_the_signer_is_chosen(tmp_path: Path) -> None:
    """The second place holds the better seen one, who is not in the first frame; the third is never taken."""
    points, scores = np.zeros((3, 3, 133, 2)), np.zeros((3, 3, 133))
    points[:, 0], scores[:, 0] = 20, 0.4
    points[1:, 1], scores[1:, 1] = 24, 0.9
    pose = read(tmp_path, header([component("all", 133)], size=(100, 100)) + body(points, scores))
    np.testing.assert_array_equal(pose.keypoints[:, 0, 0], np.array([0.2, 0.24, 0.24], np.float32))


@pytest.mark.parametrize(
    ("components", "says"),
    [
        ([("POSE_LANDMARKS", 33), ("FACE_LANDMARKS", 468)], "POSE_LANDMARKS 33 XYC, FACE_LANDMARKS 468"),
        ([("BODY_136", 26), *PACKAGE[1:]], "BODY_136 26"),
        ([*PACKAGE, ("FACE", 68)], "133 points of COCO-WholeBody are needed"),
        (PACKAGE[:3], "LEFT_HAND 21 XYC, where"),
        ([("FEET", 6), *PACKAGE], "FEET 6"),
        ([], "components none"),
    ],
)
def test_other_points_are_refused(tmp_path: Path, components: list[tuple[str, int]], says: str) -> None:
    assert says in refusal(tmp_path, header([component(*told) for told in components]) + bytes(2000))


def test_points_in_another_order_are_refused(tmp_path: Path) -> None:
    names = ["Nose", "left-eye", "right ear"] + [f"p{i}" for i in range(130)]
    assert "the point right_ear where" in refusal(tmp_path, header([component("all", names)]) + bytes(2000))


@pytest.mark.parametrize("axes", ["XY", "YXC", "C", ""])
def test_other_axes_are_refused(tmp_path: Path, axes: str) -> None:
    assert "needed (XYC)" in refusal(tmp_path, header([component("all", 133, axes)]) + bytes(2000))


def test_a_video_without_size_is_refused(tmp_path: Path) -> None:
    start = header([component("all", 133)], size=(200, 0))
    assert "no width and height" in refusal(tmp_path, start + body(np.ones((1, 1, 133, 2)), np.ones((1, 1, 133))))


@pytest.mark.parametrize("version", [0.1, 0.2])
def test_any_other_length_is_refused(tmp_path: Path, version: float) -> None:
    whole = pose_file(2, 1, version)
    for size in (0, 3, 11, 60, len(whole) - 4, len(whole) - 133 * 12):
        assert ("is empty" if size == 0 else "damaged") in refusal(tmp_path, whole[:size])
    assert "damaged" in refusal(tmp_path, whole + bytes(4))
    assert "damaged" in refusal(tmp_path, whole + bytes(133 * 12))


def test_version_0_1_counts_by_the_size_of_the_file(tmp_path: Path) -> None:
    """Its number of frames has 16 bits: pose-format itself reads what is there."""
    start = header([component("all", 133)], 0.1)
    points, scores = np.ones((65_537, 1, 133, 2), np.float32), np.ones((65_537, 1, 133), np.float32)
    assert len(read(tmp_path, start + body(points, scores, 0.1, 2)).keypoints) == 65_537


def test_large_files_and_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = header([component("all", 133)])
    assert "nobody" in refusal(tmp_path, start + body(np.ones((2, 1, 133, 2)), np.zeros((2, 1, 133))))
    assert "no frames" in refusal(tmp_path, start + body(np.ones((0, 1, 133, 2)), np.zeros((0, 1, 133))))
    monkeypatch.setattr("uni_sign.data.pose_format.MAX_BYTES", 1000)
    assert "1,000 bytes" in refusal(tmp_path, pose_file())


def test_a_corpus_finds_them(tmp_path: Path) -> None:
    """An .npz goes first, then a pickle."""
    (tmp_path / "a.pose").write_bytes(pose_file())
    for name in ("b.pose", "b.pkl"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "labels").write_text('[{"video": "a.mp4", "text": "x"}, {"video": "b.mp4", "text": "y"}, {}]')
    corpus = Corpus("Mine", "English", {"train": tmp_path / "labels"}, tmp_path, label_format="csl_news")
    assert [sample.pose_path.name for sample in read_split(corpus, "SLT", "train").samples] == ["a.pose", "b.pkl"]


def test_a_shard_holds_what_a_pickle_of_the_same_points_gives(tmp_path: Path) -> None:
    (tmp_path / "a.pose").write_bytes(pose_file(5, 2))
    content = read_pose_format(tmp_path / "a.pose")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({name: content[name] for name in ("keypoints", "scores")}))
    assert count_frames(tmp_path / "a.pose") == 5
    rows = [row_of(Sample("a", path, None, "", "", 1)) for path in (tmp_path / "a.pose", tmp_path / "a.pkl")]
    assert rows[0][3:] == rows[1][3:]
    assert len(rows[0].parts) == 5 * 3 * 69 * 4


@pytest.mark.parametrize("people", [1, 3])
def test_files_that_pose_format_writes(tmp_path: Path, people: int) -> None:
    pytest.importorskip("pose_format")  # needs Python 3.11
    from pose_format import Pose as Foreign
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderDimensions
    from pose_format.utils.cocowholebody133_header import cocowholebody_components

    rng = np.random.default_rng(people)
    points = rng.random((6, people, 133, 2)).astype(np.float32) * 300
    scores = rng.random((6, people, 133)).astype(np.float32) + 0.01
    scores[2:, 1:] = 0
    scores[3, 0, :50] = 0
    foreign = Foreign(PoseHeader(0.2, PoseHeaderDimensions(640, 480), cocowholebody_components()),
                      NumPyPoseBody(29.97, points, scores))  # fmt: skip
    with (tmp_path / "clip.pose").open("wb") as file:
        foreign.write(file)
    content = read_pose_format(tmp_path / "clip.pose")
    assert (content["fps"], content["width"], content["height"]) == (np.float32(29.97), 640, 480)
    again = Foreign.read((tmp_path / "clip.pose").read_bytes())
    pose = read_pose(tmp_path / "clip.pose")
    np.testing.assert_allclose(
        pose.keypoints[2:], again.body.data[2:, 0].filled(0) / np.array([640, 480]), rtol=1e-6, atol=0
    )
    np.testing.assert_array_equal(pose.scores[2:], again.body.confidence[2:, 0])
    # And the other way: what the tests write is what the package reads.
    read_back = Foreign.read(io.BytesIO(pose_file(4, 2, 0.1)).getvalue())
    assert read_back.body.data.shape == (4, 2, 133, 2)
