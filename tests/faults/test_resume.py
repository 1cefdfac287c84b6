"""A stopped run goes on exactly, bit for bit, and on another number of processes without a jump."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Run, launcher, losses

# Dropout, text dropout and frame choice all draw random numbers that a resumed run must draw again.
NOISY = ("--use_descriptions", "--text_dropout_p", "0.3", "--max_length", "20")
MIDDLE = ("--save_steps", "2", "--save_total_limit", "9")
MIDDLE_STEP = "step_00000002"
# Processes, flags: each way to keep the optimizer, without data-loading processes and with two.
SET_UPS = [
    (2, (*flags, "--num_workers", workers))
    for flags in (
        ("--zero_stage", "0"),
        ("--zero_stage", "1"),
        ("--zero_stage", "2"),
        ("--zero_stage", "2", "--offload"),
        ("--zero_stage", "3", "--eval_epochs", "2"),  # whose searches take long
    )
    for workers in ("0", "2")
]
SET_UPS.append((1, ("--zero_stage", "0", "--num_workers", "2")))


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
    """The whole run of a set-up, made once, with a checkpoint in the middle of its first epoch of three steps."""
    made: dict[tuple[Any, ...], Path] = {}

    def whole(processes: int, *flags: str) -> Path:
        key = (processes, *flags)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            common = (*NOISY, "--mt5", noisy_mt5, "--batch_size", str(4 // processes), *MIDDLE)
            run(launcher("warm", processes), *common, *flags, "--num_workers", "2", output_dir=made[key])
        return made[key]

    return whole


@pytest.mark.parametrize(("processes", "more"), SET_UPS)
def test_resume_is_exact(
    processes: int,
    more: tuple[str, ...],
    run: Run,
    noisy_mt5: str,
    uninterrupted: Callable[..., Path],
    tmp_path: Path,
) -> None:
    flags = (*NOISY, *more, "--mt5", noisy_mt5, "--batch_size", str(4 // processes), *MIDDLE)
    whole, resumed = uninterrupted(processes, *more[:-2]), tmp_path / "resumed"
    middle = whole / "checkpoints" / MIDDLE_STEP
    run(launcher("warm", processes), *flags, "--resume", str(middle), output_dir=resumed)
    assert losses(resumed) == losses(whole)[2:]
    assert len(losses(whole)) == 6
    predictions = [(folder / "predictions_test.jsonl").read_text() for folder in (whole, resumed)]
    assert predictions[0] == predictions[1]
    tensors, expected = final_tensors(resumed), final_tensors(whole)
    assert tensors.keys() == expected.keys()
    assert len(tensors) > 100
    assert [place for place, value in tensors.items() if not torch.equal(value, expected[place])] == []


def test_a_stopped_run_goes_on_in_its_folder(
    run: Run, noisy_mt5: str, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    flags = (*NOISY, "--mt5", noisy_mt5, "--zero_stage", "0", "--batch_size", "4", "--num_workers", "2")
    whole, stopped = uninterrupted(1, "--zero_stage", "0"), tmp_path / "stopped"
    run(launcher("warm"), *flags, "--max_steps", "2", output_dir=stopped)
    run(launcher("warm"), *flags, "--resume", "auto", output_dir=stopped)
    assert losses(stopped) == losses(whole)


def test_the_same_seed_gives_the_same_run(run: Run, noisy_mt5: str, tmp_path: Path) -> None:
    flags = (*NOISY, "--mt5", noisy_mt5, "--zero_stage", "0", "--batch_size", "4", "--deterministic")
    for name in ("one", "two"):
        run(launcher("warm"), *flags, output_dir=tmp_path / name)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[place]) for place, value in one.items())
