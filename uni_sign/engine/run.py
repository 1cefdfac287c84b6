"""What a run is made of, and how it is put together for this process."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader

from uni_sign.config import TrainConfig
from uni_sign.engine import checkpoint
from uni_sign.engine.averaging import WeightAverage
from uni_sign.engine.batching import BatchShape, Files, TrainSampler
from uni_sign.engine.checkpoint import Checkpoints, RunState
from uni_sign.engine.compiling import compile_in_place
from uni_sign.engine.data_loading import make_loader
from uni_sign.engine.launch import machine_count
from uni_sign.engine.optim import Schedule, make_optimizer, make_schedule
from uni_sign.engine.tracking import Tracker
from uni_sign.engine.watchdog import Watchdog
from uni_sign.errors import InputError, Preempted, SampleError
from uni_sign.stages.base import Batch, Datasets, Stage

_DESCRIBED_PROBLEMS = 10


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
    average: WeightAverage
    schedule: Schedule
    lengths: Mapping[str, Sequence[int]]
    sampler: TrainSampler
    loader: DataLoader[Any]
    state: RunState
    watchdog: Watchdog
    checkpoints: Checkpoints
    reported: set[str] = field(default_factory=set)
    empty_steps: int = 0

    def stop_if_asked(self, asked: bool) -> None:
        """Raise Preempted where all ranks agree that one of them was asked to stop."""
        if asked:
            reason = self.watchdog.reason or "a request to another process"
            raise Preempted(f"Stopped at step {self.state.step} by {reason}: go on with --resume auto.")

    @property
    def inner(self) -> nn.Module:
        """The stage's own model, unwrapped."""
        module: nn.Module = self.accelerator.unwrap_model(self.model).model
        return module

    @property
    def steps_per_epoch(self) -> int:
        return self.schedule.total // self.config.epochs

    @property
    def stopped(self) -> bool:
        """Whether ``--max_steps`` is reached, or training ends early."""
        return self.ends_early or (bool(self.config.max_steps) and self.state.step >= self.config.max_steps)

    @property
    def ends_early(self) -> bool:
        """Whether ``--early_stopping_patience`` evaluations in a row were in vain."""
        return 0 < self.config.early_stopping_patience <= self.state.waited


def check_output_dir(stage: Stage, config: TrainConfig) -> None:
    """Refuse to overwrite a run, and a folder that cannot be written."""
    if config.resume not in ("", "auto"):
        checkpoint.find_resume(config.output_dir, config.resume)
    folder = config.output_dir
    held = (folder / "log.jsonl").exists() or (folder / stage.best_file.name).exists()
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


def prepare(
    stage: Stage,
    config: TrainConfig,
    accelerator: Accelerator,
    tracker: Tracker,
    watchdog: Watchdog,
    plain: dict[str, Any],
) -> Run:
    """Data, model and optimizer of a stage, distributed, and put back where a resumed run stopped."""
    stage.prepare(accelerator)
    counts = _frame_counts(stage, accelerator, config.frames_per_batch) if config.frames_per_batch else None
    datasets = stage.build_datasets()
    lengths = counts or {name: split.sizes for name, split in datasets.splits.items()}
    _seed(config.seed)
    model = stage.build_model()
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    if config.compile:
        compile_in_place(stage.hot_modules(model))
    shape = BatchShape(
        config.batch_size, config.gradient_accumulation_steps, accelerator.num_processes, config.frames_per_batch
    )
    train_split = datasets.splits["train"]
    files = Files(datasets.nearby.file_of, datasets.nearby.mixed, machine_count()) if datasets.nearby else None
    rank, seed = accelerator.process_index, config.seed
    sampler = TrainSampler(lengths["train"], shape, rank, seed, datasets.make_key, files, datasets.mixture)
    _introduce(tracker, datasets, model, config, sampler, accelerator)
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
        average=WeightAverage(accelerator, prepared, optimizer, 0.0 if config.eval else config.ema_decay),
        schedule=make_schedule(config, sampler.windows_per_epoch),
        lengths=lengths,
        sampler=sampler,
        loader=make_loader(config, train_split, datasets, sampler, persistent=True),
        state=RunState(
            world_size=accelerator.num_processes,
            zero_stage=config.zero_stage,
            global_batch=shape.window,
            global_frames=shape.frames * shape.shares,
            clips=len(train_split),
            seed=config.seed,
            vocabulary=stage.vocabulary,
            frozen_inputs=stage.frozen_inputs,
            order=sampler.digest(),
            ema_decay=config.ema_decay,
        ),
        watchdog=watchdog,
        checkpoints=Checkpoints(config.output_dir, config.save_total_limit, accelerator.is_main_process),
    )
    report_problems(run, datasets.problems)
    if not config.eval:
        _resume(run, plain)
    return run


