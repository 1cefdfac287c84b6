"""Checkpoints passed over, trackers, and what the best checkpoint holds."""

import json
from pathlib import Path

import pytest
import torch
from commands import Run, launcher


def test_incomplete_checkpoints_are_passed_over_and_runs_not_overwritten(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--zero_stage", "0", "--batch_size", "4")
    run(launcher("warm"), *flags, "--save_steps", "1", "--save_total_limit", "3", "--max_steps", "3", output_dir=out)
    newest = out / "checkpoints" / "step_00000003"
    with (newest / "training.pt").open("r+b") as file:
        file.truncate(1000)
    done = run(launcher("warm"), *flags, "--max_steps", "4", "--resume", "auto", output_dir=out)
    assert "step_00000003 is passed over: training.pt is missing or cut" in done.stdout
    assert "Resuming from" in done.stdout
    assert "step_00000002" in done.stdout
    refused = run(launcher("warm"), *flags, output_dir=out, status=2)
    assert "already holds a run: add --resume auto" in refused.stderr


def test_best_checkpoint_and_trackers(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--use_descriptions", "--zero_stage", "0", "--batch_size", "4", "--epochs", "1")
    run(
        launcher("warm"),
        *(*flags, "--report_to", "tensorboard", "--use_wandb", "--wandb_project", "signs", "--wandb_entity", "team"),
        *("--wandb_run_name", "first", "--wandb_tags", "demo,small"),
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


def test_a_resumed_run_is_the_same_one_in_wandb(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--zero_stage", "0", "--batch_size", "4", "--report_to", "wandb")
    run(launcher("warm"), *flags, "--max_steps", "1", output_dir=out, WANDB_MODE="offline")
    run(launcher("warm"), *flags, "--max_steps", "2", "--resume", "auto", output_dir=out, WANDB_MODE="offline")
    names = [path.name.rpartition("-")[2] for path in out.glob("wandb/offline-run-*")]
    assert names == [names[0]] * len(names)
    state = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    assert state["tracker_id"] == names[0]
