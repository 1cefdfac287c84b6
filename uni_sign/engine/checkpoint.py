"""Checkpoints: written beside, flushed to disk, renamed, then marked complete; and exact resume from them.

checkpoints/step_00000500/ holds `state.json` (the loop's counters), `rng_<rank>.pt`, the model and optimizer
(`deepspeed/` shards of all ranks, or `training.pt`), and `manifest.json`, written last: files and their sizes.
"""

import json
import os
import random
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn

from uni_sign.errors import InputError, one_line

_MANIFEST = "manifest.json"
_TAG = "deepspeed"
_TORN_FILE = ("iostream error", "unexpected pos", "file write failed", "inline_container")


@dataclass
class RunState:
    """Where a run stands: the next thing to do is window ``window`` of ``epoch``."""

    epoch: int = 0
    window: int = 0
    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    tracker_id: str | None = None
    world_size: int = 1
    zero_stage: int = 0
    global_batch: int = 0
    clips: int = 0
    seed: int = 0


def save(accelerator: Accelerator, model: Any, optimizer: Any, state: RunState, output_dir: Path, keep: int) -> None:
    """Collective: everything a run needs to go on exactly, as checkpoints/step_<step>."""
    folder = output_dir / "checkpoints" / f"step_{state.step:08d}"
    partial = folder.with_name(f".{folder.name}.partial")
    with _disk_errors(folder):
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with _disk_errors(folder):
        _write_training(accelerator, model, optimizer, partial)
        torch.save(_rng_state(), partial / f"rng_{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()
    with _disk_errors(folder):
        if accelerator.is_main_process:
            (partial / "state.json").write_text(json.dumps(asdict(state)))
            _publish(partial, folder)
            _prune(output_dir / "checkpoints", keep)
    accelerator.wait_for_everyone()


class _disk_errors(AbstractContextManager[None]):
    """Disk trouble while saving becomes one sentence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # torch's file writer turns a full disk into a RuntimeError of its own words.
        torn = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TORN_FILE)
        disk = isinstance(error, OSError) or torn
        if disk:
            raise InputError(
                f"{self._folder} cannot be written ({error}): free space or choose another --output_dir; "
                "earlier checkpoints are intact."
            ) from error


def _write_training(accelerator: Accelerator, model: Any, optimizer: Any, folder: Path) -> None:
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.save_checkpoint(str(folder), tag=_TAG)
        return
    if accelerator.is_main_process:
        training = {
            "model": accelerator.unwrap_model(model).state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
        }
        torch.save(training, folder / "training.pt")


def _publish(partial: Path, folder: Path) -> None:
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    sizes = {str(path.relative_to(partial)): path.stat().st_size for path in files}
    aside = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(aside)
    partial.rename(folder)
    _flush(folder.parent)
    manifest = folder / f"{_MANIFEST}.partial"
    manifest.write_text(json.dumps(sizes, indent=1))
    _flush(manifest)
    manifest.rename(folder / _MANIFEST)
    _flush(folder)
    link = folder.parent / ".last.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.parent / "last")
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(folder: Path, keep: int) -> None:
    complete = [path for path in _oldest_first(folder) if problem_of(path) is None]
    for path in complete[:-keep]:
        # The manifest goes first: a killed removal leaves an incomplete checkpoint, not a broken one.
        (path / _MANIFEST).unlink()
        shutil.rmtree(path)


def _oldest_first(folder: Path) -> list[Path]:
    """Checkpoints in the order they were written: a run that went back to an earlier step has newer, lower ones."""

    def written(path: Path) -> tuple[int, str]:
        manifest = path / _MANIFEST
        return (manifest if manifest.exists() else path).stat().st_mtime_ns, path.name

    return sorted(folder.glob("step_*"), key=written)


def problem_of(folder: Path) -> str | None:
    """Why a checkpoint folder cannot be resumed from, or None."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        sizes = json.loads((folder / _MANIFEST).read_text()).items()
    except (OSError, ValueError, AttributeError, RecursionError):
        return "it was not finished"
    for name, size in sizes:
        if _size(folder / name) != size:
            return one_line(f"{name} is missing or cut")
    return None


def _size(file: Path) -> int | None:
    """The size of a file; None where there is none, or its name can be none."""
    try:
        return file.stat().st_size if file.is_file() else None
    except OSError:
        return None


def find_resume(output_dir: Path, resume: str) -> tuple[Path | None, list[str]]:
    """The checkpoint of ``--resume`` (None: nothing to resume), and a sentence for each one passed over."""
    if resume != "auto":
        folder = Path(resume)
        problem = problem_of(folder)
        if problem:
            raise InputError(f"--resume {folder} is no complete checkpoint: {problem}.")
        return folder.resolve(), []
    passed: list[str] = []
    for folder in reversed(_oldest_first(output_dir / "checkpoints")):
        problem = problem_of(folder)
        if problem is None:
            return folder, passed
        passed.append(f"Checkpoint {folder} is passed over: {problem}.")
    return None, passed


_SET_UP = {
    "world_size": "the number of processes",
    "zero_stage": "--zero_stage",
    "global_batch": "the clips per step (--batch_size x --gradient_accumulation_steps x processes)",
    "clips": "the number of usable training clips",
    "seed": "--seed",
}


def read_state(folder: Path, own: RunState) -> RunState:
    """The loop's counters of a checkpoint; raises InputError where it belongs to another set-up than ``own``."""
    try:
        state = RunState(**json.loads((folder / "state.json").read_text()))
        _check_types(state)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / 'state.json'} cannot be read: {error}.") from error
    for name, meaning in _SET_UP.items():
        theirs, ours = getattr(state, name), getattr(own, name)
        if theirs != ours:
            raise InputError(f"{folder} cannot be resumed: {meaning} was {theirs} there and is {ours} here.")
    return state


