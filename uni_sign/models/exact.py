"""Products that autocast leaves in float32."""

import torch
from torch import Tensor


def exact_product(values: Tensor, matrix: Tensor) -> Tensor:
    """(..., D) times (D, M) in float32, under autocast too, whose bf16 keeps three digits: (..., M)."""
    with torch.autocast(values.device.type, enabled=False):
        return values.float() @ matrix.float()
