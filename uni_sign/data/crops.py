"""Hand crops of a clip: squares round the hands in a few of its frames, and where their points lie in them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uni_sign.data.hands import HAND_POINTS, HANDS, choose_crops, corners, square_side
from uni_sign.data.video import Video

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
    """A part of a frame, in RGB, whose left upper corner lies at ``left``, ``top`` of the frame."""

    image: Image.Image
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class Squares:
    """Squares of ``side`` pixels, 0 where no hand has an extent; of each hand their left upper ``corners`` (n, 2)."""

    side: int
    corners: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Patches:
    """Of each hand, a patch for each frame that was asked for; and the size of the frames in pixels."""

    of_hand: Mapping[str, Sequence[Patch]]
    width: int
    height: int


Locate = Callable[[int, int], Squares]  # width and height of the frames to where the squares lie in them
# Where the pixels come from, a video or kept patches of it: numbers of frames, by hand, to patches of each that hold
# at least what their squares cover.
Source = Callable[[Mapping[str, np.ndarray], Locate], Patches]


def no_crops() -> HandCrops:
    """A hand without any."""
    images = np.zeros((0, 3, CROP_SIZE, CROP_SIZE), np.uint8)
    return HandCrops(images, np.zeros((0, HAND_POINTS, 2), np.float32), np.zeros(0, np.int64))


def clip_crops(hands: Mapping[str, np.ndarray], numbers: np.ndarray, source: Source, draw: Any) -> dict[str, HandCrops]:
    """Crops of both hands, whose planes (3, T, 21) hold x, y and score, in frames ``numbers`` (T,) of the video.

    A hand that is not seen, or has no extent, has none. ``draw``: see `choose_crops`.
    """
    places = {hand: choose_crops(hands[hand][2], draw) for hand in HANDS}
    shares = shares_at(hands, places)
    if not any(np.ptp(points, axis=1).any() for points in shares.values() if len(points)):
        return {hand: no_crops() for hand in HANDS}
    locate = partial(squares, shares)
    patches = source({hand: numbers[places[hand]] for hand in HANDS}, locate)
    found = locate(patches.width, patches.height)
    if found.side == 0:
        return {hand: no_crops() for hand in HANDS}
    size = (patches.width, patches.height)
    return {hand: _hand_crops(shares[hand] * size, places[hand], patches.of_hand[hand], found, hand) for hand in HANDS}


def shares_at(hands: Mapping[str, np.ndarray], places: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each hand's points (n, 21, 2), in shares of the frame, in these of its planes (3, T, 21)."""
    return {hand: hands[hand][:2, places[hand]].transpose(1, 2, 0).astype(np.float64) for hand in HANDS}


def squares(shares: Mapping[str, np.ndarray], width: int, height: int) -> Squares:
    """Where the squares lie in frames of this size; ``shares``: each hand's points (n, 21, 2) in shares of it."""
    points = {hand: shares[hand] * (width, height) for hand in HANDS}
    # Noise can put points anywhere; no hand is larger than the picture, nor its square larger than memory.
    side = min(square_side(points), max(width, height) // 2 * 2)
    at = {
        hand: corners(of_hand, side) if len(of_hand) else np.zeros((0, 2), np.int64) for hand, of_hand in points.items()
    }
    return Squares(side, at)


def _hand_crops(
    points: np.ndarray, places: np.ndarray, patches: Sequence[Patch], found: Squares, hand: str
) -> HandCrops:
    if not len(places):
        return no_crops()
    corner = found.corners[hand]
    images = [cut(patch, at, found.side) for patch, at in zip(patches, corner.tolist(), strict=True)]
    within = np.clip((points - corner[:, None]) / found.side, 0, 1)
    return HandCrops(np.stack(images), within.astype(np.float32), places)


def from_video(path: Path, least: int) -> Source:
    """Frames of a video, which must have at least ``least``, its poses' last one among them."""

    def read(numbers: Mapping[str, np.ndarray], locate: Locate) -> Patches:
        made: dict[str, list[Patch]] = {hand: [] for hand in HANDS}
        size = (0, 0)
        with Video(path, least) as video:
            for hand, _, patch, of_frame in cut_patches(video, numbers, locate):
                made[hand].append(patch)
                size = of_frame
        return Patches(made, *size)

    return read


def cut_patches(
    video: Video, numbers: Mapping[str, np.ndarray], locate: Locate, margin: int = 0
) -> Iterator[tuple[str, int, Patch, tuple[int, int]]]:
    """Hand, number, patch and the frame's size, frame by frame, none of which stays in memory.

    A patch is what a square, and ``margin`` pixels round it, cover; without an extent of the hands there is none.
    """
    found: Squares | None = None
    for number, frame in video.images(np.unique(np.concatenate(list(numbers.values())))):
        size = (frame.shape[1], frame.shape[0])
        found = found or locate(*size)
        if found.side == 0:
            return
        for hand in HANDS:
            for index in np.flatnonzero(numbers[hand] == number).tolist():
                yield hand, number, region_in(frame, found.corners[hand][index].tolist(), found.side, margin), size


def cut(patch: Patch, corner: Sequence[int], side: int) -> np.ndarray:
    """The square of a frame, black where it reaches over the border, as a crop (3, 112, 112) uint8."""
    square = region(patch, corner[0], corner[1], side)
    return np.asarray(square.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def region_in(frame: np.ndarray, corner: Sequence[int], side: int, margin: int) -> Patch:
    """A copy of the part of a frame (H, W, 3) that a square, and ``margin`` pixels round it, cover."""
    left, top = (max(0, place - margin) for place in corner)
    right, bottom = (place + side + margin for place in corner)
    part = frame[top : max(top, bottom), left : max(left, right)]
    return Patch(Image.fromarray(np.ascontiguousarray(part)), left, top)


def region(patch: Patch, left: int, top: int, side: int) -> Image.Image:
    """The square of a frame's patch, black where the patch ends."""
    left, top = left - patch.left, top - patch.top
    if min(left, top) + side <= 0 or left >= patch.image.width or top >= patch.image.height:
        return Image.new("RGB", (side, side))  # Pillow's own numbers end before those of a stray point
    return patch.image.crop((left, top, left + side, top + side))
