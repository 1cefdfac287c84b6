"""One optimizer step: the same numbers however its global batch is split over ranks and micro-batches."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object

from uni_sign.engine.optim import set_lr
from uni_sign.engine.run import Run, report_problems
from uni_sign.errors import RunError, SampleError
from uni_sign.stages.base import Batch, to_device

# A step of few clips may chance upon bad ones alone; ten such in a row are no chance.
_EMPTY_STEPS = 10


class DivergedError(RunError):
    """Loss or gradient is no longer a number; nothing of it was saved."""


@dataclass(frozen=True)
class StepResult:
    """Figures of one optimizer step, the same on every rank; ``stop``: some rank was asked to stop."""

    loss: float
    grad_norm: float
    targets: int
    clips: int
    logs: dict[str, float]
    stop: bool


def optimizer_step(run: Run, window: list[Batch], lr: float) -> StepResult:
    """One step from the micro-batches of a window.

    The gradient is that of the loss summed over all targets of all ranks and micro-batches, divided by their
    number: the same however the global batch is split.
    """
    accelerator, model = run.accelerator, run.model
    targets, clips, stop = _agree_on_window(run, window)
    set_lr(run.optimizer, lr)
    # backward() divides by the accumulation steps and the ranks are averaged: undo both.
    scale = accelerator.num_processes * accelerator.gradient_accumulation_steps / max(1, targets)
    loss_sum, logs = 0.0, dict[str, float]()
    for number, batch in enumerate(window):
        last = number == len(window) - 1
        accelerator.gradient_state._set_sync_gradients(last)
        with _unsynced(accelerator, model, last):
            summed, batch_logs = model(to_device(batch, accelerator.device))
            loss_sum += float(summed.detach())
            for name, value in batch_logs.items():
                logs[name] = logs.get(name, 0.0) + float(value) / len(window)
            if last:
                loss_sum, logs = _agree_on_loss(run, loss_sum, logs, window)
            accelerator.backward(summed * scale)
    grad_norm = _finish_step(run)
    if not math.isfinite(grad_norm) and run.config.dtype != "fp16":
        raise DivergedError(f"The gradient of step {run.state.step} is not finite: {_advice(run)}")
    return StepResult(loss_sum / max(1, targets), grad_norm, targets, clips, logs, stop)


def _unsynced(accelerator: Accelerator, model: Any, last: bool) -> AbstractContextManager[Any]:
    """Plain data parallel exchanges gradients at the last micro-batch only; DeepSpeed knows by itself."""
    if last or accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.NO):
        return nullcontext()
    return accelerator.no_sync(model)


def _finish_step(run: Run) -> float:
    """Clip and step where the engine did not already; returns the gradient norm before clipping."""
    accelerator = run.accelerator
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return float(run.model.get_global_grad_norm() or 0.0)
    limit = run.config.gradient_clipping or math.inf
    grad_norm = float(accelerator.clip_grad_norm_(run.model.parameters(), limit))
    if math.isfinite(grad_norm) or accelerator.scaler is not None:
        run.optimizer.step()
    run.optimizer.zero_grad()
    return grad_norm


def _reduced(run: Run, values: list[float]) -> list[float]:
    """Sums over all ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=run.accelerator.device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return [float(value) for value in tensor]


def _agree_on_window(run: Run, window: list[Batch]) -> tuple[int, int, bool]:
    """Targets and clips of the window over all ranks, and whether any rank was asked to stop.

    Unusable clips are reported or stop every rank; many windows of nothing else always do: the files are gone.
    """
    problems = [problem for batch in window for problem in batch["problems"]]
    mine = [
        sum(run.stage.count_targets(batch) for batch in window),
        sum(index >= 0 for batch in window for index in batch["indices"]),
        len(problems),
        run.watchdog.requested,
    ]
    targets, clips, found, stop = _reduced(run, [float(value) for value in mine])
    if found:
        problems = gather_object(problems)
        report_problems(run, problems)
    run.empty_steps = 0 if targets else run.empty_steps + 1
    if run.empty_steps >= _EMPTY_STEPS:
        raise SampleError(f"No clip of {_EMPTY_STEPS} steps on end can be read, so training stops: {problems[0]}")
    return int(targets), int(clips), bool(stop)


def _agree_on_loss(
    run: Run, loss_sum: float, logs: dict[str, float], window: list[Batch]
) -> tuple[float, dict[str, float]]:
    """Loss over all ranks and mean logs; before anything changed, all ranks stop if any loss is not finite."""
    names = sorted(logs)
    total, broken, *means = _reduced(
        run, [loss_sum, float(not math.isfinite(loss_sum)), *(logs[name] for name in names)]
    )
    if broken:
        clips = [] if math.isfinite(loss_sum) else [name for batch in window for name in batch["names"]]
        named = ", ".join(gather_object(clips))
        raise DivergedError(f"The loss of step {run.state.step} is not finite, among clips {named}: {_advice(run)}")
    return total, {name: mean / run.accelerator.num_processes for name, mean in zip(names, means, strict=True)}


def _advice(run: Run) -> str:
    last = run.config.output_dir / "checkpoints" / "last"
    start = f"resume from {last}" if last.exists() else "start again"
    return f"{start} with a lower --lr, or --dtype fp32."
