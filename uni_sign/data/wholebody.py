"""COCO-WholeBody poses: from a clip's file to its body, hand and face parts, vectorised over frames."""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from uni_sign.data.npz import read_npz
from uni_sign.data.pose_format import read_pose_format
from uni_sign.data.safe_pickle import MAX_BYTES, load_pickle
from uni_sign.errors import InputError, SampleError

POINTS = 133
POSE_SUFFIXES = (".npz", ".pkl", ".pose")  # the first that is there is a clip's file
THRESHOLD = 0.3  # points with a score up to here count as unseen
LIMIT = 1e6  # coordinates are shares of the image: anything near this is garbage, and squares overflow float32
MAX_FRAMES = 200_000  # two hours of video: files can name one frame many times, and fill the memory so
JUMP_COST = 1.0  # in mean score, for a signer who is found an image width away from where the last frame had them

PARTS: dict[str, tuple[int, ...]] = {
    "body": (0, *range(3, 11)),
    "left": tuple(range(91, 112)),
    "right": tuple(range(112, 133)),
    "face_all": (*range(23, 40, 2), *range(83, 91), 53),
}
ORIGINS: dict[str, int] = {"left": 91, "right": 112, "face_all": 53}

_BODY = len(PARTS["body"])
_USED = np.array([point for points in PARTS.values() for point in points])
USED_POINTS = len(_USED)
# Where the wrist or nose of each point of hands and face lies among them; all three are points of their own part.
_USED_ORIGINS = np.array([list(_USED).index(origin) for part, origin in ORIGINS.items() for _ in PARTS[part]])
_SIGNING = np.array(PARTS["body"] + PARTS["left"] + PARTS["right"])

Frames: TypeAlias = Sequence[Any] | np.ndarray  # what a file holds: an array a frame, or one array of all


@dataclass(frozen=True, eq=False)
class Pose:
    """One person over T frames: keypoints (T, 133, 2) in shares of image width and height, scores (T, 133).

    Frames that show nobody are all zero. `start` is the number of the first frame in the whole video.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    start: int = 0


def read_pose(path: str | Path) -> Pose:
    """Reads a clip from a pickle, an `.npz` or a `.pose` file: `read_content`, then `pose_of`."""
    return pose_of(read_content(path), path)


def read_content(path: str | Path) -> Any:
    """What a pose file holds: by its ending an `.npz`, a `.pose` file of pose-format, or a pickle.

    Raises SampleError, naming the file, where it cannot be read; what is in it is not judged yet.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        return read_pose_format(path) if path.suffix == ".pose" else load_pickle(path, stack=True)
    except InputError as error:
        raise SampleError(str(error)) from None


def pose_of(content: Any, path: str | Path) -> Pose:
    """The signer of a pose file's content: a dict of `keypoints` and `scores`, each with an entry a frame.

    Keypoints of a frame are (persons, 133, 2) or (133, 2), or empty where nobody was found. `start` and `end`, if
    there, name the clip's frames: a file of the whole video is cut to them, one of `end - start` frames is kept.
    Raises SampleError, naming the file, for anything that would train the model on garbage.
    """
    try:
        keypoints, scores, start = _clip(content)
        return Pose(*(_only_person(keypoints, scores) or _best_person(keypoints, scores)), start)
    except MemoryError:
        raise SampleError(f"{path} does not fit into memory: split it.") from None
    except SampleError as error:
        raise SampleError(f"{path} {error}: extract this clip's poses again, or leave it out.") from None


def choose_frames(n: int, max_length: int, rng: random.Random | None) -> np.ndarray:
    """Sorted numbers, int64, of the at most `max_length` frames of `n` to use.

    All if they fit; else a random choice with `rng`, and without it evenly spaced ones, the first and last among them.
    """
    if n <= max_length:
        return np.arange(n)
    if rng is not None:
        return np.array(sorted(rng.sample(range(n), max_length)))
    return np.arange(max_length) * (n - 1) // max(max_length - 1, 1)


