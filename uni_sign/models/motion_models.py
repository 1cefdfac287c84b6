"""Models of talking faces from plain values, such as their best files hold, and from FLOAT's published weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from uni_sign.errors import InputError
from uni_sign.models.float_weights import load_float
from uni_sign.models.flow_transformer import flow_sizes
from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder, autoencoder_sizes
from uni_sign.models.speech_motion import SpeechMotion
from uni_sign.models.weights import Checkpoint, unwrap

AUTOENCODER, FLOW = "motion_autoencoder", "rectified_flow"
_MOST_WIDTH = 1 << 20
_SMALLEST, _DOUBLINGS = 4, 8  # of the autoencoder's maps: pixels a side, and how often they double


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
        sizes = _sizes_of(checkpoint.weights, source) if config is None else autoencoder_sizes(config)
        model = MotionAutoencoder(sizes)
    except (ValueError, TypeError) as error:
        raise InputError(f"{source} describes no model that can be built: {error}.") from None
    load_float({AUTOENCODER: model}, checkpoint)
    return model.eval()


def _sizes_of(weights: Mapping[str, Tensor], source: str) -> AutoencoderSizes:
    """Those that the shapes of FLOAT's weights tell."""
    directions, start = (weights.get(f"{AUTOENCODER}.dec.{name}") for name in ("direction.weight", "input.input"))
    doublings = {name.split(".")[3] for name in weights if name.startswith(f"{AUTOENCODER}.dec.to_rgbs.")}
    if directions is None or start is None or directions.dim() != 2 or start.dim() != 4 or len(doublings) > _DOUBLINGS:
        raise InputError(f"{source} holds no {AUTOENCODER}: give a best file of that stage, or float.pth.")
    dim_w, dim_m = directions.shape
    return AutoencoderSizes(_SMALLEST << len(doublings), dim_w, dim_m, start.shape[1])


def load_speech_motion(model: SpeechMotion, checkpoint: Checkpoint) -> str:
    """Load what trains of a best file or of FLOAT's weights; returns what was loaded. Raises InputError."""
    return load_float(model.parts(), checkpoint)
