"""What the frozen models of rectified-flow motion make of a clip: coordinates of its motion, and what is heard."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uni_sign.data.audio import RATE, read_audio
from uni_sign.data.motion_clips import MotionClip, read_faces
from uni_sign.data.sampled_bytes import folder_digest
from uni_sign.errors import InputError
from uni_sign.models.audio_encoder import EmotionEncoder, load_audio_backbone, load_emotion_encoder
from uni_sign.models.motion_autoencoder import MotionAutoencoder
from uni_sign.models.wav2vec2 import layer_features, normalized

_BATCH = 32  # frames


@dataclass(frozen=True)
class Hearing:
    """Where the models of speech are, and what is taken of them; no ``emotions``: labels tell."""

    speech: Path
    emotions: Path | None
    only_last: bool

    def settings(self) -> dict[str, Any]:
        """What features depend on."""
        feeling = folder_digest(self.emotions) if self.emotions else ""
        return {"speech": folder_digest(self.speech), "emotions": feeling, "only_last_features": self.only_last}


class SpeechFeatures:
    """The models of speech, on a device."""

    def __init__(self, hearing: Hearing, device: torch.device) -> None:
        self._only_last, self._device = hearing.only_last, device
        self._speech = load_audio_backbone(hearing.speech).to(device)
        self._feeling: EmotionEncoder | None = None
        if hearing.emotions:
            self._feeling = load_emotion_encoder(hearing.emotions).to(device).eval()

    def __call__(self, waveform: np.ndarray, frames: int) -> dict[str, np.ndarray]:
        """A waveform (S,) to what is heard at each of so many frames, and where a model tells it, how it is felt.

        Raises InputError for less sound than the models need.
        """
        heard = normalized(torch.from_numpy(waveform)[None].to(self._device))
        try:
            features = {"audio": layer_features(self._speech, heard, frames, self._only_last)[0]}
        except ValueError as error:
            raise InputError(f"The sound is too short: {error}.") from None
        if self._feeling is not None:
            features["emotion"] = self._feeling(heard)[0, 0]
        # Half the disk; training reads them in as much precision as that.
        return {name: value.cpu().numpy().astype(np.float16) for name, value in features.items()}


def sound_of(path: Path, frames: int, fps: float) -> np.ndarray:
    """The waveform of so many video frames, cut there or filled up with silence."""
    waveform, samples = read_audio(path), round(frames * RATE / fps)
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))


@torch.no_grad()
def coordinates_of_pictures(autoencoder: MotionAutoencoder, pictures: np.ndarray) -> np.ndarray:
    """Pictures (T, S, S, 3) uint8 to lambda (T, dim_m) in float32."""
    found = []
    for first in range(0, len(pictures), _BATCH):
        latents, _ = autoencoder.encode(picture_tensor(pictures[first : first + _BATCH], autoencoder))
        found.append(autoencoder.coordinates(latents).float().cpu())
    return torch.cat(found).numpy()


def picture_tensor(pictures: np.ndarray, autoencoder: MotionAutoencoder) -> Tensor:
    """Pictures (B, S, S, 3) uint8 to (B, 3, S, S) in [-1, 1], where the autoencoder is."""
    device = next(autoencoder.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def clip_features(
    clip: MotionClip, autoencoder: MotionAutoencoder, speech: SpeechFeatures, fps: float
) -> Mapping[str, np.ndarray]:
    """All that is kept of a clip; raises InputError where its pictures or its sound cannot be read."""
    pictures = read_faces(clip.video, autoencoder.sizes.input_size, fps)
    waveform = sound_of(clip.audio or clip.video, len(pictures), fps)
    return {"coordinates": coordinates_of_pictures(autoencoder, pictures), **speech(waveform, len(pictures))}
