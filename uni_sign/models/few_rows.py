"""Products of a few rows with a large matrix on a CPU, as each step of a search makes them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# With more rows both orders are level.
_MOST_ROWS = 32
# A piece's result is turned round while it is in the cache.
_PIECE = 2048


class FewRows(TorchFunctionMode):
    """Inside, and without gradients, `F.linear` of up to 32 rows on a CPU in fp32 is made by `few_rows_linear`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and _fits(*args[:2]):
            return few_rows_linear(*args)
        return func(*args, **(kwargs or {}))


def _fits(rows: Tensor, weight: Tensor) -> bool:
    few = rows.numel() <= _MOST_ROWS * rows.shape[-1]
    plain = (
        rows.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
    return few and plain and not torch.is_grad_enabled()


def few_rows_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (..., I) times weight (O, I), plus bias (O): (..., O).

    The matrix comes first and the rows are its columns: the product that `F.linear` makes the other way round reads
    the matrix at half the speed.
    """
    columns = rows.reshape(-1, rows.shape[-1]).T
    product = rows.new_empty(columns.shape[1], len(weight))
    for start in range(0, len(weight), _PIECE):
        piece = slice(start, start + _PIECE)
        product[:, piece] = torch.mm(weight[piece], columns).T
    if bias is not None:
        product += bias
    return product.view(*rows.shape[:-1], -1)
