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

from uni_sign.models.frame_layout import FrameLayout

BatchNormMode = Literal["sync", "pooled", "frozen"]


class FrameBatchNorm(nn.BatchNorm2d):
    """Parameters and running statistics of a batch norm over frames; `normalized_relu` does the work.

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

    def forward(self, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """The shift as it came, and scale and offset (C,) in float32: copies, made where ZeRO-3 has them gathered."""
        return shift, self.weight.to(torch.float32, copy=True), self.bias.to(torch.float32, copy=True)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, rows: Tensor) -> None:
        """Move the running statistics towards the mean and biased variance (C,) of ``rows`` rows; 0: not at all."""
        assert self.momentum is not None
        self.num_batches_tracked.add_(rows > 0)
        weight = self.momentum * (rows > 0).float()
        self.running_mean.lerp_(mean.float(), weight)
        self.running_var.lerp_((variance * (rows / (rows - 1).clamp(min=1))).float(), weight)


class Rule(NamedTuple):
    """How a map is normalised: its norm, where its frames lie, and whether ReLU comes last."""

    norm: FrameBatchNorm
    layout: FrameLayout
    relu: bool = True


class Case(NamedTuple):
    """A map (C, V, L), packed or spaced, with what is to be added to it before (C, V or 1), and after it is normalised.

    ``residual`` is a map of the same shape, or None.
    """

    rule: Rule
    x: Tensor
    shift: Tensor
    residual: Tensor | None = None


def normalize(cases: Sequence[Case]) -> list[Tensor]:
    """relu(batch norm of (x + shift), plus the residual) of each case, whose ``x`` it overwrites; dtypes stay.

    A batch's own statistics take the mean shift of a channel away again, so it is never added: what it would cost is
    precision, a bias being up to eighty deviations of the map in early channels, which in bf16 is a third of a
    deviation lost.

    All maps share one exchange between the ranks, and one in the backward pass: a layer's parts wait for each other
    once, not once each. The i-th map's frames are the same multiple of the first one's on every rank.
    Maps of clips that only fill a place (``counted`` false) are normalised like all others, but leave no trace in the
    statistics; a batch of nothing else takes the running ones.
    """
    affine = [case.rule.norm(case.shift) for case in cases]
    if cases[0].rule.norm.fixed:
        return [_fixed(case, *of_norm) for case, of_norm in zip(cases, affine, strict=True)]
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    # Of a shift only what tells the points of a channel apart.
    local = [shift.float() - shift.float().mean(1, keepdim=True) for shift, _, _ in affine]
    found, frames = _statistics(cases, local, ranks)
    tensors = [
        tensor
        for case, shift, (_, weight, bias) in zip(cases, local, affine, strict=True)
        for tensor in (case.x, shift, weight, bias, case.residual)
    ]
    return list(_Normalize.apply([case.rule for case in cases], found, frames, ranks, *tensors))


def normalize_images(norm: FrameBatchNorm, images: Tensor, shift: Tensor, counted: bool, relu: bool) -> Tensor:
    """Batch norm of images (n, C, H, W), to which a shift (C,) is to be added before; see `normalize`."""
    count, channels, *size = images.shape
    rows = images.transpose(0, 1).reshape(channels, 1, -1)
    layout = FrameLayout([rows.shape[-1]], counted, images.device)
    [rows] = normalize([Case(Rule(norm, layout, relu), rows, shift[:, None])])
    return rows.view(channels, count, *size).transpose(0, 1)


def _fixed(case: Case, shift: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    norm = case.rule.norm
    offset = bias[:, None] + shift.float() * (weight * torch.rsqrt(norm.running_var + norm.eps))[:, None]
    y = _transformed(case.x, norm.running_mean, norm.running_var, norm.eps, weight, offset)
    return _finished(y, case.rule, case.residual)


def _finished(y: Tensor, rule: Rule, residual: Tensor | None) -> Tensor:
    """Residual, empty gaps and ReLU, in place; in this order no step overwrites what the backward pass needs."""
    y = rule.layout.clear(y if residual is None else y.add_(residual))
    return y.relu_() if rule.relu else y


def _transformed(x: Tensor, mean: Tensor, variance: Tensor, eps: float, weight: Tensor, offset: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + offset in one pass over the map; all (C,), or offset (C, V or 1)."""
    channels, points, _ = x.shape
    mean, variance, weight, offset = (_per_row(value, points) for value in (mean, variance, weight, offset))
    return F.batch_norm(x.reshape(1, channels * points, -1), mean, variance, weight, offset, eps=eps).view(x.shape)


def _per_row(value: Tensor, points: int) -> Tensor:
    """(C,) or (C, V or 1) -> (C * V,)."""
    return (value if value.dim() > 1 else value[:, None]).expand(-1, points).flatten()


class _Statistics(NamedTuple):
    """A map less about this rank's mean, in float32 with empty gaps, and what normalises it."""

    centred: Tensor
    point_sums: Tensor  # (C, V) float64: its sums over the frames
    mean: Tensor  # (C,) float32: of all ranks' rows, less what was taken away
    variance: Tensor  # (C,) float32


