"""Signs to moving skeletons: 133 COCO-WholeBody points a frame, from the visible form of the signs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uni_sign.data.demo.hands import HANDS, Array
from uni_sign.data.demo.lexicon import Form

# Lengths are in shoulder widths, the origin lies between the shoulders, y points down, the signer faces us:
# the right hand is at negative x. Angles are degrees, clockwise from fingers pointing up.
_JITTER = 0.003  # of the image
_LOST_HAND = 0.03  # chance a frame and hand
_LEAD = 3  # frames between rest and an isolated sign, on either side
_UPPER_BODY = 11
_LEFT_HAND, _RIGHT_HAND = slice(91, 112), slice(112, 133)
_FACE = slice(23, 91)
_INNER_LIPS = slice(83, 91)
_MOUTH_Y = -0.42

# Where the middle of the right hand is, and where its fingers point.
PLACES = {
    "forehead": (-0.15, -0.95, 25.0),
    "cheek": (-0.44, -0.52, 5.0),
    "chin": (0.00, -0.30, 50.0),
    "shoulder": (0.45, 0.12, 55.0),
    "chest": (-0.05, 0.42, 70.0),
    "waist": (0.00, 1.15, 85.0),
    "side": (-0.95, 0.20, 0.0),
    "front": (-0.52, 0.72, 40.0),
}
_REST = (-0.35, 1.45, 165.0)
_BASE = (-0.12, 0.95, 75.0)  # the still left hand, mirrored


@dataclass(frozen=True)
class Motion:
    """A clip: where the points are, what a pose estimator says of them, and the frames of the signs.

    `truth` (T, 133, 2) and `keypoints` (T, 1, 133, 2) are divided by the image size; scores (T, 1, 133);
    `starts` and `lengths` (S,) count frames; what lies between two signs is transition.
    """

    truth: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    scores: NDArray[np.float32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class _Track:
    """A hand's way over F frames, as if it were a right one: middle (F, 2), angle (F,), shape (F, 21, 2)."""

    middle: Array
    angle: Array
    shape: Array


def animate(forms: Sequence[Form], rng: np.random.Generator, *, from_rest: bool = False) -> Motion:
    """Perform signs one after another; `from_rest` adds the way from and to resting hands."""
    starts, lengths, total = _timing(len(forms), rng, _LEAD if from_rest else 0)
    right, left = _perform(forms, starts, lengths, total, rng, from_rest)
    signer = _Signer(rng)
    points = signer.body(total, rng)
    signer.place_hand(points, right, left=False)
    signer.place_hand(points, left, left=True)
    truth = signer.film(points)
    keypoints, scores = _estimate(truth, rng)
    return Motion(truth, keypoints[:, None], scores[:, None], starts, lengths)


