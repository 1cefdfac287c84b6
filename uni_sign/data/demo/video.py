"""The Demo's skeletons as small H.264 videos of rendered signers."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 128
RATE = 25
_ZOOM = 4  # drawn large, then averaged: smooth edges
_WALL = (214, 222, 226)
_SHIRT = (52, 78, 110)
_TROUSERS = (58, 60, 66)
_HAIR = (60, 46, 40)
_SKIN = (232, 194, 166)
_PALM = (214, 168, 136)
_FINGER = (168, 112, 82)
_INK = (70, 40, 40)
_LIPS = (170, 70, 74)
_PALM_OUTLINE = (0, 1, 5, 9, 13, 17)
_CHAINS = ((0, 1, 2, 3, 4), *((0, *range(first, first + 4)) for first in (5, 9, 13, 17)))


def write_video(path: Path, points: NDArray[np.float64]) -> None:
    """Encode points (T, 133, 2), divided by the image size, as an MP4 of SIZE x SIZE at RATE frames a second.

    The same points give the same bytes.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        # One thread, because the encoder's result depends on their number; short groups for random access.
        stream.options = {"crf": "20", "preset": "veryfast", "threads": "1", "g": "12"}
        for frame in points:
            image = av.VideoFrame.from_ndarray(draw_signer(frame), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())


def draw_signer(points: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Draw one frame, points (133, 2) -> (SIZE, SIZE, 3)."""
    image = Image.new("RGB", (SIZE * _ZOOM, SIZE * _ZOOM), _WALL)
    pen = _Pen(image, points)
    pen.torso()
    pen.head()
    for shoulder, elbow, wrist, hand in ((5, 7, 9, 91), (6, 8, 10, 112)):
        pen.stroke((shoulder, elbow), _SHIRT, 9.0)
        pen.stroke((elbow, wrist), _SKIN, 6.0)
        pen.hand(hand)
    return np.asarray(image.reduce(_ZOOM))


class _Pen:
    """Draws parts of a person, found by point number; widths are pixels of the finished video."""

    def __init__(self, image: Image.Image, points: NDArray[np.float64]) -> None:
        self._draw = ImageDraw.Draw(image)
        self._points = points * (SIZE * _ZOOM)

    def _at(self, *numbers: int) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in self._points[list(numbers)]]

    def _disc(self, x: float, y: float, color: tuple[int, int, int], width: float, height: float) -> None:
        half = (width * _ZOOM / 2, height * _ZOOM / 2)
        self._draw.ellipse((x - half[0], y - half[1], x + half[0], y + half[1]), fill=color)

    def stroke(self, numbers: tuple[int, ...], color: tuple[int, int, int], width: float) -> None:
        """A line through points with round ends and joints."""
        path = self._at(*numbers)
        self._draw.line(path, fill=color, width=round(width * _ZOOM))
        for x, y in path:
            self._disc(x, y, color, width, width)

    def torso(self) -> None:
        """Trousers, shirt and neck."""
        for leg in ((11, 13), (12, 14)):
            self.stroke(leg, _TROUSERS, 12.0)
        self._draw.polygon(self._at(5, 6, 12, 11), fill=_SHIRT)
        self.stroke((5, 6), _SHIRT, 9.0)
        self._draw.line([*self._at(53), tuple(self._points[5:7].mean(axis=0))], fill=_SKIN, width=9 * _ZOOM)

    def head(self) -> None:
        """Hair, face, and the face's points."""
        (x, y), chin = self._points[[3, 4]].mean(axis=0), self._points[31, 1]
        tall = 2.2 * (chin - y) / _ZOOM
        self._disc(x, y - 0.06 * tall * _ZOOM, _HAIR, 0.78 * tall, tall)
        self._draw.polygon(self._at(*range(23, 40)), fill=_SKIN)
        self._disc(x, y + 0.02 * tall * _ZOOM, _SKIN, 0.62 * tall, 0.7 * tall)
        for brow in (range(40, 45), range(45, 50)):
            self.stroke(tuple(brow), _HAIR, 0.8)
        self.stroke(tuple(range(50, 54)), _PALM, 1.0)
        for eye in (range(59, 65), range(65, 71)):
            self._draw.polygon(self._at(*eye), fill=_INK)
        self._draw.polygon(self._at(*range(71, 83)), fill=_LIPS)
        self._draw.polygon(self._at(*range(83, 91)), fill=_INK)

    def hand(self, first: int) -> None:
        """Palm and fingers of the hand whose wrist is point `first`."""
        self._draw.polygon(self._at(*(first + point for point in _PALM_OUTLINE)), fill=_PALM)
        for chain in _CHAINS:
            self.stroke(tuple(first + point for point in chain), _FINGER, 1.5)
