"""Hand crops beside poses: prior-guided fusion by deformable attention (Uni-Sign, arXiv 2501.15187, section 3.3)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uni_sign.models.efficientnet import CHANNELS, EfficientNet

HANDS = ("left", "right")
# Published checkpoints hold it, and nothing uses it: it is kept for them, and does not train.
UNUSED_MODULE = "fusion_pose_rgb_linear"
_HEADS = 8
_REACH = 4 / 6  # how far an offset reaches; 2 is the crop's side
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalized(crops: Tensor) -> Tensor:
    """RGB crops (n, 3, 112, 112) of bytes to float32, by ImageNet's mean and deviation."""
    mean, deviation = (crops.new_tensor(values, dtype=torch.float32)[:, None, None] for values in _IMAGENET)
    return (crops.float() / 255 - mean) / deviation


class Linear32(nn.Linear):
    """In float32, whatever its weights are kept in."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return F.linear(x, self.weight.float(), None if self.bias is None else self.bias.float())


class Conv32(nn.Module):
    """A 1x1 convolution over points in float32: (n, C, V) -> (n, C', V); ``dims`` gives its weight's shape."""

    def __init__(self, channels: int, to: int, groups: int = 1, bias: bool = True, dims: int = 1) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d)[dims - 1]
        made = kind(channels, to, 1, groups=groups, bias=bias)
        self.weight, self.bias, self.groups = made.weight, made.bias, groups

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float().flatten(2)[..., :1]
        return F.conv1d(x, weight, None if self.bias is None else self.bias.float(), groups=self.groups)


class CrossAttention(nn.Module):
    """Queries (n, V, C) over keys (n, S, C), which are the values, too; weights named as `nn.MultiheadAttention`'s."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear32(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        weights, biases = self.in_proj_weight.float().chunk(3), self.in_proj_bias.float().chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for x, weight, bias in zip((queries, keys, keys), weights, biases, strict=True)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class FourierEncoding(nn.Module):
    """Points (..., 2) in [-1, 1] to [sin, cos] (..., C) of random frequencies."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FourierEncoding":
        # In bf16 a frequency is off by a hundredth of a turn: a cast to half spares them.
        before = self.positional_encoding_gaussian_matrix
        super()._apply(fn, recurse)
        moved = self.positional_encoding_gaussian_matrix
        if moved.dtype != torch.float32:
            self.positional_encoding_gaussian_matrix = moved.float() if before.is_meta else before.to(moved.device)
        return self

    def forward(self, points: Tensor) -> Tensor:
        turns = 2 * math.pi * (points @ self.positional_encoding_gaussian_matrix)
        return torch.cat([turns.sin(), turns.cos()], -1)


class PositionBias(nn.Module):
    """A head's bias by how far a query lies from where its key was sampled: (..., 2) -> (...)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.ModuleList([nn.ModuleList([Linear32(2, 64)]), nn.ModuleList([Linear32(64, 64)]), Linear32(64, 1)])

    def forward(self, distance: Tensor) -> Tensor:
        x = distance.sign() * (distance.abs() + 1).log()
        first, second, last = self.mlp
        for layer in (first, second):
            x = F.relu(layer[0](x))  # type: ignore[index]
        bias: Tensor = last(x)
        return bias[..., 0]


class DeformableAttention(nn.Module):
    """Each point looks where the pose and its own offsets say: the prior guides what is read of the crop.

    ``poses`` (n, C, V) features, ``maps`` (n, C, 4, 4) of the crops, ``points`` (n, V, 2) in [-1, 1], relative to the
    crop -> (n, C, V). All in float32, in eight heads.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        head = width // _HEADS
        self.to_offsets = nn.ModuleList([Conv32(head, head, groups=head), nn.GELU(), Conv32(head, 2, bias=False)])
        self.rel_pos_bias = PositionBias()
        self.to_q = Conv32(width, width, _HEADS, bias=False)
        self.to_k = Conv32(width, width, _HEADS, bias=False, dims=2)
        self.to_v = Conv32(width, width, _HEADS, bias=False, dims=2)
        self.to_out = Conv32(width, width)
        self.cross_attn = CrossAttention(width)
        self.pe_layer = FourierEncoding(width)

    def forward(self, poses: Tensor, maps: Tensor, points: Tensor) -> Tensor:
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + _sinusoids(tokens)
        guided = poses + self.cross_attn(poses.transpose(1, 2) + self.pe_layer(points), tokens).transpose(1, 2)
        q = self.to_q(guided)
        where = points[:, None] + self._offsets(q)  # (n, heads, V, 2)
        sampled = F.grid_sample(
            maps.unflatten(1, (_HEADS, -1)).flatten(0, 1), where.flatten(0, 1)[:, :, None], align_corners=False
        )
        sampled = sampled[..., 0].view_as(q)
        k, v = self.to_k(sampled), self.to_v(sampled)
        bias = self.rel_pos_bias(points[:, None, :, None] - where[:, :, None])
        q, k, v = (x.unflatten(1, (_HEADS, -1)).transpose(2, 3) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.to_out(attended.transpose(2, 3).flatten(1, 2))
        return out

    def _offsets(self, q: Tensor) -> Tensor:
        """(n, C, V) -> (n, heads, V, 2)."""
        x = q.unflatten(1, (_HEADS, -1)).flatten(0, 1)
        for layer in self.to_offsets:
            x = layer(x)
        return (x.tanh() * _REACH).transpose(1, 2).unflatten(0, (-1, _HEADS))


def _sinusoids(tokens: Tensor) -> Tensor:
    """A fixed table (S, C) for tokens (n, S, C): sines in even places, cosines in odd ones."""
    count, width = tokens.shape[1:]
    frequency = torch.exp(torch.arange(0, width, 2, device=tokens.device) * (-math.log(10000.0) / width))
    turns = torch.arange(count, device=tokens.device)[:, None] * frequency
    return torch.stack([turns.sin(), turns.cos()], -1).flatten(1)


def fusion_gate(width: int) -> nn.ModuleList:
    """Parameters of the gate: near the pose model at its start, and alive.

    ReLU of a tanh at exactly zero, where the published code starts it, has no gradient: nothing would ever learn.
    """
    gate = nn.ModuleList([Conv32(2 * width, width), nn.GELU(), Conv32(width, 1)])
    last: Any = gate[2]
    nn.init.normal_(last.weight, std=0.001)
    nn.init.constant_(last.bias, 0.1)
    return gate


def add_rgb_fusion(model: nn.Module, width: int) -> None:
    """Give ``model`` the modules of the RGB branch at its root, where published checkpoints have them."""
    model.rgb_support_backbone = EfficientNet()
    model.rgb_proj = nn.Conv2d(CHANNELS, width, 1)
    model.fusion_pose_rgb_DA = DeformableAttention(width)
    model.fusion_gate = fusion_gate(width)
    model.add_module(UNUSED_MODULE, nn.Linear(width, width).requires_grad_(False))


def fused_hands(
    model: Any, hands: Mapping[str, Tensor], batch: Mapping[str, Any], recompute: bool = False
) -> dict[str, Tensor]:
    """Features of the hands (C, V, N), with those of cropped frames fused with their crops.

    ``batch`` holds, for each hand, ``crops.<hand>`` (n, 3, 112, 112) bytes, ``crop_points.<hand>`` (n, 21, 2) in
    [0, 1] relative to the crop, and ``crop_place.<hand>`` (n,): the crop's frame among the N. A batch without a crop
    takes a blank one through the same modules, as other ranks wait for it there, and uses nothing of it.
    """
    places = [batch[f"crop_place.{hand}"] for hand in HANDS]
    poses = torch.cat([hands[hand][..., place] for hand, place in zip(HANDS, places, strict=True)], -1).permute(2, 0, 1)
    crops, points = (torch.cat([batch[f"{name}.{hand}"] for hand in HANDS]) for name in ("crops", "crop_points"))
    if len(crops):
        fused = _fused(model, poses, crops, points, batch.get("counted", True), recompute).permute(1, 2, 0)
        parts = fused.to(poses.dtype).split([len(place) for place in places], -1)
        return {
            hand: hands[hand].index_copy(2, place, part) for hand, place, part in zip(HANDS, places, parts, strict=True)
        }
    first = hands[HANDS[0]]
    blank, middle = crops.new_zeros(1, *crops.shape[1:]), points.new_full((1, *points.shape[1:]), 0.5)
    unused = _fused(model, first[..., :1].permute(2, 0, 1), blank, middle, False, recompute)
    nothing = torch.where(torch.zeros((), dtype=torch.bool, device=unused.device), unused, 0).sum()
    return {**hands, HANDS[0]: first + nothing.to(first.dtype)}


def _fused(model: Any, poses: Tensor, crops: Tensor, points: Tensor, counted: bool, recompute: bool) -> Tensor:
    """poses (n, C, V), crops and points of them -> (n, C, V) in float32."""
    images = normalized(crops).to(model.rgb_proj.weight.dtype)
    maps = model.rgb_proj(model.rgb_support_backbone(images, counted, recompute))
    with torch.autocast(poses.device.type, enabled=False):
        poses = poses.float()
        fused = model.fusion_pose_rgb_DA(poses, maps.float(), 2 * points - 1)
        gate = torch.cat([fused, poses], 1)
        for layer in model.fusion_gate:
            gate = layer(gate)
        gate = gate.tanh().relu()
        return gate * fused + (1 - gate) * poses
