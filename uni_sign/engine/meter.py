"""Means over the steps since the last log, and speeds."""

import math
import resource
import time

import numpy as np
import torch

from uni_sign.engine.run import Run
from uni_sign.engine.step import StepResult


class Meter:
    """Means over the steps since the last log, and speeds."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._reset()

    def _reset(self) -> None:
        self._start, self._waited = time.perf_counter(), 0.0
        self._results: list[StepResult] = []

    def add(self, result: StepResult, lr: float, waited: float) -> None:
        """Take in a step; log when it is time."""
        run, state = self._run, self._run.state
        self._results.append(result)
        self._waited += waited
        elapsed = time.perf_counter() - self._start
        clips_per_s = sum(r.clips for r in self._results) / elapsed
        run.tracker.advance({"loss": f"{result.loss:.3f}", "lr": f"{lr:.1e}", "clips/s": f"{clips_per_s:.1f}"})
        ended = state.window == run.steps_per_epoch or run.stopped
        if state.step % run.config.log_steps == 0 or ended:
            run.tracker.log(state.step, self._figures(elapsed, lr))
            self._reset()

    def _figures(self, elapsed: float, lr: float) -> dict[str, float]:
        results = self._results
        finite = [r for r in results if math.isfinite(r.grad_norm)]
        values = {
            "epoch": self._run.state.epoch + self._run.state.window / self._run.steps_per_epoch,
            "loss": float(np.mean([r.loss for r in results])),
            "lr": lr,
            # fp16 skips the steps whose gradient overflowed, and lowers its loss scale.
            "grad_norm": float(np.mean([r.grad_norm for r in finite])) if finite else 0.0,
            "skipped_steps": len(results) - len(finite),
            "samples_per_s": sum(r.clips for r in results) / elapsed,
            "tokens_per_s": sum(r.targets for r in results) / elapsed,
            "data_share": self._waited / elapsed,
            **_peak_memory(),
        }
        for name in results[-1].logs:
            values[name] = float(np.mean([r.logs[name] for r in results]))
        return {f"train/{name}": value for name, value in values.items()}


def _peak_memory() -> dict[str, float]:
    """Peak of this process in GB: what torch allocated on the GPU, by both its names, or else resident memory."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e9
        return {"memory_gb": peak, "gpu_memory": peak}
    return {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
