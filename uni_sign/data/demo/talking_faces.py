"""Drawn faces that talk, named and laid out as RAVDESS is: what the rectified-flow stages read without any download.

The sound is syllables of harmonics, the mouth opens as far as they are loud, the emotion is in brows and corners of the
mouth, and heads sway and eyes blink on their own.
"""

from __future__ import annotations

import shutil
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from uni_sign.data.audio import RATE, loudness
from uni_sign.data.demo.marker import write_once
from uni_sign.data.video_writer import write_video_with_sound

FPS = 25
_VERSION = 1
_ZOOM = 4  # drawn large, then averaged: smooth edges
_ACTORS = 6
_HELD_OUT = 6  # of so many clips one is held out
_LOUD = 0.3  # the loudness at which a mouth is open as far as it goes
# By RAVDESS number: how far brows are raised inside and outside, and how far corners of the mouth are.
_EMOTIONS = {
    1: (0.0, 0.0, 0.0),
    3: (0.2, 0.3, 1.0),
    4: (0.7, -0.4, -0.8),
    5: (-0.9, 0.5, -0.5),
    6: (0.9, 0.1, -0.4),
    7: (-0.5, -0.2, -0.9),
    8: (1.0, 1.0, 0.2),
}
_INSIDE = (40, 8, 16)
_LIPS = (186, 84, 88)
_SKINS = ((236, 200, 172), (214, 168, 134), (188, 140, 108), (244, 214, 192), (226, 184, 150), (202, 152, 122))
_HAIRS = ((70, 50, 40), (30, 28, 32), (120, 84, 50), (172, 132, 80), (92, 40, 30), (110, 110, 116))
_WALLS = ((206, 216, 224), (224, 214, 200), (200, 218, 204), (222, 206, 214), (210, 210, 210), (196, 206, 230))


def generate_talking_faces(
    root: Path, *, clips: int = 120, size: int = 64, seed: int = 0, progress: bool = True
) -> Path:
    """Write `talking_faces/` under ``root``, or return at once where the same is complete already; the folder of it.

    ``clips`` of 2.6 to 4 seconds, size x size at 25 frames a second, each with its sound in an MP4, and beside it as
    WAV; of six of an actor one is held out. Raises InputError where ``root`` cannot be written.
    """

    def write(folder: Path) -> None:
        for split in ("train", "test"):
            if (folder / split).exists():
                shutil.rmtree(folder / split)
        for number in tqdm(range(clips), "Talking faces", unit="clip", disable=not progress):
            _write_clip(folder, number, size, seed)

    claim = {"version": _VERSION, "clips": clips, "size": size, "seed": seed}
    return write_once(Path(root) / "talking_faces", claim, "The demo faces", write)


