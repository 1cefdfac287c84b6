"""Models of talking faces from plain values, such as their best files hold, and from FLOAT's published weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from uni_sign.errors import InputError
from uni_sign.models.float_weights import load_float
from uni_sign.models.flow_transformer import flow_sizes
from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder, autoencoder_sizes
from uni_sign.models.speech_motion import TRAINED, SpeechMotion
from uni_sign.models.weights import Checkpoint, unwrap

AUTOENCODER, FLOW = "motion_autoencoder", "rectified_flow"
_MOST_WIDTH = 1 << 20


def speech_motion(config: Mapping[str, Any]) -> SpeechMotion:
    """The model of a ``model_config`` of the rectified flow, its weights drawn at random; ValueError if impossible."""
    width = config.get("audio_width")
    if type(width) is not int or not 0 < width <= _MOST_WIDTH or not isinstance(config.get("sizes"), Mapping):
        raise ValueError("sizes or audio_width is missing or impossible")
    return SpeechMotion(flow_sizes(config["sizes"]), width)


def model_config_of(content: Mapping[str, Any], stage: str, source: str) -> dict[str, Any] | None:
    """What a best file says of its model; None where it is one of FLOAT's, which says nothing.

    Raises InputError where the file is of another stage.
    """
    told, config = content.get("stage"), content.get("model_config")
    if told is None and config is None:
        return None
    if told != stage or not isinstance(config, dict):
        raise InputError(f"{source} is of the stage {told}, not {stage}.")
    return config


def motion_autoencoder(content: Mapping[str, Any], source: str) -> MotionAutoencoder:
    """The autoencoder, in evaluation, of a best file's content or of FLOAT's weights; InputError for anything else."""
    config = model_config_of(content, AUTOENCODER, source)
    checkpoint = unwrap(content, source)
    try:
        sizes = AutoencoderSizes() if config is None else autoencoder_sizes(config)
    except (ValueError, TypeError) as error:
        raise InputError(f"{source} describes no model that can be built: {error}.") from None
    model = MotionAutoencoder(sizes)
    load_float({AUTOENCODER: model}, checkpoint)
    return model.eval()


def load_speech_motion(model: SpeechMotion, checkpoint: Checkpoint) -> str:
    """Load what trains of a best file or of FLOAT's weights; returns what was loaded. Raises InputError."""
    return load_float(model.parts(), checkpoint)


def trained_basis(content: Mapping[str, Any], source: str) -> Tensor:
    """Q (dim_w, dim_m) in float32: that beside a flow's weights, or that of FLOAT's autoencoder; raises InputError."""
    basis = content.get("basis")
    if isinstance(basis, Tensor):
        found = basis.float()
    else:
        direction = unwrap(content, source).weights.get(f"{AUTOENCODER}.dec.direction.weight")
        if direction is None:
            raise InputError(f"{source} holds no directions of motion: give a best file of {FLOW}, or float.pth.")
        found = torch.linalg.qr(direction.float())[0]
    if found.dim() != 2 or not torch.isfinite(found).all():
        raise InputError(f"{source} holds directions of motion that cannot be: train it again.")
    return found


__all__ = [
    "AUTOENCODER",
    "FLOW",
    "TRAINED",
    "load_speech_motion",
    "model_config_of",
    "motion_autoencoder",
    "speech_motion",
    "trained_basis",
]
