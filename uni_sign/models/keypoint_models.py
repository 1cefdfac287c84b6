"""The models of the keypoint pipeline from plain values, such as their best files hold: nothing else is needed."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from torch import nn
from transformers import MBartForConditionalGeneration

from uni_sign.models.alignment import VideoLanguageAlignment
from uni_sign.models.hierarchical import (
    FACE_REGIONS,
    SKELETON_REGIONS,
    EncoderSizes,
    HierarchicalImageTransformer,
    HierarchicalKeypointTransformer,
)
from uni_sign.models.mbart import mbart_config
from uni_sign.models.temporal import TemporalSizes, TemporalSkeletonTransformer

_LARGEST = 1 << 16
_MOST_LAYERS = 200
_IMAGE_SIZES = (16, 32, 64, 128, 256, 512, 1024)
# Both encoders of the temporal model have layers, heads and dropout: those over time have longer names.
_OVER_TIME = {"nhead": "temporal_nhead", "dim_feedforward": "temporal_dim_feedforward", "dropout": "temporal_dropout"}


def keypoint_model(config: Mapping[str, Any]) -> nn.Module:
    """The model of a ``model_config``, its weights drawn at random; ``config["stage"]`` says which.

    Raises ValueError where a value is missing or impossible.
    """
    build = _BUILDERS.get(str(config.get("stage")))
    if build is None:
        raise ValueError(f"its stage is {config.get('stage')}, none of {', '.join(_BUILDERS)}")
    for name, value in config.items():
        _check(name, value)
    try:
        return build(config)
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from None
    except AssertionError as error:  # of torch's attention, where heads do not divide the width
        raise ValueError(str(error)) from None


def _check(name: str, value: Any) -> None:
    if name in ("stage", "mbart"):  # mBART's own values are checked where they are used
        return
    if name == "fusion_method":
        good = value in ("concat", "weighted")
    elif name.endswith("dropout"):
        good = type(value) in (int, float) and 0 <= value < 1
    elif name == "image_size":
        good = value in _IMAGE_SIZES
    else:
        most = _MOST_LAYERS if name.endswith("layers") else _LARGEST
        good = type(value) is int and (0 if name == "temporal_dim" else 1) <= value <= most
    if not good:
        raise ValueError(f"{name} has an impossible value")


def encoder_sizes(config: Mapping[str, Any]) -> EncoderSizes:
    """The sizes of a hierarchical encoder among plain values; raises KeyError where one is missing."""
    return EncoderSizes(**{field.name: config[field.name] for field in fields(EncoderSizes)})


def _skeleton(config: Mapping[str, Any]) -> nn.Module:
    return HierarchicalImageTransformer(SKELETON_REGIONS, encoder_sizes(config), config["image_size"])


def _face_picture(config: Mapping[str, Any]) -> nn.Module:
    return HierarchicalImageTransformer(FACE_REGIONS, encoder_sizes(config), config["image_size"])


def _face(config: Mapping[str, Any]) -> nn.Module:
    return HierarchicalKeypointTransformer(encoder_sizes(config), config["num_decoder_layers"])


def _temporal(config: Mapping[str, Any]) -> nn.Module:
    own = {field.name: config[_OVER_TIME.get(field.name, field.name)] for field in fields(TemporalSizes)}
    frame_sizes, fusion = encoder_sizes(config), config["fusion_method"]
    return TemporalSkeletonTransformer(frame_sizes, TemporalSizes(**own), fusion, config["image_size"])


def _alignment(config: Mapping[str, Any]) -> nn.Module:
    if not isinstance(config["mbart"], Mapping):
        raise ValueError("its mbart is no dict of sizes")
    return aligned(MBartForConditionalGeneration(mbart_config(dict(config["mbart"]))), config)


def aligned(mbart: MBartForConditionalGeneration, config: Mapping[str, Any]) -> VideoLanguageAlignment:
    """The alignment model of plain values around this mBART; raises KeyError where one is missing."""
    names = ("video_repr_dim", "cross_attention_heads", "dropout", "temporal_dim")
    return VideoLanguageAlignment(mbart, **{name: config[name] for name in names})


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "skeleton": _skeleton,
    "hierarchical_image": _face_picture,
    "hierarchical_keypoint": _face,
    "temporal": _temporal,
    "alignment": _alignment,
}
