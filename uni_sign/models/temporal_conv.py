"""Convolution along the frames of a spaced map."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uni_sign.models.frame_layout import GAP

TEMPORAL_KERNEL = 2 * GAP + 1


def temporal_conv(x: Tensor, weight: Tensor) -> Tensor:
    """(C, V, F) with zero frames behind each clip, weight (C', C, 5, 1) -> (C', V, F); the gaps of it are no zeros."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        flat: Tensor = _ShiftedProducts.apply(x.flatten(1), weight.flatten(2).permute(2, 0, 1))
        return flat.view(-1, *x.shape[1:])
    return F.conv2d(x[None], weight.transpose(2, 3), padding=(0, GAP))[0]


class _ShiftedProducts(torch.autograd.Function):
    """y[:, i] = sum_k weight_k x[:, i + k - 2]: a matrix product a tap, on views of one map, without a copy.

    ``x`` (C, L), ``weights`` (5, C', C), ``y`` (C', L). On a CPU in float32 such products come closer to the peak than
    the convolutions of its library. Where one row of a map meets the next lies a gap, so rows need no borders.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        return _shifted_sum(x, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weights = ctx.saved_tensors
        grad = grad.contiguous()
        of_x = _shifted_sum(grad, weights.transpose(1, 2).flip(0)) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x, None
        products = [grad[:, to] @ x[:, of].T for to, of in _overlaps(x.shape[1])]
        return of_x, torch.stack(products)


def _shifted_sum(x: Tensor, weights: Tensor) -> Tensor:
    y = torch.mm(weights[GAP], x)
    for tap, (to, of) in enumerate(_overlaps(x.shape[1])):
        if tap != GAP:
            y[:, to].addmm_(weights[tap], x[:, of])
    return y


def _overlaps(length: int) -> list[tuple[slice, slice]]:
    """Of each tap: where its product goes, and which columns it is of."""
    shifts = range(-GAP, GAP + 1)
    return [(slice(max(0, -s), length - max(0, s)), slice(max(0, s), length - max(0, -s))) for s in shifts]
