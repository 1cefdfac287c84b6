"""Checkpoints: written beside, flushed to disk, renamed, then marked complete; and exact resume from them.

checkpoints/step_00000500/ holds `state.json` (the loop's counters), `rng_<rank>.pt`, the model and optimizer
(`deepspeed/` shards of all ranks, or `training.pt`), `average_<rank>.pt` with --ema_decay, and `manifest.json`,
written last: sizes and CRC-32 of all files.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from torch import Tensor, nn

from uni_sign.engine.averaging import WeightAverage
from uni_sign.errors import InputError, one_line
from uni_sign.stages.base import BestFile

_MANIFEST = "manifest.json"
_TAG = "deepspeed"
_BLOCK = 1 << 23
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
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
    global_frames: int = 0
    clips: int = 0
    seed: int = 0
    vocabulary: str = ""
    frozen_inputs: str = ""
    order: int = 0
    lr_scale: float = 1.0
    stale: int = 0
    ema_decay: float = 0.0
    score_to_beat: float | None = None
    waited: int = 0


class Checkpoints:
    """Writes checkpoints/step_<step> of a run, and keeps the newest ``keep`` complete ones.

    `save` returns once all ranks have written their state; flushing it to disk, checksums, the rename and the removal
    of older checkpoints go on in a thread of rank 0 while the run trains. `finish` waits for that.
    """

    def __init__(self, output_dir: Path, keep: int, main: bool) -> None:
        self._root, self._keep, self._main = output_dir / "checkpoints", keep, main
        self._publisher: threading.Thread | None = None
        self._failure: InputError | None = None
        if main:
            for left in [*self._root.glob(".step_*.partial"), *self._root.glob(".step_*.old")]:
                shutil.rmtree(left, ignore_errors=True)

    def save(
        self, accelerator: Accelerator, model: Any, optimizer: Any, average: WeightAverage, state: RunState
    ) -> None:
        """Collective: everything a run needs to go on exactly. Raises InputError on every rank where one cannot."""
        folder = self._root / f"step_{state.step:08d}"
        partial = folder.with_name(f".{folder.name}.partial")
        self._settle()
        failure = self._failure
        if self._main and failure is None:
            failure = _attempt(folder, lambda: _make_empty(partial))
        _agree(failure)
        with _disk_errors(folder):
            # DeepSpeed's ranks wait for each other within: one that fails ends, which ends the others.
            _write_deepspeed(accelerator, model, partial)

        def write() -> None:
            average.save(partial)
            _write_own_state(accelerator, model, optimizer, state, partial)

        failure = _attempt(folder, write)
        try:
            _agree(failure)
        except InputError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if self._main:
            self._publisher = threading.Thread(target=self._publish, args=(partial, folder), name="publisher")
            self._publisher.start()

    def finish(self) -> None:
        """Wait for the last checkpoint; raises InputError where it could not be completed."""
        self._settle()
        if self._failure is not None:
            raise self._failure

    def _settle(self) -> None:
        if self._publisher is not None:
            self._publisher.join()
            self._publisher = None

    def _publish(self, partial: Path, folder: Path) -> None:
        def publish() -> None:
            _publish(partial, folder)
            _prune(self._root, self._keep)

        self._failure = _attempt(folder, publish)


def _attempt(folder: Path, work: Callable[[], object]) -> InputError | None:
    """Do disk work; what goes wrong comes back as one sentence."""
    try:
        with _disk_errors(folder):
            work()
    except InputError as error:
        return error
    return None


def _agree(failure: InputError | None) -> None:
    """Collective: raise InputError on every rank where any has one."""
    failures = gather_object([str(failure)] if failure else [])
    if failures:
        raise InputError(failures[0])


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_deepspeed(accelerator: Accelerator, model: Any, folder: Path) -> None:
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.save_checkpoint(str(folder), tag=_TAG)


def _write_own_state(accelerator: Accelerator, model: Any, optimizer: Any, state: RunState, folder: Path) -> None:
    torch.save(_rng_state(), folder / f"rng_{accelerator.process_index}.pt")
    if not accelerator.is_main_process:
        return
    (folder / "state.json").write_text(json.dumps(asdict(state)))
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        training = {
            "model": accelerator.unwrap_model(model).state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
        }
        torch.save(training, folder / "training.pt")


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


def _publish(partial: Path, folder: Path) -> None:
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    content = {str(path.relative_to(partial)): [path.stat().st_size, _crc32(path)] for path in files}
    aside = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(aside)
    partial.rename(folder)
    _flush(folder.parent)
    manifest = folder / f"{_MANIFEST}.partial"
    manifest.write_text(json.dumps(content, indent=1))
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


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _prune(folder: Path, keep: int) -> None:
    complete = [path for path in _oldest_first(folder) if problem_of(path) is None]
    for path in complete[:-keep]:
        # Out of sight first: a killed removal leaves nothing that looks like a checkpoint; the next run clears it away.
        aside = path.with_name(f".{path.name}.old")
        path.rename(aside)
        shutil.rmtree(aside)


def _oldest_first(folder: Path) -> list[Path]:
    """Checkpoints in the order they were written: a run that went back to an earlier step has newer, lower ones."""

    def written(path: Path) -> tuple[int, str]:
        manifest = path / _MANIFEST
        return (manifest if manifest.exists() else path).stat().st_mtime_ns, path.name

    return sorted(folder.glob("step_*"), key=written)


def problem_of(folder: Path, checksums: bool = False) -> str | None:
    """Why a checkpoint folder cannot be resumed from, or None; ``checksums``: read every byte of it, too."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        content = json.loads((folder / _MANIFEST).read_text())
        promised = [(name, int(size), int(crc)) for name, (size, crc) in content.items()]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return "it was not finished"
    for name, size, crc in promised:
        if _size(folder / name) != size:
            return one_line(f"{name} is missing or cut")
        if checksums and _crc32(folder / name) != crc:
            return one_line(f"{name} is damaged")
    return None


