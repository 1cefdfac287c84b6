"""What a checkpoint costs: the time a save holds the loop, beside a plain torch.save of the same state; and resuming.

python benchmarks/checkpoint.py [--parameters 300e6] [--folder DIR]
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from uni_sign.engine import checkpoint
from uni_sign.engine.averaging import WeightAverage
from uni_sign.engine.checkpoint import Checkpoints, RunState, find_resume

_WIDTH = 4096


class Stack(nn.Module):
    """Square matrices, as many as make up the parameters asked for."""

    def __init__(self, parameters: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(round(parameters / _WIDTH**2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parameters", type=float, default=300e6, help="parameters of the model")
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=3, help="how often; the quickest counts")
    arguments = parser.parse_args()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    model = Stack(arguments.parameters).to(accelerator.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model(torch.randn(1, _WIDTH, device=accelerator.device)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        measure(accelerator, model, optimizer, folder, arguments.rounds)
    finally:
        shutil.rmtree(folder)


def measure(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, rounds: int
) -> None:
    """Time saves of both kinds in turns, then one resume."""
    plain, held, whole = [], [], []
    checkpoints = Checkpoints(folder, 1, main=True)
    average = WeightAverage(accelerator, model, optimizer, decay=0.0)
    for step in range(rounds):
        path = folder / "plain.pt"
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        plain.append(seconds(lambda: torch.save(state, path)))  # noqa: B023 - called at once
        size = path.stat().st_size / 1e9
        path.unlink()
        start = time.perf_counter()
        now = RunState(step=step + 1)
        save = partial(checkpoints.save, accelerator, model, optimizer, average, now)
        held.append(seconds(save))
        checkpoints.finish()
        whole.append(time.perf_counter() - start)
    found, _ = find_resume(folder, "auto")
    assert found is not None
    check = seconds(lambda: find_resume(folder, "auto", checksums=True))
    load = seconds(lambda: checkpoint.load(accelerator, model, optimizer, average, found, RunState()))
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.0f} M parameters with AdamW's state, {size:.1f} GB, {accelerator.device}")
    rows = [
        ("plain torch.save", min(plain)),
        ("a save holds the loop", min(held)),
        ("until it is complete, in the background", min(whole)),
        ("resume: checksums", check),
        ("resume: loading", load),
    ]
    for name, value in rows:
        print(f"{name:<42}{value:>8.2f} s{value / min(plain):>8.2f} x")


if __name__ == "__main__":
    main()
