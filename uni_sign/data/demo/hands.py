"""Handshapes of the Demo corpus as 21-point hand skeletons seen from the front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Per joint of a finger, how far it bends (degrees), for the letters of _SHAPES.
_BENDS = {
    "e": (5.0, 5.0, 5.0),
    "c": (75.0, 100.0, 60.0),
    "h": (12.0, 85.0, 45.0),
    "b": (35.0, 45.0, 30.0),
}
# Bends from index to little; degrees between neighbours; the thumb's degrees off the fingers, its length.
_SHAPES = {
    "flat": ("eeee", 2.0, 16.0, 1.0),
    "spread": ("eeee", 17.0, 58.0, 1.0),
    "fist": ("cccc", 2.0, -48.0, 0.8),
    "point": ("eccc", 4.0, -42.0, 0.8),
    "vee": ("eecc", 26.0, -45.0, 0.8),
    "three": ("eeec", 17.0, -50.0, 0.8),
    "thumb": ("cccc", 2.0, 68.0, 1.1),
    "horn": ("ccce", 14.0, 68.0, 1.0),
    "ring": ("beee", 14.0, -2.0, 0.9),
    "claw": ("bbbb", 19.0, 40.0, 0.75),
    "ell": ("eccc", 4.0, 85.0, 1.0),
    "hook": ("hccc", 4.0, -42.0, 0.8),
}
_KNUCKLES = np.array([[-0.14, -0.47], [-0.03, -0.50], [0.08, -0.47], [0.17, -0.41]])
_PHALANGES = np.array([[0.24, 0.14, 0.11], [0.27, 0.16, 0.12], [0.25, 0.15, 0.11], [0.19, 0.11, 0.10]])
_THUMB_BASE = np.array([-0.13, -0.10])
_THUMB_BONES = np.array([0.20, 0.16, 0.13])
_FAN = np.array([-1.0, 0.0, 1.0, 2.0])


def _along(degrees: Array) -> Array:
    """Unit vectors (..., 2) at angles from "up", clockwise in the image."""
    radians = np.deg2rad(degrees)
    return np.stack([np.sin(radians), -np.cos(radians)], axis=-1)


def _hand(bends: str, fan: float, thumb: float, thumb_length: float) -> Array:
    turns = np.cumsum([_BENDS[letter] for letter in bends], axis=1)  # (4, 3)
    # A joint bent out of the image plane is seen shortened by the cosine, beyond 90 degrees folded back.
    seen = _PHALANGES * np.cos(np.deg2rad(turns))
    fingers = _KNUCKLES[:, None] + np.cumsum(seen, axis=1)[..., None] * _along(fan * _FAN)[:, None]
    angles = -thumb * np.array([0.75, 1.0, 1.1])
    thumb_tips = _THUMB_BASE + np.cumsum(thumb_length * _THUMB_BONES[:, None] * _along(angles), axis=0)
    chains = np.concatenate([_KNUCKLES[:, None], fingers], axis=1).reshape(16, 2)
    return np.concatenate([np.zeros((1, 2)), _THUMB_BASE[None], thumb_tips, chains])


# Right hands (21, 2) in COCO-WholeBody order: wrist, then four points each from thumb to little finger.
# Wrist at the origin, fingers pointing up (-y), thumb to the left; a straight middle finger ends near y = -1.
HANDS: dict[str, Array] = {name: _hand(*shape) for name, shape in _SHAPES.items()}
