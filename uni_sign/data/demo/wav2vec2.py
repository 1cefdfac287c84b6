"""Very small speech models for the demo's faces: folders that wav2vec2's own loading code reads, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_WIDTH = 64
_SIZES = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 2 * _WIDTH,
    "conv_dim": (64, 64, 64, 64, 64, 64, 64),  # 320 samples a feature, as in the published models
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
_SCALE = 0.15  # of the transformer's weights: small enough that what the convolutions hear is not lost in them


def write_wav2vec2(folder: Path, seed: int) -> None:
    """Write a folder of a speech model: config.json, preprocessor_config.json and model.safetensors."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    _write(Wav2Vec2Model, Wav2Vec2Config(**_SIZES, initializer_range=_SCALE), folder, seed)


def write_emotion_classifier(folder: Path, seed: int) -> None:
    """Write a folder of a classifier of the seven emotions, as `uni_sign.models.audio_encoder` reads it."""
    from transformers import Wav2Vec2Config

    from uni_sign.models.audio_encoder import EMOTIONS, SpeechClassifier

    labels = dict(enumerate(EMOTIONS))
    config = Wav2Vec2Config(**_SIZES, initializer_range=_SCALE, id2label=labels, num_labels=len(labels))
    _write(SpeechClassifier, config, folder, seed)


def _write(kind: Any, config: Any, folder: Path, seed: int) -> None:
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    folder.mkdir(parents=True, exist_ok=True)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    model.save_pretrained(folder)
