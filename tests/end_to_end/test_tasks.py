"""SLT, CSLR and ISLR train, score and write predictions; one and two processes give the same figures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, Run, launcher, shell

from uni_sign.cli import main
from uni_sign.data.signs import Key
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig

SCORES = {
    "SLT": {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "rouge_l_standard", "chrf"},
    "CSLR": {"wer", "deletion", "insertion", "substitution"},
    "ISLR": {"top1_instance", "top1_class"},
}


@pytest.mark.parametrize("task", SCORES)
def test_one_and_two_processes_give_the_same_figures(task: str, run: Run, tmp_path: Path) -> None:
    flags = ("--use_descriptions", "--task", task, "--zero_stage", "2", "--epochs", "1")
    trained = tmp_path / "trained"
    run(launcher("warm"), *flags, "--batch_size", "8", output_dir=trained)
    evaluation = (*flags, "--eval", "--finetune", str(trained / "best_checkpoint.pth"), "--batch_size", "2")
    figures = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        run(launcher("warm", processes), *evaluation, output_dir=out)
        figures.append([(out / name).read_text() for name in ("results.json", "predictions_test.jsonl")])
        rows = [json.loads(line) for line in (out / "predictions_test.jsonl").read_text().splitlines()]
        assert all({"name", "prediction", "reference"} <= set(row) for row in rows)
    assert figures[0] == figures[1]
    results = json.loads(figures[0][0])
    assert {f"test/{name}" for name in SCORES[task]} <= set(results)


@pytest.fixture(scope="module")
def finished(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a trained text encoder."""
    out = tmp_path_factory.mktemp("finished") / "run"
    flags = ("--use_descriptions", "--zero_stage", "0", "--batch_size", "4", "--epochs", "1")
    run(launcher("warm"), *flags, output_dir=out)
    return out


def _uni_sign(*words: str, cwd: Path, status: int = 0) -> str:
    return shell([*launcher("warm"), "-m", "uni_sign", *words], cwd=cwd, status=status, PYTHONPATH=str(ROOT)).stdout


def test_infer_gives_what_evaluation_predicted(finished: Path, corpus: Path) -> None:
    predicted = [json.loads(line) for line in (finished / "predictions_test.jsonl").read_text().splitlines()]
    poses, descriptions = "dataset/Demo/pose_format", "description/Demo/split_data/test"
    for language in ("English", "Chinese"):
        for row in [row for row in predicted if row["language"] == language][:2]:
            out = _uni_sign(
                *("infer", "--checkpoint", str(finished / "best_checkpoint.pth")),
                *("--poses", f"{poses}/{row['name']}.pkl", "--descriptions", descriptions, "--language", language),
                cwd=corpus,
            )
            assert json.loads(out.splitlines()[-1]) == {"name": row["name"], "prediction": row["prediction"]}


def test_infer_refuses_a_misspelt_description_folder(
    finished: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poses = str(corpus / "dataset" / "Demo" / "pose_format")
    words = ["infer", "--checkpoint", str(finished / "best_checkpoint.pth"), "--poses", poses]
    assert main([*words, "--data_root", str(corpus), "--descriptions", "nowhere"]) == 2
    assert "--descriptions nowhere is no folder" in capsys.readouterr().err


def test_export_where_nothing_can_be_written(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(finished / "best_checkpoint.pth"), "/proc/x/y"]) == 2
    assert "/proc/x/y cannot be written" in capsys.readouterr().err


