"""Spatial-temporal graph convolutions over body, hands and face (ST-GCN, arXiv 1801.07455; arXiv 2501.15187)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uni_sign.models.batch_norm import FrameBatchNorm, normalize

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


class GraphConv(nn.Module):
    """1x1 convolution to one map per hop, summed through the learnable adjacency: (1, C, L, V) -> (1, C', L, V).

    Its batch norm ``bn`` is applied by `run_layer`, together with those of the other parts.
    """

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(graph.clone())
        self.conv = nn.Conv2d(in_channels, out_channels * graph.shape[0], 1)
        self.bn = FrameBatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        hops, points, _ = self.A.shape
        maps = self.conv(x).view(hops, -1, points)
        return torch.bmm(maps, self.A).sum(0).view(1, -1, x.shape[2], points)


class FrameLayout:
    """Where packed clips lie along the frame axis, and how to set them apart for a temporal convolution.

    ``lengths`` (B,) in frames. Between two clips lie ``_PAD`` zero frames, so that a kernel sees zeros beyond a
    clip's end exactly as it does at the border of a clip alone.
    """

    def __init__(self, lengths: Tensor) -> None:
        clip_of_frame = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
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
            conv = nn.Conv2d(out_channels, out_channels, (TEMPORAL_KERNEL, 1), padding=(_PAD, 0))
            self.tcn = nn.Sequential(conv, FrameBatchNorm(out_channels))
        if self.projected:
            conv = nn.Conv2d(in_channels, out_channels, 1)
            self.residual = nn.Sequential(conv, FrameBatchNorm(out_channels))


def run_layer(blocks: Sequence[Any], maps: Sequence[Tensor], layout: FrameLayout) -> list[Tensor]:
    """One layer of several parts side by side, so that their batch norms exchange statistics once.

    ``blocks``: a `Block` a part; ``maps``: (1, C, N, V) a part -> (1, C', N, V) a part.
    """
    norms = [block.gcn.bn for block in blocks]
    hidden = [block.gcn(x) for block, x in zip(blocks, maps, strict=True)]
    residuals = list(maps)
    if blocks[0].projected:
        projections = [block.residual for block in blocks]
        residuals = [conv(x) for (conv, _), x in zip(projections, maps, strict=True)]
        residual_norms = [norm for _, norm in projections]
        normalized = normalize([*hidden, *residuals], [*norms, *residual_norms])
        hidden, residuals = normalized[: len(blocks)], normalized[len(blocks) :]
        residuals = [norm(x) for norm, x in zip(residual_norms, residuals, strict=True)]
    else:
        hidden = normalize(hidden, norms)
    hidden = [F.relu(norm(x)) for norm, x in zip(norms, hidden, strict=True)]
    if blocks[0].temporal:
        convs = [block.tcn[0] for block in blocks]
        norms = [block.tcn[1] for block in blocks]
        hidden = [layout.pack(conv(layout.space(x))) for conv, x in zip(convs, hidden, strict=True)]
        hidden = [norm(x) for norm, x in zip(norms, normalize(hidden, norms), strict=True)]
    return [F.relu(x + residual) for x, residual in zip(hidden, residuals, strict=True)]


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
    neighbours'. ``pose_features`` returns (N, d_model).
    """

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

    def concat_parts(self, parts: Mapping[str, Tensor], lengths: Tensor) -> Tensor:
        """Pooled features of all parts side by side plus ``part_para``: (N, 4 * hidden_dim)."""
        layout = FrameLayout(lengths)
        frames = [self.proj_linear[part](parts[part].to(self.part_para.dtype)) for part in GRAPHS]
        maps = [x.permute(2, 0, 1)[None].contiguous() for x in frames]
        maps = self._run_chains(self.gcn_modules, maps, layout)
        body, *others = maps
        anchored = [x + body[..., anchor, None].detach() for x, anchor in zip(others, ANCHORS.values(), strict=True)]
        maps = self._run_chains(self.fusion_gcn_modules, [body, *anchored], layout)
        return torch.cat([x.mean(-1)[0].T for x in maps], dim=-1) + self.part_para

    @staticmethod
    def _run_chains(chains: nn.ModuleDict, maps: list[Tensor], layout: FrameLayout) -> list[Tensor]:
        by_part: list[Any] = [chains[part] for part in GRAPHS]
        for layer in by_part[0]:
            maps = run_layer([chain[layer] for chain in by_part], maps, layout)
        return maps

    def pose_features(self, parts: Mapping[str, Tensor], lengths: Tensor) -> Tensor:
        """One feature a real frame: (N, d_model)."""
        return self.pose_proj(self.concat_parts(parts, lengths))