def _size(file: Path) -> int | None:
    """The size of a file; None where there is none, or its name can be none."""
    try:
        return file.stat().st_size if file.is_file() else None
    except (OSError, ValueError):
        return None


def find_resume(output_dir: Path, resume: str, checksums: bool = False) -> tuple[Path | None, list[str]]:
    """The checkpoint of ``--resume`` (None: nothing to resume), and a sentence for each one passed over."""
    if resume != "auto":
        folder = Path(resume)
        problem = problem_of(folder, checksums)
        if problem:
            raise InputError(f"--resume {folder} is no complete checkpoint: {problem}.")
        return folder.resolve(), []
    passed: list[str] = []
    for folder in reversed(_oldest_first(output_dir / "checkpoints")):
        problem = problem_of(folder, checksums)
        if problem is None:
            return folder, passed
        passed.append(f"Checkpoint {folder} is passed over: {problem}.")
    return None, passed


_SET_UP = {
    "zero_stage": "--zero_stage",
    "global_batch": "the clips per step (--batch_size x --gradient_accumulation_steps x processes)",
    "global_frames": "the frames per step (--frames_per_batch x --gradient_accumulation_steps x processes)",
    "clips": "the number of usable training clips",
    "seed": "--seed",
    "ema_decay": "--ema_decay",
    "vocabulary": "the trimmed vocabulary (--trim_vocab)",
    "frozen_inputs": "the digest of what frozen models make of the clips (--autoencoder_path, --wav2vec_model_path, "
    "--emotion_model_path, --only_last_features, --fps, --motion_scale, --finetune; --mt5)",
    "order": "the digest of the training clips' lengths and order (their files, --max_length, --frames_per_batch, "
    "with --stream --stream_buffer and the number of machines)",
}


def read_state(folder: Path, own: RunState) -> RunState:
    """The loop's counters of a checkpoint; raises InputError where it belongs to another set-up than ``own``.

    The number of processes may be another one, where the clips per step are not.
    """
    try:
        state = RunState(**json.loads((folder / "state.json").read_text()))
        _check_types(state)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / 'state.json'} cannot be read: {error}.") from error
    for name, meaning in _SET_UP.items():
        theirs, ours = getattr(state, name), getattr(own, name)
        if name == "frozen_inputs" and not theirs:
            continue  # written before checkpoints said it
        if theirs != ours:
            theirs, ours = (value if value != "" else "none" for value in (theirs, ours))
            raise InputError(f"{folder} cannot be resumed: {meaning} was {theirs} there and is {ours} here.")
    return state


