"""Spatial-temporal graph convolutions over body, hands and face (ST-GCN, arXiv 1801.07455; arXiv 2501.15187)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uni_sign.models.batch_norm import Case, FrameBatchNorm, Rule, checkpointed, normalize
from uni_sign.models.frame_layout import FrameLayout
from uni_sign.models.temporal_conv import TEMPORAL_KERNEL, temporal_conv

Edges = list[tuple[int, int]]
Refine = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def _chain(*points: int) -> Edges:
    return list(pairwise(points))


_HAND: Edges = [edge for first in (1, 5, 9, 13, 17) for edge in _chain(0, *range(first, first + 4))]
_BODY: Edges = [(0, 1), (0, 2), (0, 3), (0, 4), (3, 5), (5, 7), (4, 6), (6, 8)]
_FACE: Edges = [*_chain(*range(9)), *_chain(*range(9, 17), 9), *((17, point) for point in range(17))]

GRAPHS: dict[str, tuple[int, Edges]] = {
    "body": (9, _BODY),
    "left": (21, _HAND),
    "right": (21, _HAND),
    "face_all": (18, _FACE),
}
# The body point each part hangs on: the wrists for the hands, the nose for the face.
ANCHORS = {"left": -2, "right": -1, "face_all": 0}


def adjacency(part: str) -> Tensor:
    """Column-normalised adjacency with self loops, split by hop distance 0 and 1: (2, V, V) float32."""
    points, edges = GRAPHS[part]
    linked = np.eye(points)
    for a, b in edges:
        linked[a, b] = linked[b, a] = 1.0
    normalised = linked / linked.sum(0, keepdims=True)
    own = normalised * np.eye(points)
    return torch.tensor(np.stack([own, normalised - own]), dtype=torch.float32)


class ShiftConv(nn.Conv2d):
    """A convolution that leaves its bias to the batch norm behind it: the map, and the bias as its shift.

    The weights are used in this module's own ``forward``, where ZeRO-3 has them gathered.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(C, V, L) -> (C', V, L) and (C', 1)."""
        assert self.bias is not None
        if self.kernel_size == (1, 1):
            y = torch.mm(self.weight.flatten(1), x.flatten(1)).view(-1, *x.shape[1:])
        else:
            y = temporal_conv(x, self.weight)
        return y, self.bias.to(torch.float32, copy=True)[:, None]


class HopConv(nn.Conv2d):
    """The 1x1 convolution of all hops, summed over them: (C, 2, V, L) -> (C', V, L), and the biases (2, C')."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        assert self.bias is not None
        channels, hops, *rest = x.shape
        weight = self.weight.view(hops, -1, channels).permute(1, 2, 0).flatten(1)
        biases = self.bias.to(torch.float32, copy=True).view(hops, -1)
        return torch.mm(weight, x.reshape(channels * hops, -1)).view(-1, *rest), biases


class GraphConv(nn.Module):
    """Sums over each point's neighbours by the learnable adjacency, one per hop, and a 1x1 convolution of all hops.

    (C, V, L) -> (C', V, L) and what is still to be added to it, (C', V): see `normalized_relu`. Its batch norm ``bn``
    is applied by `run_layer`, together with those of the other parts.
    """

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(graph.clone())
        self.conv = HopConv(in_channels, out_channels * graph.shape[0], 1)
        self.bn = FrameBatchNorm(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hops, points, _ = self.A.shape
        neighbours = self.A.transpose(1, 2).reshape(1, hops * points, points).expand(len(x), -1, -1)
        maps, biases = self.conv(torch.bmm(neighbours, x).view(len(x), hops, points, -1))
        # The bias takes the same way through the adjacency, to one number a channel and point; not in half precision,
        # for what is left of it without its mean is small.
        with torch.autocast(x.device.type, enabled=False):
            return maps, biases.T @ self.A.float().sum(1)


class Block(nn.Module):
    """Parameters of one layer of one part: graph convolution, temporal convolution where asked for, residual."""

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor, temporal: bool) -> None:
        super().__init__()
        self.gcn = GraphConv(in_channels, out_channels, graph)
        self.temporal, self.projected = temporal, in_channels != out_channels
        if temporal:
            conv = ShiftConv(out_channels, out_channels, (TEMPORAL_KERNEL, 1))
            self.tcn = nn.Sequential(conv, FrameBatchNorm(out_channels))
        if self.projected:
            conv = ShiftConv(in_channels, out_channels, 1)
            self.residual = nn.Sequential(conv, FrameBatchNorm(out_channels))


def run_layer(blocks: Sequence[Any], maps: Sequence[Tensor], layouts: Sequence[FrameLayout]) -> list[Tensor]:
    """One layer of several maps side by side, so that their batch norms exchange statistics once.

    ``blocks``: a `Block` a map; ``maps``: (C, V_i, L_i) -> (C', V_i, L_i), spaced where the blocks are temporal;
    ``layouts``: of their frames.
    """
    first = blocks[0]
    cases = [_case(block.gcn, block.gcn.bn, x, layout) for block, x, layout in zip(blocks, maps, layouts, strict=True)]
    residuals = list(maps)
    if first.projected:
        cases += [
            _case(block.residual[0], block.residual[1], x, layout, relu=False)
            for block, x, layout in zip(blocks, maps, layouts, strict=True)
        ]
    hidden = normalize(cases)
    if first.projected:
        hidden, residuals = hidden[: len(blocks)], hidden[len(blocks) :]
    if not first.temporal:
        return [(x + residual).relu_() for x, residual in zip(hidden, residuals, strict=True)]
    return normalize(
        [
            _case(block.tcn[0], block.tcn[1], x, layout, residual)
            for block, x, layout, residual in zip(blocks, hidden, layouts, residuals, strict=True)
        ]
    )


def _case(
    conv: Any, norm: Any, x: Tensor, layout: FrameLayout, residual: Tensor | None = None, relu: bool = True
) -> Case:
    y, shift = conv(x)
    return Case(Rule(norm, layout, relu), y, shift, residual)


def _spatial_chain(graph: Tensor, hidden_dim: int) -> nn.ModuleDict:
    quarter, half = hidden_dim // 4, hidden_dim // 2
    widths = [(quarter, quarter), (quarter, half), (half, hidden_dim)]
    return nn.ModuleDict({f"layer{i}_0": Block(a, b, graph, temporal=False) for i, (a, b) in enumerate(widths)})


def _temporal_chain(graph: Tensor, hidden_dim: int) -> nn.ModuleDict:
    return nn.ModuleDict({f"layer0_{i}": Block(hidden_dim, hidden_dim, graph, temporal=True) for i in range(3)})


def _per_part(make: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Modules by part, the left hand's being the right hand's own."""
    return nn.ModuleDict({part: make["right" if part == "left" else part] for part in GRAPHS})


class PoseEncoder(nn.Module):
    """Parts of a signer to one feature a frame.

    Clips are packed along the frame axis: a part is (N, V, 3), N being the sum of ``lengths``. No padded
    frame exists, so none costs work, none enters the statistics, and a clip's features do not depend on its
    neighbours'. ``pose_features`` returns (N, d_model). ``gradient_checkpointing``: training keeps the input of each
    layer alone, and runs the layer again in the backward pass.
    """

    gradient_checkpointing: bool = False

    def __init__(self, d_model: int, hidden_dim: int = 256) -> None:
        super().__init__()
        graphs = {part: adjacency(part) for part in GRAPHS}
        unique = [part for part in GRAPHS if part != "left"]
        self.part_para = nn.Parameter(torch.zeros(hidden_dim * len(GRAPHS)))
        self.proj_linear = _per_part({part: nn.Linear(3, hidden_dim // 4) for part in unique})
        self.gcn_modules = _per_part({part: _spatial_chain(graphs[part], hidden_dim) for part in unique})
        self.fusion_gcn_modules = _per_part({part: _temporal_chain(graphs[part], hidden_dim) for part in unique})
        self.pose_proj = nn.Linear(hidden_dim * len(GRAPHS), d_model)
        for linear in [*self.proj_linear.values(), self.pose_proj]:
            assert isinstance(linear, nn.Linear)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def concat_parts(
        self, parts: Mapping[str, Tensor], lengths: list[int], counted: bool = True, refine: Refine | None = None
    ) -> Tensor:
        """Pooled features of all parts side by side plus ``part_para``: (N, 4 * hidden_dim)."""
        # Parts with one set of weights lie one behind the other in a map, unless their statistics must differ.
        pools = next(module for module in self.modules() if isinstance(module, FrameBatchNorm)).pools_parts
        groups = [["body"], ["left", "right"], ["face_all"]] if pools else [[part] for part in GRAPHS]
        maps, layouts = [], []
        for group in groups:
            x = torch.cat([parts[part] for part in group]).to(self.part_para.dtype)
            layouts.append(FrameLayout(lengths * len(group), counted, x.device))
            maps.append(self.proj_linear[group[0]](x).permute(2, 1, 0).contiguous())
        maps = self._run_chains(self.gcn_modules, groups, maps, layouts)
        body, *others = maps if refine is None else _refined(refine, groups, maps)
        anchors = [torch.cat([body[:, ANCHORS[part], None] for part in group], dim=-1) for group in groups[1:]]
        maps = [body, *(x + anchor.detach() for x, anchor in zip(others, anchors, strict=True))]
        spaced = [layout.space(x) for layout, x in zip(layouts, maps, strict=True)]
        maps = self._run_chains(self.fusion_gcn_modules, groups, spaced, layouts)
        points = [x.shape[1] for x in maps]
        pooled = [
            (layout.pack(x.sum(1)) / v).T.chunk(len(group))
            for group, layout, x, v in zip(groups, layouts, maps, points, strict=True)
        ]
        return torch.cat([part for group in pooled for part in group], dim=-1) + self.part_para

    def _run_chains(
        self, chains: nn.ModuleDict, groups: Sequence[Sequence[str]], maps: list[Tensor], layouts: Sequence[FrameLayout]
    ) -> list[Tensor]:
        by_group: list[Any] = [chains[group[0]] for group in groups]
        recomputes = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for layer in by_group[0]:
            blocks = [chain[layer] for chain in by_group]
            maps = checkpointed(run_layer, blocks, maps, layouts) if recomputes else run_layer(blocks, maps, layouts)
        return maps

    def pose_features(
        self, parts: Mapping[str, Tensor], lengths: list[int], counted: bool = True, refine: Refine | None = None
    ) -> Tensor:
        """One feature a real frame: (N, d_model); clips that are not ``counted`` leave batch statistics alone.

        ``refine`` changes the hands' features (C, V, N), by hand, after their spatial layers.
        """
        return self.pose_proj(self.concat_parts(parts, lengths, counted, refine))


def _refined(refine: Refine, groups: Sequence[Sequence[str]], maps: Sequence[Tensor]) -> list[Tensor]:
    pieces = (zip(group, x.chunk(len(group), -1), strict=True) for group, x in zip(groups, maps, strict=True))
    by_part = {part: piece for group in pieces for part, piece in group}
    by_part |= refine({hand: by_part[hand] for hand in ("left", "right")})
    return [torch.cat([by_part[part] for part in group], -1) for group in groups]
