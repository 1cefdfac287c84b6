"""Layers of StyleGAN2 (arXiv 1912.04958), by the names of LIA's weights (arXiv 2203.09043)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uni_sign.models.exact import exact_product

_SLOPE = 0.2
_EPS = 1e-8


def width_at(size: int, channels: int) -> int:
    """Channels of maps of this size: ``channels`` up to 32 pixels, then half as many with each doubling."""
    return max(1, min(channels, 32 * channels // size))


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, _SLOPE) * math.sqrt(2.0)


def _binomial(gain: float = 1.0) -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(row, row) * (gain / 64.0)


class EqualConv2d(nn.Module):
    """Convolution whose weights are N(0, 1), scaled at run time (arXiv 1710.10196, section 4.1); no bias."""

    def __init__(self, channels: int, to: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(to, channels, kernel, kernel))
        self.scale = 1.0 / math.sqrt(channels * kernel**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    """Linear layer whose weights are N(0, 1), scaled at run time."""

    def __init__(self, width: int, to: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(to, width))
        self.bias = nn.Parameter(torch.full((to,), bias))
        self.scale = 1.0 / math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C')."""
        return F.linear(x, self.weight * self.scale, self.bias)


class BiasedLeaky(nn.Module):
    """A bias for each channel, then leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return leaky(x + self.bias)


class Blur(nn.Module):
    """Binomial filter of four taps a side, on maps padded on all sides."""

    kernel: Tensor

    def __init__(self, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("kernel", _binomial(gain))
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H + 2 padding - 3, W + 2 padding - 3)."""
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, kernel, padding=self.padding, groups=x.shape[1])


class Upsample(nn.Module):
    """Twice the size, by the binomial filter."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _binomial(4.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def conv_layer(channels: int, to: int, kernel: int, *, halves: bool = False, activated: bool = True) -> nn.Sequential:
    """Convolution, blurred before it where it halves the size, and a leaky ReLU behind it unless told otherwise."""
    layers: list[nn.Module] = []
    if halves:
        layers += [Blur((kernel + 1) // 2), EqualConv2d(channels, to, kernel, stride=2)]
    else:
        layers.append(EqualConv2d(channels, to, kernel, padding=kernel // 2))
    return nn.Sequential(*layers, *([BiasedLeaky(to)] if activated else []))


class HalvingBlock(nn.Module):
    """Two convolutions beside one, at half the size: (B, C, H, W) -> (B, C', H / 2, W / 2)."""

    def __init__(self, channels: int, to: int) -> None:
        super().__init__()
        self.conv1 = conv_layer(channels, channels, 3)
        self.conv2 = conv_layer(channels, to, 3, halves=True)
        self.skip = conv_layer(channels, to, 1, halves=True, activated=False)

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return both / math.sqrt(2.0)


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels a style scales, its output brought back to unit variance (section 2.2).

    Input and output are scaled in place of the weights, so that all items of a batch share one convolution.
    """

    def __init__(
        self, channels: int, to: int, kernel: int, style_dim: int, *, doubles: bool = False, demodulates: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, to, channels, kernel, kernel))
        self.modulation = EqualLinear(style_dim, channels, bias=1.0)
        self.blur = Blur(1, gain=4.0) if doubles else None
        self.scale = 1.0 / math.sqrt(channels * kernel**2)
        self.demodulates = demodulates

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) and styles (B, style_dim) to (B, C', H, W), or twice the size."""
        weight = self.weight[0] * self.scale
        scale = self.modulation(style)
        x = x * scale[:, :, None, None]
        if self.blur is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        if not self.demodulates:
            return x
        # In float32: sums of thousands of squares.
        energy = exact_product(scale.float().square(), weight.float().square().sum(dim=(2, 3)).T)
        return x * (energy + _EPS).rsqrt().to(x.dtype)[:, :, None, None]
