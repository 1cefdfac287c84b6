"""Poses: golden parts to the last bit, sound frames out of any file, the right person, and clear refusals."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uni_sign.data.wholebody import ORIGINS, PARTS, THRESHOLD, choose_frames, read_pose, split_parts
from uni_sign.errors import SampleError

GOLDEN = Path(__file__).parents[1] / "golden"
PREPROCESSED = np.load(GOLDEN / "01_pose_preproc.npz")
CASES = sorted({name.split("/")[0] for name in PREPROCESSED.files})


def clip(frames: int = 6, persons: int = 1, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "keypoints": [rng.random((persons, 133, 2)) for _ in range(frames)],
        "scores": [rng.random((persons, 133), np.float32) for _ in range(frames)],
    }


def written(folder: Path, content: Any) -> Path:
    path = folder / "clip.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def refusal(folder: Path, content: Any) -> str:
    with pytest.raises(SampleError) as caught:
        read_pose(written(folder, content))
    message = str(caught.value)
    assert "clip.pkl" in message
    assert "\n" not in message
    return message


# --- parts -------------------------------------------------------------------------------------------------


def test_parts_are_the_published_ones() -> None:
    assert {part: len(points) for part, points in PARTS.items()} == {"body": 9, "left": 21, "right": 21, "face_all": 18}
    assert PARTS["face_all"] == (23, 25, 27, 29, 31, 33, 35, 37, 39, 83, 84, 85, 86, 87, 88, 89, 90, 53)
    assert all(origin in PARTS[part] for part, origin in ORIGINS.items())


@pytest.mark.parametrize("case", CASES)
def test_golden_parts(case: str) -> None:
    keypoints, scores = PREPROCESSED[f"{case}/keypoints"], PREPROCESSED[f"{case}/scores"]
    parts = split_parts(keypoints[:, 0], scores[:, 0])
    assert list(parts) == ["body", "left", "right", "face_all"]
    for name, part in parts.items():
        golden = PREPROCESSED[f"{case}/out_{name}"]
        assert part.dtype == golden.dtype
        np.testing.assert_array_equal(part, golden)


def test_golden_parts_in_float32() -> None:
    for case in CASES:
        if case == "thr_boundary_f32scores":
            continue  # a float32 score of 0.3 is above 0.3 beside float64 coordinates, and not beside float32 ones
        keypoints, scores = PREPROCESSED[f"{case}/keypoints"][:, 0], PREPROCESSED[f"{case}/scores"][:, 0]
        for name, part in split_parts(keypoints.astype(np.float32), scores.astype(np.float32)).items():
            assert part.dtype == np.float32
            np.testing.assert_allclose(part, PREPROCESSED[f"{case}/out_{name}"], rtol=0, atol=1e-6)


def test_parts_of_a_drawn_square() -> None:
    """Worked by hand: a body from (0.2, 0.2) to (0.6, 0.4), so a square of 0.4 with its lower side at y = 0.1."""
    keypoints, scores = np.full((1, 133, 2), 0.2), np.ones((1, 133))
    keypoints[0, 10] = 0.6, 0.4
    keypoints[0, 91], keypoints[0, 95] = (0.5, 0.5), (0.6, 0.3)
    scores[0, 96] = THRESHOLD
    parts = split_parts(keypoints, scores)
    np.testing.assert_allclose(parts["body"][0, 0], [-1, -0.5, 1])
    np.testing.assert_allclose(parts["body"][0, 8], [1, 0.5, 1])
    np.testing.assert_allclose(parts["left"][0, [0, 4, 5]], [[0, 0, 1], [0.25, -0.5, 1], [0, 0, 0]])


coordinates = hnp.arrays(np.float64, (5, 133, 2), elements=st.floats(-1e6, 1e6), fill=st.floats(-1, 2))
confidences = hnp.arrays(np.float32, (5, 133), elements=st.floats(-1, 2, width=32), fill=st.floats(0, 1, width=32))


@settings(max_examples=50, deadline=None)
@given(keypoints=coordinates, scores=confidences)
def test_parts_are_finite_and_unseen_points_zero(keypoints: np.ndarray, scores: np.ndarray) -> None:
    before = keypoints.copy(), scores.copy()
    for name, part in split_parts(keypoints, scores).items():
        assert part.shape == (5, len(PARTS[name]), 3)
        assert np.abs(part).max() <= 1
        assert not part[scores[:, PARTS[name]].astype(np.float64) <= THRESHOLD].any()
    np.testing.assert_array_equal(keypoints, before[0])
    np.testing.assert_array_equal(scores, before[1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-3, 3), zoom=st.floats(0.1, 10))
def test_parts_do_not_depend_on_where_and_how_large_the_signer_is(seed: int, shift: float, zoom: float) -> None:
    content = clip(seed=seed)
    keypoints, scores = np.concatenate(content["keypoints"]), np.concatenate(content["scores"])
    moved = split_parts(keypoints * zoom + shift, scores)
    for name, part in split_parts(keypoints, scores).items():
        np.testing.assert_allclose(moved[name], part, atol=1e-9)


# --- frames ------------------------------------------------------------------------------------------------


@given(n=st.integers(0, 400), max_length=st.integers(1, 300), seed=st.none() | st.integers(0, 99))
def test_chosen_frames(n: int, max_length: int, seed: int | None) -> None:
    frames = choose_frames(n, max_length, None if seed is None else random.Random(seed))
    assert frames.dtype == np.int64
    assert len(frames) == min(n, max_length)
    assert (np.diff(frames) > 0).all()
    assert set(frames.tolist()) <= set(range(n))
    again = choose_frames(n, max_length, None if seed is None else random.Random(seed))
    np.testing.assert_array_equal(frames, again)
    if seed is None and n > max_length > 1:
        assert frames[0] == 0
        assert frames[-1] == n - 1
        assert np.ptp(np.diff(frames)) <= 1


def test_every_frame_is_chosen_equally_often() -> None:
    counts = sum(np.bincount(choose_frames(40, 10, random.Random(i)), minlength=40) for i in range(2000))
    assert np.abs(counts - 500).max() < 110  # five standard deviations


@pytest.mark.parametrize("case", json.loads((GOLDEN / "01_frame_sampling.json").read_text()))
def test_golden_sampling(case: dict[str, Any]) -> None:
    frames = choose_frames(case["duration"], case["max_length"], random.Random(case["py_random_seed"]))
    assert (case["start"] + frames).tolist() == case["indices"]


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, ">f8"])
@pytest.mark.parametrize("form", ["list", "no person axis", "one array", "flat array", "npz"])
def test_one_person_in_every_form(tmp_path: Path, form: str, dtype: Any) -> None:
    content = clip()
    keypoints, scores = [points.astype(dtype) for points in content["keypoints"]], content["scores"]
    if form in ("no person axis", "flat array"):
        keypoints, scores = [points[0] for points in keypoints], [weights[0] for weights in scores]
    if form in ("one array", "flat array", "npz"):
        keypoints, scores = np.stack(keypoints), np.stack(scores)
    path = written(tmp_path, {"keypoints": keypoints, "scores": scores})
    if form == "npz":
        path = tmp_path / "clip.npz"
        np.savez_compressed(path, keypoints=keypoints, scores=scores)
    pose = read_pose(path)
    assert pose.keypoints.shape == (6, 133, 2)
    assert pose.scores.shape == (6, 133)
    assert pose.start == 0
    assert pose.keypoints.dtype == (np.float32 if dtype in (np.float32, np.float16) else np.float64)
    np.testing.assert_array_equal(pose.keypoints, np.concatenate(content["keypoints"]).astype(dtype).astype(np.float64))
    np.testing.assert_array_equal(pose.scores, np.concatenate(content["scores"]))


@pytest.mark.parametrize("npz", [False, True])
def test_a_whole_video_is_cut_and_a_clip_is_kept(tmp_path: Path, npz: bool) -> None:
    def read(content: dict[str, Any], start: Any, end: Any) -> Any:
        content = {**content, "start": start, "end": end}
        if npz:
            np.savez(tmp_path / "clip.npz", **content)
        return read_pose(tmp_path / "clip.npz" if npz else written(tmp_path, content))

    whole = clip(20)
    cut = read(whole, 5, 12)
    np.testing.assert_array_equal(cut.keypoints, np.concatenate(whole["keypoints"][5:12]))
    np.testing.assert_array_equal(cut.scores, np.concatenate(whole["scores"][5:12]))
    assert cut.start == 5
    kept = read(whole, np.int64(30), np.int32(50))
    assert len(kept.keypoints) == 20
    assert kept.start == 30
    for start, end in ((5, 30), (12, 12), (12, 5), (-1, 5), (1.5, 5)):
        with pytest.raises(SampleError):
            read(whole, start, end)


def test_one_frame_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {key: frames[:1] * 50 for key, frames in clip().items()}
    pose = read_pose(written(tmp_path, content))
    np.testing.assert_array_equal(pose.keypoints, np.concatenate(content["keypoints"]))
    monkeypatch.setattr("uni_sign.data.wholebody.MAX_FRAMES", 49)
    assert "50 frames" in refusal(tmp_path, content)


def test_frames_without_persons_are_zero(tmp_path: Path) -> None:
    content = clip(5)
    content["keypoints"][1], content["scores"][1] = np.zeros((0, 133, 2)), np.zeros((0, 133))
    content["keypoints"][3], content["scores"][3] = None, []
    pose = read_pose(written(tmp_path, content))
    assert pose.keypoints.dtype == np.float64
    assert pose.scores.dtype == np.float32
    for frame in range(5):
        expected = 0 if frame in (1, 3) else content["keypoints"][frame][0]
        np.testing.assert_array_equal(pose.keypoints[frame], np.broadcast_to(expected, (133, 2)))
        assert pose.scores[frame].any() == (frame not in (1, 3))


def crowd(frames: int, seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """A signer at the left among two onlookers, in shuffled order; and the signer's keypoints."""
    rng = np.random.default_rng(seed)
    centres, trusts = np.array([0.2, 0.5, 0.8]), np.array([0.8, 0.6, 0.5])
    keypoints, scores, signer = [], [], []
    for _ in range(frames):
        points = centres[:, None, None] + rng.uniform(-0.1, 0.1, (3, 133, 2))
        order = rng.permutation(3)
        signer.append(points[0])
        keypoints.append(points[order])
        scores.append((trusts[:, None] + rng.uniform(-0.05, 0.05, (3, 133)))[order])
    return {"keypoints": keypoints, "scores": scores}, np.array(signer)


