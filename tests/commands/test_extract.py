"""`uni-sign extract` with small ONNX models of known answers: geometry, the signer, and what is stopped or broken."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from uni_sign.cli import main
from uni_sign.commands._extraction import by_name
from uni_sign.commands.extract import ExtractConfig, find_videos, load_models
from uni_sign.data.rtmpose import OnnxModel, detected, overlaps, signer_track
from uni_sign.data.wholebody import extractor_of, read_pose
from uni_sign.errors import InputError

HEIGHT, WIDTH, FRAMES = 96, 160, 20
INPUT = 64  # of the detector; an image of 160 x 96 fills 64 x 38 of it
SCALE = INPUT / WIDTH


def constant(name: str, value: Any, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def save(path: Path, nodes: Sequence[Any], outputs: Sequence[str], shape: Sequence[Any], given: list[Any]) -> Path:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "graph", [image], made, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def finished_detector(path: Path, boxes: Sequence[Sequence[float]]) -> Path:
    """One that leaves out overlaps by itself, frame by frame, and finds these boxes in a frame that is not black."""
    # Scores times the frame's brightness, cut to 1: a black frame shows nobody.
    mask = np.array([[[0, 0, 0, 0, 1]]], np.float32)
    nodes = [
        helper.make_node("Sub", ["image", "grey"], ["bright"]),
        helper.make_node("ReduceMax", ["bright"], ["most"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Clip", ["most", "zero", "one"], ["lit"]),
        helper.make_node("Mul", ["mask", "lit"], ["factor"]),
        helper.make_node("Add", ["factor", "rest"], ["factors"]),
        helper.make_node("Mul", ["boxes", "factors"], ["dets"]),
        helper.make_node("Identity", ["classes"], ["labels"]),
    ]
    given = [
        constant("grey", 130),
        constant("zero", 0),
        constant("one", 1),
        constant("mask", mask),
        constant("rest", 1 - mask),
        constant("boxes", [boxes]),
        constant("classes", [[0] * len(boxes)]),
    ]
    return save(path, nodes, ["dets", "labels"], [1, 3, INPUT, INPUT], given)


def raw_detector(path: Path, rows: dict[int, Sequence[float]]) -> Path:
    """One that gives the rows of its three grids: all of score 0 but these."""
    cells = sum((INPUT // stride) ** 2 for stride in (8, 16, 32))
    table = np.zeros((1, cells, 7), np.float32)
    for row, values in rows.items():
        table[0, row] = values
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Squeeze", ["nothing", "last"], ["flat"]),
        helper.make_node("Add", ["table", "flat"], ["output"]),
    ]
    given = [constant("zero", 0), constant("last", [3], np.int64), constant("table", table)]
    return save(path, nodes, ["output"], ["batch", 3, INPUT, INPUT], given)


def brightest_point(path: Path, points: int = 133, size: tuple[int, int] = (64, 48)) -> Path:
    """All points lie where the light of rows and of columns is the most."""
    nodes = [helper.make_node("Relu", ["image"], ["light"])]
    for name, axes in (("x", "rows"), ("y", "columns")):
        nodes += [
            helper.make_node("ReduceSum", ["light", axes], [f"{name}_sum"], keepdims=0),
            helper.make_node("Unsqueeze", [f"{name}_sum", "ends"], [f"{name}_wide"]),
            helper.make_node("Expand", [f"{name}_wide", "shape"], [f"{name}_each"]),
            helper.make_node("Reshape", [f"{name}_each", "flat"], [f"simcc_{name}"]),
        ]
    given = [
        constant("rows", [1, 2], np.int64),
        constant("columns", [1, 3], np.int64),
        constant("ends", [1, 3], np.int64),
        constant("shape", [1, points, 1, 2], np.int64),
        constant("flat", [0, points, -1], np.int64),
    ]
    return save(path, nodes, ["simcc_x", "simcc_y"], ["batch", 3, *size], given)


def dot_at(number: int) -> tuple[int, int]:
    return 60 + 2 * number, 40 + number // 2


def write_video(path: Path, frames: int = FRAMES, black: Callable[[int], bool] = lambda _: False) -> Path:
    """A grey disc on black that moves; nothing at all in black frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "5", "threads": "1"}
        for number in range(frames):
            left, top = dot_at(number)
            disc = (x - left) ** 2 + (y - top) ** 2 <= 16
            picture = np.where(disc & (not black(number)), 255, 0).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture[..., None].repeat(3, -1), format="rgb24")))
        container.mux(stream.encode())
    return path


