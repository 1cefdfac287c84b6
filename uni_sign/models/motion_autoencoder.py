"""Faces to where they are and how they move, and back: LIA (arXiv 2203.09043) as FLOAT uses it (arXiv 2412.01064).

Names of modules and buffers are those of the published weights, ``motion_autoencoder.*``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uni_sign.models.exact import exact_product
from uni_sign.models.stylegan_layers import (
    BiasedLeaky,
    EqualConv2d,
    EqualLinear,
    HalvingBlock,
    ModulatedConv2d,
    Upsample,
    conv_layer,
    width_at,
)

_START = 4  # pixels of the smallest maps, a side
_LARGEST = 1 << 16
_IMAGE_SIZES = tuple(1 << power for power in range(3, 11))
_LINEARS = 5


@dataclass(frozen=True)
class AutoencoderSizes:
    """Image size, widths of the latent, of the motion's coordinates and of small maps; ValueError if impossible."""

    input_size: int = 512
    dim_w: int = 512
    dim_m: int = 20
    channels: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            good = type(value) is int and 0 < value <= _LARGEST
            if not good or (field.name == "input_size" and value not in _IMAGE_SIZES):
                raise ValueError(f"{field.name} has an impossible value")
        if self.dim_m > self.dim_w:
            raise ValueError(f"dim_m {self.dim_m} is more than dim_w {self.dim_w}: so many directions are never normal")


def autoencoder_sizes(plain: Mapping[str, Any]) -> AutoencoderSizes:
    """Sizes from plain values, as ``dataclasses.asdict`` gives them; raises ValueError for a wrong or missing one."""
    names = {field.name for field in fields(AutoencoderSizes)}
    if set(plain) != names:
        raise ValueError(f"sizes of an autoencoder lack or add {', '.join(sorted(set(plain) ^ names, key=str))}")
    return AutoencoderSizes(**plain)


class MotionAutoencoder(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] to a latent (B, dim_w), its motion's dim_m coordinates lambda, and back.

    A motion is lambda Q^T, Q (dim_w, dim_m) having orthonormal columns, so it has its lambda in it. An image is drawn
    from the latent of a source plus a motion, by warping the source's maps.
    """

    gradient_checkpointing: bool = False

    def __init__(self, sizes: AutoencoderSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.enc = _Encoder(sizes)
        self.dec = _Decoder(sizes)

    def gradient_checkpointing_enable(self) -> None:
        """Training keeps the inputs of blocks alone, and runs each again in the backward pass; same gradients."""
        self.gradient_checkpointing = True

    def _recomputes(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, 3, S, S) to latents (B, dim_w), and maps (B, C, 8, 8), ..., (B, C, S, S)."""
        dtype = self.dec.direction.weight.dtype  # DeepSpeed casts weights, and no batch
        return self.enc.net_app(images.to(dtype), self._recomputes())

    def coordinates(self, latents: Tensor) -> Tensor:
        """lambda (B, dim_m) of the motion in latents (B, dim_w)."""
        found: Tensor = self.enc.fc(latents)
        return found

    def basis(self) -> Tensor:
        """Q (dim_w, dim_m): the directions of motion, made orthonormal (LIA, section 3.2), in float32."""
        return self.dec.direction()

    def motion(self, coordinates: Tensor) -> Tensor:
        """lambda (..., dim_m) to lambda Q^T (..., dim_w), in float32."""
        return exact_product(coordinates, self.basis().T)

    def coordinates_of(self, motion: Tensor) -> Tensor:
        """The lambda (..., dim_m) that a motion (..., dim_w) was made of; of others, their part in Q's span."""
        return exact_product(motion, self.basis())

    def decode(self, source: Tensor, motion: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Images (B, 3, S, S) of sources (B, dim_w) in motion (B, dim_w); features are the source's of `encode`.

        One source (1, dim_w) with its features serves all motions.
        """
        style = (source + motion).to(self.dec.direction.weight.dtype)
        return self.dec(style, [each.expand(len(style), -1, -1, -1) for each in features], self._recomputes())

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """The face of ``source`` (B, 3, S, S) moving as that of ``driving``: (B, 3, S, S)."""
        latent, features = self.encode(source)
        moving, _ = self.encode(driving)
        return self.decode(latent, self.motion(self.coordinates(moving)), features)


class _Encoder(nn.Module):
    def __init__(self, sizes: AutoencoderSizes) -> None:
        super().__init__()
        self.net_app = _Trunk(sizes)
        widths = [sizes.dim_w] * _LINEARS + [sizes.dim_m]
        self.fc = nn.Sequential(*(EqualLinear(width, to) for width, to in pairwise(widths)))


class _Trunk(nn.Module):
    def __init__(self, sizes: AutoencoderSizes) -> None:
        super().__init__()
        size, channels = sizes.input_size, sizes.channels
        self.convs = nn.ModuleList([conv_layer(3, width_at(size, channels), 1)])
        while size > _START:
            self.convs.append(HalvingBlock(width_at(size, channels), width_at(size // 2, channels)))
            size //= 2
        self.convs.append(EqualConv2d(width_at(_START, channels), sizes.dim_w, _START))

    def forward(self, images: Tensor, recompute: bool) -> tuple[Tensor, list[Tensor]]:
        first, *blocks, last = self.convs
        maps = [first(images)]
        for block in blocks:
            maps.append(checkpoint(block, maps[-1], use_reentrant=False) if recompute else block(maps[-1]))
        return last(maps[-1]).flatten(1), maps[-2::-1]


class _Direction(nn.Module):
    def __init__(self, dim_w: int, dim_m: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_w, dim_m))

    def forward(self) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            basis: Tensor = torch.linalg.qr(self.weight.float())[0]
        return basis


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, _START, _START))


class _UnusedNoise(nn.Module):
    """The published weights have noise that LIA never adds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)


