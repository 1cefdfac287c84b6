"""THE loop: the same for every stage, launcher, ZeRO stage and number of processes."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

from uni_sign.config import TrainConfig
from uni_sign.engine.data_loading import end_data_loading
from uni_sign.engine.evaluation import keep_best, score_held_out
from uni_sign.engine.failures import named_failures
from uni_sign.engine.launch import check_launch, leave_group, make_accelerator, process_count, with_accumulation
from uni_sign.engine.meter import Meter
from uni_sign.engine.run import Run, check_output_dir, prepare
from uni_sign.engine.step import optimizer_step
from uni_sign.engine.tracking import Tracker
from uni_sign.engine.watchdog import Watchdog
from uni_sign.errors import Preempted
from uni_sign.stages.base import Batch, Stage


def run_stage(stage: Stage, config: TrainConfig, plain: dict[str, Any]) -> dict[str, float]:
    """Train (or only score, with ``--eval``), then score every held-out split with the best weights."""
    config = with_accumulation(config, process_count())
    check_launch(config)
    check_output_dir(stage, config)
    last = config.output_dir / "checkpoints" / "last"
    with named_failures(config, plain, last), Watchdog(config.grace_seconds, config.ddp_timeout, str(last)) as watchdog:
        accelerator = make_accelerator(config)
        tracker = Tracker(config.output_dir, accelerator.is_main_process)
        try:
            run = prepare(stage, config, accelerator, tracker, watchdog, plain)
            if not config.eval:
                train(run)
            return score_held_out(run)
        finally:
            tracker.close()
            leave_group()


def train(run: Run) -> None:
    """Epochs of optimizer steps, with scores and checkpoints in between; saved when asked to stop."""
    try:
        _train(run)
    except Preempted:
        save(run)
        raise
    finally:
        end_data_loading(run.loader)
        run.checkpoints.finish()


def _train(run: Run) -> None:
    state, config = run.state, run.config
    total = run.schedule.total
    run.tracker.progress(min(total, config.max_steps) if config.max_steps else total, state.step)
    meter = Meter(run)
    while state.epoch < config.epochs and not run.stopped:
        for window, waited in windows(run):
            lr = run.schedule.lr_at(state.step) * state.lr_scale
            result = optimizer_step(run, window, lr)
            run.average.update(state.step)
            state.step += 1
            state.window += 1
            meter.add(result, lr, waited)
            run.watchdog.beat()
            run.stop_if_asked(result.stop)
            if run.stopped:
                break
            # At the end of an epoch a checkpoint is written anyway, after the scores.
            if config.save_steps and state.step % config.save_steps == 0 and state.window < run.steps_per_epoch:
                save(run)
        _end_epoch(run)
    if run.ends_early:
        run.tracker.say(
            f"Training ends early: {state.waited} evaluations in a row without a better {run.stage.monitor}."
        )
    run.tracker.loss_curve(state.step, run.stage.monitor, last=True)


def _end_epoch(run: Run) -> None:
    """Move the counters on, score the dev split where it is due, and save."""
    state = run.state
    complete = state.window >= run.steps_per_epoch
    epochs = state.epoch + complete
    if complete and (epochs % run.config.eval_epochs == 0 or epochs == run.config.epochs):
        keep_best(run)
        run.tracker.loss_curve(state.step, run.stage.monitor)
    # Only now: a run stopped while it is scored goes on with scoring.
    if complete:
        state.epoch, state.window = epochs, 0
    save(run)
    if run.stopped and state.best_score is None:
        # After the checkpoint: a resumed run must not know of scores that an uninterrupted one never took.
        keep_best(run)


def save(run: Run) -> None:
    """Checkpoint the run; collective."""
    run.watchdog.beat()
    run.checkpoints.save(run.accelerator, run.model, run.optimizer, run.average, run.state)
    run.watchdog.beat()


def windows(run: Run) -> Iterator[tuple[list[Batch], float]]:
    """The optimizer steps still to come in this epoch: their micro-batches, and the seconds waited for them."""
    run.sampler.seek(run.state.epoch, run.state.window)
    run.watchdog.beat()
    nearby = run.datasets.nearby
    if nearby:
        nearby.read_ahead.follow(run.sampler.items, run.state.window)
    batches = iter(run.loader)
    for step, count in enumerate(run.sampler.micro_batches, run.state.window):
        if nearby:
            nearby.read_ahead.reach(step)
        start = time.perf_counter()
        window = list(itertools.islice(batches, count))
        yield window, time.perf_counter() - start
