"""Keypoints region by region, then together: three encoders of faces and skeletons, to keypoints or to a picture.

Names of modules are those of the published checkpoints, so are two that nothing uses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uni_sign.models.batch_norm import FrameBatchNorm, normalize_images

FACE_REGIONS = ((0, 17), (17, 22), (22, 27), (27, 36), (36, 42), (42, 48), (48, 60), (60, 68))
SKELETON_REGIONS = ((0, 68), (68, 89), (89, 110), (110, 143))
_START = 8  # pixels of the smallest map of the image decoder, a side


def sinusoidal_positions(length: int, width: int, like: Tensor) -> Tensor:
    """(length, width): sines in even places, cosines in odd ones (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float32, device=like.device)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32, device=like.device) * (-math.log(10000.0) / width))
    angle = position * rate
    table = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
    return table[:, :width].to(like.dtype)


def encoder_stack(width: int, heads: int, feedforward: int, layers: int, dropout: float) -> nn.TransformerEncoder:
    """Transformer encoder layers, normalised after each part."""
    layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def decoder_stack(width: int, heads: int, feedforward: int, layers: int, dropout: float) -> nn.TransformerDecoder:
    """Transformer decoder layers, normalised after each part."""
    layer = nn.TransformerDecoderLayer(width, heads, feedforward, dropout, batch_first=True)
    return nn.TransformerDecoder(layer, layers)


@dataclass(frozen=True)
class EncoderSizes:
    """Widths and depths of a hierarchical encoder; heads and feed-forward of its parts are half of what is given."""

    input_dim: int = 3
    d_global: int = 256
    d_region: int = 128
    nhead: int = 8
    num_region_layers: int = 2
    num_interaction_layers: int = 2
    dim_feedforward: int = 1024
    dropout: float = 0.1