def _check_types(state: RunState) -> None:
    for counter in fields(RunState):
        value = getattr(state, counter.name)
        if counter.type is int and (type(value) is not int or not 0 <= value < 1 << 63):
            raise ValueError(f"{counter.name} is no whole number from 0")
    if type(state.best_score) not in (int, float, type(None)) or type(state.tracker_id) not in (str, type(None)):
        raise ValueError("best_score is no number, or tracker_id no text")
    if type(state.lr_scale) not in (int, float) or not 0 < state.lr_scale <= 1:
        raise ValueError("lr_scale is no number above 0, and at most 1")
    if type(state.ema_decay) not in (int, float) or type(state.score_to_beat) not in (int, float, type(None)):
        raise ValueError("ema_decay or score_to_beat is no number")
    if type(state.vocabulary) is not str or type(state.frozen_inputs) is not str:
        raise ValueError("vocabulary or frozen_inputs is no text")


def load(
    accelerator: Accelerator, model: Any, optimizer: Any, average: WeightAverage, folder: Path, state: RunState
) -> None:
    """Collective: put weights, their average, optimizer and random states back as they were.

    Where another number of processes wrote them, shards are cut anew and random states left as they are.
    """
    resharded = state.world_size != accelerator.num_processes
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        training = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        accelerator.unwrap_model(model).load_state_dict(training["model"])
        optimizer.load_state_dict(training["optimizer"])
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(training["scaler"])
    elif resharded:
        _load_resharded(accelerator, model, folder)
    else:
        model.load_checkpoint(str(folder), tag=_TAG)
    average.load(folder, state.world_size)
    if not resharded:
        _set_rng_state(torch.load(folder / f"rng_{accelerator.process_index}.pt", weights_only=True))


def _load_resharded(accelerator: Accelerator, model: Any, folder: Path) -> None:
    """Through DeepSpeed's universal form, which holds whole tensors and is removed afterwards."""
    whole = folder.with_name(f".{folder.name}.universal")
    failure = None
    if accelerator.is_main_process:
        shutil.rmtree(whole, ignore_errors=True)
        places = ("--input_folder", str(folder / _TAG), "--output_folder", str(whole / _TAG))
        words = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *places, "--inject_missing_state"]
        environment = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:]
            failure = InputError(
                f"{folder} cannot be shared out over {accelerator.num_processes} processes "
                f"({''.join(reason)}): resume it with as many as wrote it."
            )
    _agree(failure)
    model._config.load_universal_checkpoint = True
    try:
        model.load_checkpoint(str(whole), tag=_TAG)
    finally:
        model._config.load_universal_checkpoint = False
    # That form holds what is trained alone: running statistics and frozen weights come from the file of all weights.
    content = torch.load(folder / _TAG / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
    accelerator.unwrap_model(model).load_state_dict(content["module"])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(whole, ignore_errors=True)


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


def save_best(
    accelerator: Accelerator, model: Any, optimizer: Any, extras: Mapping[str, Any], best: BestFile, folder: Path
) -> None:
    """Collective: weights and ``extras`` as one file that `torch.load(weights_only=True)` reads."""
    weights = {name: value for name, value in _full_weights(accelerator, model).items() if _belongs(name, best.part)}
    content: dict[str, Any] = {best.weights: weights, **extras}
    if best.optimizer and accelerator.distributed_type != DistributedType.DEEPSPEED:
        content[best.optimizer] = optimizer.state_dict()
    path = folder / best.name
    with _disk_errors(path):
        if accelerator.is_main_process:
            partial = path.with_suffix(".partial")
            torch.save(content, partial)
            _flush(partial)
            partial.replace(path)
    accelerator.wait_for_everyone()


def _belongs(name: str, part: str) -> bool:
    return not part or name.startswith(f"{part}.")


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


def load_best(model: nn.Module, path: Path, key: str) -> None:
    """Put the weights of a best checkpoint into a prepared, perhaps ZeRO-3-sharded, inner model for evaluation."""
    weights = torch.load(path, map_location="cpu", weights_only=True)[key]
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