def test_the_signer_is_followed_through_a_crowd(tmp_path: Path) -> None:
    content, signer = crowd(30)
    np.testing.assert_array_equal(read_pose(written(tmp_path, content)).keypoints, signer)
    np.savez(tmp_path / "clip.npz", **content)  # as many persons in every frame: one array of four axes
    np.testing.assert_array_equal(read_pose(tmp_path / "clip.npz").keypoints, signer)


def test_the_signer_is_kept_when_badly_seen_for_a_moment(tmp_path: Path) -> None:
    content, signer = crowd(30)
    for frame in (10, 11, 20):
        at = int(np.abs(content["keypoints"][frame].mean(axis=(1, 2)) - 0.2).argmin())
        content["scores"][frame][at] = 0.35
    content["keypoints"][15], content["scores"][15] = np.empty((0, 133, 2)), np.empty((0, 133))
    pose = read_pose(written(tmp_path, content))
    signer[15] = 0
    np.testing.assert_array_equal(pose.keypoints, signer)


def test_of_equals_the_first_person_is_the_signer(tmp_path: Path) -> None:
    content = clip(4, persons=2)
    content["scores"] = [np.full((2, 133), 0.9)] * 4
    content["keypoints"] = [np.concatenate([frame[:1], frame[:1]]) for frame in content["keypoints"]]
    content["keypoints"][2][1, 60] += 0.001  # within the box
    pose = read_pose(written(tmp_path, content))
    np.testing.assert_array_equal(pose.keypoints[2], content["keypoints"][2][0])


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_every_frame_is_one_of_its_persons(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    content = {
        "keypoints": [rng.random((count, 133, 2)) for count in counts],
        "scores": [rng.random((count, 133)) for count in counts],
    }
    path = written(tmp_path_factory.getbasetemp(), content)
    if not any(counts):
        with pytest.raises(SampleError, match="nobody"):
            read_pose(path)
        return
    pose = read_pose(path)
    for frame, count in enumerate(counts):
        rows = [*content["keypoints"][frame]] or [np.zeros((133, 2))]
        assert any(np.array_equal(pose.keypoints[frame], row) for row in rows), (frame, count)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("key", ["keypoints", "scores"])
@pytest.mark.parametrize("persons", [1, 2])
def test_numbers_that_are_none_name_the_frame(tmp_path: Path, key: str, value: float, persons: int) -> None:
    content = clip(persons=persons)
    content[key][4][0, 132] = value
    assert "in frame 4" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"keypoints": []}, "0 frames"),
        ({"keypoints": [], "scores": []}, "no frames"),
        ({"scores": clip(5)["scores"]}, "6 frames, but scores of 5"),
        ({"keypoints": [np.zeros((1, 17, 2))] * 6}, "(1, 17, 2)"),
        ({"keypoints": [np.zeros((1, 133, 3))] * 6}, "(1, 133, 3)"),
        ({"keypoints": np.zeros((6, 17, 2))}, "(17, 2)"),
        ({"scores": [np.zeros((1, 17))] * 6}, "(1, 17)"),
        ({"scores": [np.zeros((2, 133))] * 6}, "different persons in frame 0"),
        ({"scores": [np.zeros((1, 133))] * 5 + [np.zeros((2, 133))]}, "different persons in frame 5"),
        ({"keypoints": [np.array([["x"] * 2] * 133)] * 6}, "type <U1"),
        ({"keypoints": [np.zeros((1, 133, 2), complex)] * 6}, "complex"),
        ({"keypoints": [[[1, 2], [3]]] * 6}, "different sizes"),
        ({"keypoints": "text"}, "no lists of frames"),
        ({"keypoints": 3}, "no lists of frames"),
        ({"keypoints": np.float64(3)}, "no lists of frames"),
        ({"keypoints": [None] * 6, "scores": [None] * 6}, "nobody"),
        ({"keypoints": [{"a": 1}] * 6}, "in frame 0"),
        ({"start": "a"}, "start"),
        ({"start": -(1 << 50_000)}, "start"),
        ({"end": 1 << 50_000}, "end"),
        ({"end": 2.5}, "end"),
    ],
)
def test_unsound_clips_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    assert named in refusal(tmp_path, {**clip(), **change})


