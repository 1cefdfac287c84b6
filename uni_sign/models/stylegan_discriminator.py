"""The discriminator of StyleGAN2 (arXiv 1912.04958), and the losses of both sides.

Losses are of each item: an adversarial step sums those that count.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uni_sign.models.stylegan_layers import EqualLinear, HalvingBlock, conv_layer, leaky, width_at

_LAST = 4  # pixels of the smallest maps, a side
_GROUP = 4


class StyleGANDiscriminator(nn.Module):
    """Images (B, 3, S, S) in [-1, 1], S a power of two from 8, to how real they look, (B,); ValueError for others."""

    gradient_checkpointing: bool = False

    def __init__(self, input_size: int, channels: int = 512) -> None:
        super().__init__()
        if input_size < 2 * _LAST or input_size & (input_size - 1):
            raise ValueError(f"input_size {input_size} is no power of two from {2 * _LAST}")
        self.first = conv_layer(3, width_at(input_size, channels), 1)
        sizes = [input_size >> halvings for halvings in range((input_size // _LAST).bit_length())]
        self.blocks = nn.ModuleList(
            HalvingBlock(width_at(size, channels), width_at(size // 2, channels)) for size in sizes[:-1]
        )
        width = width_at(_LAST, channels)
        self.final_conv = conv_layer(width + 1, width, 3)
        self.final_linear = EqualLinear(width * _LAST**2, width)
        self.score = EqualLinear(width, 1)

    def gradient_checkpointing_enable(self) -> None:
        """Training keeps the inputs of blocks alone, and runs each again in the backward pass; same gradients."""
        self.gradient_checkpointing = True

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B,)."""
        x = self.first(images.to(self.score.weight.dtype))  # DeepSpeed casts weights, and no batch
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        x = self.final_conv(torch.cat([x, deviation(x)], dim=1))
        score: Tensor = self.score(leaky(self.final_linear(x.flatten(1))))
        return score[:, 0]


def deviation(x: Tensor) -> Tensor:
    """How much the images of a batch differ, as a map (B, 1, H, W), over groups of up to four (arXiv 1710.10196, 3)."""
    size = next(size for size in range(min(_GROUP, len(x)), 0, -1) if len(x) % size == 0)
    groups = x.float().unflatten(0, (size, -1))
    spread = (groups.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(size).to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])


def discriminator_losses(real: Tensor, generated: Tensor) -> Tensor:
    """Non-saturating (arXiv 1406.2661): from scores (B,) of real and of generated images, (B,) in float32."""
    return F.softplus(-real.float()) + F.softplus(generated.float())


def generator_losses(generated: Tensor) -> Tensor:
    """Non-saturating: from scores (B,) of generated images, (B,) in float32; log 2 where they are in doubt."""
    return F.softplus(-generated.float())


def r1_penalties(scores: Tensor, images: Tensor) -> Tensor:
    """|d score / d image|^2 of real images (arXiv 1801.04406, equation 9, without its gamma / 2): (B,) in float32.

    ``scores`` (B,) were computed from ``images`` (B, 3, S, S), which require a gradient.
    """
    gradient = torch.autograd.grad(scores.sum(), images, create_graph=True)[0]
    return gradient.float().square().sum(dim=(1, 2, 3))
