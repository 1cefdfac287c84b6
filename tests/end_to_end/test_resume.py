"""A stopped run goes on exactly; trackers and the best checkpoint are what they should be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import Run, launcher, losses

# Dropout, text dropout and frame choice all draw random numbers that a resumed run must draw again.
NOISY = ("--use_descriptions", "--text_dropout_p", "0.3", "--max_length", "20", "--num_workers", "1")


@pytest.fixture(scope="module")
def noisy_mt5(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mt5") / "mt5"
    shutil.copytree(corpus / "pretrained_weight" / "mt5-demo", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.1}))
    return str(folder)


@pytest.mark.parametrize(("name", "processes", "stage"), [("python", 1, 0), ("deepspeed", 2, 2)])
def test_resume_is_exact(name: str, processes: int, stage: int, run: Run, noisy_mt5: str, tmp_path: Path) -> None:
    flags = (*NOISY, "--mt5", noisy_mt5, "--zero_stage", str(stage), "--batch_size", str(4 // processes))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(launcher(name, processes), *flags, output_dir=whole)
    # Stops in the middle of the first epoch of three steps.
    run(launcher(name, processes), *flags, "--max_steps", "2", output_dir=stopped)
    run(launcher(name, processes), *flags, "--resume", "auto", output_dir=stopped)
    assert losses(stopped) == losses(whole)
    assert len(losses(whole)) == 6
    predictions = [(folder / "predictions_test.jsonl").read_text() for folder in (whole, stopped)]
    assert predictions[0] == predictions[1]


def test_incomplete_checkpoints_are_passed_over_and_runs_not_overwritten(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--zero_stage", "0", "--batch_size", "4")
    run(launcher("python"), *flags, "--save_steps", "1", "--save_total_limit", "3", "--max_steps", "3", output_dir=out)
    newest = out / "checkpoints" / "step_00000003"
    with (newest / "training.pt").open("r+b") as file:
        file.truncate(1000)
    done = run(launcher("python"), *flags, "--max_steps", "4", "--resume", "auto", output_dir=out)
    assert "step_00000003 is passed over: training.pt is missing or cut" in done.stdout
    assert "Resuming from" in done.stdout
    assert "step_00000002" in done.stdout
    refused = run(launcher("python"), *flags, output_dir=out, status=2)
    assert "already holds a run: add --resume auto" in refused.stderr


def test_best_checkpoint_and_trackers(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--use_descriptions", "--zero_stage", "0", "--batch_size", "4", "--epochs", "1")
    run(
        launcher("python"),
        *(*flags, "--report_to", "wandb,tensorboard"),
        output_dir=out,
        WANDB_MODE="offline",
    )
    content = torch.load(out / "best_checkpoint.pth", weights_only=True)
    assert content["stage"] == "fine_tuning"
    assert {"part_para", "gating_fusion.gate_mlp.0.weight", "mt5_model.lm_head.weight"} <= set(content["model"])
    assert list(out.glob("wandb/offline-run-*"))
    assert list(out.glob("tensorboard/events*"))
    pictures = {path.name for path in (out / "pictures").iterdir()}
    assert {"loss.png", "dev_gate.png", "test_gate.png"} <= pictures
    record = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    names = ("loss", "lr", "grad_norm", "samples_per_s", "tokens_per_s", "data_share", "memory_gb", "gate", "epoch")
    assert {f"train/{name}" for name in names} <= set(record)


@pytest.mark.parametrize("mode", [(), ("WANDB_MODE=online",)])
def test_wandb_without_a_key_goes_offline_and_says_so(mode: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--zero_stage", "0", "--batch_size", "4", "--max_steps", "1", "--report_to", "wandb")
    command = ["env", "-u", "WANDB_MODE", "-u", "WANDB_API_KEY", f"HOME={tmp_path}", *mode, *launcher("python")]
    done = run(command, *flags, output_dir=out)
    assert "W&B has no key: logging offline" in done.stdout
    assert list(out.glob("wandb/offline-run-*"))
