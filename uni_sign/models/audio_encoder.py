"""What is said, frame by frame, and how it is felt: FLOAT's two readings of a speech waveform (arXiv 2412.01064).

Names of modules are those of the published weights, ``audio_encoder.*`` and ``emotion_encoder.*``.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PreTrainedModel

from uni_sign.errors import InputError
from uni_sign.models.wav2vec2 import feature_width, layer_features, load_wav2vec2, read_wav2vec2_config

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
_SPEECH = "wav2vec2 model"
_SPEECH_ADVICE = "put facebook/wav2vec2-base-960h there, or point --wav2vec_model_path elsewhere"
_FEELING = "speech emotion model"
_FEELING_ADVICE = "put r-f/wav2vec-english-speech-emotion-recognition there, or point --audio2emotion_path elsewhere"


def audio_projection(width: int, dim_a: int) -> nn.Sequential:
    """Features of frames (..., width) to their conditions (..., dim_a): the part of the audio encoder that trains."""
    return nn.Sequential(nn.Linear(width, dim_a), nn.LayerNorm(dim_a), nn.SiLU())


class AudioEncoder(nn.Module):
    """Speech at 16 kHz to a condition for each video frame.

    The backbone is frozen: its ``features`` may be computed once and kept. `audio_projection` trains on them.
    """

    def __init__(self, wav2vec2: Wav2Vec2Model, dim_a: int = 512, only_last_features: bool = False) -> None:
        super().__init__()
        self.only_last_features = only_last_features
        self.wav2vec2 = wav2vec2.requires_grad_(False)
        self.audio_projection = audio_projection(feature_width(wav2vec2.config, only_last_features), dim_a)
        self.train(self.training)

    def train(self, mode: bool = True) -> "AudioEncoder":
        """Training or evaluation; the backbone stays in evaluation."""
        super().train(mode)
        self.wav2vec2.eval()
        return self

    def features(self, waveform: Tensor, frames: int) -> Tensor:
        """Waveforms (B, S), normalised, to (B, frames, width): see `layer_features`."""
        return layer_features(self.wav2vec2, waveform, frames, self.only_last_features)

    def forward(self, waveform: Tensor, frames: int) -> Tensor:
        """Waveforms (B, S), normalised, to conditions wa (B, frames, dim_a)."""
        condition: Tensor = self.audio_projection(self.features(waveform, frames))
        return condition


def load_audio_backbone(folder: Path) -> Wav2Vec2Model:
    """The wav2vec2 of a local folder, frozen, in float32; raises InputError where it is missing or broken."""
    config = read_wav2vec2_config(folder, _SPEECH, _SPEECH_ADVICE)
    model: Wav2Vec2Model = load_wav2vec2(Wav2Vec2Model, folder, config, _SPEECH)
    return model


class _Head(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, classes)

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.out_proj(self.dense(pooled).tanh())
        return logits


class SpeechClassifier(Wav2Vec2PreTrainedModel):
    """Waveforms (B, S), normalised, to logits of `EMOTIONS` (B, 7)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.classifier = _Head(config.hidden_size, len(EMOTIONS))
        self.post_init()

    def forward(self, waveform: Tensor) -> Tensor:
        """The mean over time decides."""
        heard = self.wav2vec2(waveform.to(self.classifier.dense.weight.dtype)).last_hidden_state
        logits: Tensor = self.classifier(heard.mean(dim=1))
        return logits


class EmotionEncoder(nn.Module):
    """Speech at 16 kHz to how likely each of `EMOTIONS` is. It does not train."""

    def __init__(self, classifier: SpeechClassifier) -> None:
        super().__init__()
        self.wav2vec2_for_emotion = classifier.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "EmotionEncoder":
        """Training or evaluation; the classifier stays in evaluation."""
        super().train(mode)
        self.wav2vec2_for_emotion.eval()
        return self

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms (B, S), normalised, to we (B, 1, 7), which adds up to 1, in float32."""
        logits: Tensor = self.wav2vec2_for_emotion(waveform)
        return logits.float().softmax(dim=1)[:, None]


def emotion_label(emotion: str) -> Tensor:
    """we (1, 1, 7) of an emotion by name: 1 there, 0 elsewhere; raises InputError for one that is none."""
    if emotion not in EMOTIONS:
        raise InputError(f"{emotion} is no emotion that the model knows: use one of {', '.join(EMOTIONS)}.")
    return torch.eye(len(EMOTIONS))[EMOTIONS.index(emotion)].view(1, 1, -1)


def load_emotion_encoder(folder: Path) -> EmotionEncoder:
    """The speech emotion classifier of a local folder; raises InputError where it is missing, broken or another."""
    config = read_wav2vec2_config(folder, _FEELING, _FEELING_ADVICE)
    _check_labels(folder / "config.json")
    return EmotionEncoder(load_wav2vec2(SpeechClassifier, folder, config, _FEELING))


def _check_labels(path: Path) -> None:
    labels: Any = json.loads(path.read_text(encoding="utf-8")).get("id2label")
    if labels is None:
        return
    told = [str(labels.get(str(number))).lower() for number in range(len(EMOTIONS))] if isinstance(labels, dict) else []
    if told != list(EMOTIONS) or len(labels) != len(EMOTIONS):
        raise InputError(f"{path} tells other emotions apart than {', '.join(EMOTIONS)}: {_FEELING_ADVICE}.")
