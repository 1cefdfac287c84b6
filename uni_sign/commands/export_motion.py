"""`uni-sign export` of talking faces: a best file, and the frozen models that it was trained on, in FLOAT's form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from uni_sign.data.safe_tensors import load_tensors
from uni_sign.errors import InputError
from uni_sign.models.audio_encoder import load_audio_backbone, load_emotion_encoder
from uni_sign.models.float_weights import export_float
from uni_sign.models.motion_models import AUTOENCODER, FLOW, load_speech_motion, motion_autoencoder, speech_motion
from uni_sign.models.weights import unwrap


def is_motion(content: Mapping[str, Any]) -> bool:
    """Whether it is a best file of these stages."""
    return content.get("stage") in (AUTOENCODER, FLOW)


def float_weights(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """All weights by their published names: of an autoencoder alone, or of a flow with all that it needs.

    The frozen models are read from where the flags in the file say; raises InputError where they are no longer there.
    """
    if content.get("stage") == AUTOENCODER:
        return export_float({AUTOENCODER: motion_autoencoder(content, source)})
    flags, config = content.get("config"), content.get("model_config")
    if not isinstance(flags, Mapping) or not isinstance(config, Mapping):
        raise InputError(f"{source} does not say how it was trained: give a best file of {FLOW}.")
    if flags.get("motion") == "signing" or config.get("motion_scale") != 1:
        what = "signs texts" if flags.get("motion") == "signing" else "was trained with --motion_scale"
        raise InputError(f"{source} {what}, for which FLOAT's form has no place: use the file as it is.")
    try:
        model = speech_motion(config)
    except (ValueError, TypeError) as error:
        raise InputError(f"{source} describes no model that can be built: {error}.") from None
    load_speech_motion(model, unwrap(content, source))
    autoencoder, speech, feeling = (
        str(flags.get(f"{name}_path", "")) for name in ("autoencoder", "wav2vec_model", "emotion_model")
    )
    modules: dict[str, nn.Module] = {AUTOENCODER: motion_autoencoder(load_tensors(autoencoder), autoencoder)}
    modules["audio_encoder.wav2vec2"] = load_audio_backbone(Path(speech))
    if feeling:
        modules["emotion_encoder"] = load_emotion_encoder(Path(feeling))
    return export_float({**modules, **model.parts()})