def _frame_counts(stage: Stage, accelerator: Accelerator, budget: int) -> Mapping[str, Sequence[int]]:
    """Collective: frames of every clip, by split; raises InputError where one alone is more than the budget."""
    counts = stage.frame_counts(accelerator)
    longest = max(max(frames) for frames in counts.values())
    if longest > budget:
        raise InputError(
            f"--frames_per_batch {budget} holds no clip of {longest} frames, as the longest has: give at least "
            f"{longest}, or a smaller --max_length."
        )
    return counts


def enable_gradient_checkpointing(model: Any) -> None:
    """Let a stage's model recompute its activations; raises InputError where it cannot."""
    if not hasattr(model, "gradient_checkpointing_enable"):
        raise InputError("--gradient_checkpointing: the model of this stage keeps its activations: leave it out.")
    model.gradient_checkpointing_enable()


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
        # All ranks take rank 0's choice: it alone reads every byte, and a folder seen late must not split them.
        folder, passed = _agreed_checkpoint(run.accelerator, config)
        for sentence in passed:
            tracker.say(sentence)
        tracker.say(f"Resuming from {folder}." if folder else "Nothing to resume yet: starting from the beginning.")
    if folder:
        own, run.state = run.state, checkpoint.read_state(folder, run.state)
        if not (config.output_dir / run.stage.best_file.name).exists():
            run.state.best_score = None  # the best weights stayed in another folder
        checkpoint.load(run.accelerator, run.model, run.optimizer, run.average, folder, run.state)
        if run.state.world_size != own.world_size:
            tracker.say(f"It was written by {run.state.world_size} process(es); going on with {own.world_size}.")
            # Their random states belong to other ranks: each draws a new one, the same in every such resume.
            _seed(config.seed + 1 + run.accelerator.process_index + 7919 * run.state.step)
            run.state.world_size = own.world_size
    elif run.accelerator.is_main_process:
        (config.output_dir / "config.yaml").write_text(yaml.safe_dump(plain, allow_unicode=True))
    run.state.tracker_id = tracker.start(config, plain, run.state.step, run.state.tracker_id)


def _agreed_checkpoint(accelerator: Accelerator, config: TrainConfig) -> tuple[Path | None, list[str]]:
    found: Any = None
    if accelerator.is_main_process:
        try:
            found = checkpoint.find_resume(config.output_dir, config.resume, checksums=True)
        except InputError as error:
            found = str(error)
    found = broadcast_object_list([found])[0]
    if isinstance(found, str):
        raise InputError(found)
    return found


def _introduce(
    tracker: Tracker,
    datasets: Datasets,
    model: nn.Module,
    config: TrainConfig,
    sampler: TrainSampler,
    accelerator: Any,
) -> None:
    """What is about to happen: data, parameters by module, the effective batch."""
    for note in datasets.notes:
        tracker.say(note)
    counts = ", ".join(f"{len(dataset)} {name}" for name, dataset in datasets.splits.items())
    tracker.say(f"Clips: {counts}. Device: {accelerator.device}, {accelerator.num_processes} process(es).")
    rows = parameter_table(model)
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    tracker.say(f"{'module':<20}{'parameters':>14}{'trainable':>14}")
    for name, total, trainable in rows:
        tracker.say(f"{name:<20}{total:>14,}{trainable:>14,}")
    tracker.say(
        f"{global_batch(sampler)}; {sampler.windows_per_epoch} steps an epoch, {config.epochs} epochs; "
        f"{config.dtype}, ZeRO {config.zero_stage}{' + offload' if config.offload else ''}."
    )


def global_batch(sampler: TrainSampler) -> str:
    """What an optimizer step sees, for a person."""
    shape, steps = sampler.shape, sampler.windows_per_epoch
    cut = f"x {shape.accumulation} accumulation x {shape.processes} processes"
    if not shape.frames:
        return f"Global batch {shape.window} = {shape.batch_size} clips {cut}"
    clips = sampler.clips
    return (
        f"Global batch of at most {shape.frames} frames and {shape.batch_size} clips {cut}, in the mean "
        f"{sampler.sizes[clips].sum() / steps:.0f} frames and {len(clips) / steps:.1f} clips"
    )


def parameter_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """(module, parameters, trainable parameters) for each child of ``model``, shared ones counted once."""
    rows: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = rows.setdefault(name.split(".")[0], [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() * parameter.requires_grad
    return [(name, total, trainable) for name, (total, trainable) in rows.items()]


def report_problems(run: Run, problems: list[str]) -> None:
    """Name unusable clips once each; with ``--bad_samples stop`` raise SampleError, on every rank."""
    problems = [problem for problem in problems if problem not in run.reported]
    if not problems:
        return
    if run.config.bad_samples == "stop":
        raise SampleError(problems[0])
    run.reported.update(problems)
    for problem in problems[:_DESCRIBED_PROBLEMS]:
        run.tracker.say(f"left out: {problem}")
    if len(problems) > _DESCRIBED_PROBLEMS:
        run.tracker.say(f"left out: {len(problems) - _DESCRIBED_PROBLEMS} more clips.")


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(seed)
