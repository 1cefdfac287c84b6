"""`.pose` files, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

PACKAGE = (("BODY", 23), ("FACE", 68), ("LEFT_HAND", 21), ("RIGHT_HAND", 21))  # as pose-format itself names them


def text(said: str) -> bytes:
    return struct.pack("<H", len(said.encode())) + said.encode()


def component(name: str, points: int | Sequence[str], axes: str = "XYC") -> bytes:
    """A component of points, one limb and one colour."""
    names = [f"{name}-{i}" for i in range(points)] if isinstance(points, int) else points
    counts = struct.pack("<HHH", len(names), 1, 1)
    drawn = struct.pack("<HH", 0, 1) + struct.pack("<HHH", 255, 0, 0)
    return text(name) + text(axes) + counts + b"".join(map(text, names)) + drawn


def header(components: Sequence[bytes], version: float = 0.2, size: tuple[int, int] = (200, 100)) -> bytes:
    return struct.pack("<fHHHH", version, *size, 0, len(components)) + b"".join(components)


def body(coordinates: np.ndarray, confidence: np.ndarray, version: float = 0.2, frames: int | None = None) -> bytes:
    """Coordinates (T, P, V, D) in pixels and confidence (T, P, V); `frames`: the number to write, if another."""
    counts = (25, len(confidence) if frames is None else frames, confidence.shape[1])
    start = struct.pack("<HHH" if version == 0.1 else "<fIH", *counts)
    return start + coordinates.astype("<f4").tobytes() + confidence.astype("<f4").tobytes()


def pose_file(frames: int = 3, people: int = 1, version: float = 0.2, dimensions: int = 2, seed: int = 0) -> bytes:
    """A whole file of four components and random points, in a video of 200 x 100."""
    rng = np.random.default_rng(seed)
    coordinates = rng.random((frames, people, 133, dimensions), np.float32) * 100
    confidence = rng.random((frames, people, 133), np.float32) * 0.9 + 0.1
    axes = "XYZC"[:dimensions] + "C"
    named = [component(name, points, axes) for name, points in PACKAGE]
    return header(named, version) + body(coordinates, confidence, version)
