"""A moving average of the weights, in fp32: what is scored and kept with ``--ema_decay``, in place of the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor

from uni_sign.errors import Preempted


def decay_at(decay: float, step: int) -> float:
    """The decay after optimizer step ``step`` (counted from 0): less at first, so that the start is forgotten."""
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """Follows the trained weights, average <- decay * average + (1 - decay) * weights; buffers have none.

    Under DeepSpeed each rank follows its own shard of the fp32 weights that the optimizer steps, not their copies in
    half precision, in which small steps are lost. With a decay of 0 there is no average, and nothing is done.
    """

    def __init__(self, accelerator: Accelerator, model: Any, optimizer: Any, decay: float) -> None:
        self._decay, self._rank, self._ranks = decay, accelerator.process_index, accelerator.num_processes
        self._zero = model.optimizer if accelerator.distributed_type == DistributedType.DEEPSPEED else None
        self._weights = _stepped_weights(self._zero, optimizer) if decay else []
        self._averages = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step ``step`` (counted from 0)."""
        if self._weights:
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay_at(self._decay, step))

    @torch.no_grad()
    def exchange(self) -> None:
        """Collective: the model has the average, and the average the weights; once more puts both back, bit for bit."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        if self._weights and self._zero is not None:
            _hand_on(self._zero)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Collective: the model has the average within; afterwards it goes on with its weights."""
        self.exchange()
        try:
            yield
        except Preempted:  # on all ranks at once, and saved; after another failure nothing is, and ranks may be missing
            self.exchange()
            raise
        self.exchange()

    def save(self, folder: Path) -> None:
        """Into a checkpoint's folder: each rank its shard, without ZeRO the first rank all of it."""
        if self._averages and (self._zero is not None or self._rank == 0):
            torch.save(self._averages, _file(folder, self._rank))

    def load(self, folder: Path, ranks: int) -> None:
        """Back from a checkpoint's folder that so many ranks wrote; for another number ZeRO-1 and 2 are cut anew."""
        if not self._averages:
            return
        whole, same = self._zero is None, ranks == self._ranks
        writers = [0] if whole else [self._rank] if same else list(range(ranks))
        files = [torch.load(_file(folder, rank), map_location="cpu", weights_only=True) for rank in writers]
        for average, *shards in zip(self._averages, *files, strict=True):
            average.copy_(shards[0] if whole or same else recut(shards, average.numel(), self._rank))


def recut(shards: list[Tensor], size: int, rank: int) -> Tensor:
    """The shard (size,) of ``rank`` from those (n,) of other ranks: one row in all, with padding at its end."""
    row = torch.cat(shards)
    own = row.new_zeros(size)
    part = row[rank * size : (rank + 1) * size]
    own[: len(part)] = part
    return own


def _file(folder: Path, rank: int) -> Path:
    return folder / f"average_{rank}.pt"


def _stepped_weights(zero: Any, optimizer: Any) -> list[Tensor]:
    """What the optimizer steps: ZeRO's shards in fp32, or the parameters themselves."""
    if zero is None:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shards = zero.fp32_partitioned_groups_flat if _is_stage_3(zero) else zero.single_partition_of_fp32_groups
    return list(shards)


def _is_stage_3(zero: Any) -> bool:
    return hasattr(zero, "fp32_partitioned_groups_flat")


def _hand_on(zero: Any) -> None:
    """Collective: the model's weights from ZeRO's shards in fp32, as ZeRO itself does at the end of a step."""
    if not _is_stage_3(zero):
        zero.update_lp_params()
        return
    zero._partition_all_parameters()
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    zero._post_step(())
