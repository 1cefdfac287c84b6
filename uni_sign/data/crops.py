"""Hand crops of a clip: squares round the hands in a few of its frames, and where their points lie in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uni_sign.data.hands import HAND_POINTS, HANDS, choose_crops, corners, square_side
from uni_sign.data.video import Video
from uni_sign.errors import SampleError

CROP_SIZE = 112


@dataclass(frozen=True)
class HandCrops:
    """Crops of one hand: images (n, 3, 112, 112) uint8, points (n, 21, 2) float32 in shares of a crop, and places.

    ``places`` (n,), int64: each crop's frame among those of the clip.
    """

    images: np.ndarray
    points: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Patch:
    """A part of a frame, RGB (h, w, 3) uint8, whose left upper corner lies at ``left``, ``top`` of the frame."""

    pixels: np.ndarray
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class Patches:
    """Of each hand, a patch for each frame that was asked for; and the size of the frames in pixels."""

    of_hand: dict[str, list[Patch]]
    width: int
    height: int


# Where the pixels come from, a video or kept patches of it: numbers of frames, by hand, to their patches.
Source = Callable[[Mapping[str, np.ndarray]], Patches]


def no_crops() -> HandCrops:
    """A hand without any."""
    images = np.zeros((0, 3, CROP_SIZE, CROP_SIZE), np.uint8)
    return HandCrops(images, np.zeros((0, HAND_POINTS, 2), np.float32), np.zeros(0, np.int64))


def clip_crops(hands: Mapping[str, np.ndarray], numbers: np.ndarray, source: Source, draw: Any) -> dict[str, HandCrops]:
    """Crops of both hands, whose planes (3, T, 21) hold x, y and score, in frames ``numbers`` (T,) of the video.

    A hand that is not seen, or has no extent, has none. ``draw``: see `choose_crops`. Raises SampleError where a hand
    is larger than any.
    """
    places = {hand: choose_crops(hands[hand][2], draw) for hand in HANDS}
    shares = {hand: hands[hand][:2, places[hand]].transpose(1, 2, 0).astype(np.float64) for hand in HANDS}
    if not any(np.ptp(points, axis=1).any() for points in shares.values() if len(points)):
        return {hand: no_crops() for hand in HANDS}
    patches = source({hand: numbers[places[hand]] for hand in HANDS})
    points = {hand: shares[hand] * (patches.width, patches.height) for hand in HANDS}
    side = square_side(points)
    if side == 0:
        return {hand: no_crops() for hand in HANDS}
    check_side(side, patches.width, patches.height)
    return {hand: _hand_crops(points[hand], places[hand], patches.of_hand[hand], side) for hand in HANDS}


def check_side(side: int, width: int, height: int) -> None:
    """Raises SampleError for a square that no hand has: of garbage in the poses, its pixels would fill the memory."""
    if side > 2 * max(width, height):
        raise SampleError(
            f"a hand would be {side} pixels wide in frames of {width} x {height}: extract the clip's poses again."
        )


def _hand_crops(points: np.ndarray, places: np.ndarray, patches: Sequence[Patch], side: int) -> HandCrops:
    if not len(places):
        return no_crops()
    corner = corners(points, side)
    images = [cut(patch, at, side) for patch, at in zip(patches, corner.tolist(), strict=True)]
    return HandCrops(np.stack(images), ((points - corner[:, None]) / side).astype(np.float32), places)


def from_video(path: Path) -> Source:
    """Whole frames of a video."""

    def read(numbers: Mapping[str, np.ndarray]) -> Patches:
        with Video(path) as video:
            frames = video.frames(np.concatenate(list(numbers.values())))
        height, width = next(iter(frames.values())).shape[:2]
        return Patches(
            {hand: [Patch(frames[i]) for i in of_hand.tolist()] for hand, of_hand in numbers.items()}, width, height
        )

    return read


def cut(patch: Patch, corner: Sequence[int], side: int) -> np.ndarray:
    """The square of a frame, black where it reaches over the border, as a crop (3, 112, 112) uint8."""
    left, top = corner
    square = region(patch, left, top, side)
    resized = Image.fromarray(square).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


def region_in(frame: np.ndarray, corner: Sequence[int], side: int, margin: int) -> Patch:
    """The part of a frame that a square, and ``margin`` pixels round it, cover."""
    left, top = (max(0, place - margin) for place in corner)
    right, bottom = (place + side + margin for place in corner)
    return Patch(frame[top : max(top, bottom), left : max(left, right)], left, top)


def region(patch: Patch, left: int, top: int, side: int) -> np.ndarray:
    """The square (side, side, 3) of a frame's patch, black where the patch ends."""
    height, width = patch.pixels.shape[:2]
    left, top = left - patch.left, top - patch.top
    x, y = slice(max(left, 0), min(left + side, width)), slice(max(top, 0), min(top + side, height))
    if x.start == left and y.start == top and x.stop == left + side and y.stop == top + side:
        return np.ascontiguousarray(patch.pixels[y, x])
    square = np.zeros((side, side, 3), np.uint8)
    if x.start < x.stop and y.start < y.stop:
        square[y.start - top : y.stop - top, x.start - left : x.stop - left] = patch.pixels[y, x]
    return square
