"""`.pose` files of the `pose-format` package: points in pixels of every person in every frame, after a header.

Everything is little-endian; a text is its length (uint16) and UTF-8. Specification: docs/specs/v0.1.md and v0.2.md of
github.com/sign-language-processing/pose.

    version            float32      0.1 or 0.2
    width height depth 3 x uint16   of the video, in pixels
    components         uint16       then for each: name, format ("XYC": x, y, confidence), counts of points, limbs and
                                    colours (3 x uint16), the points' names, limbs (2 x uint16), colours (3 x uint16)
    fps frames people  v0.1: 3 x uint16, and as many frames as the file has room for; v0.2: float32, uint32, uint16
    coordinates        float32 (frames, people, points of all components, dimensions)
    confidence         float32 (frames, people, points)

A point of confidence 0 is one that was not found, whatever its coordinates.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.data.safe_pickle import MAX_BYTES, check_file
from uni_sign.errors import InputError

POINTS = 133
# Where the points of a component stand in COCO-WholeBody's 133, by its name and number of points.
COMPONENTS: dict[tuple[str, int], range] = {
    ("BODY", 17): range(17),
    ("BODY", 23): range(23),
    ("FEET", 6): range(17, 23),
    ("FACE", 68): range(23, 91),
    ("LEFT_HAND", 21): range(91, 112),
    ("RIGHT_HAND", 21): range(112, 133),
}
_FEET = range(17, 23)  # no part of the model has them: they may be missing
_BODY_POINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    *("right_ankle", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"),
)
_MOST_COMPONENTS, _MOST_POINTS = 64, 4096
_FLOAT = 4


@dataclass(frozen=True)
class _Component:
    name: str
    axes: str
    points: list[str]


class _DamagedError(Exception):
    """The file says more than it holds, or holds more than it says."""


def read_pose_format(path: Path) -> dict[str, Any]:
    """A clip's `keypoints` and `scores` as `wholebody.read_pose` wants them, `fps`, `width` and `height`.

    Keypoints are float32 shares of width and height: (T, 1, 133, 2), or one array a frame of those people who have a
    point with any confidence. Raises InputError, naming the file, where it is damaged or too large, or its points are
    not those of `COMPONENTS`, or 133 in one component.
    """
    if check_file(path) > MAX_BYTES:
        raise InputError(f"{path} holds more than {MAX_BYTES:,} bytes: split it.")
    try:
        cursor = _Cursor(path.read_bytes())
        version = round(cursor.number("f"), 3)
        if version not in (0.1, 0.2):
            raise _DamagedError
        width, height, _ = cursor.numbers("HHH")
        components = _read_components(cursor)
        places = _places(components, path)
        if not (width and height):
            raise InputError(f"{path} has no width and height, without which pixels mean nothing: write them into it.")
        dimensions = max(len(component.axes) for component in components) - 1
        fps, coordinates, confidence = _read_body(cursor, version, len(places), dimensions)
    except (_DamagedError, struct.error, UnicodeDecodeError):
        raise InputError(f"{path} is no .pose file of version 0.1 or 0.2, or is damaged: get it anew.") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory: split it.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the disk.") from None
    shape = confidence.shape[:2]
    scores = np.zeros((*shape, POINTS), np.float32)
    scores[:, :, places] = confidence
    keypoints = np.zeros((*shape, POINTS, 2), np.float32)
    keypoints[:, :, places] = coordinates[..., :2] / np.array([width, height], np.float32)
    keypoints[scores == 0] = 0
    return {**_people(keypoints, scores), "fps": fps, "width": width, "height": height}


class _Cursor:
    """Reads a file's bytes in order; past their end is damage."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{kinds}", self.data, self.at)
        self.at += struct.calcsize(f"<{kinds}")
        return values

    def number(self, kind: str) -> Any:
        return self.numbers(kind)[0]

    def text(self) -> str:
        size = self.number("H")
        self.skip(size)
        return self.data[self.at - size : self.at].decode()

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise _DamagedError

    def floats(self, shape: Sequence[int]) -> np.ndarray:
        start, count = self.at, math.prod(shape)
        self.skip(_FLOAT * count)
        return np.frombuffer(self.data, "<f4", count, start).reshape(shape)


def _read_components(cursor: _Cursor) -> list[_Component]:
    count = cursor.number("H")
    if count > _MOST_COMPONENTS:
        raise _DamagedError
    components, total = [], 0
    for _ in range(count):
        name, axes = cursor.text(), cursor.text()
        points, limbs, colours = cursor.numbers("HHH")
        total += points
        if total > _MOST_POINTS:
            raise _DamagedError
        components.append(_Component(name, axes, [cursor.text() for _ in range(points)]))
        cursor.skip(4 * limbs + 6 * colours)
    return components


def _read_body(cursor: _Cursor, version: float, points: int, dimensions: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Frames a second, coordinates (T, P, V, D) and confidence (T, P, V): all that the rest of the file holds."""
    fps, said, people = cursor.numbers("HHH" if version == 0.1 else "fIH")
    frame_bytes = people * points * (dimensions + 1) * _FLOAT
    frames, left = divmod(len(cursor.data) - cursor.at, frame_bytes) if frame_bytes else (0, 0)
    # Version 0.1 cannot write down more than 65,535 frames.
    known = frames == said or (version == 0.1 and frames >= 65_535)
    if left or not frame_bytes or not known:
        raise _DamagedError
    return float(fps), cursor.floats((frames, people, points, dimensions)), cursor.floats((frames, people, points))


def _places(components: Sequence[_Component], path: Path) -> np.ndarray:
    """Which of the 133 each of the file's points is."""
    found = [_place(component, alone=len(components) == 1) for component in components]
    places = [place for points in found if points is not None for place in points]
    missing = set(range(POINTS)) - set(places) - set(_FEET)
    axes = all(component.axes[:2] == "XY" and component.axes[-1:] == "C" for component in components)
    if None in found or missing or len(set(places)) < len(places) or not axes:
        said = ", ".join(f"{component.name} {len(component.points)} {component.axes}" for component in components)
        raise InputError(
            f"{path} holds the components {said or 'none'}, where the 133 points of COCO-WholeBody are needed (XYC): "
            "BODY 23 (or BODY 17 and FEET 6, or no feet), FACE 68, LEFT_HAND 21, RIGHT_HAND 21, or one of 133 points."
        )
    # One row of all names: the names that the package gives to body points tell whether they are in COCO's order.
    names = [_plain(name) for component in components for name in component.points]
    for name, place in zip(names, places, strict=True):
        if name in _BODY_POINTS and _BODY_POINTS.index(name) != place:
            raise InputError(
                f"{path} holds the point {name} where COCO-WholeBody has another: write its points in that order."
            )
    return np.array(places)


def _place(component: _Component, alone: bool) -> range | None:
    if alone and len(component.points) == POINTS:
        return range(POINTS)
    return COMPONENTS.get((_plain(component.name).removesuffix("_133").upper(), len(component.points)))


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def _people(keypoints: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Without those who are not in a frame: the file has as many places in each as the fullest needs."""
    there = (scores != 0).any(axis=2)
    if there.shape[1] == 1 and there.any():
        return {"keypoints": keypoints, "scores": scores}
    return {
        "keypoints": [frame[seen] for frame, seen in zip(keypoints, there, strict=True)],
        "scores": [frame[seen] for frame, seen in zip(scores, there, strict=True)],
    }
