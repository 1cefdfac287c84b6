"""Skeletons of a clip to one vector, two local ones, and one a frame."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from uni_sign.models.hierarchical import (
    SKELETON_REGIONS,
    EncoderSizes,
    HierarchicalImageTransformer,
    decoder_stack,
    encoder_stack,
    sinusoidal_positions,
)

Fusion = Literal["concat", "weighted"]
POINTS, AXES = 143, 3


@dataclass(frozen=True)
class TemporalSizes:
    """Widths and depths of the temporal model."""

    d_temporal: int = 512
    d_final: int = 512
    nhead: int = 8
    num_temporal_layers: int = 4
    num_decoder_layers: int = 4
    dim_feedforward: int = 2048
    dropout: float = 0.1


class TemporalSkeletonTransformer(nn.Module):
    """Frames (B, T, 143, 3) to global (B, d_final), local (B, 2, d_final) and temporal (B, T, d_temporal) vectors.

    Frames whose mask is True are padding: nothing depends on them, neither attention nor pooling. ``frame_sizes`` are
    those of the frame encoder, ``image_size`` that of its pictures; with ``weighted`` fusion its
    d_global must be its d_region.
    """

    def __init__(
        self, frame_sizes: EncoderSizes, sizes: TemporalSizes, fusion_method: Fusion = "concat", image_size: int = 256
    ) -> None:
        super().__init__()
        d_region, regions = frame_sizes.d_region, len(SKELETON_REGIONS)
        self.frame_encoder = HierarchicalImageTransformer(SKELETON_REGIONS, frame_sizes, image_size)
        self.fusion_method = fusion_method
        of_frame = frame_sizes.d_global + regions * d_region
        if fusion_method == "weighted":
            if frame_sizes.d_global != d_region:
                raise ValueError("weighted fusion adds the global vector to the regions: d_global must be d_region")
            self.region_weight = nn.Parameter(torch.ones(regions))
        width, rest = sizes.d_temporal, (sizes.nhead, sizes.dim_feedforward)
        self.fusion = _joint(d_region if fusion_method == "weighted" else of_frame, width, sizes.dropout)
        self.temporal_encoder = encoder_stack(width, *rest, sizes.num_temporal_layers, sizes.dropout)
        attention = partial(nn.MultiheadAttention, width, sizes.nhead, sizes.dropout, batch_first=True)
        self.global_query = nn.Parameter(torch.randn(1, 1, width))
        self.global_attention = attention()
        self.global_proj = nn.Linear(width, sizes.d_final)
        self.local_queries = nn.Parameter(torch.randn(2, 1, width))
        self.local_attentions = nn.ModuleList(attention() for _ in range(2))
        self.local_projs = nn.ModuleList(nn.Linear(width, sizes.d_final) for _ in range(2))
        # The clip is rebuilt from its global vector alone: these stay the random views that they begin as.
        for part in (self.local_queries, self.local_attentions, self.local_projs):
            part.requires_grad_(False)
        # Nor does anything here draw.
        self.frame_encoder.image_decoder.requires_grad_(False)
        self.decoder_proj = nn.Linear(sizes.d_final, width)
        self.temporal_decoder = decoder_stack(width, *rest, sizes.num_decoder_layers, sizes.dropout)
        self.output_proj = nn.Linear(width, of_frame)
        self.frame_decoder_proj = _joint(of_frame, sizes.dim_feedforward, sizes.dropout)
        self.frame_decoder_proj.append(nn.Linear(sizes.dim_feedforward, POINTS * AXES))

    def forward(
        self,
        frames: Tensor | None,
        padding: Tensor | None = None,
        present: Tensor | None = None,
        features: Tensor | None = None,
    ) -> "Representation":
        """Frames (B, T, 143, 3), padding (B, T) bool, and which regions are there (B, T, 4) bool.

        Instead of frames ``features``, what `frame_features` gave of them.
        """
        if features is None:
            assert frames is not None
            features = self.frame_features(frames, present)
        return self._represent(features, padding)

    def freeze_frame_encoder(self) -> None:
        """From now on the frame encoder neither trains nor drops anything."""
        self.frame_encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TemporalSkeletonTransformer":
        """Training or evaluation; a frozen frame encoder stays in evaluation."""
        super().train(mode)
        if not next(self.frame_encoder.parameters()).requires_grad:
            self.frame_encoder.eval()
        return self

    def frame_features(self, frames: Tensor, present: Tensor | None = None) -> Tensor:
        """Of each frame its global vector and its regions', (B, T, d_global + 4 * d_region)."""
        of_frames = None if present is None else present.flatten(0, 1)
        global_vector, regional = self.frame_encoder.encode(frames.flatten(0, 1), of_frames)
        return torch.cat([global_vector, regional.flatten(1)], dim=1).view(*frames.shape[:2], -1)

    def _represent(self, features: Tensor, padding: Tensor | None) -> "Representation":
        hidden = self.fusion(self._fused(features.to(self.global_query.dtype)))
        hidden = hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden)
        temporal = self.temporal_encoder(hidden, src_key_padding_mask=padding)
        global_vector = self.global_proj(_pooled(self.global_attention, self.global_query[0, 0], temporal, padding))
        local = [self._local(number, temporal, padding) for number in range(2)]
        return Representation(global_vector, torch.stack(local, dim=1), temporal)

    def reconstruct(self, global_vector: Tensor, length: int, padding: Tensor | None = None) -> Tensor:
        """A clip of so many frames (B, length, 143, 3) from its global vector (B, d_final)."""
        memory = self.decoder_proj(global_vector)[:, None]
        queries = sinusoidal_positions(length, memory.shape[2], memory).expand(len(memory), -1, -1)
        decoded = self.temporal_decoder(queries, memory, tgt_key_padding_mask=padding)
        points: Tensor = self.frame_decoder_proj(self.output_proj(decoded))
        return points.view(*points.shape[:2], POINTS, AXES)

    def _fused(self, features: Tensor) -> Tensor:
        if self.fusion_method == "concat":
            return features
        vectors = features.unflatten(2, (1 + len(self.region_weight), -1))
        weight = self.region_weight.softmax(dim=0)
        return vectors[:, :, 0] + (vectors[:, :, 1:] * weight[:, None]).sum(dim=2)

    def _local(self, number: int, temporal: Tensor, padding: Tensor | None) -> Tensor:
        """The even (0) or odd (1) frames in one vector, (B, d_final); zeros where there is none."""
        own = None if padding is None else padding[:, number::2]
        frames, query = temporal[:, number::2], self.local_queries[number, 0]
        if not frames.shape[1]:
            return temporal.new_zeros(len(temporal), self.global_proj.out_features)
        pooled: Tensor = self.local_projs[number](_pooled(self.local_attentions[number], query, frames, own))
        return pooled if own is None else pooled.masked_fill(own.all(dim=1, keepdim=True), 0.0)


def _joint(width: int, into: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, into), nn.LayerNorm(into), nn.ReLU(), nn.Dropout(dropout))


class Representation(NamedTuple):
    """A clip in vectors: (B, d_final), (B, 2, d_final) of even and odd frames, (B, T, d_temporal) of each frame."""

    global_vector: Tensor
    local: Tensor
    temporal: Tensor


def _pooled(attention: nn.Module, query: Tensor, frames: Tensor, padding: Tensor | None) -> Tensor:
    """Attention of one query (d) to frames (B, T, d): (B, d). Of padding alone anything, but a number."""
    if padding is not None:
        padding = padding & ~padding.all(dim=1, keepdim=True)
    queries = query.expand(len(frames), 1, -1)
    pooled, _ = attention(queries, frames, frames, key_padding_mask=padding, need_weights=False)
    vector: Tensor = pooled[:, 0]
    return vector