def _check_types(state: RunState) -> None:
    for counter in fields(RunState):
        value = getattr(state, counter.name)
        if counter.type is int and (type(value) is not int or not 0 <= value < 1 << 63):
            raise ValueError(f"{counter.name} is no whole number from 0")
    if type(state.best_score) not in (int, float, type(None)) or type(state.tracker_id) not in (str, type(None)):
        raise ValueError("best_score is no number, or tracker_id no text")


def load(accelerator: Accelerator, model: Any, optimizer: Any, folder: Path) -> None:
    """Collective: put weights, optimizer and random states back as they were."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.load_checkpoint(str(folder), tag=_TAG)
    else:
        training = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        accelerator.unwrap_model(model).load_state_dict(training["model"])
        optimizer.load_state_dict(training["optimizer"])
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(training["scaler"])
    _set_rng_state(torch.load(folder / f"rng_{accelerator.process_index}.pt", weights_only=True))


def _rng_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - libraries draw from the global state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def _set_rng_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def save_best(accelerator: Accelerator, model: Any, extras: Mapping[str, Any], path: Path) -> None:
    """Collective: {"model": weights, ...} as one file that `torch.load(weights_only=True)` reads."""
    weights = _full_weights(accelerator, model)
    with _disk_errors(path):
        if accelerator.is_main_process:
            partial = path.with_suffix(".partial")
            torch.save({"model": weights, **extras}, partial)
            _flush(partial)
            partial.replace(path)
    accelerator.wait_for_everyone()


def _full_weights(accelerator: Accelerator, model: Any) -> dict[str, Tensor]:
    """The inner model's weights on the CPU, tied ones once in memory; empty off rank 0."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED and model.zero_optimization_stage() == 3:
        state = model._zero3_consolidated_16bit_state_dict()
    else:
        state = accelerator.unwrap_model(model).state_dict()
    if not accelerator.is_main_process:
        return {}
    # A plain save would write each view of DeepSpeed's flat buffer as the whole buffer, and a plain clone tied
    # weights several times.
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        place = (value.data_ptr(), value.shape)
        if place not in copies:
            copies[place] = value.detach().to("cpu", copy=True)
        weights[name.removeprefix("model.")] = copies[place]
    return weights


def load_best(model: nn.Module, path: Path) -> None:
    """Put the weights of a best checkpoint into a prepared, perhaps ZeRO-3-sharded, inner model for evaluation."""
    weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    with torch.no_grad():
        for name, value in weights.items():
            with _gathered(own[name]):
                own[name].copy_(value.to(own[name].dtype))


def _gathered(tensor: Tensor) -> AbstractContextManager[Any]:
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0)
