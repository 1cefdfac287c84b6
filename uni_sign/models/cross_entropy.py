"""The output matrix, and its loss that never holds the logits of a whole batch."""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# 2**24 logits in fp32 are 64 MB: 67 tokens at mT5's 250,112 pieces, one chunk for a small vocabulary.
_LOGITS_PER_CHUNK = 2**24
# Smoothed gradients over 250,112 pieces lie below what fp16 resolves.
_FP16_SCALE = 256.0


class OutputMatrix(nn.Linear):
    """``lm_head``: states (..., D) to logits (..., vocabulary), or with ``targets`` to their summed loss.

    The loss is made here, not around this module, because here ZeRO-3 has the weights gathered.
    """

    def forward(self, rows: Tensor, targets: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of ``rows`` (N, D) summed over their ``targets`` (N,).

        Equals ``F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")``.
        """
        if targets is None:
            return super().forward(rows)
        if _fused_kernel_fits(rows, self.weight):
            return _fused_loss(smoothing)(self.weight, rows, targets)
        loss: Tensor = _SummedCrossEntropy.apply(rows, self.weight, targets, smoothing, torch.is_grad_enabled())
        return loss


def output_matrix(linear: nn.Linear) -> OutputMatrix:
    """A bias-free linear layer's own weight as an `OutputMatrix`."""
    made = OutputMatrix(linear.in_features, linear.out_features, bias=False, device="meta")
    made.weight = linear.weight
    return made


class _SummedCrossEntropy(torch.autograd.Function):
    """Each chunk's logits live once: what the gradients need of them is taken while they are there.

    ``rows`` (N, D), ``weight`` (vocabulary, D), ``targets`` (N,). Three matrix products a chunk, as many as the plain
    way, which keeps all logits; to make them again in the backward pass would be a fourth. One backward pass only: it
    scales the gradients where they are.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, smoothing: float, trains: bool) -> Tensor:
        device = rows.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        ctx.scale = _FP16_SCALE if dtype == torch.float16 else 1.0
        for_rows, for_weight = (trains and needed for needed in ctx.needs_input_grad[:2])
        ctx.grad_rows = torch.empty_like(rows) if for_rows else None
        ctx.grad_weight = weight.new_zeros(weight.shape, dtype=torch.float32) if for_weight else None
        ctx.weight_dtype = weight.dtype
        loss, share = torch.zeros((), device=rows.device), smoothing / len(weight)
        with torch.autocast(device, enabled=False):
            matrix, size = weight.to(dtype), max(1, _LOGITS_PER_CHUNK // len(weight))
            for place in (slice(start, start + size) for start in range(0, len(targets), size)):
                chunk, labels = rows[place].to(dtype), targets[place, None]
                logits = (chunk @ matrix.T).float()
                # Not exp of log_softmax: on a CPU that takes several times as long.
                grad = logits.softmax(dim=-1)
                log_sum = logits.amax(1) - grad.amax(1).log()
                loss += (log_sum - (1 - smoothing) * logits.gather(1, labels)[:, 0] - share * logits.sum(1)).sum()
                del logits
                if for_rows or for_weight:
                    grad.sub_(share).scatter_add_(1, labels, grad.new_full(labels.shape, smoothing - 1))
                    grad = grad.mul_(ctx.scale).to(dtype)
                if for_rows:
                    ctx.grad_rows[place] = grad @ matrix
                if for_weight:
                    _add_product(ctx.grad_weight, grad.T, chunk)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_loss / ctx.scale
        grad_rows = None if ctx.grad_rows is None else ctx.grad_rows.mul_(factor)
        grad_weight = None if ctx.grad_weight is None else ctx.grad_weight.mul_(factor).to(ctx.weight_dtype)
        del ctx.grad_rows, ctx.grad_weight
        return grad_rows, grad_weight, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total`` += ``left`` @ ``right``; summed in float32 whatever the factors are."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


@cache
def _fused_loss(smoothing: float) -> Any:
    """Liger's kernel, which does the same in fewer passes."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(label_smoothing=smoothing, reduction="sum", accum_dtype=torch.float32)


def _fused_kernel_fits(rows: Tensor, weight: Tensor) -> bool:
    """Whether Liger is there, for a GPU and tensors of one type."""
    same = rows.dtype == weight.dtype and not torch.is_autocast_enabled(rows.device.type)
    return rows.is_cuda and len(rows) > 0 and same and importlib.util.find_spec("liger_kernel") is not None
