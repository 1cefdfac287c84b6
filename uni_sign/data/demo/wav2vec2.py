"""Very small speech models for the demo's faces: folders that wav2vec2's own loading code reads, random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_WIDTH = 64
_SIZES = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 2 * _WIDTH,
    "conv_dim": (64, 64, 64, 64, 64, 64, 64),  # 320 samples a feature, as in the published models
    "conv_bias": True,  # without, the layer norm after the convolutions takes most of the loudness away
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
_WEIGHTS = "model.safetensors"
_SCALE = 0.05  # of the transformer's weights: small enough that what the convolutions hear is not lost in them


def write_wav2vec2(folder: Path, seed: int) -> None:
    """Write a folder of a speech model: config.json, preprocessor_config.json and model.safetensors."""
    config = _config()
    _write(folder, config, dict(_speech_weights(config, seed)))


def write_emotion_classifier(folder: Path, seed: int, emotions: Sequence[str]) -> None:
    """Write a folder of a classifier of ``emotions`` as published ones are: a speech model, and a head on its mean."""
    import torch
    from torch import nn

    config = _config(id2label=dict(enumerate(emotions)), num_labels=len(emotions))
    weights = {f"wav2vec2.{name}": value for name, value in _speech_weights(config, seed)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.ModuleDict({"dense": nn.Linear(_WIDTH, _WIDTH), "out_proj": nn.Linear(_WIDTH, len(emotions))})
    weights |= {f"classifier.{name}": value for name, value in head.state_dict().items()}
    _write(folder, config, weights)


def _config(**more: Any) -> Any:
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(**_SIZES, initializer_range=_SCALE, **more)


def _speech_weights(config: Any, seed: int) -> Iterator[tuple[str, Any]]:
    import torch
    from transformers import Wav2Vec2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield from Wav2Vec2Model(config).state_dict().items()


def _write(folder: Path, config: Any, weights: dict[str, Any]) -> None:
    from safetensors.torch import save_file
    from transformers import Wav2Vec2FeatureExtractor

    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / _WEIGHTS, {"format": "pt"})
