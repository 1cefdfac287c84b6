"""wav2vec 2.0 (arXiv 2006.11477) from a local folder: its shape, its weights, and what it hears at each video frame."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from uni_sign.errors import InputError
from uni_sign.models.pretrained import first_line, load_pretrained

_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
)
_STACKS = ("conv_dim", "conv_stride", "conv_kernel")
_SWITCHES = ("conv_bias", "do_stable_layer_norm")
_RATES = ("layer_norm_eps", "mask_time_prob", "mask_feature_prob")
_CHOICES = {
    "feat_extract_norm": ("group", "layer"),
    "hidden_act": ("gelu", "gelu_new", "relu"),
    "feat_extract_activation": ("gelu", "gelu_new", "relu"),
}
_NAMES = (*_SIZES, *_STACKS, *_SWITCHES, *_RATES, *_CHOICES)
_LARGEST = 1 << 14
_MOST_LAYERS = 100
_MOST_PARAMETERS = 10**10  # generously counted; the largest published one has 2 * 10**9
_VARIANCE = 1e-7
_UNUSED = "masked_spec_embed"  # it stands for what training hides


def read_wav2vec2_config(folder: Path, what: str, advice: str) -> Wav2Vec2Config:
    """The configuration of a local folder; raises InputError where there is none or it is broken.

    ``what`` names the model in errors, ``advice`` says where to get it.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"No {what} in {folder} (config.json is missing): {advice}.")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        return wav2vec2_config({name: given[name] for name in _NAMES if given.get(name) is not None})
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not a wav2vec2 configuration: {error}.") from error


def wav2vec2_config(plain: dict[str, Any]) -> Wav2Vec2Config:
    """A configuration from plain values, such as `plain_config` gives. Raises ValueError for impossible ones.

    Of what a stranger's file says only these values count: others can name code to load.
    """
    for name, value in plain.items():
        if not _possible(name, value):
            raise ValueError(f"{name} has an impossible value")
    try:
        config = Wav2Vec2Config(**plain)
    except Exception as error:  # some versions of transformers check in a class of errors of their own
        raise ValueError(first_line(error)) from error
    if config.hidden_size % config.num_attention_heads or config.hidden_size % config.num_conv_pos_embedding_groups:
        raise ValueError("hidden_size is no multiple of num_attention_heads and num_conv_pos_embedding_groups")
    width, convs = max(config.hidden_size, config.intermediate_size), sum(size**2 for size in config.conv_dim)
    if 12 * config.num_hidden_layers * width**2 + max(config.conv_kernel) * convs > _MOST_PARAMETERS:
        raise ValueError("it describes a model larger than any wav2vec2")
    return config


def _possible(name: str, value: Any) -> bool:
    if name in _SIZES:
        return type(value) is int and 0 < value <= (_MOST_LAYERS if name.endswith("layers") else _LARGEST)
    if name in _STACKS:
        good = isinstance(value, list | tuple) and 0 < len(value) <= _MOST_LAYERS
        return good and all(type(each) is int and 0 < each <= _LARGEST for each in value)
    if name in _SWITCHES:
        return type(value) is bool
    if name in _RATES:
        return type(value) in (int, float) and 0 <= value <= 1
    return name in _CHOICES and value in _CHOICES[name]


def plain_config(config: Wav2Vec2Config) -> dict[str, Any]:
    """What `wav2vec2_config` makes the same configuration from."""
    return {name: getattr(config, name) for name in _NAMES}


def load_wav2vec2(kind: Any, folder: Path, config: Wav2Vec2Config, what: str) -> Any:
    """A model of this kind with the folder's weights, frozen; raises InputError where they are missing or wrong."""
    model = load_pretrained(kind, folder, config, what, lambda name: name.endswith(_UNUSED))
    return model.requires_grad_(False).eval()


def normalized(waveform: Tensor) -> Tensor:
    """Waveforms (B, S) to zero mean and unit variance each, in float32, as wav2vec2 was trained on them."""
    waveform = waveform.float()
    spread = waveform.var(dim=1, correction=0, keepdim=True) + _VARIANCE
    return (waveform - waveform.mean(dim=1, keepdim=True)) / spread.sqrt()


def conv_features(model: Wav2Vec2Model, waveform: Tensor, frames: int) -> Tensor:
    """Waveforms (B, S), normalised as a whole, to what the convolutions hear at so many video frames: (B, frames, C).

    Raises ValueError for a waveform shorter than one step of the convolutions.
    """
    least = 1
    for kernel, stride in zip(reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True):
        least = (least - 1) * stride + kernel
    if waveform.shape[1] < least:
        raise ValueError(f"{waveform.shape[1]} samples of sound are fewer than the {least} that wav2vec2 needs")
    heard = model.feature_extractor(waveform.to(next(model.parameters()).dtype))
    return F.interpolate(heard, size=frames, mode="linear", align_corners=True).transpose(1, 2)


@torch.no_grad()
def layer_features(model: Wav2Vec2Model, waveform: Tensor, frames: int, only_last: bool) -> Tensor:
    """Waveforms (B, S), normalised, to the outputs of all layers side by side, (B, frames, layers * hidden_size).

    With ``only_last`` that of the last, (B, frames, hidden_size). Batches hold waveforms of one length: padding would
    be heard.
    """
    hidden, _ = model.feature_projection(conv_features(model, waveform, frames))
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _given, output: outputs.append(_first(output)))
        for layer in model.encoder.layers
    ]
    try:
        last = model.encoder(hidden).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    # With layer norms before the layers another one follows the last of them.
    return last if only_last else torch.cat([*outputs[:-1], last], dim=2)


def _first(output: Any) -> Tensor:
    """A layer's output: some versions of transformers hand attention weights along."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def feature_width(config: Wav2Vec2Config, only_last: bool) -> int:
    """Values of a frame that `layer_features` gives."""
    width: int = config.hidden_size
    return width if only_last else width * config.num_hidden_layers


def current_name(name: str) -> str:
    """A weight's name as torch has it since 2.1: files written before call the two parts of a normed weight g and v."""
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        if name.endswith(f".pos_conv_embed.conv.{old}"):
            return name.removesuffix(old) + f"parametrizations.weight.{new}"
    return name
