"""The peak memory of a process, before any weight is loaded: one step on tensors without data, the rest by counting."""

import importlib
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from uni_sign.config import TrainConfig
from uni_sign.engine.launch import deepspeed_config
from uni_sign.engine.run import enable_gradient_checkpointing
from uni_sign.stages.base import Stage

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# On a CPU, glibc maps blocks from this size on by themselves and gives them back; smaller ones stay with the process.
_MAPPED = 32 * 2**20
# Where gradients and state come to lie between activations, their heap grows to about so many times what they take at
# once: fitted to benchmarks/memory.py. DeepSpeed keeps both in a few large blocks, and its runs showed no such growth.
_HEAP = 1.5


@dataclass(frozen=True)
class Forecast:
    """Bytes of one process: ``process``, ``weights`` and ``optimizer`` are held all the time, the rest for moments.

    ``start``: building the model, before there are the others; ``passes``: forward and backward pass with their
    gradients; ``step``: the optimizer's, with them. ``host``: the offloaded optimizer, where that is another memory.
    """

    process: int
    weights: int
    optimizer: int
    start: int
    passes: int
    step: int
    host: int = 0

    @property
    def peak(self) -> int:
        """The most that is held at any time."""
        training = self.weights + self.optimizer + max(self.passes, self.step)
        return self.process + max(self.start, training)


def forecast(stage: Stage, config: TrainConfig, processes: int) -> Forecast:
    """The peak of a process of this run on the device that is there; raises InputError where files are missing."""
    cuda = torch.cuda.is_available()
    process = 0 if cuda else _own_size(config.zero_stage > 0)
    model = stage.meta_model()
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    sizes = [p.numel() for p in model.parameters()]
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    optimizer = optimizer_bytes(model, config)
    start = 0 if cuda else 2 * 4 * sum(sizes)  # the random start, and what is read from the file
    passes = peak_of_passes(stage, model, config, "cuda" if cuda else "cpu")
    if config.zero_stage == 0:
        gradients = 4 * sum(trained)
        buckets = gradients if processes > 1 else 0
        one_update = 4 * max(trained) if config.opt == "adafactor" else 0
        heap = 1 if cuda else _heap_share(trained)
        weights, state = round(4 * sum(sizes) * heap), round(optimizer * heap)
        step = round(gradients * heap) + buckets + one_update
        return Forecast(process, weights, state, start, passes + buckets, step)
    return _with_deepspeed(config, processes, sizes, trained, Forecast(process, 0, optimizer, start, passes, 0))


def _with_deepspeed(
    config: TrainConfig, processes: int, sizes: list[int], trained: list[int], alone: Forecast
) -> Forecast:
    """What ZeRO shares out over the processes, and the buffers that it adds."""
    value, cuda = _DTYPES[config.dtype].itemsize, torch.cuda.is_available()
    zero = deepspeed_config(config, cuda)["zero_optimization"]
    part = sum(trained) / processes
    gradients = value * (sum(trained) if config.zero_stage == 1 and config.gradient_accumulation_steps > 1 else part)
    # A bucket larger than all gradients is never written to its end, which costs nothing on a CPU.
    bucket = value * (zero["reduce_bucket_size"] if cuda else min(zero["reduce_bucket_size"], sum(trained)))
    buckets = bucket * (2 if zero["overlap_comm"] else 1)
    exchanged = value * max(bucket / value, max(trained)) if processes > 1 else 0
    shards = processes if config.zero_stage == 3 else 1
    # Weights that are used again within a billion others stay gathered from the forward pass to the backward pass.
    gathered = value * min(sum(sizes), 10**9) if config.zero_stage == 3 else 0
    if config.zero_stage == 3 and processes > 1:
        gathered += value * min(sum(sizes), 5 * 10**7)  # as they arrive, before each is put together
    # The gradients behind each other for the update, and once more in fp32.
    update = value * part + (4 * part if value < 4 else 0)
    # ZeRO-3 updates weights that are in fp32 already as they are; all else keeps a copy.
    shared = config.zero_stage == 3 and value == 4 and not config.offload
    state = alone.optimizer / processes + (0 if shared else 4 * part)
    host = 0.0
    if config.offload:
        state += 4 * part + value * part  # gradients in fp32, and the updated weights on their way back
        if cuda:
            state, host = 0.0, state
    return Forecast(
        process=alone.process,
        weights=round(value * sum(sizes) / shards),
        optimizer=round(state),
        start=alone.start,
        passes=round(alone.passes + gradients + buckets + exchanged + gathered),
        step=round(gradients + update),
        host=round(host),
    )


