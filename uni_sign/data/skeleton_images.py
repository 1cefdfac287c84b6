"""Skeletons as grey pictures, black on white, as the image models are to draw them: drawn once, and kept on disk."""

import hashlib
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from uni_sign.canvas import Canvas
from uni_sign.data.holistic import REGIONS, SLICES

_VERSION = 2  # of the drawing: kept pictures of another one are not read
_CRC_BYTES = 4
_PAPER, _INK = "white", "black"
_FACE_RUNS = ((0, 17), (17, 22), (22, 27), (27, 36))
_FACE_LOOPS = ((36, 42), (42, 48), (48, 60), (60, 68))
_FINGERS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (0, 9, 10, 11, 12), (0, 13, 14, 15, 16), (0, 17, 18, 19, 20))
_PALM = (5, 9, 13, 17)
_HEAD = ((0, 1, 2, 3, 7), (0, 4, 5, 6, 8))
_LIMBS = ((11, 12), (11, 13, 15), (12, 14, 16), (11, 23), (12, 24), (23, 24), (23, 25, 27), (24, 26, 28))


def _edges(*chains: Sequence[int]) -> np.ndarray:
    return np.array([edge for chain in chains for edge in pairwise(chain)])


_HAND = _edges(*_FINGERS, _PALM)
# By region: the lines, their width and the radius of the dots, in 256ths of the picture; later ones lie on top.
STYLES = {
    "pose": (_edges(*_HEAD, *_LIMBS), 2.5, 2.5),
    "face": (_edges(*(range(*r) for r in _FACE_RUNS), *([*range(*r), r[0]] for r in _FACE_LOOPS)), 1.0, 1.3),
    "left_hand": (_HAND, 2.5, 2.0),
    "right_hand": (_HAND, 2.5, 2.0),
}
_HALO = 2.0  # 256ths of the picture that a hand stands off from what lies behind it, on either side


def draw_skeleton(points: np.ndarray, present: np.ndarray, size: int = 256) -> np.ndarray:
    """Points (143, 3), x and y as shares of the picture, to (size, size) uint8: 255 where nothing is.

    ``present`` (4,): regions that are missing are not drawn, and hands lie over the rest.
    """
    canvas, unit = _canvas(size), size / 256
    canvas.clear()
    places = points[:, :2].clip(-4, 5).astype(np.float64) * size
    there = dict(zip(REGIONS, present, strict=True))
    for region, (edges, width, radius) in STYLES.items():
        if not there[region]:
            continue
        own = places[SLICES[region]]
        ends = own[edges]
        if region in ("left_hand", "right_hand"):
            canvas.lines(ends, _PAPER, (width + 2 * _HALO) * unit)
        canvas.lines(ends, _INK, width * unit)
        canvas.dots(own, _INK, radius * unit)
    return canvas.pixels()[:, :, 0]


@cache
def _canvas(size: int) -> Canvas:
    return Canvas(size, size, _PAPER)


def face_alone(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces (N, 68, 3) as skeletons (N, 143, 3) of which nothing else is there, and their regions (N, 4)."""
    whole = np.zeros((len(points), sum(REGIONS.values()), points.shape[2]), points.dtype)
    whole[:, SLICES["face"]] = points
    present = np.zeros((len(points), len(REGIONS)), bool)
    present[:, list(REGIONS).index("face")] = True
    return whole, present


class SkeletonImages:
    """The pictures of frames (N, 143, 3), drawn where first asked for and kept under ``folder`` for all processes.

    A file there is named by the frames themselves and holds a record a frame, its picture and the CRC-32 of it: what
    another process or a crash left half written is drawn anew. What cannot be written is drawn each time.
    """

    def __init__(self, points: np.ndarray, present: np.ndarray, size: int, folder: Path) -> None:
        self._points, self._present, self._size = points, present, size
        self.path = folder / f"skeletons_{_digest(points, present, size)}.bin"
        self._file: int | None = None
        # Not mapped into memory: there a full disk would end the process.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)

    @property
    def note(self) -> str:
        """Where pictures are kept, for a person."""
        if self._file is None:
            return f"Skeleton pictures are drawn each time: {self.path} cannot be written."
        return f"Skeleton pictures are kept in {self.path}."

    def __getitem__(self, index: int) -> np.ndarray:
        """(size, size) uint8."""
        length = self._size**2 + _CRC_BYTES
        if self._file is not None:
            record = os.pread(self._file, length, index * length)
            picture = np.frombuffer(record[:-_CRC_BYTES], np.uint8)
            if len(record) == length and record[-_CRC_BYTES:] == _crc(picture):
                return picture.reshape(self._size, self._size)
        drawn = np.ascontiguousarray(draw_skeleton(self._points[index], self._present[index], self._size))
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, drawn.tobytes() + _crc(drawn), index * length)
        return drawn


def _crc(picture: np.ndarray) -> bytes:
    """Of a picture; never that of the zeros between records that were not written yet."""
    return (zlib.crc32(picture.data) or 1).to_bytes(_CRC_BYTES, "little")


def _digest(points: np.ndarray, present: np.ndarray, size: int) -> str:
    digest = hashlib.blake2b(f"{_VERSION} {size}".encode(), digest_size=8)
    for values in (points, present):
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
