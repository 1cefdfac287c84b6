"""Text to signing by rectified flow: what is asked of a clip's poses beside the flow, and how long the clip lasts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from uni_sign.models.flow_transformer import FlowSizes, FlowTransformer, flow_sizes
from uni_sign.models.pose_encoder import GRAPHS
from uni_sign.models.rectified_flow import LossKind, distance, estimated_data, flow_losses, mean_of_frames

AXES = 3  # x, y, score
POINTS = sum(points for points, _ in GRAPHS.values())
POSE_VALUES = AXES * POINTS  # of a frame
Bones = Sequence[tuple[int, int]]
_TYPICAL = 64  # frames of a clip
_SEEN = 0.15  # scores are 0 or above 0.3; scaled and back, 0 is not quite 0


def signing_bones() -> list[tuple[int, int]]:
    """Pairs of joined points among the 69 of all parts, one part behind the other in the order of `GRAPHS`."""
    bones, start = [], 0
    for points, edges in GRAPHS.values():
        bones += [(start + a, start + b) for a, b in edges]
        start += points
    return bones


class PoseScale(NamedTuple):
    """What poses are scaled by, to mean 0 and deviation 1 as noise has: mean and deviation (3 V,)."""

    mean: Tensor
    deviation: Tensor

    def scaled(self, poses: Tensor) -> Tensor:
        """Poses (..., 3 V) as the flow makes them."""
        return (poses.float() - self.mean.to(poses.device)) / self.deviation.to(poses.device)

    def poses(self, scaled: Tensor) -> Tensor:
        """What the flow made, as poses (..., 3 V)."""
        return scaled.float() * self.deviation.to(scaled.device) + self.mean.to(scaled.device)


class SigningLosses(NamedTuple):
    """Of each item (B,), float32: the weighted sum, and its parts before weighting."""

    total: Tensor
    flow: Tensor
    reconstruction: Tensor
    velocity: Tensor
    bone: Tensor


def signing_losses(
    predicted: Tensor,
    x0: Tensor,
    x1: Tensor,
    x_t: Tensor,
    t: Tensor,
    mask: Tensor,
    scale: "PoseScale",
    bones: Bones,
    *,
    kind: LossKind = "l1",
    lambda_flow: float = 1.0,
    lambda_reconstruction: float = 1.0,
    lambda_velocity: float = 1.0,
    lambda_bone: float = 1.0,
) -> SigningLosses:
    """Flow, reconstruction, velocity and bone length of scaled poses (B, L, 3 V), where mask (B, L) is True.

    ``predicted`` is v(t, x_t), of the path from noise x0 to poses x1; what it makes of them is x_t + (1 - t) v. Bones
    are measured in poses as they are, all else as they are scaled.
    """
    of_flow = flow_losses(predicted, x1.float() - x0.float(), kind=kind, mask=mask)
    behind = ~mask[:, :, None]
    # What lies behind the mask may be anything.
    true = x1.float().masked_fill(behind, 0.0)
    estimated = estimated_data(x_t, predicted, t).masked_fill(behind, 0.0)
    reconstruction = mean_of_frames(distance(estimated, true, kind), mask)
    bone = _bone_losses(scale.poses(estimated), scale.poses(true), mask, bones, kind)
    total = (
        lambda_flow * of_flow.flow
        + lambda_reconstruction * reconstruction
        + lambda_velocity * of_flow.velocity
        + lambda_bone * bone
    )
    return SigningLosses(total, of_flow.flow, reconstruction, of_flow.velocity, bone)


def _bone_losses(estimated: Tensor, true: Tensor, mask: Tensor, bones: Bones, kind: LossKind) -> Tensor:
    """Difference in length of bones both of whose points were seen, (B,)."""
    ends = torch.tensor(bones, device=true.device)
    seen = (true.unflatten(2, (-1, AXES))[..., 2] > _SEEN)[:, :, ends].all(dim=3) & mask[:, :, None]
    apart = distance(bone_lengths(estimated, bones), bone_lengths(true, bones), kind).masked_fill(~seen, 0.0)
    return apart.sum(dim=(1, 2)) / seen.sum(dim=(1, 2)).clamp(min=1)


def bone_lengths(poses: Tensor, bones: Bones) -> Tensor:
    """Poses (B, L, 3 V), x, y and score of each point, to lengths (B, L, bones)."""
    ends = poses.unflatten(2, (-1, AXES))[:, :, torch.tensor(bones, device=poses.device), :2]
    # A norm has no slope at 0.
    return ((ends[:, :, :, 0] - ends[:, :, :, 1]).square().sum(dim=3) + 1e-12).sqrt()


class LengthPredictor(nn.Module):
    """Text (B, S, dim_text), and its language where there are several, to the logarithm of a clip's frames (B,)."""

    def __init__(self, dim_text: int, width: int = 256, languages: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim_text)
        self.hidden = nn.Linear(dim_text + 1, width)
        self.language_embedder = nn.Embedding(languages, width) if languages else None
        self.output = nn.Linear(width, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, math.log(_TYPICAL))

    def forward(self, text: Tensor, text_mask: Tensor, language: Tensor | None = None) -> Tensor:
        """text_mask (B, S) is True at real pieces; language (B,) ids, -1 where it is unknown."""
        real = text_mask[:, :, None].to(self.norm.weight.dtype)
        pieces = real.sum(dim=1).clamp(min=1)
        features = self.norm(text.to(real.dtype)).masked_fill(real == 0, 0.0)
        hidden = self.hidden(torch.cat([features.sum(dim=1) / pieces, pieces.log()], dim=1))
        if self.language_embedder is not None:
            assert language is not None
            known = (language >= 0)[:, None].to(hidden.dtype)
            hidden = hidden + self.language_embedder(language.clamp(min=0)) * known
        logarithm: Tensor = self.output(nn.functional.silu(hidden))
        return logarithm[:, 0].float()


class SigningMotion(nn.Module):
    """Text to signing: the velocity of scaled poses, and how long a clip lasts."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.fmt = FlowTransformer(sizes)
        self.length = LengthPredictor(sizes.dim_text, languages=sizes.languages)

    def gradient_checkpointing_enable(self) -> None:
        """Training keeps the inputs of the blocks alone, and runs each again in the backward pass; same gradients."""
        self.fmt.gradient_checkpointing_enable()

    def forward(self, t: Tensor, x: Tensor, **conditions: Any) -> Tensor:
        """The velocity: see `FlowTransformer`."""
        velocity: Tensor = self.fmt(t, x, **conditions)
        return velocity


def signing_motion(config: Mapping[str, Any]) -> SigningMotion:
    """The model of a ``model_config`` of text to signing, its weights drawn at random; ValueError if impossible."""
    languages = config.get("languages")
    if not isinstance(config.get("sizes"), Mapping) or not isinstance(languages, list):
        raise ValueError("sizes or languages are missing or impossible")
    sizes = flow_sizes(config["sizes"])
    if (sizes.dim_w, sizes.languages) != (POSE_VALUES, len(languages)) or not sizes.dim_text:
        raise ValueError(f"sizes are not those of signing in {len(languages)} languages")
    return SigningMotion(sizes)


def length_losses(logarithms: Tensor, frames: Tensor) -> Tensor:
    """|log predicted - log true| of each clip, (B,): as bad twice too long as twice too short."""
    return (logarithms.float() - frames.float().log()).abs()


def predicted_frames(logarithms: Tensor, most: int) -> Tensor:
    """Whole frames (B,), from 1 to ``most``, of predicted logarithms (B,)."""
    return logarithms.clamp(max=math.log(most)).exp().round().long().clamp(min=1)