def mouth_opening(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far the mouth of frames (T, S, S, 3) is open, (T,): the dark share of the picture's lower middle."""
    height, width = frames.shape[1:3]
    place = frames[:, int(0.54 * height) : int(0.86 * height), int(0.25 * width) : int(0.75 * width)]
    light = place.mean(axis=3)
    opening: NDArray[np.float64] = ((100 - light) / 60).clip(0, 1).mean(axis=(1, 2))
    return opening


def _write_clip(folder: Path, number: int, size: int, seed: int) -> None:
    rng = np.random.default_rng([seed, number])
    actor = number % _ACTORS
    take, held_out = divmod(number // _ACTORS, _HELD_OUT)
    emotion = list(_EMOTIONS)[int(rng.integers(len(_EMOTIONS)))]
    split = "test" if held_out == _HELD_OUT - 1 else "train"
    frames = int(rng.integers(65, 101))
    waveform = _speech(rng, frames, 100.0 + 22.0 * actor)
    place = folder / split / f"Actor_{actor + 1:02d}"
    place.mkdir(parents=True, exist_ok=True)
    stem = f"03-01-{emotion:02d}-01-{held_out + 1:02d}-{take + 1:02d}-{actor + 1:02d}"
    with wave.open(str(place / f"{stem}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((waveform * 32767).round().astype("<i2").tobytes())
    poses = _poses(rng, loudness(waveform, frames, FPS))
    pictures = np.stack([_draw(actor, _EMOTIONS[emotion], pose, size) for pose in poses])
    write_video_with_sound(place / f"{stem}.mp4", pictures, FPS, waveform, RATE)


def _speech(rng: np.random.Generator, frames: int, pitch: float) -> NDArray[np.float64]:
    """Syllables of harmonics between pauses: (S,) of so many video frames."""
    samples = frames * RATE // FPS
    envelope, bright = np.zeros(samples), np.zeros(samples)
    start = int(rng.integers(0, RATE // 5))
    while start < samples:
        length = int(rng.uniform(0.14, 0.34) * RATE)
        end = min(samples, start + length)
        rise = np.sin(np.linspace(0, np.pi, length)) ** 0.8
        envelope[start:end] = rng.uniform(0.15, 1.0) * rise[: end - start]
        bright[start:end] = rng.uniform(0.8, 2.2)
        pause = rng.uniform(0.25, 0.6) if rng.random() < 0.2 else rng.uniform(0.0, 0.08)
        start = end + int(pause * RATE)
    sway = 1 + 0.03 * np.sin(2 * np.pi * rng.uniform(2, 5) * np.arange(samples) / RATE)
    phase = 2 * np.pi * np.cumsum(pitch * sway) / RATE
    harmonics = sum(np.sin(k * phase) / k ** np.maximum(bright, 0.8) for k in range(1, 11))
    voice: NDArray[np.float64] = 0.35 * envelope * harmonics + rng.normal(0, 0.001, samples)
    return voice.clip(-1, 1)


@dataclass(frozen=True)
class _Pose:
    """Of one frame: how far mouth and eyes are open, in [0, 1], and where the head is, in shares of the picture."""

    mouth: float
    eyes: float
    x: float
    y: float


def _poses(rng: np.random.Generator, loud: NDArray[np.float32]) -> list[_Pose]:
    time = np.arange(len(loud)) / FPS
    x, y = (size * np.sin(2 * np.pi * rng.uniform(0.15, 0.5) * time + rng.uniform(0, 6)) for size in (0.025, 0.015))
    eyes = np.ones(len(loud))
    for blink in np.arange(rng.uniform(0.2, 2.0), time[-1], rng.uniform(1.5, 3.0)):
        eyes *= 1 - np.exp(-(((time - blink) / 0.06) ** 2))
    mouth = (loud / _LOUD).clip(0, 1)
    return [_Pose(*map(float, row)) for row in zip(mouth, eyes, x, y, strict=True)]


def _draw(actor: int, emotion: tuple[float, float, float], pose: _Pose, size: int) -> NDArray[np.uint8]:
    """One frame: (size, size, 3)."""
    image = Image.new("RGB", (size * _ZOOM, size * _ZOOM), _WALLS[actor])
    pen, unit = ImageDraw.Draw(image), size * _ZOOM
    inner, outer, corners = emotion
    wide = 0.27 + 0.015 * (actor % 3)
    x, y = 0.5 + pose.x, 0.5 + pose.y
    skin, hair = _SKINS[actor], _HAIRS[actor]

    def oval(across: float, down: float, width: float, height: float, color: tuple[int, int, int]) -> None:
        box = (x + across - width, y + down - height, x + across + width, y + down + height)
        pen.ellipse(tuple(value * unit for value in box), fill=color)

    oval(0.0, 0.62, 0.46, 0.3, (hair[0] // 2 + 60, hair[1] // 2 + 60, hair[2] // 2 + 60))
    oval(0.0, 0.36, 0.1, 0.16, skin)
    oval(0.0, -0.06, wide + 0.04, 0.39, hair)
    oval(0.0, 0.03, wide, 0.36, skin)
    for side in (-1, 1):
        oval(side * 0.11, -0.05, 0.05, max(0.004, 0.03 * pose.eyes), (250, 250, 250))
        oval(side * 0.11, -0.05, 0.02, max(0.004, 0.026 * pose.eyes), (50, 40, 40))
        brow = [(side * 0.06, -0.12 - 0.03 * inner), (side * 0.17, -0.12 - 0.03 * outer)]
        pen.line([((x + a) * unit, (y + b) * unit) for a, b in brow], fill=hair, width=round(0.02 * unit))
    pen.line([(x * unit, y * unit), ((x + 0.02) * unit, (y + 0.07) * unit)], fill=hair, width=round(0.012 * unit))
    across = np.linspace(-1, 1, 24)
    bend = 0.17 - 0.03 * corners * (across**2 - 0.4)
    for thick, color in ((0.018, _LIPS), (0.0, _INSIDE)):
        half = (0.075 * pose.mouth) * np.sqrt(1 - across**2) + thick * (1 - 0.5 * across**2)
        width = 0.11 + thick - 0.02 * pose.mouth
        there = np.stack([across * width, bend - half], axis=1)
        back = np.stack([across * width, bend + half], axis=1)[::-1]
        if pose.mouth > 0.02 or thick:
            outline = (np.concatenate([there, back]) + np.array([x, y])) * unit
            pen.polygon([(a, b) for a, b in outline.tolist()], fill=color)
    return np.asarray(image.reduce(_ZOOM))
