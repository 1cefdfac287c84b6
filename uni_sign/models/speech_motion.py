"""Speech to motion: the part of FLOAT (arXiv 2412.01064) that trains, on features of frozen models.

Names of modules are those of the published weights, ``audio_encoder.audio_projection.*`` and ``fmt.*``.
"""

from typing import Any

from torch import Tensor, nn

from uni_sign.models.audio_encoder import audio_projection
from uni_sign.models.flow_transformer import FlowSizes, FlowTransformer

TRAINED = ("audio_encoder.audio_projection", "fmt")


class _Projection(nn.Module):
    def __init__(self, width: int, dim_a: int) -> None:
        super().__init__()
        self.audio_projection = audio_projection(width, dim_a)


class SpeechMotion(nn.Module):
    """`FlowTransformer` behind the trainable end of the audio encoder; ``audio_width``: values of an audio feature."""

    def __init__(self, sizes: FlowSizes, audio_width: int) -> None:
        super().__init__()
        self.sizes, self.audio_width = sizes, audio_width
        self.audio_encoder = _Projection(audio_width, sizes.dim_a)
        self.fmt = FlowTransformer(sizes)

    def gradient_checkpointing_enable(self) -> None:
        """Training keeps the inputs of the blocks alone, and runs each again in the backward pass; same gradients."""
        self.fmt.gradient_checkpointing_enable()

    def audio(self, features: Tensor) -> Tensor:
        """Features of frames (B, T, audio_width) to their conditions (B, T, dim_a)."""
        projection = self.audio_encoder.audio_projection
        dtype = next(projection.parameters()).dtype  # DeepSpeed casts weights, and no batch
        condition: Tensor = projection(features.to(dtype))
        return condition

    def forward(self, t: Tensor, x: Tensor, **conditions: Any) -> Tensor:
        """The velocity: see `FlowTransformer`, whose wa and prev_wa `audio` makes."""
        velocity: Tensor = self.fmt(t, x, **conditions)
        return velocity

    def parts(self) -> dict[str, nn.Module]:
        """The modules that train, by their names in a checkpoint of FLOAT."""
        return dict(zip(TRAINED, (self.audio_encoder.audio_projection, self.fmt), strict=True))
