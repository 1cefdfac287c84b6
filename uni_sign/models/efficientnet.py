"""EfficientNet-B0's trunk (arXiv 1905.11946), by the names of torchvision's ``features``; no block is left out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uni_sign.models.batch_norm import FrameBatchNorm, checkpointed, normalize_images

CHANNELS = 1280
# Expansion, kernel, stride, channels in and out, and blocks of each stage.
_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm over all images of all ranks, and SiLU where asked for."""

    def __init__(
        self, channels: int, to: int, kernel: int, stride: int = 1, groups: int = 1, silu: bool = True
    ) -> None:
        conv = nn.Conv2d(channels, to, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, FrameBatchNorm(to))
        self.silu = silu

    def forward(self, images: Tensor, counted: bool) -> Tensor:  # type: ignore[override]
        """(n, C, H, W) -> (n, C', H', W')."""
        conv, norm = self
        assert isinstance(norm, FrameBatchNorm)
        x = conv(images)
        x = normalize_images(norm, x, x.new_zeros(x.shape[1]), counted, relu=False)
        return F.silu(x) if self.silu else x


class SqueezeExcitation(nn.Module):
    """Scales each channel of an image by what two layers make of all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3), keepdim=True)
        return images * torch.sigmoid(self.fc2(F.silu(self.fc1(means))))


class MBConv(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection; past all of it where sizes allow."""

    def __init__(self, expansion: int, kernel: int, stride: int, channels: int, to: int) -> None:
        super().__init__()
        wide = channels * expansion
        layers: list[nn.Module] = [ConvNorm(channels, wide, 1)] if expansion > 1 else []
        layers += [
            ConvNorm(wide, wide, kernel, stride, groups=wide),
            SqueezeExcitation(wide, max(1, channels // 4)),
            ConvNorm(wide, to, 1, silu=False),
        ]
        self.block = nn.ModuleList(layers)
        self.passes = stride == 1 and channels == to

    def forward(self, images: Tensor, counted: bool) -> Tensor:
        x = images
        for layer in self.block:
            x = layer(x, counted) if isinstance(layer, ConvNorm) else layer(x)
        return x + images if self.passes else x


class EfficientNet(nn.Module):
    """Images (n, 3, H, W), normalised as ImageNet's, to (n, 1280, H / 32, W / 32)."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = [ConvNorm(3, 32, 3, 2)]
        for expansion, kernel, stride, channels, to, blocks in _STAGES:
            first = MBConv(expansion, kernel, stride, channels, to)
            others = [MBConv(expansion, kernel, 1, to, to) for _ in range(blocks - 1)]
            stages.append(nn.ModuleList([first, *others]))
        stages.append(ConvNorm(320, CHANNELS, 1))
        # In published checkpoints the trunk is the first of a sequence of one.
        self.add_module("0", nn.ModuleList(stages))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, counted: bool = True, recompute: bool = False) -> Tensor:
        """``counted`` false: images that only fill a place, and leave no trace in the statistics.

        ``recompute``: blocks keep their input alone, and run again in the backward pass.
        """
        first, *stages, last = self.get_submodule("0").children()
        x = first(images, counted)
        for stage in stages:
            for block in stage.children():
                x = checkpointed(block, x, counted) if recompute else block(x, counted)
        features: Tensor = last(x, counted)
        return features
