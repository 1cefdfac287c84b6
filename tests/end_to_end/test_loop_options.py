"""Options of the loop in real runs of a small model, on faces drawn at random: three steps an epoch."""

import json
import pickle
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import launcher, losses, shell

from uni_sign.engine.averaging import decay_at

SMALL = (
    "--data_path faces.pkl --d_global 16 --d_region 8 --nhead 4 --num_region_layers 1 --num_interaction_layers 1 "
    "--num_decoder_layers 1 --dim_feedforward 16 --num_workers 0 --log_steps 1 --sched constant --lr 1e-2 "
    "--dropout 0"
)
DECAY = 0.3  # reached at the fourth of six steps
AVERAGE = f"--ema_decay {DECAY} --epochs 2 --save_steps 1 --save_total_limit 9"

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train with these flags, eight faces a step, and say where."""
    folder = tmp_path_factory.mktemp("faces")
    faces = np.random.default_rng(0).random((30, 68, 3), dtype=np.float32)
    (folder / "faces.pkl").write_bytes(pickle.dumps({"keypoints": list(faces)}))

    def start(name: str, flags: str, processes: int = 1) -> Path:
        words = [*launcher("warm", processes), "-m", "uni_sign", "train", "hierarchical_keypoint"]
        words += shlex.split(f"{SMALL} --batch_size {8 // processes} --output_dir {name} {flags}")
        shell(words, cwd=folder)
        return folder / name

    return start


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    return {name.removeprefix("model."): value for name, value in content.get("model", content).items()}


def state_of(out: Path) -> dict[str, Any]:
    """Everything of the last checkpoint that training goes on from, by file."""
    last = (out / "checkpoints" / "last").resolve()
    return {path.name: torch.load(path, weights_only=False) for path in sorted(last.rglob("*.pt"))}


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [tensor for item in values for tensor in tensors(item)]


@pytest.fixture(scope="module")
def one(train: Train) -> Path:
    """One process, without ZeRO, scored at its end alone; its checkpoints hold the weights of each step."""
    return train("one", f"{AVERAGE} --zero_stage 0 --eval_epochs 2")


@pytest.fixture(scope="module")
def off(one: Path) -> Callable[[Path], float]:
    """How far a best file is from the average by hand, beside how far the last weights are.

    Of the start, which no checkpoint has, the average of six steps holds a thousandth of the first step.
    """
    steps = [weights_of(one / "checkpoints" / f"step_{step:08d}" / "training.pt") for step in range(1, 7)]
    average = {name: value.double() for name, value in steps[0].items()}
    for number, weights in enumerate(steps[1:], 1):
        decay = decay_at(DECAY, number)
        average = {name: decay * old + (1 - decay) * weights[name] for name, old in average.items()}

    def distance(weights: dict[str, torch.Tensor]) -> float:
        assert weights.keys() == average.keys()
        return sum(float((weights[name] - average[name]).square().sum()) for name in average) ** 0.5

    last = distance(steps[-1])
    return lambda out: distance(torch.load(out / "best_model.pth", weights_only=True)["model_state_dict"]) / last


def test_the_best_file_holds_the_average(train: Train, one: Path, off: Callable[[Path], float]) -> None:
    shared = train("shared", f"{AVERAGE} --zero_stage 3", 2)
    assert losses(shared) == pytest.approx(losses(one), rel=1e-4)
    assert off(one) < 0.002
    assert off(shared) < 0.02


def test_half_precision_resumes_exactly(train: Train) -> None:
    flags = f"{AVERAGE} --dtype bf16 --zero_stage 2"
    whole = train("whole", flags, 2)
    # Without the scores after the first epoch: what the model had for them is gone without a trace.
    middle = f"--eval_epochs 2 --resume {whole / 'checkpoints' / 'step_00000002'}"
    resumed = train("resumed", f"{flags} {middle}", 2)
    assert losses(resumed) == losses(whole)[2:]
    first, second = state_of(whole), state_of(resumed)
    assert first.keys() == second.keys()
    assert {"average_0.pt", "average_1.pt"} <= first.keys()
    assert all(map(torch.equal, tensors(first), tensors(second)))
    assert {value.dtype for value in tensors(first["average_0.pt"])} == {torch.float32}


def test_training_ends_early_and_a_run_that_did_is_scored_again(train: Train) -> None:
    flags = "--epochs 9 --zero_stage 0 --early_stopping_patience 2 --early_stopping_min_delta 5"
    out = train("early", flags, 2)
    said, results = (out / "train.log").read_text(), (out / "results.json").read_text()
    assert "Training ends early: 2 evaluations in a row without a better val/loss." in said
    assert len(losses(out)) == 9  # the first score is there to be beaten
    assert json.loads(results)["step"] == 9  # lower, if not by as much as that
    train("early", f"{flags} --resume auto", 2)
    assert len(losses(out)) == 9
    assert (out / "results.json").read_text() == results
    assert (out / "train.log").read_text().count("Training ends early") == 2
