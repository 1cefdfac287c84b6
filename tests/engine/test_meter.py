"""The figures of a log line: their names, and means over the steps since the last one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from uni_sign.engine.meter import Meter
from uni_sign.engine.step import StepResult


def logged(steps: list[StepResult]) -> dict[str, float]:
    """The line after these steps, logged every two."""
    lines: list[dict[str, float]] = []
    state = SimpleNamespace(step=0, epoch=0, window=0)
    tracker = SimpleNamespace(advance=lambda _: None, log=lambda _, values: lines.append(values))
    config = SimpleNamespace(log_steps=2)
    run: Any = SimpleNamespace(state=state, tracker=tracker, config=config, steps_per_epoch=9, stopped=False)
    meter = Meter(run)
    for result in steps:
        state.step += 1
        state.window += 1
        meter.add(result, 0.5, 0.0)
    assert len(lines) == 1
    return lines[0]


def result(loss: float, grad_norm: float, **logs: float) -> StepResult:
    return StepResult(loss, grad_norm, targets=4, clips=2, logs=logs, stop=False)


@pytest.mark.parametrize("peak", [None, 3_000_000_000])
def test_names_and_means(peak: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: peak is not None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak)
    figures = logged([result(1.0, 3.0, flow=1.0), result(2.0, float("inf"), flow=2.0)])
    assert (figures["train/loss"], figures["train/grad_norm"], figures["train/flow"]) == (1.5, 3.0, 1.5)
    assert (figures["train/lr"], figures["train/skipped_steps"]) == (0.5, 1)
    assert figures.get("train/gpu_memory") == (None if peak is None else 3.0)
    assert figures["train/memory_gb"] > 0
