"""Scores of the held-out splits, on all ranks, and the best weights so far."""

import torch

from uni_sign.engine import checkpoint
from uni_sign.engine.batching import EvalSampler
from uni_sign.engine.run import Run, make_loader, report_problems
from uni_sign.engine.tracking import write_rows


def evaluate(run: Run, split: str, of_best: bool = False) -> dict[str, float]:
    """Score one split on all ranks; returns its scores named with the split. ``of_best``: see `Tracker.evaluation`."""
    dataset = run.datasets.splits[split]
    sampler = EvalSampler(
        dataset.sizes,
        run.config.batch_size,
        run.accelerator.process_index,
        run.accelerator.num_processes,
        run.datasets.make_key,
    )
    loader = make_loader(run.config, dataset, run.datasets, sampler, persistent=False)
    model = run.inner
    model.eval()
    with run.accelerator.autocast(), torch.no_grad():
        result = run.stage.evaluate(model, loader, run.accelerator)
    model.train()
    report_problems(run, result.problems)
    run.tracker.evaluation(run.state.step, split, result, of_best)
    scores = {f"{split}/{name}": float(value) for name, value in result.scores.items()}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in result.scores.items() if name != "n")
    run.tracker.say(f"step {run.state.step} {split} ({len(result.rows)} clips): {shown}")
    return scores


def keep_best(run: Run) -> None:
    """Score the monitored split and keep the weights if none so far are better: of equals the longest trained."""
    state, monitor = run.state, run.stage.monitor
    score = evaluate(run, monitor.split("/")[0])[monitor]
    sign = 1 if run.stage.higher_is_better else -1
    if state.best_score is None or sign * score >= sign * state.best_score:
        state.best_score, state.best_step = score, state.step
        path = run.config.output_dir / run.stage.checkpoint_name
        how = {name: getattr(run.config, name) for name in ("dtype", "batch_size", "num_workers")}
        extras = {**run.stage.checkpoint_extras(), "run": how, "step": state.step, "score": score}
        checkpoint.save_best(run.accelerator, run.model, extras, path)


def score_held_out(run: Run) -> dict[str, float]:
    """Score every held-out split with the best weights (with ``--eval``: the given ones), into results.json."""
    best = run.config.output_dir / run.stage.checkpoint_name
    if not run.config.eval and run.state.best_score is not None:
        checkpoint.load_best(run.inner, best)
    scores: dict[str, float] = {}
    for split in run.datasets.splits:
        if split != "train":
            scores |= evaluate(run, split, of_best=True)
    if run.accelerator.is_main_process:
        extras = {k: v for k, v in run.stage.checkpoint_extras().items() if isinstance(v, str)}
        trained = {} if run.config.eval else {"step": run.state.best_step}
        write_rows(run.config.output_dir / "results.json", [{**scores, **trained, **extras}])
    return scores
