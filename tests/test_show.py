"""`uni-sign show` on a small folder as a run leaves it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from uni_sign.cli import main

ROWS = [
    {"name": "t-0", "prediction": "A cat sees.", "reference": "A cat sees milk.", "language": "English"},
    {"name": "t-1", "prediction": "猫喝牛奶", "reference": "猫喝牛奶。", "language": "Chinese"},
    {"name": "t-2", "prediction": "", "reference": "Who sleeps?", "language": "English"},
]
RESULTS = {
    "test/bleu1": 50.0,
    "test/bleu4": 41.25,
    "test/rouge_l": 60.5,
    "test/chrf": 55.125,
    "test/bleu4_chinese": 30.0,
    "test/rouge_l_chinese": 31.0,
    "test/bleu4_english": 52.5,
    "test/rouge_l_english": 90.0,
    "test/n": 3.0,
    "step": 12,
    "stage": "fine_tuning",
}


def write_run(folder: Path, rows: list[dict[str, str]] = ROWS, results: object = RESULTS) -> Path:
    (folder / "pictures").mkdir()
    for name in ("loss.png", "test_gate.png"):
        (folder / "pictures" / name).touch()
    (folder / "results.json").write_text(json.dumps(results))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "predictions_test.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_a_finished_run_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(write_run(tmp_path))]) == 0
    shown = capsys.readouterr().out
    assert "    t-1  reference   猫喝牛奶。\n         prediction  猫喝牛奶\n" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("Scores", "  test", "    C", "    E"))] == [
        ["Scores", "clips", "BLEU-4", "ROUGE-L", "chrF"],
        ["test", "3", "41.25", "60.50", "55.12"],
        ["Chinese", "1", "30.00", "31.00", "-"],
        ["English", "2", "52.50", "90.00", "-"],
    ]
    for name in ("predictions_test.jsonl", "pictures/loss.png", "pictures/test_gate.png"):
        assert str(tmp_path / name) in shown
    assert "log.jsonl" not in shown


def test_few_clips_of_each_language_spread_over_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**ROWS[0], "name": f"t-{i:02}"} for i in range(30)]
    assert main(["show", str(write_run(tmp_path, rows))]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "reference" in line] == ["t-00", "t-10", "t-20"]


def test_recognition_shows_its_own_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(write_run(tmp_path, results={"test/wer": 12.5, "test/deletion": 2.0, "test/n": 3.0}))])
    assert "Scores          clips    WER\n  test              3  12.50\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "results.json").unlink(), "holds no finished run"),
        (lambda run: (run / "results.json").write_text("{"), "not valid JSON"),
        (lambda run: (run / "results.json").write_text('{"step": 1}'), "holds no scores"),
        (lambda run: (run / "predictions_test.jsonl").unlink(), "missing or broken"),
        (lambda run: (run / "predictions_test.jsonl").write_text('{"name": 1}\n'), "missing or broken"),
    ],
)
def test_what_is_no_finished_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], said: str
) -> None:
    spoil(write_run(tmp_path))
    assert main(["show", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_stage_that_writes_no_text_is_shown_by_its_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [{"name": f"{i}", "loss": 0.01} for i in range(3)]
    results = {"test/loss": 0.0123, "test/below_mean_picture": 5.03, "test/n": 3, "step": 12, "stage": "skeleton"}
    assert main(["show", str(write_run(tmp_path, rows, results))]) == 0  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "reference" not in shown
    assert "0.012" in shown
    assert "5.03" in shown
