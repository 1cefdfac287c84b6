"""THE loop: the same for every stage, launcher, ZeRO stage and number of processes."""

import itertools
import math
import random
import resource
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from uni_sign.config import TrainConfig
from uni_sign.engine import checkpoint
from uni_sign.engine.batching import BatchShape, EvalSampler, TrainSampler
from uni_sign.engine.checkpoint import RunState
from uni_sign.engine.launch import check_launch, make_accelerator
from uni_sign.engine.optim import Schedule, make_optimizer, make_schedule, set_lr
from uni_sign.engine.tracking import Tracker, write_rows
from uni_sign.errors import InputError, SampleError
from uni_sign.stages.base import Batch, Datasets, Stage, to_device

_DESCRIBED_PROBLEMS = 10


class DivergedError(Exception):
    """Loss or gradient is no longer a number; nothing of it was saved."""


class LossModule(nn.Module):
    """The one module that is wrapped for distribution: its forward is the stage's loss."""

    def __init__(self, stage: Stage, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._compute_loss = stage.compute_loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self._compute_loss(self.model, batch)


@dataclass
class Run:
    """All that a run is made of, prepared for this process."""

    stage: Stage
    config: TrainConfig
    accelerator: Accelerator
    tracker: Tracker
    datasets: Datasets
    model: Any
    optimizer: Any
    schedule: Schedule
    sampler: TrainSampler
    loader: DataLoader[Any]
    state: RunState

    @property
    def inner(self) -> nn.Module:
        """The stage's own model, unwrapped."""
        module: nn.Module = self.accelerator.unwrap_model(self.model).model
        return module

    @property
    def steps_per_epoch(self) -> int:
        return self.schedule.total // self.config.epochs


@dataclass(frozen=True)
class StepResult:
    """Figures of one optimizer step, the same on every rank."""

    loss: float
    grad_norm: float
    targets: int
    clips: int
    logs: dict[str, float]


def run_stage(stage: Stage, config: TrainConfig, plain: dict[str, Any]) -> dict[str, float]:
    """Train (or only score, with ``--eval``), then score every held-out split with the best weights."""
    check_launch(config)
    _check_output_dir(stage, config)
    accelerator = make_accelerator(config)
    tracker = Tracker(config.output_dir, accelerator.is_main_process)
    try:
        run = _prepare(stage, config, accelerator, tracker, plain)
        if not config.eval:
            train(run)
        return score_held_out(run)
    finally:
        tracker.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train(run: Run) -> None:
    """Epochs of optimizer steps, with scores and checkpoints in between."""
    state, config = run.state, run.config
    run.tracker.progress(run.schedule.total, state.step)
    meter = Meter(run)
    while state.epoch < config.epochs and not _stopped(run):
        for window, waited in windows(run):
            lr = run.schedule.lr_at(state.step)
            result = optimizer_step(run, window, lr)
            state.step += 1
            state.window += 1
            meter.add(result, lr, waited)
            if _stopped(run):
                break
            if config.save_steps and state.step % config.save_steps == 0:
                save(run)
        _end_epoch(run)
    run.tracker.loss_curve(state.step, run.stage.monitor)


def _stopped(run: Run) -> bool:
    return bool(run.config.max_steps) and run.state.step >= run.config.max_steps


def _end_epoch(run: Run) -> None:
    """Move the counters on, score the dev split where it is due, and save."""
    state = run.state
    complete = state.window >= run.steps_per_epoch
    if complete:
        state.epoch, state.window = state.epoch + 1, 0
    due = complete and (state.epoch % run.config.eval_epochs == 0 or state.epoch == run.config.epochs)
    if due or (_stopped(run) and state.best_score is None):
        _keep_best(run)
        run.tracker.loss_curve(state.step, run.stage.monitor)
    save(run)


def save(run: Run) -> None:
    """Checkpoint the run; collective."""
    checkpoint.save(
        run.accelerator,
        run.model,
        run.optimizer,
        run.state,
        run.config.output_dir,
        run.config.save_total_limit,
    )


def windows(run: Run) -> Iterator[tuple[list[Batch], float]]:
    """The optimizer steps still to come in this epoch: their micro-batches, and the seconds waited for them."""
    run.sampler.seek(run.state.epoch, run.state.window)
    batches = iter(run.loader)
    for count in run.sampler.micro_batches:
        start = time.perf_counter()
        window = list(itertools.islice(batches, count))
        yield window, time.perf_counter() - start


def optimizer_step(run: Run, window: list[Batch], lr: float) -> StepResult:
    """One step from the micro-batches of a window.

    The gradient is that of the loss summed over all targets of all ranks and micro-batches, divided by their
    number: the same however the global batch is split.
    """
    accelerator, model = run.accelerator, run.model
    targets, clips = _agree_on_window(run, window)
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
    return StepResult(loss_sum / max(1, targets), grad_norm, targets, clips, logs)


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


def _agree_on_window(run: Run, window: list[Batch]) -> tuple[int, int]:
    """Targets and clips of the window over all ranks; unusable clips are reported or stop every rank."""
    problems = [problem for batch in window for problem in batch["problems"]]
    mine = [
        sum(run.stage.count_targets(batch) for batch in window),
        sum(index >= 0 for batch in window for index in batch["indices"]),
        len(problems),
    ]
    targets, clips, found = _reduced(run, [float(value) for value in mine])
    if found:
        report_problems(run, gather_object(problems))
    return int(targets), int(clips)


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


def report_problems(run: Run, problems: list[str]) -> None:
    """Name unusable clips once each; with ``--bad_samples stop`` raise SampleError, on every rank."""
    if not problems:
        return
    if run.config.bad_samples == "stop":
        raise SampleError(problems[0])
    for problem in problems[:_DESCRIBED_PROBLEMS]:
        run.tracker.say(f"left out: {problem}")
    if len(problems) > _DESCRIBED_PROBLEMS:
        run.tracker.say(f"left out: {len(problems) - _DESCRIBED_PROBLEMS} more clips.")


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
        ended = state.window == run.steps_per_epoch or _stopped(run)
        if state.step % run.config.log_steps == 0 or ended:
            run.tracker.log(state.step, self._figures(elapsed, lr))
            self._reset()

    def _figures(self, elapsed: float, lr: float) -> dict[str, float]:
        results = self._results
        values = {
            "epoch": self._run.state.epoch + self._run.state.window / self._run.steps_per_epoch,
            "loss": float(np.mean([r.loss for r in results])),
            "lr": lr,
            "grad_norm": float(np.mean([r.grad_norm for r in results])),
            "samples_per_s": sum(r.clips for r in results) / elapsed,
            "tokens_per_s": sum(r.targets for r in results) / elapsed,
            "data_share": self._waited / elapsed,
            "memory_gb": _peak_memory_gb(),
        }
        for name in results[-1].logs:
            values[name] = float(np.mean([r.logs[name] for r in results]))
        return {f"train/{name}": value for name, value in values.items()}


def _peak_memory_gb() -> float:
    """Peak of this process: GPU memory where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _evaluate(run: Run, split: str) -> dict[str, float]:
    """Score one split on all ranks; returns its scores named with the split."""
    dataset = run.datasets.splits[split]
    sampler = EvalSampler(
        dataset.sizes,
        run.config.batch_size,
        run.accelerator.process_index,
        run.accelerator.num_processes,
        run.datasets.make_key,
    )
    loader = _loader(run.config, dataset, run.datasets, sampler, persistent=False)
    model = run.inner
    model.eval()
    with run.accelerator.autocast(), torch.no_grad():
        result = run.stage.evaluate(model, loader, run.accelerator)
    model.train()
    report_problems(run, result.problems)
    run.tracker.evaluation(run.state.step, split, result)
    scores = {f"{split}/{name}": float(value) for name, value in result.scores.items()}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in result.scores.items() if name != "n")
    run.tracker.say(f"step {run.state.step} {split} ({len(result.rows)} clips): {shown}")
    return scores


def _keep_best(run: Run) -> None:
    """Score the monitored split and keep the weights if they are the best so far."""
    state, monitor = run.state, run.stage.monitor
    score = _evaluate(run, monitor.split("/")[0])[monitor]
    sign = 1 if run.stage.higher_is_better else -1
    if state.best_score is None or sign * score > sign * state.best_score:
        state.best_score, state.best_step = score, state.step
        path = run.config.output_dir / run.stage.checkpoint_name
        extras = {**run.stage.checkpoint_extras(), "step": state.step, "score": score}
        checkpoint.save_best(run.accelerator, run.model, extras, path)


def score_held_out(run: Run) -> dict[str, float]:
    """Score every held-out split with the best weights (with ``--eval``: the given ones), into results.json."""
    best = run.config.output_dir / run.stage.checkpoint_name
    if not run.config.eval and run.state.best_score is not None:
        checkpoint.load_best(run.inner, best)
    scores: dict[str, float] = {}
    for split in run.datasets.splits:
        if split != "train":
            scores |= _evaluate(run, split)
    if run.accelerator.is_main_process:
        extras = {k: v for k, v in run.stage.checkpoint_extras().items() if isinstance(v, str)}
        write_rows(run.config.output_dir / "results.json", [{**scores, "step": run.state.best_step, **extras}])
    return scores


def _check_output_dir(stage: Stage, config: TrainConfig) -> None:
    """Refuse to overwrite a run, and a folder that cannot be written."""
    folder = config.output_dir
    held = (folder / "log.jsonl").exists() or (folder / stage.checkpoint_name).exists()
    if held and not config.resume and not config.eval:
        raise InputError(
            f"--output_dir {folder} already holds a run: add --resume auto to go on with it, or choose another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write_test_{random.getrandbits(64):x}"
        probe.write_bytes(b"\0" * 65536)
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"--output_dir {folder} cannot be written ({error.strerror}): free space or choose another folder."
        ) from error


def _prepare(
    stage: Stage, config: TrainConfig, accelerator: Accelerator, tracker: Tracker, plain: dict[str, Any]
) -> Run:
    """Data, model and optimizer of a stage, distributed, and put back where a resumed run stopped."""
    stage.prepare(accelerator)
    datasets = stage.build_datasets()
    _seed(config.seed)
    model = stage.build_model()
    shape = BatchShape(config.batch_size, config.gradient_accumulation_steps, accelerator.num_processes)
    train_split = datasets.splits["train"]
    schedule = make_schedule(config, shape.windows_per_epoch(len(train_split)))
    sampler = TrainSampler(train_split.sizes, shape, accelerator.process_index, config.seed, datasets.make_key)
    _introduce(tracker, datasets, model, config, shape, accelerator)
    prepared, optimizer = _distribute(accelerator, LossModule(stage, model), config)
    # Dropout differs between ranks, and between none of the launchers.
    _seed(config.seed + 1 + accelerator.process_index)
    run = Run(
        stage=stage,
        config=config,
        accelerator=accelerator,
        tracker=tracker,
        datasets=datasets,
        model=prepared,
        optimizer=optimizer,
        schedule=schedule,
        sampler=sampler,
        loader=_loader(config, train_split, datasets, sampler, persistent=True),
        state=RunState(world_size=accelerator.num_processes, zero_stage=config.zero_stage),
    )
    report_problems(run, datasets.problems)
    if not config.eval:
        _resume(run, plain)
    return run


def _distribute(accelerator: Accelerator, module: nn.Module, config: TrainConfig) -> tuple[Any, Any]:
    if config.eval and config.zero_stage == 0:
        return accelerator.prepare_model(module, evaluation_mode=True), None
    prepared: tuple[Any, Any] = accelerator.prepare(module, make_optimizer(module, config))
    return prepared


def _resume(run: Run, plain: dict[str, Any]) -> None:
    """Go on from the checkpoint of ``--resume``, and open the logs there."""
    config, tracker = run.config, run.tracker
    folder = None
    if config.resume:
        folder, passed = checkpoint.find_resume(config.output_dir, config.resume)
        for sentence in passed:
            tracker.say(sentence)
        tracker.say(f"Resuming from {folder}." if folder else "Nothing to resume yet: starting from the beginning.")
    if folder:
        run.state = checkpoint.read_state(folder, run.accelerator, config.zero_stage)
        checkpoint.load(run.accelerator, run.model, run.optimizer, folder)
    elif run.accelerator.is_main_process:
        (config.output_dir / "config.yaml").write_text(yaml.safe_dump(plain, allow_unicode=True))
    run.state.tracker_id = tracker.start(config, plain, run.state.step, run.state.tracker_id)


def _introduce(
    tracker: Tracker,
    datasets: Datasets,
    model: nn.Module,
    config: TrainConfig,
    shape: BatchShape,
    accelerator: Any,
) -> None:
    """What is about to happen: data, parameters by module, the effective batch."""
    for note in datasets.notes:
        tracker.say(note)
    counts = ", ".join(f"{len(dataset)} {name}" for name, dataset in datasets.splits.items())
    tracker.say(f"Clips: {counts}. Device: {accelerator.device}, {shape.processes} process(es).")
    rows = parameter_table(model)
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    tracker.say(f"{'module':<20}{'parameters':>14}{'trainable':>14}")
    for name, total, trainable in rows:
        tracker.say(f"{name:<20}{total:>14,}{trainable:>14,}")
    steps = shape.windows_per_epoch(len(datasets.splits["train"]))
    tracker.say(
        f"Global batch {shape.window} = {shape.batch_size} clips x {shape.accumulation} accumulation x "
        f"{shape.processes} processes; {steps} steps an epoch, {config.epochs} epochs; {config.dtype}, "
        f"ZeRO {config.zero_stage}{' + offload' if config.offload else ''}."
    )


def parameter_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """(module, parameters, trainable parameters) for each child of ``model``, shared ones counted once."""
    rows: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = rows.setdefault(name.split(".")[0], [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() * parameter.requires_grad
    return [(name, total, trainable) for name, (total, trainable) in rows.items()]


def _loader(config: TrainConfig, dataset: Any, datasets: Datasets, sampler: Any, persistent: bool) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=datasets.collate,
        num_workers=config.num_workers,
        pin_memory=config.pin_mem and torch.cuda.is_available(),
        persistent_workers=persistent and config.num_workers > 0,
        # Its own generator: starting to iterate must not advance the random state that dropout draws from.
        generator=torch.Generator().manual_seed(config.seed),
    )


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(seed)
