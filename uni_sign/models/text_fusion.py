"""Descriptions beside poses: TextEncoder, LearnableMaskEmbedding and GatingFusion (spec: descriptions)."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import MT5Config, MT5EncoderModel

from uni_sign.models.zero3 import most_of_all_ranks

# With mT5-base, whose encoder keeps about 0.44 MB a token in bf16, 7 GB.
KEPT_TOKENS = 16384


class TextEncoder(nn.Module):
    """The encoder stack of an mT5 with weights of its own.

    ``forward`` takes groups of texts, each (U_g, L_g) token ids padded with 0 to the group's own longest, and
    returns (at least sum U_g, d_model). ``pooling``: ``mean`` over real tokens, or the ``first`` token's state.
    A batch of more than `KEPT_TOKENS` keeps no activations: each group is encoded again in the backward pass.
    """

    def __init__(self, config: MT5Config, pooling: str = "mean") -> None:
        super().__init__()
        # The library marks the config it is given as encoder-only: it gets one of its own.
        self.encoder = MT5EncoderModel(copy.deepcopy(config))
        # Left apart, one of the two would be a parameter that nothing uses, which data parallel refuses.
        self.encoder.encoder.set_input_embeddings(self.encoder.shared)
        self.pooling = pooling

    def forward(self, groups: Sequence[Tensor]) -> Tensor:
        tokens = sum(token_ids.numel() for token_ids in groups)
        count, tokens = most_of_all_ranks([len(groups), tokens], self.encoder.shared.weight)
        # A call too many gives rows that nothing points at.
        groups = [*groups, *[groups[-1][:1]] * (count - len(groups))]
        if tokens <= KEPT_TOKENS or not torch.is_grad_enabled():
            return torch.cat([self._encode(token_ids) for token_ids in groups])
        return torch.cat([checkpoint(self._encode, token_ids, use_reentrant=False) for token_ids in groups])

    def _encode(self, token_ids: Tensor) -> Tensor:
        mask = token_ids != 0
        states = self.encoder(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state
        if self.pooling == "first":
            return states[:, 0]
        weights = mask.to(states.dtype)[..., None]
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class LearnableMaskEmbedding(nn.Module):
    """The vector that stands wherever a frame has no text: N(0, 0.01), shape (1, d_model)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.randn(1, d_model) * 0.01)

    def forward(self, text_features: Tensor | None) -> Tensor:
        """Put the mask before (U, d_model) text features: row 0 of the (U + 1, d_model) table is "no text"."""
        if text_features is None:
            # A copy that keeps the parameter in the graph on every rank and in every step.
            return self.mask.clone()
        return torch.cat([self.mask, text_features.to(self.mask.dtype)])


class GatingFusion(nn.Module):
    """fused = pose + gate * text, gate = sigmoid(MLP([pose, text, indicator]))."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gate_mlp = nn.Sequential(
            nn.Linear(2 * d_model + 1, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)
        )
        for layer in self.gate_mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, pose: Tensor, text: Tensor, indicator: Tensor) -> tuple[Tensor, Tensor]:
        """Pose and text (..., D), indicator (...) in {0, 1} -> fused (..., D) and gate (..., 1)."""
        joined = torch.cat([pose, text, indicator.to(pose.dtype)[..., None]], dim=-1)
        gate = torch.sigmoid(self.gate_mlp(joined))
        return pose + gate * text, gate


def text_per_frame(table: Tensor, left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """Rows of ``table`` (U + 1, D) for N frames: (1 - weight) * table[left] + weight * table[right] -> (N, D)."""
    share = weight.to(table.dtype)[:, None]
    return torch.lerp(table[left], table[right], share)
