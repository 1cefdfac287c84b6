"""Spatial-temporal graph convolutions over body, hands and face (ST-GCN, arXiv 1801.07455; arXiv 2501.15187)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uni_sign.models.batch_norm import FrameBatchNorm, checkpointed, normalize

Edges = list[tuple[int, int]]


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
TEMPORAL_KERNEL = 5
_PAD = TEMPORAL_KERNEL // 2


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
        assert self.bias is not None
        return F.conv2d(x, self.weight, padding=self.padding), self.bias


class GraphConv(nn.Module):
    """1x1 convolution to one map per hop, summed through the learnable adjacency.

    (1, C, L, V) -> (1, C', L, V) and what is still to be added to it, (C',): see `normalize`. Its batch norm ``bn``
    is applied by `run_layer`, together with those of the other parts.
    """

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(graph.clone())
        self.conv = ShiftConv(in_channels, out_channels * graph.shape[0], 1)
        self.bn = FrameBatchNorm(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hops, points, _ = self.A.shape
        maps, bias = self.conv(x)
        summed = torch.bmm(maps.view(hops, -1, points), self.A).sum(0).view(1, -1, x.shape[2], points)
        # The bias takes the same way through the adjacency, to one number a channel and point; not in half precision,
        # for what is left of it without its mean is small.
        with torch.autocast(x.device.type, enabled=False):
            offset = bias.float().view(hops, -1).T @ self.A.float().sum(1)
        shift = offset.mean(1)
        return summed + (offset - shift[:, None])[:, None].to(summed.dtype), shift


class FrameLayout:
    """Where packed clips lie along the frame axis, and how to set them apart for a temporal convolution.

    ``lengths`` (B,) in frames, ``frames`` in all; ``counted``: whether these clips count, or only fill a place. Between
    two clips lie ``_PAD`` zero frames, so that a kernel sees zeros beyond a clip's end exactly as at the border of a
    clip alone.
    """

    def __init__(self, lengths: Tensor, frames: int, counted: bool = True) -> None:
        self.counted = counted
        clips = torch.arange(len(lengths), device=lengths.device)
        # With the length of the result, a GPU need not be waited for.
        clip_of_frame = torch.repeat_interleave(clips, lengths, output_size=frames)
        self.spaced = torch.arange(len(clip_of_frame), device=lengths.device) + _PAD * clip_of_frame
        self.total = len(clip_of_frame) + _PAD * (len(lengths) - 1)

    def space(self, x: Tensor) -> Tensor:
        """(1, C, N, V) packed -> (1, C, total, V) with zero frames between the clips."""
        if self.total == x.shape[2]:
            return x
        return x.new_zeros(1, x.shape[1], self.total, x.shape[3]).index_copy(2, self.spaced, x)

    def pack(self, x: Tensor) -> Tensor:
        """Inverse of ``space``."""
        return x if self.total == len(self.spaced) else x.index_select(2, self.spaced)


class Block(nn.Module):
    """Parameters of one layer of one part: graph convolution, temporal convolution where asked for, residual."""

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor, temporal: bool) -> None:
        super().__init__()
        self.gcn = GraphConv(in_channels, out_channels, graph)
        self.temporal, self.projected = temporal, in_channels != out_channels
        if temporal:
            conv = ShiftConv(out_channels, out_channels, (TEMPORAL_KERNEL, 1), padding=(_PAD, 0))
            self.tcn = nn.Sequential(conv, FrameBatchNorm(out_channels))
        if self.projected:
            conv = ShiftConv(in_channels, out_channels, 1)
            self.residual = nn.Sequential(conv, FrameBatchNorm(out_channels))


def run_layer(blocks: Sequence[Any], maps: Sequence[Tensor], layouts: Sequence[FrameLayout]) -> list[Tensor]:
    """One layer of several maps side by side, so that their batch norms exchange statistics once.

    ``blocks``: a `Block` a map; ``maps``: (1, C, N_i, V_i) -> (1, C', N_i, V_i); ``layouts``: of their frames.
    """
    convs, norms = [block.gcn for block in blocks], [block.gcn.bn for block in blocks]
    inputs, residuals = list(maps), list(maps)
    if blocks[0].projected:
        convs += [block.residual[0] for block in blocks]
        norms += [block.residual[1] for block in blocks]
        inputs += residuals
    hidden = _normalized(convs, norms, inputs, [*layouts, *layouts][: len(inputs)], spaced=False)
    if blocks[0].projected:
        hidden, residuals = hidden[: len(blocks)], hidden[len(blocks) :]
    hidden = [F.relu(x) for x in hidden]
    if blocks[0].temporal:
        convs, norms = [block.tcn[0] for block in blocks], [block.tcn[1] for block in blocks]
        hidden = _normalized(convs, norms, hidden, layouts, spaced=True)
    return [F.relu(x + residual) for x, residual in zip(hidden, residuals, strict=True)]


def _normalized(
    convs: Sequence[Any], norms: Sequence[Any], maps: Sequence[Tensor], layouts: Sequence[FrameLayout], spaced: bool
) -> list[Tensor]:
    """Convolution and batch norm of several maps; ``spaced`` where the convolution reaches over frames."""
    if spaced:
        maps = [layout.space(x) for layout, x in zip(layouts, maps, strict=True)]
    pairs = [conv(x) for conv, x in zip(convs, maps, strict=True)]
    maps, shifts = [x for x, _ in pairs], [shift for _, shift in pairs]
    if spaced:
        maps = [layout.pack(x) for layout, x in zip(layouts, maps, strict=True)]
    return [norm(x) for norm, x in zip(norms, normalize(maps, shifts, norms, layouts[0].counted), strict=True)]


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

    Clips are packed along the frame axis: a part is (N, V, 3), N being the sum of ``lengths`` (B,). No padded
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

    def concat_parts(self, parts: Mapping[str, Tensor], lengths: Tensor, counted: bool = True) -> Tensor:
        """Pooled features of all parts side by side plus ``part_para``: (N, 4 * hidden_dim)."""
        # Parts with one set of weights lie one behind the other in a map, unless their statistics must differ.
        pools = next(module for module in self.modules() if isinstance(module, FrameBatchNorm)).pools_parts
        groups = [["body"], ["left", "right"], ["face_all"]] if pools else [[part] for part in GRAPHS]
        maps, layouts = [], []
        for group in groups:
            x = torch.cat([parts[part] for part in group]).to(self.part_para.dtype)
            layouts.append(FrameLayout(lengths.repeat(len(group)), len(x), counted))
            maps.append(self.proj_linear[group[0]](x).permute(2, 0, 1)[None].contiguous())
        body, *others = self._run_chains(self.gcn_modules, groups, maps, layouts)
        anchors = [torch.cat([body[..., ANCHORS[part], None] for part in group], dim=2) for group in groups[1:]]
        maps = [body, *(x + anchor.detach() for x, anchor in zip(others, anchors, strict=True))]
        maps = self._run_chains(self.fusion_gcn_modules, groups, maps, layouts)
        pooled = [x.mean(-1)[0].T.chunk(len(group)) for group, x in zip(groups, maps, strict=True)]
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

    def pose_features(self, parts: Mapping[str, Tensor], lengths: Tensor, counted: bool = True) -> Tensor:
        """One feature a real frame: (N, d_model); clips that are not ``counted`` leave batch statistics alone."""
        return self.pose_proj(self.concat_parts(parts, lengths, counted))