@torch.no_grad()
def _statistics(cases: Sequence[Case], local: Sequence[Tensor], ranks: int) -> tuple[list[_Statistics], Tensor]:
    """Of all ranks' rows, with the running ones moved towards them; and the first map's frames ()."""
    own = [_own_moments(case.x, shift, case.rule.layout) for case, shift in zip(cases, local, strict=True)]
    own_means = [
        about + sums.sum(1) / (case.rule.layout.frames * sums.shape[1])
        for case, (_, sums, about, _) in zip(cases, own, strict=True)
    ]
    moments = _moments.get()(lambda: _agreed_moments(cases, own_means, [v for *_, v in own], ranks))
    found = [
        _Statistics(centred, sums, (mean - about).float(), variance.float())
        for (centred, sums, about, _), mean, variance in zip(own, moments.means, moments.variances, strict=True)
    ]
    return found, moments.frames


class _Moments(NamedTuple):
    """Means and variances (C_i,) of all ranks' rows, in float64, and the first map's frames ()."""

    means: list[Tensor]
    variances: list[Tensor]
    frames: Tensor


# How `normalize` comes by moments of all ranks: it agrees on them, but in the recomputation of `checkpointed`.
_moments: ContextVar[Callable[[Callable[[], _Moments]], _Moments]] = ContextVar(
    "moments", default=lambda agree: agree()
)


def checkpointed(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, recomputed in the backward pass instead of kept, but for the moments of its norms.

    They are a few numbers a channel: exchanged between ranks and tracked once, in the first pass.
    """
    kept: list[_Moments] = []
    contexts = _Keeping(kept), _Recalling(kept)
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: contexts)


class _Keeping(AbstractContextManager[None]):
    """Within it, `normalize` keeps the moments that it takes."""

    def __init__(self, kept: list[_Moments]) -> None:
        self._kept = kept

    def __enter__(self) -> None:
        self._before = _moments.set(self._source())

    def __exit__(self, *_: object) -> None:
        _moments.reset(self._before)

    def _source(self) -> Callable[[Callable[[], _Moments]], _Moments]:
        def keep(agree: Callable[[], _Moments]) -> _Moments:
            self._kept.append(agree())
            return self._kept[-1]

        return keep


class _Recalling(_Keeping):
    """Within it, `normalize` takes the kept moments in the same order."""

    def _source(self) -> Callable[[Callable[[], _Moments]], _Moments]:
        again = iter(self._kept)
        return lambda _: next(again)


def _agreed_moments(
    cases: Sequence[Case], own_means: Sequence[Tensor], own_variances: Sequence[Tensor], ranks: int
) -> _Moments:
    """Those of all ranks' rows, which move the running ones; the running ones where no row counts."""
    first = cases[0].rule.layout
    counted = own_means[0].new_tensor([first.frames * first.counted])
    means, variances, frames = _over_ranks(own_means, own_variances, counted, ranks)
    found = _Moments([], [], frames)
    for case, mean, variance in zip(cases, means, variances, strict=True):
        norm, bias = case.rule.norm, case.shift.double().mean(1)
        norm.track(mean + bias, variance, frames * _rows_per_frame(case.x, case.rule.layout, first))
        found.means.append(torch.where(frames > 0, mean, norm.running_mean - bias))
        found.variances.append(torch.where(frames > 0, variance, norm.running_var))
    return found


def _own_moments(x: Tensor, local: Tensor, layout: FrameLayout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The map less about its mean, in place; its sums over frames (C, V) then; what was taken away, and its variance.

    Sums in float32 serve: the mean is taken once more of what is left, which is small, and points add up in float64.
    It must not hang on how the frames are split over ranks: early channels have a mean of eighty deviations, and
    whatever differs there grows from layer to layer.
    """
    # Not detach(): autograd would take the map for changed, and go back through it by way of a copy.
    x = layout.clear(x.data.float())
    rows = layout.frames * x.shape[1]
    about = (x.sum(2).double().sum(1) / rows).float()
    layout.clear(x.sub_((about[:, None] - local)[:, :, None]))
    sums = x.sum(2).double()
    square = torch.linalg.vector_norm(x, dim=2).double().square().sum(1) / rows
    return x, sums, about.double(), square - (sums.sum(1) / rows).square()


def _over_ranks(
    means: Sequence[Tensor], variances: Sequence[Tensor], frames: Tensor, ranks: int
) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor]:
    """Means and biased variances (C_i,) of each map, and the first map's frames (), over all ranks (Chan's formula)."""
    if ranks == 1:
        return means, variances, frames[0]
    local = torch.cat([*means, *variances, frames])
    table = local.new_empty(ranks, len(local))
    dist.all_gather(list(table.unbind()), local)
    sizes = [len(mean) for mean in means]
    every_mean, every_variance, counts = table[:, : sum(sizes)], table[:, sum(sizes) : -1], table[:, -1:]
    total = counts.sum()
    mean = (every_mean * counts).sum(0) / total.clamp(min=1)
    variance = ((every_variance + (every_mean - mean) ** 2) * counts).sum(0) / total.clamp(min=1)
    return mean.split(sizes), variance.split(sizes), total


def _rows_per_frame(x: Tensor, layout: FrameLayout, first: FrameLayout) -> int:
    """Rows of a map for each frame of the first one: its points, and twice that where it holds two parts."""
    return layout.frames * x.shape[1] // first.frames


class _Normalize(torch.autograd.Function):
    """h_i = relu((x_i - mean_i) / deviation_i * weight_i + bias_i + residual_i), the moments being of all ranks' rows.

    One rank takes the same way as several: torch's own batch norm adds up in another order, and one process would
    not give the numbers of two. Of a map only its centred form and h_i are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, rules: list[Rule], found: list[_Statistics], frames: Tensor, ranks: int, *tensors: Any
    ) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        saved = [frames]
        for rule, of_map, (x, local, weight, bias, residual) in zip(rules, found, _groups(tensors, 5), strict=True):
            h = _transformed(of_map.centred, of_map.mean, of_map.variance, rule.norm.eps, weight, bias).to(x.dtype)
            outputs.append(_finished(h, rule, residual))
            saved += [of_map.centred.to(x.dtype), outputs[-1], *of_map[1:], weight, local]
        ctx.rules, ctx.ranks = rules, ranks
        ctx.save_for_backward(*saved)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        frames, *saved = ctx.saved_tensors
        maps = [_Backward(rule, *kept) for rule, kept in zip(ctx.rules, _groups(saved, 7), strict=True)]
        masked = [of_map.before_relu(grad) for of_map, grad in zip(maps, grads, strict=True)]
        own = [of_map.sums(g) for of_map, g in zip(maps, masked, strict=True)]
        flat = torch.cat([part.sum(1) for pair in own for part in pair])
        if ctx.ranks > 1:
            dist.all_reduce(flat)
        first = ctx.rules[0].layout
        # What left no trace in the statistics gets nothing back through them.
        flat = flat * first.counted / frames.clamp(min=1)
        totals = _groups(flat.split([len(part) for pair in own for part in pair]), 2)
        results: list[Tensor | None] = [None] * 4
        for of_map, g, (g_sums, gy_sums), pair in zip(maps, masked, own, totals, strict=True):
            rows = _rows_per_frame(g, of_map.rule.layout, first)
            x, local = of_map.gradients(g, g_sums, *(total / rows for total in pair))
            results += [x, local, gy_sums.sum(1).float(), g_sums.sum(1).float(), g.to(x.dtype)]
        return tuple(r if needed else None for r, needed in zip(results, ctx.needs_input_grad, strict=True))


