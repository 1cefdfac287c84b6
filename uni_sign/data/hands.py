"""Which frames of a clip show its hands to the image branch, and which square of them (Uni-Sign, arXiv 2501.15187)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uni_sign.data.wholebody import PARTS, THRESHOLD

HANDS = ("left", "right")
HAND_POINTS = 21
_SHARE = 0.1  # of the frames in which a hand is seen
_FINGERTIPS = np.array([4, 8, 12, 16, 20])
_MARGIN = 1.2
_LEAST_WEIGHT = 1e-5


def hand_planes(planes: np.ndarray) -> dict[str, np.ndarray]:
    """x, y and score of each hand's points (3, T, 21), of planes (3, T, `USED_POINTS`): copies."""
    ends = np.cumsum([len(points) for points in PARTS.values()])
    views = dict(zip(PARTS, np.split(planes, ends[:-1], axis=2), strict=True))
    return {hand: views[hand].copy() for hand in HANDS}


def seen_frames(scores: np.ndarray) -> np.ndarray:
    """Numbers of the frames in which a hand of scores (T, 21) is seen: they average above 0.3."""
    return np.flatnonzero(scores.mean(1) > THRESHOLD)


def choose_crops(scores: np.ndarray, draw: Any) -> np.ndarray:
    """Sorted numbers, int64, of the frames to crop a hand from, of its scores (T, 21): badly seen ones above all.

    A tenth of those in which it is seen: drawn by ``draw`` (numpy's ``choice`` is asked), or those of
    the highest weight where it is None.
    """
    seen = seen_frames(scores)
    if not len(seen):
        return seen
    worst = scores[np.ix_(seen, _FINGERTIPS)].min(1).astype(np.float64)
    weights = worst.max() - worst + _LEAST_WEIGHT
    count = int(np.ceil(_SHARE * len(seen)))
    if draw is None:
        return np.sort(seen[np.argsort(-weights, kind="stable")[:count]])
    return np.sort(draw.choice(seen, size=count, replace=False, p=weights / weights.sum()))


def square_side(points: Mapping[str, np.ndarray]) -> int:
    """Side, an even number of pixels, of the squares of both hands: 1.2 times the largest extent of either's points.

    ``points``: of each hand in pixels, (n, 21, 2); 0 where no hand has an extent.
    """
    extents = [float(np.ptp(hand, axis=1).max()) for hand in points.values() if len(hand)]
    return int(max(extents, default=0.0) * _MARGIN) // 2 * 2


def corners(points: np.ndarray, side: int) -> np.ndarray:
    """Left upper corners (n, 2), int64, of the squares round a hand's points in pixels (n, 21, 2)."""
    centres = (points.min(1) + points.max(1)) / 2
    return (centres - side / 2).astype(np.int64)
