"""`uni-sign view`: clips by name, file and folder; PNG and GIF; what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pose_files import pose_file

from uni_sign.cli import main


def test_a_clip_of_a_corpus(demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train-00003", "--dataset", "Demo", "--data_root", str(demo_root), "--frames", "3"]
    assert main(["view", *words, "--output", str(tmp_path / "new" / "a.png")]) == 0
    said = capsys.readouterr().out
    assert "train-00003.pkl" in said
    assert "text: " in said
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("L")))) > 30
    single = sorted((demo_root / "dataset" / "Demo" / "pose_format").glob("word-*"))[0].stem
    assert main(["view", single, "--data_root", str(demo_root), "--output", str(tmp_path / "b.png")]) == 0


def test_a_file_becomes_a_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At its own speed, 25 frames a second; the flag wins."""
    (tmp_path / "clip.pose").write_bytes(pose_file(5))
    for words, milliseconds in (
        (["clip", "--poses", str(tmp_path)], 40),
        ([str(tmp_path / "clip.pose"), "--fps", "10"], 100),
    ):
        assert main(["view", *words, "--output", str(tmp_path / "a.gif"), "--size", "120"]) == 0
        with Image.open(tmp_path / "a.gif") as film:
            assert (film.n_frames, film.info["duration"]) == (5, milliseconds)
    assert "5 frames of" in capsys.readouterr().out


def test_a_clip_that_training_leaves_out_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = np.full((3, 133, 2), 0.5)
    points[1, 40] = np.nan
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"keypoints": points, "scores": np.ones((3, 133))}))
    assert main(["view", "--poses", str(tmp_path / "a.pkl"), "--output", str(tmp_path / "a.png")]) == 0
    assert "left out of training" in capsys.readouterr().out
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Name the clip"),
        (["a", "--output", "a.jpg"], "must end with .png or .gif"),
        (["a", "--poses", "x", "--dataset", "Demo"], "do not go together"),
        (["a", "--frames", "0"], "--frames 0 must lie"),
        (["nobody", "--data_root", "{demo}"], "Demo has no clip nobody"),
        (["a", "--data_root", "{tmp}"], "No label file"),
        (["a", "--poses", "{tmp}"], "holds no a.pkl"),
        (["--poses", "{tmp}"], "holds no <clip>.pkl"),
        (["--poses", "{tmp}/missing.pkl"], "missing.pkl does not exist"),
        (["--poses", "{tmp}/junk.pkl"], "junk.pkl is not a pickle"),
        (["--poses", "{tmp}/empty.pkl"], "empty.pkl shows nobody in any frame: there is nothing to draw"),
        (["--poses", "{tmp}/good.pkl", "--output", "{tmp}/junk.pkl/a.png"], "cannot be written"),
    ],
)
def test_what_is_refused(
    words: list[str], says: str, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk.pkl").write_bytes(b"junk")
    (tmp_path / "empty.pkl").write_bytes(pickle.dumps({"keypoints": [[]], "scores": [[]]}))
    (tmp_path / "good.pkl").write_bytes(pickle.dumps({"keypoints": np.ones((1, 133, 2)), "scores": np.ones((1, 133))}))
    assert main(["view", *(word.format(demo=demo_root, tmp=tmp_path) for word in words)]) == 2
    assert says in capsys.readouterr().err
