"""Holistic keypoints: 143 points (x, y, z) a frame, in four regions, as the keypoint pipeline's files hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.data.safe_pickle import load_pickle
from uni_sign.errors import InputError

REGIONS = {"face": 68, "left_hand": 21, "right_hand": 21, "pose": 33}
POINTS, AXES = sum(REGIONS.values()), 3
_BOUNDS = np.cumsum([0, *REGIONS.values()]).tolist()
SLICES = {name: slice(start, end) for name, start, end in zip(REGIONS, _BOUNDS, _BOUNDS[1:], strict=False)}
MAX_FRAMES = 5_000_000  # of one file: 8.6 GB
_LIMIT = 1e6  # of a coordinate: shares of a picture, or its pixels


@dataclass(frozen=True)
class Frames:
    """Points (N, 143, 3) float32, zeros where a region is missing; which regions are there (N, 4); clips and names.

    ``clips``: the folder of each frame's picture, where the file names it; else each frame is a clip of its own.
    """

    points: np.ndarray
    present: np.ndarray
    clips: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Normalization:
    """Lowest and highest value of each coordinate (3,), of the training part; [0, 1] is between them."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, present: np.ndarray, where: str) -> "Normalization":
        """That of points (N, 143, 3), those of missing regions aside; ``where`` is named if there is nothing else."""
        values = points[point_mask(present)]
        if not len(values):
            raise InputError(f"{where}: no frame that trains has a region that is there: get other keypoints.")
        low, high = values.min(axis=0), values.max(axis=0)
        return cls(low, np.where(high > low, high, low + 1))

    def apply(self, points: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Points (..., 143, 3) in [0, 1] where training's are; zeros where a region is missing."""
        scaled = (points - self.low) / (self.high - self.low)
        return np.where(point_mask(present)[..., None], scaled, 0).astype(np.float32)

    def undo(self, points: np.ndarray) -> np.ndarray:
        """The coordinates that `apply` was given."""
        return points * (self.high - self.low) + self.low

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Normalization":
        """What `plain` gave; raises ValueError for anything else."""
        bounds: list[np.ndarray] = []
        for name in ("low", "high"):
            bound = plain.get(name)
            numbers = isinstance(bound, (list, tuple)) and len(bound) == AXES
            if not numbers or not all(isinstance(one, (int, float)) and abs(one) <= 2 * _LIMIT for one in bound or ()):
                raise ValueError("its normalization is not two lists of three numbers")
            bounds.append(np.array(bound, np.float64))
        low, high = bounds
        if not (low < high).all():
            raise ValueError("its normalization has no width")
        return cls(low, high)

    def plain(self) -> dict[str, list[float]]:
        """As a checkpoint holds it."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}


def point_mask(present: np.ndarray) -> np.ndarray:
    """Regions (..., 4) to points (..., 143), bool."""
    return np.repeat(present, list(REGIONS.values()), axis=-1)


def read_frames(path: Path) -> Frames:
    """`sign_language_keypoints.pkl`: {"keypoints": [frame, ...], "image_paths": [...]}, a list of frames, or either
    under "train".

    A frame is {"face": (68, 3), "left_hand": (21, 3), "right_hand": (21, 3), "pose": (33, 3)}, where a region can be
    None or missing, and z, too. Raises InputError, naming file and frame, for anything else.
    """
    content = load_pickle(path)
    if isinstance(content, Mapping) and "keypoints" not in content and "train" in content:
        content = content["train"]
    listed = content.get("keypoints") if isinstance(content, Mapping) else content
    if isinstance(listed, np.ndarray) and listed.ndim:
        listed = list(listed)
    if not isinstance(listed, (list, tuple)) or not listed:
        raise InputError(f"{path} holds no list of frames under 'keypoints': it must hold one dict of regions a frame.")
    points, present = frames_of(listed, str(path))
    names = names_of(content, "image_paths", len(listed))
    if names is not None:
        clips = [str(Path(name).parent) for name in names]
        return Frames(points, present, clips, [str(Path(name).with_suffix("")) for name in names])
    numbers = [str(number) for number in range(len(listed))]
    return Frames(points, present, numbers, numbers)


def names_of(content: Any, key: str, count: int) -> list[str] | None:
    """The list of ``count`` names that a file's content holds under ``key``; None where it holds no such list."""
    names = content.get(key) if isinstance(content, Mapping) else None
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if not isinstance(names, (list, tuple)) or len(names) != count or not all(isinstance(one, str) for one in names):
        return None
    return list(names)


def read_faces(path: Path) -> Frames:
    """`keypoints_data.pkl`: {"keypoints": (N, 68, 3)}, as frames of which nothing else is there.

    Raises InputError, naming the file, for anything else.
    """
    content = load_pickle(path)
    listed = content.get("keypoints") if isinstance(content, Mapping) else content
    if isinstance(listed, (list, tuple)) or (isinstance(listed, np.ndarray) and listed.dtype == object):
        listed = np.array([_region(face, "face", f"{path}: face {number}") for number, face in enumerate(listed)])
    if not isinstance(listed, np.ndarray) or listed.dtype.kind not in "fiu":
        raise InputError(f"{path} holds no array under 'keypoints': it must be of shape (N, 68, 3).")
    faces = listed
    if faces.ndim != 3 or faces.shape[1:] != (REGIONS["face"], AXES) or len(faces) < 2:
        raise InputError(f"{path}: its keypoints are of shape {faces.shape}, not (N, 68, 3) with N at least 2.")
    if not (np.abs(faces) <= _LIMIT).all():  # false for NaN, too
        raise InputError(f"{path} holds a value that no point has, such as NaN: leave such faces out.")
    points = np.zeros((len(faces), POINTS, AXES), np.float32)
    points[:, SLICES["face"]] = faces
    present = np.zeros((len(faces), len(REGIONS)), bool)
    present[:, list(REGIONS).index("face")] = True
    numbers = [str(number) for number in range(len(faces))]
    return Frames(points, present, numbers, numbers)


def frames_of(listed: Sequence[Any], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames as dicts of regions, or as (143, 3), to points (N, 143, 3) and which regions are there (N, 4)."""
    if len(listed) > MAX_FRAMES:
        raise InputError(f"{where} holds {len(listed):,} frames, of which {MAX_FRAMES:,} are too many: split it.")
    try:
        points = np.zeros((len(listed), POINTS, AXES), np.float32)
        present = np.zeros((len(listed), len(REGIONS)), bool)
    except MemoryError:
        raise InputError(f"{where}: its {len(listed):,} frames do not fit into memory: split it.") from None
    for number, frame in enumerate(listed):
        if isinstance(frame, np.ndarray):
            frame = {name: frame[own] for name, own in SLICES.items()} if frame.shape == (POINTS, AXES) else None
        if not isinstance(frame, Mapping):
            raise InputError(f"{where}: frame {number} is neither a dict of regions nor an array (143, 3).")
        for place, (name, own) in enumerate(SLICES.items()):
            region = frame.get(name)
            if region is None:
                continue
            points[number, own] = _region(region, name, f"{where}: frame {number}")
            present[number, place] = True
    return points, present


def _region(region: Any, name: str, where: str) -> np.ndarray:
    if not isinstance(region, np.ndarray) or region.dtype.kind not in "fiu":
        region = _table(region, name, where)
    values = region.astype(np.float64)
    if values.shape not in ((REGIONS[name], 2), (REGIONS[name], AXES)):
        raise InputError(f"{where}: {name} is of shape {values.shape}, not ({REGIONS[name]}, 3).")
    if not (np.abs(values) <= _LIMIT).all():  # false for NaN, too
        raise InputError(f"{where}: {name} holds a value that no point has, such as NaN: leave the region out.")
    return values if values.shape[1] == AXES else np.pad(values, ((0, 0), (0, 1)))


def _table(region: Any, name: str, where: str) -> np.ndarray:
    """Rows of numbers as an array; numpy itself would go through lists within lists for ever."""
    rows = region.tolist() if isinstance(region, np.ndarray) else region
    if not isinstance(rows, (list, tuple)) or len(rows) != REGIONS[name]:
        raise InputError(f"{where}: {name} is no table of {REGIONS[name]} rows of three numbers.")
    rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
    for row in rows:
        plain = isinstance(row, (list, tuple)) and len(row) in (2, AXES) and len(row) == len(rows[0])
        if not plain or not all(isinstance(value, (int, float, np.number)) for value in row):
            raise InputError(f"{where}: {name} is no table of {REGIONS[name]} rows of three numbers.")
    try:
        return np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {name} holds a number that no point has.") from None


def training_part(clips: Sequence[str], share: float = 0.8) -> np.ndarray:
    """Which frames train (N,), bool: those of the first clips, about this share of all, and at least one clip's.

    Of a single clip its first frames.
    """
    numbers = {clip: number for number, clip in enumerate(dict.fromkeys(clips))}
    if len(numbers) == 1:
        return np.arange(len(clips)) < max(1, int(len(clips) * share))
    codes = np.array([numbers[clip] for clip in clips], np.int64)
    ends = np.cumsum(np.bincount(codes))
    chosen = np.searchsorted(ends, share * len(clips), side="right")
    trains: np.ndarray = codes < min(max(1, int(chosen)), len(numbers) - 1)
    return trains