SIGNER = (40 * SCALE, 20 * SCALE, 130 * SCALE, 80 * SCALE, 0.9)
PASSER_BY = (0.0, 0.0, 10 * SCALE, 20 * SCALE, 0.8)


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    detector = finished_detector(tmp_path / "yolox.onnx", [PASSER_BY, SIGNER])
    pose_model = brightest_point(tmp_path / "rtmw.onnx")
    return ["--detector", str(detector), "--pose_model", str(pose_model)]


def test_points_are_where_the_video_shows_them(tmp_path: Path, models: list[str]) -> None:
    write_video(tmp_path / "videos" / "deep" / "a.mp4", black=lambda number: number in (5, 6))
    out = tmp_path / "poses"
    words = ["extract", "--videos", str(tmp_path / "videos"), "--output_dir", str(out), *models]
    assert main(words) == 0
    pose = read_pose(out / "a.npz")
    assert pose.keypoints.shape == (FRAMES, 133, 2)
    shown = [number for number in range(FRAMES) if number not in (5, 6)]
    expected = np.array([dot_at(number) for number in shown]) / (WIDTH, HEIGHT)
    np.testing.assert_allclose(pose.keypoints[shown], np.broadcast_to(expected[:, None], (18, 133, 2)), atol=0.02)
    assert (pose.scores[shown] > 0).all()
    assert not pose.scores[5:7].any()
    assert not pose.keypoints[5:7].any()
    told = extractor_of(out / "a.npz")
    assert told is not None
    assert (told["name"], told["mode"], len(told["version"])) == ("rtmpose", "performance", 33)


