"""Clips and a table to `video_sequences.pkl`, Arrow and `text_data.json`."""

import json
from pathlib import Path

import numpy as np
import pytest

from uni_sign.cli import main
from uni_sign.data.holistic_clips import read_arrow, write_clip
from uni_sign.data.sequences import read_sequences

MADE_BY = {"name": "test", "version": "1", "mode": ""}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "holistic").mkdir()
    draw = np.random.default_rng(0)
    for name, frames in (("b", 2), ("a", 3), ("untold", 1)):
        with (tmp_path / "holistic" / f"{name}.npz").open("wb") as file:
            write_clip(file, draw.random((frames, 143, 3)), np.ones((frames, 4), bool), MADE_BY)
    (tmp_path / "holistic" / "broken.npz").write_bytes(b"none")
    (tmp_path / "texts.csv").write_text('name,text\nb.mp4,"Two, three."\na.mp4,One.\nbroken,x\nlost,y\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["pkl", "arrow"])
def test_clips_of_a_table_in_its_order_with_their_texts(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / f"video_sequences.{kind}"
    assert main(["prepare", "sequences", "--csv", "texts.csv", "--output", str(output), "--format", kind]) == 1
    found = read_arrow(output) if kind == "arrow" else read_sequences(output)
    assert found.names == ["b", "a"]
    assert found.lengths.tolist() == [2, 3]
    said = capsys.readouterr().out
    for sentence in ("clip lost has no file", "untold.npz: the clip has no text", "broken.npz is not an .npz"):
        assert sentence in said
    assert main(["prepare", "text", "--csv", "texts.csv", "--sequences", str(output)]) == 0
    assert json.loads((folder / "text_data.json").read_text()) == {
        "texts": ["Two, three.", "One."],
        "names": ["b", "a"],
    }


def test_without_a_table_all_clips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "holistic" / "broken.npz").unlink()
    assert main(["prepare", "sequences"]) == 0
    assert read_sequences(folder / "video_sequences.pkl").names == ["a", "b", "untold"]
    assert main(["prepare", "text", "--csv", "texts.csv"]) == 2
    assert "no text of 1 of the 3 sequences, the first untold" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sequences", "--clips", "nowhere"], "No clip (.npz, .pkl) in --clips nowhere"),
        (["text"], "--csv: name the table"),
        (["text", "--csv", "texts.csv", "--text_column", "sentence"], "sentence"),
        (["sequences", "--csv", "texts.csv", "--separator", "ab"], "must be one character"),
    ],
)
def test_wrong_input(folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.is_dir()
    assert main(["prepare", "sequences"]) in (0, 1)
    capsys.readouterr()
    assert main(["prepare", *words]) == 2
    assert said in capsys.readouterr().err