def test_scores_of_the_best_weights_are_not_logged_as_those_of_the_last_step(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    named = [(record["step"], name) for record in records for name in record if name.endswith("dev/bleu4")]
    assert len(set(named)) == len(named)
    assert any(name == "best/dev/bleu4" for _, name in named)


def test_infer_over_a_folder_names_the_clip_it_cannot_read(finished: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "poses"
    folder.mkdir()
    sources = sorted((corpus / "dataset" / "Demo" / "pose_format").glob("test-*.pkl"))[:2]
    (folder / sources[0].name).write_bytes(sources[0].read_bytes())
    (folder / "cut.pkl").write_bytes(sources[1].read_bytes()[:1000])
    words = [*launcher("warm"), "-m", "uni_sign", "infer", "--checkpoint", str(finished / "best_checkpoint.pth")]
    out = tmp_path / "lines.jsonl"
    done = shell([*words, "--poses", str(folder), "--output", str(out)], cwd=corpus)
    assert "cut.pkl" in done.stderr
    assert [json.loads(line)["name"] for line in out.read_text().splitlines()] == [sources[0].stem]


def test_evaluate_command_takes_the_runs_flags(finished: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    _uni_sign(
        *("evaluate", "--checkpoint", str(finished / "best_checkpoint.pth"), "--output_dir", str(out)),
        *("--zero_stage", "0", "--dtype", "fp32", "--num_workers", "0"),
        cwd=corpus,
    )
    assert (out / "predictions_test.jsonl").read_text() == (finished / "predictions_test.jsonl").read_text()


def test_export_there_and_back(finished: Path, tmp_path: Path) -> None:
    import torch

    source, folder, back = finished / "best_checkpoint.pth", tmp_path / "exported", tmp_path / "back.pth"
    assert main(["export", str(source), str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
    assert main(["export", str(folder), str(back)]) == 0
    before, after = (torch.load(path, weights_only=True) for path in (source, back))
    assert before["model"].keys() == after["model"].keys()
    assert all(torch.equal(value, after["model"][name]) for name, value in before["model"].items())
    assert before["config"] == after["config"]
    assert main(["export", str(source), str(folder)]) == 2


def test_frozen_text_encoder_encodes_once_and_is_then_not_loaded(run: Run, corpus: Path, tmp_path: Path) -> None:
    flags = (
        *("--use_descriptions", "--text_encoder_freeze", "--text_cache", str(tmp_path / "cache")),
        *("--zero_stage", "2", "--batch_size", "2", "--mt5"),
    )
    mt5 = corpus / "pretrained_weight" / "mt5-demo"
    first = run(launcher("warm", 2), *flags, str(mt5), output_dir=tmp_path / "first")
    assert "encoding descriptions" in first.stderr
    stored = {path: path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    second = run(launcher("warm", 2), *flags, str(mt5), output_dir=tmp_path / "second")
    assert "encoding descriptions" not in second.stderr
    assert {path: path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()} == stored
    assert "text_encoder" not in (tmp_path / "first" / "train.log").read_text()


def test_fusion_only_trains_nothing_else(run: Run, finished: Path, tmp_path: Path) -> None:
    import torch

    best = str(finished / "best_checkpoint.pth")
    flags = ("--use_descriptions", "--fusion_only", "--finetune", best, "--fusion_checkpoint", best)
    done = run(
        *(launcher("warm"), *flags, "--zero_stage", "2", "--batch_size", "4", "--epochs", "1"),
        output_dir=tmp_path / "run",
    )
    assert "Loaded 7 fusion tensors" in done.stdout
    before = torch.load(best, weights_only=True)["model"]
    after = torch.load(tmp_path / "run" / "best_checkpoint.pth", weights_only=True)["model"]
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"gating_fusion", "mask_embedding"}


def test_constrained_generation_under_zero_3_equals_that_of_one_module(run: Run, corpus: Path, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 8, "constrain_vocab": True}
    stage = FineTuning(FineTuningConfig(dataset="Demo", data_root=corpus, hidden_dim=16, **flags), seed=42)
    model = stage.build_model().eval()
    assert stage.generated is not None
    lost = sorted(set(range(stage.generated.rows)) - set(stage.generated.ids))
    model.mt5_model.lm_head.weight.data[lost] *= 9  # what a free search would write
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    given = ("--constrain_vocab", "--eval", "--finetune", str(tmp_path / "model.pth"))
    run(launcher("warm"), *given, "--zero_stage", "3", "--batch_size", "8", output_dir=tmp_path / "sharded")
    dataset = stage.build_datasets().splits["test"]
    batch = stage.collate()([dataset[Key(0, index)] for index in range(len(dataset))])
    with stage.generation(model):
        expected = [row["prediction"] for row in stage.predict(model, batch)]
    rows = (tmp_path / "sharded" / "predictions_test.jsonl").read_text().splitlines()
    assert [json.loads(row)["prediction"] for row in rows] == expected
    assert expected != [row["prediction"] for row in stage.predict(model, batch)]