class _Backward(NamedTuple):
    """What the backward pass knows of a map; y is the normalised one, g the gradient before ReLU."""

    rule: Rule
    centred: Tensor
    h: Tensor
    point_sums: Tensor
    mean: Tensor
    variance: Tensor
    weight: Tensor
    local: Tensor

    @property
    def inverse(self) -> Tensor:
        return torch.rsqrt(self.variance + self.rule.norm.eps)

    def before_relu(self, grad: Tensor) -> Tensor:
        """``g`` in float32, with empty gaps: those of h are zero, and let nothing pass through ReLU."""
        if self.rule.relu:
            return torch.ops.aten.threshold_backward(grad.contiguous(), self.h, 0).float()
        return self.rule.layout.clear(grad.contiguous().to(torch.float32, copy=True))

    def sums(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the frames of ``g`` and ``g y``, (C, V) in float64, in one pass over both."""
        channels, points, _ = g.shape
        rows = (1, channels * points, -1)
        mean, inverse = _per_row(self.mean, points), _per_row(self.inverse, points)
        _, product, total = torch.ops.aten.native_batch_norm_backward(
            g.view(rows),
            self.centred.float().view(rows),
            inverse,
            None,
            None,
            mean,
            inverse,
            True,
            0.0,
            [False, True, True],
        )
        return total.view(channels, points).double(), product.view(channels, points).double()

    def gradients(self, g: Tensor, g_sums: Tensor, mean_g: Tensor, mean_gy: Tensor) -> tuple[Tensor, Tensor]:
        """(g - mean(g) - y mean(g y)) * weight / deviation, and its sums over the frames: the gradient of ``local``."""
        eps, layout, scale = self.rule.norm.eps, self.rule.layout, self.weight * self.inverse
        y_factor, constant = -(scale * mean_gy).float(), -(scale * mean_g).float()
        x = _transformed(self.centred.float(), self.mean, self.variance, eps, y_factor, constant)
        x = layout.clear(x.addcmul_(g, scale[:, None, None])).to(self.h.dtype)
        y_sums = (self.point_sums - layout.frames * self.mean[:, None]) * self.inverse[:, None]
        local = (g_sums - layout.frames * mean_g[:, None] - y_sums * mean_gy[:, None]) * scale[:, None]
        return x, local.sum_to_size(self.local.shape).float()


def _groups(flat: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [flat[i : i + size] for i in range(0, len(flat), size)]


def set_batch_norm_mode(module: nn.Module, mode: BatchNormMode) -> None:
    """Switch every FrameBatchNorm below ``module`` to ``mode``."""
    for child in module.modules():
        if isinstance(child, FrameBatchNorm):
            child.mode = mode