def _own_size(deepspeed: bool) -> int:
    """This process has read the same labels as a training process, and loads the same libraries."""
    importlib.import_module("uni_sign.engine.loop")
    if deepspeed:
        importlib.import_module("deepspeed")
        # Imported by DeepSpeed itself in the first backward pass, and with it torch's compiler.
        with suppress(ImportError):
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    return int(psutil.Process().memory_info().rss)


def _heap_share(values: list[int]) -> float:
    """How much larger fp32 tensors of so many values are in the heap, where the small ones of them are."""
    total, small = sum(values), sum(n for n in values if 4 * n < _MAPPED)
    return (_HEAP * small + total - small) / total


def optimizer_bytes(model: nn.Module, config: TrainConfig) -> int:
    """The optimizer's state of all trained parameters, and with ``--ema_decay`` their average."""
    trained = [p for p in model.parameters() if p.requires_grad]
    average = 4 * sum(p.numel() for p in trained) if config.ema_decay else 0
    if config.opt == "adafactor":
        return average + sum(
            4 * (p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.dim() > 1 else p.numel()) for p in trained
        )
    per_value = {"adamw": 8, "adamw8bit": 2, "sgd": 4}[config.opt]
    return average + per_value * sum(p.numel() for p in trained)


def peak_of_passes(stage: Stage, model: nn.Module, config: TrainConfig, device: str) -> int:
    """Bytes that forward and backward pass of the largest batch take beside the weights, gradients included.

    ``model`` is on the meta device, and afterwards no longer: its tensors know device and shape and hold no data.
    """
    deepspeed, dtype = config.zero_stage > 0, _DTYPES[config.dtype]
    if deepspeed:
        model.to(dtype)
    batch = stage.largest_batch(config.batch_size, config.frames_per_batch)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        without_data(model.train(), device)
        batch = tree_map(lambda x: mode.from_tensor(x).to(device) if isinstance(x, Tensor) else x, batch)
        for parameter in model.parameters():
            if deepspeed and parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_take_away)
        counter = _Counter([*model.parameters(), *model.buffers()])
        with counter, _autocast(config, device):
            # With accumulation, a later micro-batch starts with the gradients of the ones before.
            for _ in range(min(2, config.gradient_accumulation_steps)):
                stage.compute_loss(model, batch)[0].backward()
    if device == "cuda":
        return counter.peak
    return round(counter.heap * (1 if deepspeed else _HEAP) + counter.mapped)


def _take_away(parameter: Tensor) -> None:
    """DeepSpeed moves each gradient to its own buffers."""
    parameter.grad = None


def _autocast(config: TrainConfig, device: str) -> AbstractContextManager[Any]:
    if config.zero_stage or config.dtype == "fp32":
        return nullcontext()
    return torch.autocast(device, _DTYPES[config.dtype])


def without_data(model: nn.Module, device: str) -> None:
    """Parameters and buffers on ``device``, tied ones still tied; within a FakeTensorMode they take no memory."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if tensor not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                table[name] = made[tensor]  # type: ignore[assignment]


class _Counter(TorchDispatchMode):
    """Counts the bytes of all storages that live: the most at once, and that of those in the heap and mapped ones."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._seen: Any = weakref.WeakSet(tensor.untyped_storage() for tensor in known)
        self._small = self._large = 0
        self.peak = self.heap = self.mapped = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage)
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _count(self, size: int) -> None:
        if abs(size) < _MAPPED:
            self._small += size
        else:
            self._large += size
        self.peak = max(self.peak, self._small + self._large)
        # The heap never shrinks: what counts is its largest size so far, with what is mapped beside it.
        if max(self.heap, self._small) + self._large > self.heap + self.mapped:
            self.mapped = self._large
        self.heap = max(self.heap, self._small)
