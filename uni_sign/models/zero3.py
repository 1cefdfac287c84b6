"""What ZeRO-3 asks of a model: every rank calls the modules that hold shared-out weights equally often."""

import torch
import torch.distributed as dist
from torch import Tensor


def most_of_all_ranks(counts: list[int], weight: Tensor) -> list[int]:
    """``counts``; where ZeRO-3 gathers ``weight`` at each call, the highest of all ranks, so that all call alike."""
    if not hasattr(weight, "ds_id") or not dist.is_initialized():
        return counts
    most = torch.tensor(counts, device=weight.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most.tolist()


def rows_of(weight: Tensor, ids: Tensor) -> Tensor:
    """A copy of the rows ``ids`` (K,) of ``weight``; where ZeRO-3 shares it out, gathered for that: collective."""
    if not hasattr(weight, "ds_id"):
        return weight.detach()[ids]
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight]):
        return weight.detach()[ids]
