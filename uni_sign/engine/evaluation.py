"""Scores of the held-out splits, on all ranks, and the best weights so far."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from uni_sign.engine import checkpoint
from uni_sign.engine.batching import EvalSampler
from uni_sign.engine.data_loading import make_loader
from uni_sign.engine.optim import Patience, Plateau, is_gain
from uni_sign.engine.run import Run, report_problems
from uni_sign.engine.tracking import write_rows
from uni_sign.engine.watchdog import any_rank
from uni_sign.stages.base import Batch

# Flags that `uni-sign evaluate` takes over from the run, beside those of the stage.
_HOW = ("dtype", "batch_size", "frames_per_batch", "num_workers")


def evaluate(run: Run, split: str, of_best: bool = False) -> dict[str, float]:
    """Score one split on all ranks; returns its scores named with the split. ``of_best``: see `Tracker.evaluation`."""
    dataset = run.datasets.splits[split]
    sampler = EvalSampler(
        run.lengths[split],
        run.config.batch_size,
        run.accelerator.process_index,
        run.accelerator.num_processes,
        run.datasets.make_key,
        run.config.frames_per_batch,
    )
    loader = make_loader(run.config, dataset, run.datasets, sampler, persistent=False)
    model = run.inner
    model.eval()
    try:
        # With --compile, training alone: a search would be compiled anew for what it keeps of earlier tokens.
        with run.accelerator.autocast(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            result = run.stage.evaluate(model, _Watched(loader, run), run.accelerator)
    finally:
        model.train()
    report_problems(run, result.problems)
    run.tracker.evaluation(run.state.step, split, result, of_best)
    scores = {f"{split}/{name}": float(value) for name, value in result.scores.items()}
    shown = ", ".join(f"{name} {_rounded(value)}" for name, value in result.scores.items() if name != "n")
    run.tracker.say(f"step {run.state.step} {split} ({len(result.rows)} clips): {shown}")
    return scores


def _rounded(value: float) -> str:
    """Two digits behind the point, or three that say something."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 1 else f"{value:.3g}"


class _Watched:
    """The batches of a held-out split; between two of them all ranks agree whether to stop here."""

    def __init__(self, loader: DataLoader[Any], run: Run) -> None:
        self.dataset, self._loader, self._run = loader.dataset, loader, run

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            self._run.watchdog.beat()
            self._run.stop_if_asked(any_rank(self._run.watchdog.requested, self._run.accelerator.device))
            yield batch


def keep_best(run: Run) -> None:
    """Score the monitored split and keep the weights if none so far are better: of equals the longest trained."""
    with run.average.in_use():
        _keep_best(run)


def _keep_best(run: Run) -> None:
    state, monitor = run.state, run.stage.monitor
    score = evaluate(run, monitor.split("/")[0])[monitor]
    if run.config.sched == "plateau":
        gained = is_gain(score, state.best_score, run.stage.higher_is_better)
        plateau = Plateau(state.lr_scale, state.stale).after(gained, run.config)
        state.lr_scale, state.stale = plateau.scale, plateau.stale
    if run.config.early_stopping_patience:
        patience = Patience(state.score_to_beat, state.waited).after(score, run.stage.higher_is_better, run.config)
        state.score_to_beat, state.waited = patience.to_beat, patience.waited
    sign = 1 if run.stage.higher_is_better else -1
    if state.best_score is None or sign * score >= sign * state.best_score:
        state.best_score, state.best_step = score, state.step
        how = {name: getattr(run.config, name) for name in _HOW}
        progress = {"epoch": state.epoch + 1, "step": state.step, "score": score, monitor.replace("/", "_"): score}
        extras = {**run.stage.checkpoint_extras(), "run": how, **progress}
        checkpoint.save_best(
            run.accelerator, run.model, run.optimizer, extras, run.stage.best_file, run.config.output_dir
        )


def score_held_out(run: Run) -> dict[str, float]:
    """Score every held-out split with the best weights (with ``--eval``: the given ones), into results.json."""
    best = run.config.output_dir / run.stage.best_file.name
    if run.state.best_score is not None and not run.config.eval:
        checkpoint.load_best(run.inner, best, run.stage.best_file.weights)
    else:
        run.average.exchange()  # of a finished run that is resumed into another folder; with --eval there is none
    scores: dict[str, float] = {}
    for split in run.datasets.splits:
        if split != "train":
            scores |= evaluate(run, split, of_best=True)
    if run.accelerator.is_main_process:
        extras = {k: v for k, v in run.stage.checkpoint_extras().items() if isinstance(v, str)}
        trained = {} if run.config.eval else {"step": run.state.best_step}
        write_rows(run.config.output_dir / "results.json", [{**scores, **trained, **extras}])
    return scores
