"""Batch normalisation whose statistics are those of the whole micro-batch of all ranks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BatchNormMode = Literal["sync", "pooled", "frozen"]


class FrameBatchNorm(nn.BatchNorm2d):
    """Batch norm over packed frames (1, C, L, V), in two halves: `normalize`, then this module's scale and shift.

    ``mode``: ``sync`` takes the statistics over all ranks, so that a batch gives the same numbers however it
    is split over processes; ``pooled`` also over all parts that share this norm; ``frozen`` uses the running
    statistics in training too (small batches, and exact gradient accumulation). Statistics are kept in float32.
    """

    mode: BatchNormMode = "sync"
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    @property
    def fixed(self) -> bool:
        """Whether it normalises by its running statistics: in evaluation, and where they are frozen."""
        return not self.training or self.mode == "frozen"

    @property
    def pools_parts(self) -> bool:
        """Whether parts that share this norm are normalised by the same numbers, so that they may be one map."""
        return self.fixed or self.mode == "pooled"

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FrameBatchNorm":
        # In bf16 a running mean of 80 is off by a quarter, and no longer moves: a cast to half spares the statistics.
        kept = {name: getattr(self, name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float32:
                setattr(self, name, moved.float() if before.is_meta else before.to(moved.device))
        return self

    def forward(self, normalized: Tensor) -> Tensor:
        """Scale and shift what `normalize` gave."""
        return torch.addcmul(self.bias[:, None, None], normalized, self.weight[:, None, None])

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, rows: Tensor) -> None:
        """Move the running statistics towards the mean and biased variance (C,) of ``rows`` rows; 0: not at all."""
        assert self.momentum is not None
        self.num_batches_tracked.add_(rows > 0)
        weight = self.momentum * (rows > 0).float()
        self.running_mean.lerp_(mean.float(), weight)
        self.running_var.lerp_((variance * (rows / (rows - 1).clamp(min=1))).float(), weight)


def normalize(
    maps: Sequence[Tensor], shifts: Sequence[Tensor], norms: Sequence[FrameBatchNorm], counted: bool = True
) -> list[Tensor]:
    """Zero mean and unit variance for each map (1, C_i, L, V_i) + shift (C_i,), in the mode of its norm; dtypes stay.

    A batch's own statistics take the shift away again, so it is never added: what it would cost is precision, a
    bias being up to eighty deviations of the map in early channels, which in bf16 is a third of a deviation lost.

    L_i is the same multiple of the first map's frames on every rank. All maps share one exchange between the ranks,
    and one in the backward pass: a layer's parts wait for each other once, not once each.
    Maps of clips that only fill a place (``counted`` false) are normalised like all others, but leave no trace in the
    statistics; a batch of nothing else takes the running ones.
    """
    norm = norms[0]
    if norm.fixed:
        return [_fixed(x, shift, own) for x, shift, own in zip(maps, shifts, norms, strict=True)]
    floats = [x.float() for x in maps]
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    frames, centres, inverse = _statistics.get()(lambda: _measured(floats, shifts, norms, ranks, counted))
    normalized = _Normalize.apply(frames, ranks, counted, len(maps), *centres, *inverse, *shifts, *floats)
    return [y.to(x.dtype) for y, x in zip(normalized, maps, strict=True)]


class _Statistics(NamedTuple):
    """What maps are normalised by: their frames () over all ranks, centres and inverse deviations (C_i,)."""

    frames: Tensor
    centres: list[Tensor]
    inverse: list[Tensor]


# How `normalize` comes by the statistics: it measures them, but in the recomputation of `checkpointed`.
_statistics: ContextVar[Callable[[Callable[[], _Statistics]], _Statistics]] = ContextVar(
    "statistics", default=lambda measure: measure()
)


def checkpointed(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, recomputed in the backward pass instead of kept, but for the statistics of its norms.

    They are a few numbers a channel: measured, exchanged between ranks and tracked once, in the first pass.
    """
    kept: list[_Statistics] = []
    contexts = _Keeping(kept), _Recalling(kept)
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: contexts)


class _Keeping(AbstractContextManager[None]):
    """Within it, `normalize` keeps the statistics that it measures."""

    def __init__(self, kept: list[_Statistics]) -> None:
        self._kept = kept

    def __enter__(self) -> None:
        self._before = _statistics.set(self._source())

    def __exit__(self, *_: object) -> None:
        _statistics.reset(self._before)

    def _source(self) -> Callable[[Callable[[], _Statistics]], _Statistics]:
        def keep(measure: Callable[[], _Statistics]) -> _Statistics:
            self._kept.append(measure())
            return self._kept[-1]

        return keep


class _Recalling(_Keeping):
    """Within it, `normalize` takes the kept statistics in the same order."""

    def _source(self) -> Callable[[Callable[[], _Statistics]], _Statistics]:
        again = iter(self._kept)
        return lambda _: next(again)


