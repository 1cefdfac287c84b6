"""Videos and folders of frames to 143 points, by a landmarker of the test's own that has MediaPipe's interface."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uni_sign.cli import main
from uni_sign.data.holistic import SLICES
from uni_sign.data.holistic_clips import clip_extractor, read_clip
from uni_sign.data.mediapipe_holistic import FACE_68
from uni_sign.models.hierarchical import FACE_REGIONS

# Finds what a picture's corner says: red a left hand, green a right one, blue the body; a face in all but black ones.
STAND_IN = """
from types import SimpleNamespace as Box

class ImageFormat:
    SRGB = 1

def Image(image_format, data):
    return data

def points(count, value):
    return [Box(x=value + i, y=i / 10, z=-i) for i in range(count)]

class Landmarker:
    def __init__(self, options):
        if b"holistic" not in open(options.base_options.path, "rb").read():
            import os
            os.abort()  # as native code does
        self.last = -1

    @classmethod
    def create_from_options(cls, options):
        return cls(options)

    def detect_for_video(self, picture, milliseconds):
        assert milliseconds > self.last
        self.last = milliseconds
        red, green, blue = (picture[0, 0] > 100).tolist()
        return Box(
            face_landmarks=points(478, 0.0) if picture.any() else [],
            left_hand_landmarks=points(21, 1000) if red else [],
            right_hand_landmarks=points(21, 2000) if green else [],
            pose_landmarks=points(33, 3000) if blue else [],
        )

    def close(self):
        self.last = None
"""
TASKS = """
from types import SimpleNamespace as Box
import mediapipe

def BaseOptions(model_asset_path):
    return Box(path=model_asset_path)

vision = Box(
    RunningMode=Box(VIDEO=2),
    HolisticLandmarkerOptions=lambda base_options, running_mode: Box(base_options=base_options),
    HolisticLandmarker=mediapipe.Landmarker,
)
"""
RED, GREEN, BLUE, BLACK, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 0), (200, 200, 200)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / "mediapipe"
    (package / "tasks" / "python").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "tasks" / "__init__.py").touch()
    (package / "tasks" / "python" / "__init__.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    for name in [name for name in sys.modules if name.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holistic_landmarker.task").write_bytes(b"a holistic model")
    return tmp_path


def clip_of_frames(folder: Path, *colours: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True)
    for number, colour in enumerate(colours):
        Image.new("RGB", (8, 8), colour).save(folder / f"frame{number + 8}.png")


FLAGS = ("--holistic", "--task", "holistic_landmarker.task", "--videos", "clips", "--output_dir", "out")


def test_regions_by_the_detectors_own_word(folder: Path) -> None:
    clip_of_frames(folder / "clips" / "one", WHITE, RED, GREEN, BLACK, BLUE)
    assert main(["extract", *FLAGS]) == 0
    points, present = read_clip(folder / "out" / "one.npz")
    assert present.tolist() == [
        [True, True, True, True],
        [True, True, False, False],
        [True, False, True, False],
        [False, False, False, False],
        [True, False, False, True],
    ]
    assert (points[0, SLICES["left_hand"], 0] // 1000 == 1).all()
    assert (points[0, SLICES["right_hand"], 0] // 1000 == 2).all()
    assert points[0, SLICES["face"], 0].tolist() == list(map(float, FACE_68))
    assert not points[3].any()


def test_the_face_table_names_as_many_different_points_as_the_regions_hold() -> None:
    assert len(FACE_68) == FACE_REGIONS[-1][1]
    assert len(set(FACE_68)) == len(FACE_68)


def test_another_face_table_is_other_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip_of_frames(folder / "clips" / "one", WHITE)
    (folder / "table.json").write_text(json.dumps(list(range(68))))
    assert main(["extract", *FLAGS]) == 0
    assert main(["extract", *FLAGS, "--face_table", "table.json"]) == 0
    assert "has 1, 1 of them to do" in capsys.readouterr().out
    points, _ = read_clip(folder / "out" / "one.npz")
    assert points[0, SLICES["face"], 0].tolist() == list(range(68))
    told = clip_extractor(folder / "out" / "one.npz")
    (folder / "table.json").write_text(json.dumps(list(range(1, 69))))
    assert main(["extract", *FLAGS, "--face_table", "table.json"]) == 0
    assert clip_extractor(folder / "out" / "one.npz") != told
    (folder / "table.json").write_text("[1, 2]")
    assert main(["extract", *FLAGS, "--face_table", "table.json"]) == 2
    assert "must be a list of 68 whole numbers" in capsys.readouterr().err


def test_it_goes_on_and_shares_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        clip_of_frames(folder / "clips" / name, WHITE)
    assert main(["extract", *FLAGS, "--shard", "0", "--num_shards", "2"]) == 0
    assert sorted(path.stem for path in (folder / "out").iterdir()) == ["a", "c"]
    capsys.readouterr()
    assert main(["extract", *FLAGS, "--num_workers", "2"]) == 0
    assert "share 1 of 1 has 3, 1 of them to do" in capsys.readouterr().out
    assert sorted(path.stem for path in (folder / "out").iterdir()) == ["a", "b", "c"]


def test_clips_that_give_nothing_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip_of_frames(folder / "clips" / "empty", BLACK)
    clip_of_frames(folder / "clips" / "good", WHITE)
    clip_of_frames(folder / "clips" / "torn", WHITE)
    (folder / "clips" / "torn" / "frame8.png").write_bytes(b"none")
    (folder / "clips" / "video.mp4").write_bytes(b"none")
    assert main(["extract", *FLAGS]) == 1
    said = capsys.readouterr().out
    for sentence in ("empty shows nobody", "frame8.png is no picture", "video.mp4 is no video", "1 of 4 clips"):
        assert sentence in said
    assert np.isfinite(read_clip(folder / "out" / "good.npz")[0]).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No model file holistic_landmarker.task in"),
        (b"other", "is no holistic landmarker that MediaPipe can use"),
    ],
)
def test_without_a_model_a_sentence(
    folder: Path, content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clip_of_frames(folder / "clips" / "one", WHITE)
    task = folder / "holistic_landmarker.task"
    if content is None:
        task.unlink()
    else:
        task.write_bytes(content)
    assert main(["extract", *FLAGS]) == 2
    assert said in capsys.readouterr().err
