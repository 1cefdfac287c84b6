"""How far a generated picture is from the true one, hands and face counting for more."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Left, top, right and bottom as shares of the picture: two hands, then the face.
STATIC_BOXES = ((0.1, 0.5, 0.4, 0.95), (0.6, 0.5, 0.9, 0.95), (0.2, 0.1, 0.8, 0.5))


def box_weights(boxes: Tensor, weights: Sequence[float], size: int) -> Tensor:
    """Weights (B, 1, size, size): of boxes (B, R, 4) in shares of the picture the greatest weight, elsewhere 1."""
    corners = (boxes * size).floor()
    places = torch.arange(size, device=boxes.device)
    across = (places >= corners[..., 0, None]) & (places < corners[..., 2, None])
    down = (places >= corners[..., 1, None]) & (places < corners[..., 3, None])
    result = torch.ones(len(boxes), size, size, device=boxes.device)
    for region, weight in enumerate(weights):
        inside = down[:, region, :, None] & across[:, region, None, :]
        result = torch.where(inside, result.clamp(min=weight), result)
    return result[:, None]


def picture_losses(generated: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of each picture (B, 1, H, W), times ``weights`` pixel by pixel: (B,) in float32."""
    error = (generated.float() - target.float()).square()
    return (error if weights is None else error * weights).mean(dim=(1, 2, 3))
