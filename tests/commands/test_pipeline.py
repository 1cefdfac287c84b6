"""What the pipeline runs and what it refuses, without running it."""

import json
from pathlib import Path
from typing import Any

import pytest

from uni_sign.cli import main
from uni_sign.commands import pipeline
from uni_sign.errors import RunError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Names and command lines of what would have run."""
    found: list[tuple[str, list[str]]] = []

    def run(name: str, words: list[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        found.append((name, words))

    monkeypatch.setattr(pipeline, "_run", run)
    monkeypatch.chdir(tmp_path)
    return found


CONFIG = ("--config", str(ROOT / "configs" / "pipeline.yaml"))


def test_all_stages_in_order_with_their_flags(ran: list[tuple[str, list[str]]], tmp_path: Path) -> None:
    (tmp_path / "more.json").write_text(
        json.dumps({"skeleton": {"training": {"epochs": 3, "use_weighted_loss": False}}})
    )
    assert main(["pipeline", *CONFIG, "--config-override", "more.json"]) == 0
    stages = ("skeleton", "temporal", "alignment")
    assert [name for name, _ in ran] == [name for stage in stages for name in (stage, f"inference of {stage}")]
    first = " ".join(ran[0][1])
    for flag in ("train skeleton", "--epochs 3", "--no-use_weighted_loss", "--d_global 256", "--resume auto"):
        assert flag in first
    assert "--output_dir checkpoints_temporal" in " ".join(ran[2][1])
    assert "best_model_stage1.pth" in " ".join(ran[3][1])


def test_one_stage_and_no_inference(ran: list[tuple[str, list[str]]]) -> None:
    assert main(["pipeline", *CONFIG, "--stage", "alignment", "--no-inference", "--num_processes", "2"]) == 0
    [(name, words)] = ran
    assert name == "alignment"
    assert "accelerate.commands.launch" in words
    ran.clear()
    assert main(["pipeline", *CONFIG, "--no-inference"]) == 0
    # Without the vectors there is nothing to align.
    assert [name for name, _ in ran] == ["skeleton", "temporal", "inference of temporal", "alignment"]


def test_finished_stages_are_left_alone_where_nothing_changed(
    ran: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", *CONFIG]) == 0
    ran.clear()
    assert main(["pipeline", *CONFIG, "--skip-trained"]) == 0
    assert [name for name, _ in ran] == [f"inference of {name}" for name in pipeline.STAGES]
    Path("other.yaml").write_text("skeleton: {training: {epochs: 7}}\n")
    assert main(["pipeline", *CONFIG, "--config-override", "other.yaml", "--stage", "temporal"]) == 2
    assert "trained with other flags, or after another stage" in capsys.readouterr().err


def test_an_unfinished_stage_goes_on_with_its_own_flags_alone(
    ran: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, words: list[str], folder: Path) -> None:
        raise RunError(f"{name} {words[0]} {folder}")

    with monkeypatch.context() as failing:
        failing.setattr(pipeline, "_run", fail)
        assert main(["pipeline", *CONFIG]) == 1
    Path("other.yaml").write_text("skeleton: {training: {epochs: 7}}\n")
    assert main(["pipeline", *CONFIG, "--config-override", "other.yaml"]) == 2
    assert "trained with other flags" in capsys.readouterr().err
    assert ran == []
    assert main(["pipeline", *CONFIG, "--skip-trained", "--no-inference"]) == 0
    assert [name for name, _ in ran][:1] == ["skeleton"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("skeleton: {}\n", "has no section temporal"),
        ("skeleton: {modle: {}}\n", "skeleton holds modle, where model, training and inference are due"),
        ("skeleton: {model: 3}\n", "skeleton holds model, where"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text(content)
    assert main(["pipeline", "--config", str(tmp_path / "p.yaml")]) == 2
    assert said in capsys.readouterr().err


def test_a_stage_that_fails_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline", *CONFIG]) == 1
    said = capsys.readouterr().err
    assert "skeleton ended with status 2; its log is checkpoints_skeleton_hierarchical/train.log" in said


def test_a_section_of_the_file_is_the_config_of_its_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[Any] = ["train", "skeleton", *CONFIG, "--output_dir", str(tmp_path)]
    assert main(words) == 2
    assert "sign_language_keypoints.pkl" in capsys.readouterr().err