@pytest.mark.parametrize("content", [[1], 3, {}, {"keypoints": []}, {"scores": []}, None])
def test_files_that_are_no_clip(tmp_path: Path, content: Any) -> None:
    assert "no dict of keypoints and scores" in refusal(tmp_path, content)


def test_unreadable_files_are_sample_errors(tmp_path: Path) -> None:
    objects = np.empty(1, object)
    np.savez(tmp_path / "objects.npz", keypoints=objects, scores=objects)
    np.savez(tmp_path / "good.npz", **{key: np.stack(value) for key, value in clip().items()})
    whole = (tmp_path / "good.npz").read_bytes()
    for name, data in (("cut.npz", whole[: len(whole) // 2]), ("junk.npz", b"junk"), ("junk.pkl", b"junk")):
        (tmp_path / name).write_bytes(data)
    broken = bytearray(whole)
    broken[200:400] = bytes(200)
    (tmp_path / "broken.npz").write_bytes(broken)
    for name in ("objects.npz", "cut.npz", "junk.npz", "broken.npz", "junk.pkl", "missing.pkl", "missing.npz", "."):
        with pytest.raises(SampleError, match=name.replace(".", r"\.")):
            read_pose(tmp_path / name)


def test_large_npz_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uni_sign.data.wholebody.MAX_BYTES", 10_000)
    np.savez_compressed(tmp_path / "clip.npz", keypoints=np.zeros((9, 133, 2)), scores=np.zeros((9, 133)))
    with pytest.raises(SampleError, match="10,000 bytes"):
        read_pose(tmp_path / "clip.npz")