def _timing(count: int, rng: np.random.Generator, lead: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    lengths = rng.integers(5, 8, count)
    gaps = rng.integers(1, 3, count)
    starts = lead + np.cumsum(lengths + gaps) - lengths - gaps
    return starts, lengths, int(starts[-1] + lengths[-1] + lead)


@cache
def _ends(form: Form) -> tuple[Array, Array]:
    """Start and end of a form, each (3,): x, y, angle of the right hand."""
    start, end = np.array(PLACES[form.start]), np.array(PLACES[form.end])
    if form.hands == "both":  # the mirrored hands must not lie upon each other
        start[0], end[0] = -max(abs(start[0]), 0.3), -max(abs(end[0]), 0.3)
    return start, end


def _perform(
    forms: Sequence[Form],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    total: int,
    rng: np.random.Generator,
    from_rest: bool,
) -> tuple[_Track, _Track]:
    """Both hands over all frames, the left one as seen in a mirror."""
    sign = np.repeat(np.arange(len(forms)), lengths)
    step = np.arange(len(sign)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    times = starts[sign] + step
    phase = step / (lengths[sign] - 1)
    ends = np.array([_ends(form) for form in forms])  # (S, 2, 3)
    ends += rng.normal(0.0, 1.0, (len(forms), 1, 3)) * (0.03, 0.03, 4.0)
    movement = np.array([form.movement for form in forms])[sign]
    right = _move(ends[sign], movement, phase, np.stack([HANDS[form.handshape] for form in forms])[sign])
    left = _second_hand(right, np.array([form.hands for form in forms])[sign])
    return _fill(right, times, total, from_rest), _fill(left, times, total, from_rest)


def _move(ends: Array, movement: NDArray[np.str_], phase: Array, shape: Array) -> _Track:
    """Place the right hand on its path; ends (F, 2, 3), phase (F,) from 0 to 1."""
    begin, change = ends[:, 0], ends[:, 1] - ends[:, 0]
    track = begin + (phase * phase * (3 - 2 * phase))[:, None] * change
    turn = 2 * np.pi * phase
    bulge = np.stack([change[:, 1], -change[:, 0]], axis=1)
    bulge *= 0.4 * np.sin(np.pi * phase)[:, None] / np.maximum(np.linalg.norm(bulge, axis=1), 1e-9)[:, None]
    circle = 0.24 * np.stack([np.sin(turn), np.cos(turn) - 1.0], axis=1)
    tap = np.abs(np.sin(turn))[:, None] * (0.08, 0.20)
    offsets = {"arc": bulge, "circle": circle, "tap": tap}
    middle = track[:, :2] + sum((movement == name)[:, None] * way for name, way in offsets.items())
    angle = track[:, 2] + (movement == "wiggle") * 35.0 * np.sin(3 * np.pi * phase)
    return _Track(middle, angle, shape)


def _second_hand(right: _Track, hands: NDArray[np.str_]) -> _Track:
    """The left hand, mirrored: a copy of the right one, a flat base, or at rest."""
    both, base = hands == "both", hands == "base"
    still = np.where(base[:, None], _BASE, _REST)
    shape = np.where(both[:, None, None], right.shape, HANDS["flat"])
    return _Track(np.where(both[:, None], right.middle, still[:, :2]), np.where(both, right.angle, still[:, 2]), shape)


def _fill(track: _Track, times: NDArray[np.int64], total: int, from_rest: bool) -> _Track:
    """Interpolate the frames between the signs (and, with `from_rest`, before and after)."""
    known = np.concatenate([track.middle, track.angle[:, None], track.shape.reshape(len(times), 42)], axis=1)
    if from_rest:
        rest = np.concatenate([_REST, HANDS["flat"].ravel()])[None]
        known = np.concatenate([rest, known, rest])
        times = np.concatenate([[0], times, [total - 1]])
    frames = np.arange(total)
    before = np.clip(np.searchsorted(times, frames, side="right") - 1, 0, len(times) - 2)
    weight = (frames - times[before]) / (times[before + 1] - times[before])
    rows = known[before] + weight[:, None] * (known[before + 1] - known[before])
    return _Track(rows[:, :2], rows[:, 2], rows[:, 3:].reshape(total, 21, 2))


class _Signer:
    """One person before one camera: proportions, place in the image, and how large they sign."""

    def __init__(self, rng: np.random.Generator) -> None:
        draw = rng.uniform(-1.0, 1.0, 8)
        self.unit = 0.26 * (1 + 0.1 * draw[0])
        self.origin = np.array([0.5 + 0.03 * draw[1], 0.45 + 0.03 * draw[2]])
        self.roll = np.deg2rad(2.0 * draw[3])
        self.head = 1 + 0.08 * draw[4]
        self.arm = 0.70 * (1 + 0.06 * draw[5])
        self.hand = 0.46 * (1 + 0.06 * draw[6])
        self.reach = 1 + 0.05 * draw[7]

    def body(self, frames: int, rng: np.random.Generator) -> Array:
        """(T, 133, 2): the standing person with a swaying head and a mouth that moves at random."""
        points = np.repeat(_PERSON[None], frames, axis=0)
        speed, start = rng.uniform(0.05, 0.2, 4), rng.uniform(0.0, 2 * np.pi, 4)
        waves = np.sin(np.arange(frames)[:, None] * speed * 2 * np.pi + start)  # (T, 4)
        opening = 0.5 + 0.25 * (waves[:, 2:3] + waves[:, 3:4])
        lips = points[:, _INNER_LIPS, 1]
        points[:, _INNER_LIPS, 1] = _MOUTH_Y + opening * (lips - _MOUTH_Y)
        points[:, _HEAD] = points[:, _HEAD] * self.head + 0.025 * waves[:, None, :2]
        return points

    def place_hand(self, points: Array, track: _Track, *, left: bool) -> None:
        """Write hand, wrist and elbow of one side into points (T, 133, 2)."""
        radians = np.deg2rad(track.angle)
        cos, sin = np.cos(radians)[:, None], np.sin(radians)[:, None]
        x, y = self.hand * track.shape[..., 0], self.hand * track.shape[..., 1] + 0.5 * self.hand
        hand = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + self.reach * track.middle[:, None]
        wrist = hand[:, 0]
        elbow = _elbow(np.array([-0.5, 0.0]), wrist, self.arm)
        mirror = (-1.0 if left else 1.0, 1.0)
        points[:, _LEFT_HAND if left else _RIGHT_HAND] = hand * mirror
        points[:, 9 if left else 10] = wrist * mirror
        points[:, 7 if left else 8] = elbow * mirror

    def film(self, points: Array) -> Array:
        """Shoulder widths to parts of a square image."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return self.origin + self.unit * (points @ np.array([[cos, sin], [-sin, cos]]))


def _elbow(shoulder: Array, wrist: Array, bone: float) -> Array:
    """Where the elbow of a right arm is seen: the slack of a bent arm hangs down and outwards."""
    span = wrist - shoulder
    slack = np.sqrt(np.maximum(bone**2 - (span**2).sum(axis=1) / 4, 0.0))
    return shoulder + span / 2 + slack[:, None] * (-0.42, 0.80)


def _estimate(truth: Array, rng: np.random.Generator) -> tuple[Array, NDArray[np.float32]]:
    """Jittered points (T, 133, 2) and confidences (T, 133): sure of the upper body, unsure of the legs.

    Now and then a hand is lost: low confidence, points scattered.
    """
    frames = len(truth)
    keypoints = truth + rng.normal(0.0, _JITTER, truth.shape)
    scores = rng.uniform(0.75, 0.98, (frames, 133))
    scores[:, _UPPER_BODY:23] = rng.uniform(0.05, 0.25, (frames, 23 - _UPPER_BODY))
    for hand in (_LEFT_HAND, _RIGHT_HAND):
        scores[:, hand] = rng.uniform(0.60, 0.95, (frames, 21))
        lost = rng.random(frames) < _LOST_HAND
        scores[lost, hand] *= 0.3
        keypoints[lost, hand] += rng.normal(0.0, 8 * _JITTER, (int(lost.sum()), 21, 2))
    return keypoints, scores.astype(np.float32)


def _arch(center: tuple[float, float], size: tuple[float, float], degrees: ArrayLike) -> Array:
    """Points (N, 2) on an ellipse, at angles from "right", clockwise in the image."""
    radians = np.deg2rad(np.asarray(degrees))
    return np.stack([center[0] + size[0] * np.cos(radians), center[1] + size[1] * np.sin(radians)], axis=1)


def _face() -> Array:
    """The 68 face points at rest, in the usual order: jaw, brows, nose, eyes, outer and inner lips."""
    eye = (180.0, 240.0, 300.0, 0.0, 60.0, 120.0)
    return np.concatenate(
        [
            _arch((0.0, -0.64), (0.235, 0.37), np.linspace(180.0, 0.0, 17)),
            _arch((-0.10, -0.74), (0.075, 0.05), np.linspace(190.0, 350.0, 5)),
            _arch((0.10, -0.74), (0.075, 0.05), np.linspace(190.0, 350.0, 5)),
            np.stack([np.zeros(4), np.linspace(-0.71, -0.57, 4)], axis=1),
            _arch((0.0, -0.55), (0.05, 0.015), np.linspace(180.0, 0.0, 5)),
            _arch((-0.095, -0.70), (0.042, 0.022), eye),
            _arch((0.095, -0.70), (0.042, 0.022), eye),
            _arch((0.0, _MOUTH_Y), (0.095, 0.045), [*np.linspace(180.0, 360.0, 7), *np.linspace(30.0, 150.0, 5)]),
            _arch((0.0, _MOUTH_Y), (0.070, 0.035), [*np.linspace(180.0, 360.0, 5), *np.linspace(45.0, 135.0, 3)]),
        ]
    )


def _person() -> Array:
    """All 133 points (133, 2) of a person at rest; arms and hands are left at the origin."""
    points = np.zeros((133, 2))
    points[:5] = [(0.0, -0.58), (0.095, -0.70), (-0.095, -0.70), (0.215, -0.66), (-0.215, -0.66)]
    points[5:7] = [(0.5, 0.0), (-0.5, 0.0)]
    points[11:17] = [(0.33, 1.35), (-0.33, 1.35), (0.34, 2.35), (-0.34, 2.35), (0.34, 3.3), (-0.34, 3.3)]
    points[17:23] = [(0.5, 3.5), (0.42, 3.52), (0.33, 3.4), (-0.5, 3.5), (-0.42, 3.52), (-0.33, 3.4)]
    points[_FACE] = _face()
    return points


_PERSON = _person()
_HEAD = np.r_[0:5, 23:91]