class HierarchicalEncoder(nn.Module):
    """Points (B, P, C) to a global vector (B, d_global) and one a region (B, R, d_region).

    ``present`` (B, R), bool: nothing depends on the points of a region that is missing, whose vector is zero; where
    all are missing, all are taken as they are.
    """

    def __init__(self, regions: Sequence[tuple[int, int]], sizes: EncoderSizes) -> None:
        super().__init__()
        self.regions = tuple(regions)
        width, heads = sizes.d_region, sizes.nhead // 2
        stack = partial(encoder_stack, width, heads, sizes.dim_feedforward // 2, dropout=sizes.dropout)
        self.region_projections = nn.ModuleList(nn.Linear(sizes.input_dim, width) for _ in regions)
        self.region_encoders = nn.ModuleList(stack(layers=sizes.num_region_layers) for _ in regions)
        self.region_interaction = stack(layers=sizes.num_interaction_layers)
        self.global_attention = nn.MultiheadAttention(width, heads, sizes.dropout, batch_first=True)
        self.global_proj = nn.Linear(width, sizes.d_global)

    def encode(self, points: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Points (B, P, C) to (B, d_global) and (B, R, d_region)."""
        vectors = [self._region(number, points[:, start:end]) for number, (start, end) in enumerate(self.regions)]
        missing = None if present is None else ~seen_regions(present)
        regional = self.region_interaction(torch.stack(vectors, dim=1), src_key_padding_mask=missing)
        query = mean_of_regions(regional, present)[:, None]
        pooled, _ = self.global_attention(query, regional, regional, key_padding_mask=missing, need_weights=False)
        if missing is not None:
            regional = regional.masked_fill(missing[:, :, None], 0.0)
        return self.global_proj(pooled[:, 0]), regional

    def _region(self, number: int, points: Tensor) -> Tensor:
        # DeepSpeed casts weights, and no batch.
        hidden = self.region_projections[number](points.to(self.global_proj.weight.dtype))
        hidden = hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden)
        encoded: Tensor = self.region_encoders[number](hidden)
        return encoded.mean(dim=1)


def seen_regions(present: Tensor) -> Tensor:
    """Regions (B, R) that count, bool: those that are there, or all of them where none is."""
    return present | ~present.any(dim=1, keepdim=True)


def mean_of_regions(regional: Tensor, present: Tensor | None) -> Tensor:
    """(B, R, d) to the mean over regions that count, (B, d)."""
    if present is None:
        return regional.mean(dim=1)
    weight = seen_regions(present)[:, :, None].to(regional.dtype)
    # Not a product: what a missing region holds may be anything.
    return regional.masked_fill(weight == 0, 0.0).sum(dim=1) / weight.sum(dim=1)


def joined(global_vector: Tensor, regional: Tensor) -> Tensor:
    """Each region's vector behind the global one: (B, R, d_global + d_region)."""
    return torch.cat([global_vector[:, None].expand(-1, regional.shape[1], -1), regional], dim=2)


class HierarchicalKeypointTransformer(HierarchicalEncoder):
    """Faces of 68 points (B, 68, C) to themselves, through a global vector and eight regions."""

    def __init__(self, sizes: EncoderSizes, num_decoder_layers: int = 4) -> None:
        super().__init__(FACE_REGIONS, sizes)
        # Of the published checkpoints; nothing uses it.
        self.global_aggregator = nn.Sequential(nn.Linear(sizes.d_region, sizes.d_global), nn.LayerNorm(sizes.d_global))
        self.global_aggregator.requires_grad_(False)
        width = sizes.d_global + sizes.d_region
        self.decoder_queries = nn.Parameter(torch.randn(FACE_REGIONS[-1][1], width))
        self.decoder = decoder_stack(width, sizes.nhead, sizes.dim_feedforward, num_decoder_layers, sizes.dropout)
        self.output_projection = nn.Linear(width, sizes.input_dim)

    def forward(self, points: Tensor) -> Tensor:
        """Points (B, 68, C) to (B, 68, C)."""
        memory = joined(*self.encode(points))
        queries = self.decoder_queries.expand(len(points), -1, -1)
        # A region is remembered once a point of it: as much as its points' number adds to the attention on it.
        sizes = torch.tensor([float(end - start) for start, end in self.regions], dtype=memory.dtype)
        weight = sizes.log().to(memory.device).expand(queries.shape[1], -1)
        decoded = self.decoder(queries, memory, memory_mask=weight)
        output: Tensor = self.output_projection(decoded)
        return output


class _Doubling(nn.ConvTranspose2d):
    """Twice the height and width. The bias is left to the batch norm that follows, which takes it away again."""

    def __init__(self, channels: int, to: int) -> None:
        super().__init__(channels, to, 4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        assert self.bias is not None
        return F.conv_transpose2d(x, self.weight, None, 2, 1), self.bias.clone()


class ImageDecoder(nn.Module):
    """A vector (B, width) to a grey picture (B, 1, 256, 256) in [-1, 1]."""

    def __init__(self, width: int, channels: int, image_size: int = 256) -> None:
        super().__init__()
        self.channels = channels
        self.latent_proj = nn.Linear(width, channels * _START * _START)
        doublings = (image_size // _START).bit_length() - 1
        widths = [max(1, channels >> number) for number in range(doublings)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [_Doubling(before, after), FrameBatchNorm(after), nn.ReLU()]
        self.decoder = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 1, 4, 2, 1), nn.Tanh())

    def forward(self, vector: Tensor, counted: bool = True) -> Tensor:
        """(B, width) to (B, 1, size, size). ``counted`` false: they only fill a place; see `normalize`."""
        x = self.latent_proj(vector).view(-1, self.channels, _START, _START)
        *hidden, last, tanh = self.decoder
        for conv, norm in zip(hidden[::3], hidden[1::3], strict=True):
            assert isinstance(norm, FrameBatchNorm)
            x, bias = conv(x)
            x = normalize_images(norm, x, bias, counted, relu=True)
        picture: Tensor = tanh(last(x))
        return picture


class HierarchicalImageTransformer(HierarchicalEncoder):
    """Points (B, P, C) to a picture (B, 1, size, size) in [-1, 1]."""

    def __init__(self, regions: Sequence[tuple[int, int]], sizes: EncoderSizes, image_size: int = 256) -> None:
        super().__init__(regions, sizes)
        self.image_decoder = ImageDecoder(sizes.d_global + sizes.d_region, sizes.d_global, image_size)

    def forward(self, points: Tensor, present: Tensor | None = None, counted: bool = True) -> Tensor:
        """Points (B, P, C) to (B, 1, size, size); ``counted``: see `ImageDecoder`."""
        return self.draw(*self.encode(points, present), present, counted)

    def draw(
        self, global_vector: Tensor, regional: Tensor, present: Tensor | None = None, counted: bool = True
    ) -> Tensor:
        """What `encode` gave to (B, 1, size, size)."""
        picture: Tensor = self.image_decoder(mean_of_regions(joined(global_vector, regional), present), counted)
        return picture