def _measured(
    maps: Sequence[Tensor], shifts: Sequence[Tensor], norms: Sequence[FrameBatchNorm], ranks: int, counted: bool
) -> _Statistics:
    """The statistics of a batch over all ranks; they move the running ones."""
    means, variances, frames = _moments(maps, ranks, counted)
    centres, inverse = [], []
    for x, shift, own, mean, variance in zip(maps, shifts, norms, means, variances, strict=True):
        centres.append(torch.where(frames > 0, mean, own.running_mean - shift.detach()).float())
        inverse.append(torch.rsqrt(torch.where(frames > 0, variance, own.running_var) + own.eps).float())
        own.track(mean + shift, variance, frames * _rows_per_frame(x, maps[0]))
    return _Statistics(frames, centres, inverse)


def _fixed(x: Tensor, shift: Tensor, norm: FrameBatchNorm) -> Tensor:
    shifted = x.float() + shift.float()[:, None, None]
    return F.batch_norm(shifted, norm.running_mean, norm.running_var, eps=norm.eps).to(x.dtype)


def _rows_per_frame(x: Tensor, first: Tensor) -> int:
    """Rows of a map for each frame of the first one: its points, and twice that where it holds two parts."""
    return x.shape[2] * x.shape[3] // first.shape[2]


def _moments(maps: Sequence[Tensor], ranks: int, counted: bool) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Means and biased variances (C_i,) of each map, and the first map's frames (), over all ranks (Chan's formula).

    In float64 so that they round to the same float32 numbers however the frames are split: early channels have a
    mean of eighty deviations, and whatever differs there grows from layer to layer.
    """
    flat = [x.detach().flatten(2)[0].double() for x in maps]
    # Two plain passes: torch.var_mean takes several times as long on a CPU.
    local_means = [x.mean(1) for x in flat]
    local_variances = [(x - mean[:, None]).square_().mean(1) for x, mean in zip(flat, local_means, strict=True)]
    frames = flat[0].new_tensor([maps[0].shape[2] if counted else 0])
    if ranks == 1:
        return local_means, local_variances, frames[0]
    local = torch.cat([*local_means, *local_variances, frames])
    table = local.new_empty(ranks, len(local))
    dist.all_gather(list(table.unbind()), local)
    sizes = [x.shape[1] for x in maps]
    means, variances, counts = table[:, : sum(sizes)], table[:, sum(sizes) : -1], table[:, -1:]
    total = counts.sum()
    mean = (means * counts).sum(0) / total.clamp(min=1)
    variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total.clamp(min=1)
    return list(mean.split(sizes)), list(variance.split(sizes)), total


class _Normalize(torch.autograd.Function):
    """y_i = (x_i - mean_i) * inverse_i, where mean and inverse deviation depend on every rank's rows.

    The shifts take part for their gradient alone, which is 0: left out, they would be unused parameters.
    One rank takes the same way as several: torch's own batch norm adds up in another order, and one process would
    not give the numbers of two.
    """

    @staticmethod
    def forward(
        ctx: Any, frames: Tensor, ranks: int, counted: bool, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        means, inverse, _, maps = (tensors[i * count : (i + 1) * count] for i in range(4))
        normalized = tuple(
            (x - mean[:, None, None]).mul_(scale[:, None, None])
            for x, mean, scale in zip(maps, means, inverse, strict=True)
        )
        ctx.ranks, ctx.counted, ctx.count = ranks, counted, count
        ctx.save_for_backward(frames, *inverse, *normalized)
        return normalized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        frames, *saved = ctx.saved_tensors
        inverse, normalized = saved[: ctx.count], saved[ctx.count :]
        sizes = [len(scale) for scale in inverse]
        own = [g.double().sum((0, 2, 3)) for g in grads]
        product = [(g * y).double().sum((0, 2, 3)) for g, y in zip(grads, normalized, strict=True)]
        sums = torch.cat([*own, *product])
        if ctx.ranks > 1:
            dist.all_reduce(sums)
        # What left no trace in the statistics gets nothing back through them.
        share = ctx.counted / frames.clamp(min=1)
        points = [_rows_per_frame(g, grads[0]) for g in grads]
        means = [(part * share / v).float() for part, v in zip(sums.split([*sizes, *sizes]), points * 2, strict=True)]
        # (g - mean(g) - y mean(g y)) * scale, in two passes over the map.
        results = [
            torch.addcmul(-(scale * mean_g)[:, None, None], y, -(scale * mean_gy)[:, None, None]).addcmul_(
                g, scale[:, None, None]
            )
            for g, y, scale, mean_g, mean_gy in zip(
                grads, normalized, inverse, means[: ctx.count], means[ctx.count :], strict=True
            )
        ]
        shifts = [torch.zeros_like(scale) for scale in inverse]
        return (None, None, None, None, *[None] * (2 * ctx.count), *shifts, *results)


def set_batch_norm_mode(module: nn.Module, mode: BatchNormMode) -> None:
    """Switch every FrameBatchNorm below ``module`` to ``mode``."""
    for child in module.modules():
        if isinstance(child, FrameBatchNorm):
            child.mode = mode
