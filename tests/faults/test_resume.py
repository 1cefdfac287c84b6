"""A stopped run goes on exactly, bit for bit, and on another number of processes without a jump."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Run, launcher, logged, losses

# Dropout, text dropout and frame choice all draw random numbers that a resumed run must draw again.
NOISY = ("--use_descriptions", "--text_dropout_p", "0.3", "--max_length", "20")
# Launcher, processes, flags: each way to keep the optimizer, without data-loading processes and with two.
SET_UPS = [
    (name, processes, (*flags, "--num_workers", workers))
    for name, processes, flags in (
        ("torchrun", 2, ("--zero_stage", "0")),
        ("deepspeed", 2, ("--zero_stage", "1")),
        ("deepspeed", 2, ("--zero_stage", "2")),
        ("deepspeed", 2, ("--zero_stage", "2", "--offload")),
        ("deepspeed", 2, ("--zero_stage", "3")),
    )
    for workers in ("0", "2")
]
SET_UPS.append(("python", 1, ("--zero_stage", "0", "--num_workers", "2")))


@pytest.fixture(scope="module")
def noisy_mt5(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mt5") / "mt5"
    shutil.copytree(corpus / "pretrained_weight" / "mt5-demo", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.1}))
    return str(folder)


def final_tensors(output_dir: Path) -> dict[str, Any]:
    """Every tensor of the last checkpoint, optimizer and all, by file and place."""
    found: dict[str, Any] = {}

    def walk(value: Any, place: str) -> None:
        if isinstance(value, torch.Tensor):
            found[place] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                # ZeRO-3 pads each shard with whatever lies in memory; its weights are those of the best checkpoint.
                if key != "fp32_flat_groups":
                    walk(item, f"{place}/{key}")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                walk(item, f"{place}/{number}")

    last = (output_dir / "checkpoints" / "last").resolve()
    for path in [*sorted(last.rglob("*.pt")), output_dir / "best_checkpoint.pth"]:
        walk(torch.load(path, weights_only=False), path.name)
    return found


@pytest.fixture(scope="module")
def uninterrupted(run: Run, noisy_mt5: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The whole run of a set-up, made once: data-loading processes make no difference to it."""
    made: dict[tuple[Any, ...], Path] = {}

    def whole(name: str, processes: int, *flags: str) -> Path:
        key = (name, processes, *flags)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            common = (*NOISY, "--mt5", noisy_mt5, "--batch_size", str(4 // processes))
            run(launcher(name, processes), *common, *flags, output_dir=made[key])
        return made[key]

    return whole


@pytest.mark.parametrize(("name", "processes", "more"), SET_UPS)
def test_resume_is_exact(
    name: str,
    processes: int,
    more: tuple[str, ...],
    run: Run,
    noisy_mt5: str,
    uninterrupted: Callable[..., Path],
    tmp_path: Path,
) -> None:
    flags = (*NOISY, *more, "--mt5", noisy_mt5, "--batch_size", str(4 // processes))
    whole, stopped = uninterrupted(name, processes, *more[:-2]), tmp_path / "stopped"
    # Stops in the middle of the first epoch of three steps.
    run(launcher(name, processes), *flags, "--max_steps", "2", output_dir=stopped)
    run(launcher(name, processes), *flags, "--resume", "auto", output_dir=stopped)
    assert losses(stopped) == losses(whole)
    assert len(losses(whole)) == 6
    predictions = [(folder / "predictions_test.jsonl").read_text() for folder in (whole, stopped)]
    assert predictions[0] == predictions[1]
    tensors, expected = final_tensors(stopped), final_tensors(whole)
    assert tensors.keys() == expected.keys()
    assert len(tensors) > 100
    assert [place for place, value in tensors.items() if not torch.equal(value, expected[place])] == []


@pytest.mark.parametrize("stage", ["0", "2"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_without_a_jump(
    stage: str, before: int, after: int, run: Run, tmp_path: Path
) -> None:
    name = "torchrun" if stage == "0" else "deepspeed"
    flags = ("--use_descriptions", "--zero_stage", stage, "--batch_size")
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    run(launcher(name, before), *flags, str(4 // before), output_dir=whole)
    run(launcher(name, before), *flags, str(4 // before), "--max_steps", "2", output_dir=moved)
    done = run(launcher(name, after), *flags, str(4 // after), "--resume", "auto", output_dir=moved)
    assert f"written by {before} process(es); going on with {after}" in done.stdout
    assert len(losses(moved)) == 6
    assert losses(moved) == pytest.approx(losses(whole), abs=1e-4)
    assert not list((moved / "checkpoints").glob(".*"))


def test_a_budget_of_frames_goes_on_mid_epoch_with_the_processes_as_micro_batches(run: Run, tmp_path: Path) -> None:
    """Two processes' shares of a step are one process's two micro-batches; statistics cannot accumulate."""
    flags = ("--frames_per_batch", "60", "--batch_size", "4", "--batch_norm", "frozen", "--epochs", "1")
    common = (*flags, "--use_descriptions", "--zero_stage", "0", "--save_steps", "1", "--save_total_limit", "9")
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    done = run(launcher("torchrun", 2), *common, output_dir=whole)
    assert "Global batch of at most 60 frames and 4 clips x 1 accumulation x 2 processes" in done.stdout
    steps = len(losses(whole))
    assert steps >= 3
    begin = ("--resume", str(whole / "checkpoints" / "step_00000001"), "--gradient_accumulation_steps", "2")
    run(launcher("python"), *common, *begin, output_dir=moved)
    assert losses(moved) == pytest.approx(losses(whole)[1:], abs=1e-4)
    assert sum(logged(moved, "train/lr")) == pytest.approx(sum(logged(whole, "train/lr")[1:]))
    predictions = [(folder / "predictions_test.jsonl").read_text().count("\n") for folder in (whole, moved)]
    assert predictions == [5, 5]


def test_the_same_seed_gives_the_same_run(run: Run, noisy_mt5: str, tmp_path: Path) -> None:
    flags = (*NOISY, "--mt5", noisy_mt5, "--zero_stage", "0", "--batch_size", "4", "--deterministic")
    for name in ("one", "two"):
        run(launcher("python"), *flags, output_dir=tmp_path / name)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[place]) for place, value in one.items())
