"""Runs killed at random moments, again and again, until they are through: nothing is lost, nothing differs.

The seed of the moments is printed; UNI_SIGN_KILL_SEED fixes it, UNI_SIGN_KILLS multiplies how often a run is killed.
"""

import json
import os
import random
import time
from pathlib import Path

import pytest
import torch
from commands import Run, launcher
from processes import Training, losses_by_step

from uni_sign.engine.checkpoint import find_resume, problem_of

TIMES = int(os.environ.get("UNI_SIGN_KILLS", "1"))
# A checkpoint each step and scores each epoch: most moments lie in a save, in scoring or in reading.
FLAGS = ("--use_descriptions", "--epochs", "12", "--save_steps", "1", "--eval_epochs", "1", "--text_dropout_p", "0.2")
# Processes, kills, further flags: 25 kills in all.
SET_UPS = [
    (1, 13, ("--zero_stage", "0", "--num_workers", "1")),
    (2, 6, ("--zero_stage", "0", "--num_workers", "0")),
    (2, 6, ("--zero_stage", "2", "--num_workers", "0")),
]


@pytest.mark.parametrize(("processes", "kills", "more"), SET_UPS)
def test_killed_at_random_moments(
    processes: int, kills: int, more: tuple[str, ...], run: Run, corpus: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("UNI_SIGN_KILL_SEED", time.time_ns() % 2**32))
    print(f"UNI_SIGN_KILL_SEED={seed}")
    draw = random.Random(seed)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = (*FLAGS, *more, "--batch_size", str(4 // processes))
    run(launcher("warm", processes), *flags, output_dir=whole)
    steps, flags = 0, (*flags, "--resume", "auto")
    for _ in range(TIMES * kills):
        with Training(launcher("warm", processes), *flags, output_dir=killed, cwd=corpus) as training:
            before = training.steps()
            training.wait_until(lambda: training.steps() > before or (killed / "results.json").exists())  # noqa: B023
            time.sleep(draw.uniform(0, 0.6))
            training.process.kill()
            training.kill()
        found, _ = find_resume(killed, "auto", checksums=True)
        # Once a first checkpoint is complete there is one ever after, and never an older one.
        step = json.loads((found / "state.json").read_text())["step"] if found else 0
        assert step >= steps, training.said()
        steps = step
        if (killed / "results.json").exists():
            break
    done = run(launcher("warm", processes), *flags, output_dir=killed)
    assert "Traceback" not in done.stderr
    assert losses_by_step(killed) == losses_by_step(whole)
    weights = [torch.load(folder / "best_checkpoint.pth", weights_only=True)["model"] for folder in (whole, killed)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert [problem_of(path, checksums=True) for path in (killed / "checkpoints").glob("step_*")] == [None, None]
