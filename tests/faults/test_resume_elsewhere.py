"""A run goes on with another number of processes, without a jump."""

from pathlib import Path

import pytest
import torch
from commands import Run, launcher, logged, losses


def best_row(output_dir: Path) -> torch.Tensor:
    """All averages and running statistics of the best file behind one another."""
    weights = torch.load(output_dir / "best_checkpoint.pth", weights_only=True)["model"]
    return torch.cat([value.double().flatten() for value in weights.values()])


@pytest.mark.parametrize("stage", ["0", "2"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_without_a_jump(
    stage: str, before: int, after: int, run: Run, tmp_path: Path
) -> None:
    flags = ("--use_descriptions", "--zero_stage", stage, "--ema_decay", "0.9", "--batch_size")
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    saved = ("--save_steps", "2", "--save_total_limit", "9")
    run(launcher("warm", before), *flags, str(4 // before), *saved, output_dir=whole)
    middle = str(whole / "checkpoints" / "step_00000002")
    done = run(launcher("warm", after), *flags, str(4 // after), "--resume", middle, output_dir=moved)
    assert f"written by {before} process(es); going on with {after}" in done.stdout
    assert len(losses(whole)) == 6
    assert losses(moved) == pytest.approx(losses(whole)[2:], abs=1e-4)
    assert not list((moved / "checkpoints").glob(".*"))
    assert (best_row(moved) - best_row(whole)).norm() < 1e-3 * best_row(whole).norm()


def test_a_budget_of_frames_goes_on_mid_epoch_with_the_processes_as_micro_batches(run: Run, tmp_path: Path) -> None:
    """Two processes' shares of a step are one process's two micro-batches; statistics cannot accumulate."""
    flags = ("--frames_per_batch", "60", "--batch_size", "4", "--batch_norm", "frozen", "--epochs", "1")
    common = (*flags, "--use_descriptions", "--zero_stage", "0", "--save_steps", "1", "--save_total_limit", "9")
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    done = run(launcher("warm", 2), *common, output_dir=whole)
    assert "Global batch of at most 60 frames and 4 clips x 1 accumulation x 2 processes" in done.stdout
    steps = len(losses(whole))
    assert steps >= 3
    begin = ("--resume", str(whole / "checkpoints" / "step_00000001"), "--gradient_accumulation_steps", "2")
    run(launcher("warm"), *common, *begin, output_dir=moved)
    assert losses(moved) == pytest.approx(losses(whole)[1:], abs=1e-4)
    assert sum(logged(moved, "train/lr")) == pytest.approx(sum(logged(whole, "train/lr")[1:]))
    predictions = [(folder / "predictions_test.jsonl").read_text().count("\n") for folder in (whole, moved)]
    assert predictions == [5, 5]