class _StyledConv(nn.Module):
    def __init__(self, channels: int, to: int, style_dim: int, *, doubles: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, to, 3, style_dim, doubles=doubles)
        self.noise = _UnusedNoise()
        self.activate = BiasedLeaky(to)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        styled: Tensor = self.activate(self.conv(x, style))
        return styled


class _ToRGB(nn.Module):
    def __init__(self, channels: int, *, upsamples: bool = True) -> None:
        super().__init__()
        if upsamples:
            self.upsample = Upsample()
        self.conv = conv_layer(channels, 3, 1)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, smaller: Tensor | None) -> Tensor:
        image: Tensor = self.conv(x) + self.bias
        return image if smaller is None else image + self.upsample(smaller)


class _ToFlow(nn.Module):
    """Where each place of a source's map goes, and how much of it is seen (LIA, section 3.3)."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.upsample = Upsample()
        self.conv = ModulatedConv2d(channels, 3, 1, style_dim, demodulates=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(
        self, x: Tensor, style: Tensor, feature: Tensor, smaller: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps x, styles and the source's maps to flow and mask (B, 3, H, W), what is seen of the source, and both."""
        flow = self.conv(x, style) + self.bias
        if smaller is not None:
            flow = flow + self.upsample(smaller)
        # bf16 has less places than a map.
        exact = flow.float()
        place = torch.linspace(-1.0, 1.0, x.shape[-1], device=x.device)
        grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), dim=-1)
        grid = exact[:, :2].tanh().permute(0, 2, 3, 1) + grid
        warped = F.grid_sample(feature.float(), grid, align_corners=False)
        mask = exact[:, 2:].sigmoid()
        seen = (warped * mask).to(x.dtype)
        return flow, seen, seen + x * (1 - mask).to(x.dtype)


class _Decoder(nn.Module):
    def __init__(self, sizes: AutoencoderSizes) -> None:
        super().__init__()
        dim_w, channels = sizes.dim_w, sizes.channels
        width = width_at(_START, channels)
        self.direction = _Direction(dim_w, sizes.dim_m)
        self.input = _Constant(width)
        self.conv1 = _StyledConv(width, width, dim_w)
        # Of the published weights; the first picture is that of the next size.
        self.to_rgb1 = _ToRGB(width, upsamples=False).requires_grad_(False)
        self.convs, self.to_rgbs, self.to_flows = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        size = _START
        while size < sizes.input_size:
            size *= 2
            wide, width = width, width_at(size, channels)
            self.convs.append(_StyledConv(wide, width, dim_w, doubles=True))
            self.convs.append(_StyledConv(width, width, dim_w))
            self.to_rgbs.append(_ToRGB(width))
            self.to_flows.append(_ToFlow(width, dim_w))

    def forward(self, style: Tensor, features: Sequence[Tensor], recompute: bool) -> Tensor:
        x = self.conv1(self.input.input.expand(len(style), -1, -1, -1), style)
        flow: Tensor | None = None
        image: Tensor | None = None
        for number, feature in enumerate(features):
            given = (number, x, style, feature, flow, image)
            x, flow, image = (
                checkpoint(self._doubled, *given, use_reentrant=False) if recompute else self._doubled(*given)
            )
        assert image is not None
        return image

    def _doubled(
        self, number: int, x: Tensor, style: Tensor, feature: Tensor, flow: Tensor | None, image: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps, flow and picture at twice the size."""
        x = self.convs[2 * number + 1](self.convs[2 * number](x, style), style)
        flow, seen, x = self.to_flows[number](x, style, feature, flow)
        return x, flow, self.to_rgbs[number](seen, image)
