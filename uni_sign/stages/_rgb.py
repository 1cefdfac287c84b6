"""What is worth saying of a model with hand crops before it trains."""

from typing import Any

from torch import nn

from uni_sign.models.weights import dead_gate, load_trunk, untrained_trunk

# The stage that imports this module: a stage that its helpers imported would be a circle.
Translation = Any


def load_rgb_backbone(stage: Translation, model: nn.Module) -> list[str]:
    """Put ``--rgb_backbone`` into the model's trunk; what was loaded."""
    if stage.rgb_backbone is None:
        return []
    trunk = model.get_submodule("rgb_support_backbone")
    return [load_trunk(trunk, stage.rgb_backbone, stage.config.rgb_backbone)]


def rgb_notes(stage: Translation, model: nn.Module) -> list[str]:
    """Sentences for a branch that cannot learn, or hardly can."""
    if not stage.config.rgb_support:
        return []
    notes = []
    if dead_gate(model):
        notes.append(
            f"{stage.config.finetune}: the gate of the hand crops is all zero: they change nothing, and cannot."
        )
    if stage.config.batch_norm == "frozen" and untrained_trunk(model):
        notes.append(
            "--batch_norm frozen with an image trunk that never trained lets next to nothing through it: give "
            "--rgb_backbone, or leave the flag out."
        )
    return notes
