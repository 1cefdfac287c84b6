"""FLOAT's published weights, one flat dict of four groups, into our modules, and ours into that form.

``fmt`` is a `FlowTransformer`, ``audio_encoder`` an `AudioEncoder`, ``emotion_encoder`` an `EmotionEncoder`,
``motion_autoencoder`` a `MotionAutoencoder`. A prefix may name a part of one: ``audio_encoder.audio_projection``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from uni_sign.errors import InputError
from uni_sign.models.wav2vec2 import current_name
from uni_sign.models.weights import Checkpoint

GROUPS = ("motion_autoencoder", "audio_encoder", "emotion_encoder", "fmt")
# What of a file must be as the sizes have it: the window of attention, and the filters of the autoencoder.
_CONSTANTS = (".alignment_mask", ".kernel")
_NEAR = 1e-4


def load_float(modules: Mapping[str, nn.Module], checkpoint: Checkpoint) -> str:
    """Load each module's weights, by prefix, strictly; returns what was loaded, in a sentence.

    Other groups of the file stay aside. Raises InputError where tensors of a prefix are missing, unknown, of another
    shape, or contradict the sizes.
    """
    source = checkpoint.source
    weights = {current_name(name): value for name, value in checkpoint.weights.items()}
    foreign = sorted(name for name in weights if name.split(".")[0] not in GROUPS)
    if foreign:
        raise InputError(f"{source} is no checkpoint of FLOAT: {foreign[0]} is in none of {', '.join(GROUPS)}.")
    parts = {prefix: _checked(prefix, module, weights, source) for prefix, module in modules.items()}
    for prefix, module in modules.items():
        module.load_state_dict(parts[prefix])
    loaded = sum(len(part) for part in parts.values())
    aside = sorted({name.split(".")[0] for name in weights} - {prefix.split(".")[0] for prefix in modules})
    said = f"Loaded {loaded} tensors of {', '.join(modules)} from {source}"
    return f"{said}; in it, but not loaded: {', '.join(aside)}." if aside else f"{said}."


def _checked(prefix: str, module: nn.Module, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of one prefix, by the module's own names."""
    given = {name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(f"{prefix}.")}
    own = module.state_dict()
    for names, what in ((set(own) - set(given), "are missing"), (set(given) - set(own), "are unknown")):
        if names:
            raise InputError(
                f"{source} is of another {prefix}: {len(names)} tensors {what} (first {prefix}.{min(names)}); check "
                "the sizes and the file."
            )
    for name, value in given.items():
        if value.shape != own[name].shape:
            raise InputError(
                f"{source} is of another {prefix}: {prefix}.{name} has shape {tuple(value.shape)}, here "
                f"{tuple(own[name].shape)}; check the sizes."
            )
        if f".{name}".endswith(_CONSTANTS) and not torch.allclose(value.float(), own[name].float(), atol=_NEAR):
            raise InputError(f"{source} has another {prefix}.{name} than its sizes call for; check them and the file.")
    return given


def export_float(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The weights of modules by prefix in the published flat form, on the CPU in float32, sharing no memory."""
    flat: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for name, value in module.state_dict().items():
            kept = value.detach().cpu()
            kept = kept.float() if kept.is_floating_point() else kept
            flat[f"{prefix}.{current_name(name)}"] = kept.clone().contiguous()
    return flat