def split_parts(keypoints: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Normalised parts (T, V, 3) of x, y and score in [-1, 1], from keypoints (T, 133, 2) and scores (T, 133).

    See `normalized_parts`.
    """
    return normalized_parts(used_planes(keypoints, scores))


def used_planes(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """x, y and scores of the points of all parts, as planes (3, T, `USED_POINTS`) of their common type.

    In planes the parts are several times faster to compute than interleaved.
    """
    dtype = np.result_type(keypoints, scores)
    flat = np.ascontiguousarray(keypoints, dtype).reshape(len(keypoints), 2 * POINTS)
    planes = np.empty((3, len(keypoints), USED_POINTS), dtype)
    for plane in (0, 1):
        np.take(flat, 2 * _USED + plane, axis=1, out=planes[plane], mode="clip")
    np.take(scores.astype(dtype, copy=False), _USED, axis=1, out=planes[2], mode="clip")
    return planes


def normalized_parts(planes: np.ndarray) -> dict[str, np.ndarray]:
    """Normalised parts (T, V, 3) of x, y and score in [-1, 1]: views of ``planes`` (3, T, V), which change in place.

    The body is centred in the square round all its seen points; hands and face are relative to wrist and nose, and
    scaled like the body. Unseen points are zero, and all is zero if the body is not seen (Uni-Sign, arXiv 2501.15187).
    """
    seen = planes[2] > THRESHOLD
    body, others = planes[:2, :, :_BODY], planes[:2, :, _BODY:]
    corner, scale = _square(body, seen[:, :_BODY])
    if scale == 0:
        planes[:] = 0
    else:
        body[:] = ((body - corner) / scale - 0.5) * 2
        for plane in (0, 1):
            others[plane] -= np.take(planes[plane], _USED_ORIGINS, axis=1, mode="clip")
        others /= scale
        np.clip(planes, -1, 1, out=planes)
        planes *= seen
    ends = np.cumsum([len(points) for points in PARTS.values()])
    views = np.split(planes.transpose(1, 2, 0), ends[:-1], axis=1)
    return dict(zip(PARTS, views, strict=True))


def _square(xy: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, Any]:
    """Lower corner (2, 1, 1) and side of the square round the seen points of xy (2, T, V); side 0 if there is none."""
    points = np.stack([plane[seen] for plane in xy])  # several times faster than xy[:, seen]
    if points.shape[1] < 4:
        return np.zeros((2, 1, 1), xy.dtype), 0
    low, high = points.min(axis=1), points.max(axis=1)
    side = (high - low).max()
    return ((low + high - side) / 2)[:, None, None], side


# --- reading -----------------------------------------------------------------------------------------------


_ARRAYS = ("keypoints", "scores", "start", "end")
_EXTRACTOR = ("name", "version", "mode")


def write_npz(file: Any, keypoints: np.ndarray, scores: np.ndarray, extractor: Mapping[str, str]) -> None:
    """A clip of one person as a pose file: keypoints (T, 133, 2) in shares of the image, scores (T, 133)."""
    told = np.array([extractor[name] for name in _EXTRACTOR])
    np.savez_compressed(file, keypoints=keypoints[:, None], scores=scores[:, None], extractor=told)


def extractor_of(path: Path) -> dict[str, str] | None:
    """Name, version and mode of what made a pose file, or None where there is no such file or it does not say."""
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(zip(_EXTRACTOR, map(str, arrays["extractor"].tolist()), strict=True))
        except Exception:  # zip, zlib and numpy raise a dozen types for damaged files
            return None
    try:
        content = read_content(path)
    except SampleError:
        return None
    told = content.get("extractor") if isinstance(content, dict) else None
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) for name in _EXTRACTOR):
        return None
    return {name: told[name] for name in _EXTRACTOR}


def _read_npz(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = dict(read_npz(path, (*_ARRAYS, "extractor"), MAX_BYTES))
    if "extractor" in found:
        try:
            found["extractor"] = dict(zip(_EXTRACTOR, map(str, found["extractor"].tolist()), strict=True))
        except Exception:  # numpy raises SystemError for letters that there are not
            raise InputError(f"{path} does not say in three words what made it: get it anew.") from None
    return found


def _clip(content: Any) -> tuple[Frames, Frames, int]:
    """Keypoints and scores of the clip's frames, and the number of the first of them in the video."""
    if not isinstance(content, dict) or not {"keypoints", "scores"} <= content.keys():
        raise SampleError("is no dict of keypoints and scores")
    keypoints, scores = content["keypoints"], content["scores"]
    if not _is_sequence(keypoints) or not _is_sequence(scores):
        raise SampleError("holds keypoints or scores that are no lists of frames")
    stored = len(keypoints)
    if stored != len(scores):
        raise SampleError(f"holds keypoints of {stored} frames, but scores of {len(scores)}")
    start, end = _frame_number(content, "start", 0), _frame_number(content, "end", stored)
    if not 0 <= start < end:
        raise SampleError(f"holds no frames from {start} to {end}")
    if end - start > MAX_FRAMES:
        raise SampleError(f"holds a clip of {end - start:,} frames, of which {MAX_FRAMES:,} are too many")
    if stored == end - start:
        return keypoints, scores, start
    if stored < end:
        raise SampleError(f"holds {stored} frames, but its clip is frames {start} to {end}")
    return keypoints[start:end], scores[start:end], start


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _frame_number(content: dict[str, Any], name: str, default: int) -> int:
    value = content.get(name)
    try:
        number = default if value is None else operator.index(value)
    except TypeError:
        raise SampleError(f"holds a {name} that is no whole number") from None
    if abs(number) >= 1 << 63:  # Python will not even write numbers of thousands of digits
        raise SampleError(f"holds a {name} that no video reaches")
    return number


def _only_person(keypoints: Frames, scores: Frames) -> tuple[np.ndarray, np.ndarray] | None:
    """The fast path: (T, 133, 2) and (T, 133) if every frame shows exactly one person."""
    points, weights = _stacked(keypoints, (POINTS, 2)), _stacked(scores, (POINTS,))
    if points is None or weights is None:
        return None
    points, weights = _as_floats(points), _as_floats(weights)
    _check_numbers(points, weights, np.arange(len(points)))
    return points, weights


def _stacked(frames: Frames, shape: tuple[int, ...]) -> np.ndarray | None:
    """The frames as one array, if each holds one person; with or without an axis for persons."""
    if isinstance(frames, np.ndarray):
        return frames.reshape(-1, *shape) if frames.shape[1:] in (shape, (1, *shape)) else None
    if set(map(type, frames)) != {np.ndarray}:
        return None
    shapes = {frame.shape for frame in frames}
    return np.concatenate(frames).reshape(-1, *shape) if shapes in ({shape}, {(1, *shape)}) else None


def _as_floats(array: np.ndarray) -> np.ndarray:
    """float32 and float64 stay; other numbers become the nearer of the two."""
    if array.dtype.kind not in "fiu":
        raise SampleError(f"holds values of type {array.dtype} where numbers are needed")
    return array.astype(np.float32 if array.dtype in (np.float16, np.float32) else np.float64, copy=False)


def _check_numbers(keypoints: np.ndarray, scores: np.ndarray, frame_of: np.ndarray) -> None:
    """Raises SampleError for NaN, infinite or absurd values; `frame_of` tells the frame of each row."""
    for name, array in (("coordinate", keypoints), ("score", scores)):
        if not (array.min() >= -LIMIT and array.max() <= LIMIT):  # false for NaN, too
            bad = ~(np.abs(array.reshape(len(array), -1)) <= LIMIT).all(axis=1)
            frame = frame_of[bad.argmax()]
            raise SampleError(f"holds a {name} that is not finite, or beyond {LIMIT:,.0f}, in frame {frame}")


# --- several persons ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class People:
    """Everybody in a clip, frame after frame: keypoints (N, 133, 2), scores (N, 133), persons of each frame (T,)."""

    keypoints: np.ndarray
    scores: np.ndarray
    counts: np.ndarray


def people_of(content: Any) -> People:
    """Everybody whom a pose file's content shows, with values that nobody has judged: NaN, say.

    Raises SampleError, without the file's name, where `pose_of` would for another reason than the values.
    """
    keypoints, scores, _ = _clip(content)
    points, weights = _stacked(keypoints, (POINTS, 2)), _stacked(scores, (POINTS,))
    if points is None or weights is None:
        return _everybody(keypoints, scores)
    return People(_as_floats(points), _as_floats(weights), np.ones(len(points), int))


def _everybody(keypoints: Frames, scores: Frames) -> People:
    points = [_persons(frame, (POINTS, 2), number) for number, frame in enumerate(keypoints)]
    weights = [_persons(frame, (POINTS,), number) for number, frame in enumerate(scores)]
    counts = np.array([len(frame) for frame in points])
    differ = counts != [len(frame) for frame in weights]
    if differ.any():
        raise SampleError(f"holds keypoints and scores of different persons in frame {differ.argmax()}")
    if not counts.any():
        raise SampleError("shows nobody in any frame")
    seen = np.flatnonzero(counts)
    all_points = _as_floats(np.concatenate([points[frame] for frame in seen]))
    return People(all_points, _as_floats(np.concatenate([weights[frame] for frame in seen])), counts)


def _best_person(keypoints: Frames, scores: Frames) -> tuple[np.ndarray, np.ndarray]:
    """The signer's (T, 133, 2) and (T, 133), where frames show any number of persons."""
    people = _everybody(keypoints, scores)
    all_points, all_weights, counts = people.keypoints, people.scores, people.counts
    seen = np.flatnonzero(counts)
    _check_numbers(all_points, all_weights, np.repeat(np.arange(len(counts)), counts))
    chosen = _steadiest(all_weights[:, _SIGNING].mean(axis=1), _centres(all_points, all_weights), counts[seen])
    signer = np.zeros((len(counts), POINTS, 2), all_points.dtype)
    signer_scores = np.zeros((len(counts), POINTS), all_weights.dtype)
    signer[seen], signer_scores[seen] = all_points[chosen], all_weights[chosen]
    return signer, signer_scores


def _persons(frame: Any, shape: tuple[int, ...], number: int) -> np.ndarray:
    """A frame's persons, (P, *shape); None and anything empty are nobody."""
    try:
        array = np.asarray([] if frame is None else frame)
    except ValueError:
        raise SampleError(f"holds persons of different sizes in frame {number}") from None
    if array.size == 0:
        return np.empty((0, *shape))
    if array.shape != shape and array.shape[1:] != shape:
        needed = ", ".join(map(str, shape))
        raise SampleError(f"holds an array of shape {array.shape} in frame {number}, where (persons, {needed}) is due")
    return array.reshape(-1, *shape)


def _centres(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Centre (N, 2) of the box round each person's seen points, or round all if none is seen."""
    seen = (scores > THRESHOLD)[:, :, None]
    seen |= ~seen.any(axis=1, keepdims=True)
    low = np.where(seen, keypoints, np.inf).min(axis=1)
    high = np.where(seen, keypoints, -np.inf).max(axis=1)
    return (low + high) / 2


def _steadiest(trust: np.ndarray, centres: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """One row a frame: those of the highest total trust, less `JUMP_COST` for the way between their centres.

    The Viterbi algorithm, over frames of `counts` persons each; of equals the first person wins.
    """
    bounds = np.cumsum(counts)[:-1]
    trusts, places, rows = (np.split(array, bounds) for array in (trust, centres, np.arange(len(trust))))
    total, came_from = trusts[0], []
    for here, before, gain in zip(places[1:], places, trusts[1:], strict=False):
        way = np.linalg.norm(before[:, None] - here[None], axis=2)
        totals = total[:, None] - JUMP_COST * way
        came_from.append(totals.argmax(axis=0))
        total = totals.max(axis=0) + gain
    path = [int(total.argmax())]
    for step in reversed(came_from):
        path.append(int(step[path[-1]]))
    return np.array([row[person] for row, person in zip(rows, reversed(path), strict=True)])
