"""Weights of strangers into our modules: checked key by key, and said aloud."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from uni_sign.errors import InputError

FUSION_MODULES = ("gating_fusion", "mask_embedding")
_OPTIONAL_MODULES = (*FUSION_MODULES, "text_encoder")
RGB_MODULES = ("rgb_support_backbone", "rgb_proj", "fusion_pose_rgb_DA", "fusion_pose_rgb_linear", "fusion_gate")
_WRAPPINGS = ("model", "model_state_dict", "state_dict", "module")


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, and what else lay in the file."""

    source: str
    weights: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)


def unwrap(content: Mapping[str, Any], source: str) -> Checkpoint:
    """The weights of a checkpoint file's content, bare or under one of the usual names.

    A frozen text encoder stored beside the model counts as its ``text_encoder.*``. Raises InputError where there
    are no weights.
    """
    key = next((key for key in _WRAPPINGS if isinstance(content.get(key), Mapping)), None)
    weights = dict(content[key]) if key else dict(content)
    extras = {name: value for name, value in content.items() if name != key} if key else {}
    if isinstance(extras.get("text_encoder"), Mapping):
        weights |= {f"text_encoder.{name}": value for name, value in extras.pop("text_encoder").items()}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{source} holds no model weights: give a checkpoint such as best_checkpoint.pth.")
    return Checkpoint(source, {str(name): value for name, value in weights.items()}, extras)


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> str:
    """Load strictly, but for description modules that only one side has; returns what was loaded, in a sentence.

    Raises InputError for a checkpoint of another model: missing, unknown or differently shaped tensors.
    """
    weights, said = compared(model, checkpoint)
    model.load_state_dict(weights, strict=False)
    return said


def compared(model: nn.Module, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], str]:
    """The weights that `load_checkpoint` loads and what it says, without loading them; the same errors."""
    own = model.state_dict()
    modules = _modules(own)
    if _modules(checkpoint.weights) & set(RGB_MODULES) and not modules & set(RGB_MODULES):
        raise InputError(f"{checkpoint.source} is of a model with hand crops: add --rgb_support.")
    unused = {name for name in checkpoint.weights if _optional(name) and name.split(".")[0] not in modules}
    weights = {name: value for name, value in checkpoint.weights.items() if name not in unused}
    held = _modules(weights)
    new = set(_OPTIONAL_MODULES) - held
    if not held & set(RGB_MODULES):  # of a pose-only model; part of the branch would be another's, or broken
        new |= set(RGB_MODULES)
    fresh = {name for name in own if name.split(".")[0] in new}
    missing = sorted(set(own) - _with_tied(model, set(weights)) - fresh)
    unknown = sorted(set(weights) - set(own))
    if missing or unknown:
        raise InputError(
            f"{checkpoint.source} is of another model: {len(missing)} tensors are missing{_first(missing)}, "
            f"{len(unknown)} are unknown{_first(unknown)}; check --hidden_dim, --mt5 and the file."
        )
    _check_shapes(own, weights, checkpoint.source)
    said = f"Loaded {len(weights)} tensors from {checkpoint.source}"
    if fresh:
        said += f"; not in it, so at their start: {', '.join(sorted(_modules(fresh)))}"
    if unused:
        said += f"; in it, but not trained here: {', '.join(sorted(_modules(unused)))}"
    return weights, said + "."


def dead_gate(model: nn.Module) -> bool:
    """Whether the gate of the hand crops lets nothing through, and no gradient back: its last layer is all zero."""
    gate = [value for name, value in model.state_dict().items() if name.startswith("fusion_gate.2.")]
    return bool(gate) and not any(value.any() for value in gate)


def untrained_trunk(model: nn.Module) -> bool:
    """Whether no batch norm of the image trunk has seen an image: all running means are zero."""
    means = [
        value
        for name, value in model.state_dict().items()
        if name.startswith("rgb_support_backbone.") and name.endswith(".running_mean")
    ]
    return bool(means) and not any(mean.any() for mean in means)


def load_trunk(trunk: nn.Module, content: Mapping[str, Any], source: str) -> str:
    """Load ImageNet's weights of EfficientNet-B0, by torchvision's names; returns what was loaded, in a sentence.

    Its classifier is not needed. Raises InputError where a tensor is missing, unknown or of another shape.
    """
    given = unwrap(content, source).weights
    weights = {f"0.{name.removeprefix('features.')}": v for name, v in given.items() if name.startswith("features.")}
    unknown = [name for name in given if not name.startswith(("features.", "classifier."))]
    own = trunk.state_dict()
    unknown += [f"features.{name[2:]}" for name in weights if name not in own]
    missing = [f"features.{name[2:]}" for name in own if name not in weights]
    if missing or unknown:
        raise InputError(
            f"{source} is no EfficientNet-B0: {len(missing)} tensors are missing{_first(sorted(missing))}, "
            f"{len(unknown)} are unknown{_first(sorted(unknown))}; give torchvision's efficientnet_b0 weights."
        )
    _check_shapes(own, weights, source)
    trunk.load_state_dict(weights)
    return f"Loaded {len(weights)} tensors of the image trunk from {source}."


def load_fusion(model: nn.Module, checkpoint: Checkpoint) -> str:
    """Load ``gating_fusion.*`` and ``mask_embedding.*`` alone; returns what was loaded, in a sentence."""
    source = checkpoint.source
    weights = {k: v for k, v in checkpoint.weights.items() if k.split(".")[0] in FUSION_MODULES}
    own = {k: v for k, v in model.state_dict().items() if k.split(".")[0] in FUSION_MODULES}
    missing = sorted(set(own) - set(weights))
    if missing:
        raise InputError(f"{source} lacks {len(missing)} fusion tensors{_first(missing)}.")
    _check_shapes(own, weights, source)
    model.load_state_dict(weights, strict=False)
    return f"Loaded {len(weights)} fusion tensors from {source}."


def fingerprint(weights: Mapping[str, Tensor]) -> bytes:
    """Bytes that change when any tensor does: name, shape and 64 evenly spaced values of each."""
    parts: list[bytes] = []
    for name in sorted(weights):
        flat = weights[name].detach().flatten()
        # In whole numbers: float32 cannot tell the last of 192 M places from one beyond it.
        places = torch.arange(64) * max(0, flat.numel() - 1) // 63
        parts.append(f"{name}{tuple(weights[name].shape)}".encode())
        parts.append(flat[places].float().numpy().tobytes() if flat.numel() else b"")
    return b"".join(parts)


def _with_tied(model: nn.Module, names: set[str]) -> set[str]:
    """``names`` and every other name of the same parameters: safetensors files hold tied weights once."""
    others: dict[int, list[str]] = {}
    for name, parameter in _all_named(model):
        others.setdefault(id(parameter), []).append(name)
    return names | {alias for group in others.values() if names & set(group) for alias in group}


def _all_named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _modules(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _optional(name: str) -> bool:
    return name.split(".")[0] in _OPTIONAL_MODULES


def _first(names: list[str]) -> str:
    return f" (first {names[0]})" if names else ""


def _check_shapes(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    for name, value in weights.items():
        if name in own and own[name].shape != value.shape:
            raise InputError(
                f"{source} is of another model: {name} has shape {tuple(value.shape)}, here {tuple(own[name].shape)}; "
                "check --hidden_dim and --mt5."
            )