def test_the_raw_output_of_a_detector(tmp_path: Path) -> None:
    # Cell (2, 1) of the grid of 8 pixels: centre (2.5 + 2, 0.5 + 1) * 8, and a size of 16 x 8; a second box on it.
    cell = 1 * (INPUT // 8) + 2
    box = [2.5, 0.5, np.log(2), 0, 0.9, 0.8, 0.1]
    path = raw_detector(tmp_path / "raw.onnx", {cell: box, cell + 1: [1.6, 0.5, np.log(2), 0, 0.5, 0.8, 0]})
    model = OnnxModel(path, "detector")
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    found = detected(model, [frame, frame, frame])
    assert [len(boxes) for boxes in found] == [1, 1, 1]
    np.testing.assert_allclose(found[0][0], [28 / SCALE, 8 / SCALE, 44 / SCALE, 16 / SCALE, 0.72], rtol=1e-5)


def test_what_stopped_goes_on_and_what_is_broken_is_told(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "poses"
    for name in "abcde":
        write_video(videos / f"{name}.mp4", 6)
    write_video(videos / "nobody.mp4", 4, black=lambda _: True)
    (videos / "broken.mp4").write_bytes(b"no video")
    words = ["extract", "--videos", str(videos), "--output_dir", str(out), *models]
    assert main([*words, "--shard", "0", "--num_shards", "2", "--num_workers", "2"]) == 1
    assert "broken.mp4 is no video that can be read" in capsys.readouterr().out
    half = {path.name for path in out.glob("*.npz")}
    assert half == {"a.npz", "d.npz"}
    before = {name: (out / name).stat().st_mtime_ns for name in half}
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "nobody.mp4 shows nobody that the detector finds" in said
    assert f"share 1 of 1 has 7, {7 - len(half)} of them to do" in said
    assert {path.stem for path in out.glob("*.npz")} == set("abcde")
    assert {name: (out / name).stat().st_mtime_ns for name in half} == before
    write_video(videos / "broken.mp4", 4)
    (videos / "nobody.mp4").unlink()
    assert main(words) == 0
    assert not (out / "broken.problem.txt").exists()
    assert not list(out.glob(".*"))
    # Other models are another extractor: all is done again.
    assert main([*words, "--mode", "balanced"]) == 0
    assert "6 of them to do" in capsys.readouterr().out


def test_a_kill_leaves_whole_files_alone(tmp_path: Path, models: list[str]) -> None:
    videos, out = tmp_path / "videos", tmp_path / "poses"
    for name in "abcdefgh":
        write_video(videos / f"{name}.mp4", 40)
    words = ["extract", "--videos", str(videos), "--output_dir", str(out), *models]
    process = subprocess.Popen([sys.executable, "-m", "uni_sign", *words], stdout=subprocess.PIPE)
    while process.poll() is None and len(list(out.glob("*.npz"))) < 2:
        pass
    process.kill()
    process.wait()
    assert all(extractor_of(path) for path in out.glob("*.npz"))
    assert main(words) == 0
    assert {path.name for path in out.iterdir() if path.suffix == ".npz"} == {f"{name}.npz" for name in "abcdefgh"}


def test_missing_models_are_named_with_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", 2)
    words = ["extract", "--videos", str(tmp_path), "--models", str(tmp_path / "models")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "yolox_x_8xb8-300e_humanart-a39d44ed.onnx and rtmw-x" in said
    assert f"in {tmp_path / 'models'}" in said


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    pose_model = brightest_point(tmp_path / "pose.onnx", points=17)
    detector = finished_detector(tmp_path / "detector.onnx", [SIGNER])
    with pytest.raises(InputError, match=r"--detector .*text\.onnx is no ONNX model"):
        load_models(ExtractConfig(detector=str(text), pose_model=str(pose_model)))
    video = write_video(tmp_path / "a.mp4", 2)
    words = ["extract", "--videos", str(video), "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--detector", str(detector), "--pose_model", str(pose_model)]) == 2
    assert main([*words, "--detector", str(pose_model), "--pose_model", str(pose_model)]) == 2


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").touch()
    with pytest.raises(InputError, match=r"would both become a\.npz"):
        by_name(find_videos(tmp_path), lambda video: video.stem)
    with pytest.raises(InputError, match="No video"):
        find_videos(tmp_path / "none")


def test_the_report_names_the_extractor(tmp_path: Path, models: list[str]) -> None:
    from uni_sign.data.pose_facts import facts_of
    from uni_sign.data.shard_writer import read_clip

    write_video(tmp_path / "a.mp4", 4)
    assert main(["extract", "--videos", str(tmp_path / "a.mp4"), "--output_dir", str(tmp_path), *models]) == 0
    assert "rtmpose" in json.dumps(facts_of(read_clip(tmp_path / "a.npz")).__dict__)


# --- the signer --------------------------------------------------------------------------------------------


def test_the_signer_is_large_sure_and_stays() -> None:
    signer, passer_by = [300.0, 100, 500, 470, 0.8], [20.0, 300, 80, 420, 0.95]
    frames = [np.array([passer_by, signer])] * 5 + [np.zeros((0, 5))] + [np.array([signer, passer_by])] * 5
    assert signer_track(frames, 640, 480) == [1] * 5 + [-1] + [0] * 5
    near = np.array([[290.0, 110, 480, 460, 0.7], [20, 100, 240, 470, 0.72]])  # one frame in which another seems better
    frames[2] = near
    assert signer_track(frames, 640, 480)[2] == 0
    assert signer_track([np.zeros((0, 5))] * 3, 640, 480) == [-1, -1, -1]


BOX = st.tuples(*[st.floats(0, 100)] * 2, *[st.floats(1, 100)] * 2, st.floats(0.3, 1))


@given(st.lists(st.lists(BOX, max_size=4), max_size=6))
def test_the_track_is_the_best_of_all(frames: list[list[tuple[float, ...]]]) -> None:
    boxes = [np.array([(x, y, x + w, y + h, s) for x, y, w, h, s in frame]).reshape(-1, 5) for frame in frames]
    track = signer_track(boxes, 200, 200)
    assert [place == -1 for place in track] == [len(frame) == 0 for frame in frames]
    diagonal = np.hypot(200, 200)

    def worth(choice: Sequence[int]) -> float:
        chosen = [boxes[i][place] for i, place in enumerate(choice) if place >= 0]
        total = sum(b[4] + np.hypot(b[2] - b[0], b[3] - b[1]) / diagonal for b in chosen)
        centres = [(b[:2] + b[2:4]) / 2 for b in chosen]
        return float(total - sum(np.linalg.norm(b - a) / diagonal for a, b in pairwise(centres)))

    for place, frame in enumerate(boxes):
        for other in range(len(frame)):
            assert worth(track) >= worth([*track[:place], other, *track[place + 1 :]]) - 1e-9


def test_overlaps() -> None:
    box = np.array([0.0, 0, 10, 10])
    np.testing.assert_allclose(
        overlaps(box, np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])), [1, 1 / 3, 0]
    )
