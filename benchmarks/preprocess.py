"""How long one clip takes from its pickle to the parts that the model sees: in loops, and vectorised.

The slow sides are the two usual ways of research code: unpickle, then for each part and frame pick the points with
an index list, or one by one, append and stack. All read the same file and must agree to the last bit. A floor
stands beside them: what Python's own unpickler takes for the file, doing nothing with it.
Run: `python benchmarks/preprocess.py`.
"""

from __future__ import annotations

import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from uni_sign.data.safe_pickle import load_pickle
from uni_sign.data.wholebody import ORIGINS, PARTS, POINTS, THRESHOLD, read_pose, split_parts

FRAMES = 256
REPEATS, ROUND = 100, 10

Parts = dict[str, np.ndarray]
Pick = Callable[[np.ndarray, np.ndarray, tuple[int, ...], int | None], np.ndarray]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.pkl"
        write_clip(path)
        pose = read_pose(path)
        for looped in (in_loops(path, pick_points), in_loops(path, pick_by_index)):
            for name, part in vectorised(path).items():
                np.testing.assert_array_equal(part, looped[name])
        by_point, by_frame, fast, raw, safe, read, split = medians(
            lambda: in_loops(path, pick_points),
            lambda: in_loops(path, pick_by_index),
            lambda: vectorised(path),
            lambda: pickle.loads(path.read_bytes()),
            lambda: load_pickle(path, stack=True),
            lambda: read_pose(path),
            lambda: split_parts(pose.keypoints, pose.scores),
        )
    print(f"One clip of {FRAMES} frames from its pickle to its parts, median of {REPEATS}, one thread\n")
    print("|                                | ms    | clips/s | ratio |\n|---|---|---|---|")
    for name, seconds in (
        ("loop over frames and points", by_point),
        ("loop over frames, index lists", by_frame),
        ("vectorised", fast),
        ("floor: Python's own unpickler", raw),
    ):
        print(f"| {name:<30} | {seconds * 1e3:5.2f} | {1 / seconds:7,.0f} | {seconds / fast:4.1f}x |")
    print(
        f"\nOf the vectorised {fast * 1e3:.2f} ms: safe unpickling {safe * 1e3:.2f}, "
        f"checks {max(read - safe, 0) * 1e3:.2f}, parts {split * 1e3:.2f} (each measured alone)."
    )


def medians(*functions: Callable[[], object]) -> list[float]:
    """Seconds a call, in short rounds that take turns, so that a busy machine is busy for all."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS // ROUND):
        for function, taken in zip(functions, times, strict=True):
            for _ in range(ROUND):
                start = time.perf_counter()
                function()
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def write_clip(path: Path) -> None:
    rng = np.random.default_rng(0)
    still, sway = rng.random((POINTS, 2)), rng.normal(0, 0.01, (FRAMES, 1, POINTS, 2))
    scores = rng.random((FRAMES, 1, POINTS), np.float32)
    path.write_bytes(pickle.dumps({"keypoints": list(still + sway), "scores": list(scores)}, protocol=4))


def vectorised(path: Path) -> Parts:
    pose = read_pose(path)
    return split_parts(pose.keypoints, pose.scores)


# --- in loops ----------------------------------------------------------------------------------------------


def in_loops(path: Path, pick: Pick) -> Parts:
    with path.open("rb") as file:
        pose = pickle.load(file)
    parts, scale = {}, 0.0
    for part, points in PARTS.items():
        frames = []
        for keypoints, scores in zip(pose["keypoints"], pose["scores"], strict=True):
            frames.append(pick(keypoints[0], scores[0], points, ORIGINS.get(part)))
        motion = np.stack(frames)
        if part == "body":
            parts[part], scale = crop_and_scale(motion)
        else:
            parts[part] = mask(motion, motion[..., :2] / scale if scale else motion[..., :2] * 0)
    return parts


def pick_by_index(keypoints: np.ndarray, scores: np.ndarray, points: tuple[int, ...], origin: int | None) -> np.ndarray:
    selected = keypoints[list(points), :]
    if origin is not None:
        selected = selected - keypoints[origin, :]
    return np.concatenate([selected, scores[list(points), None]], axis=-1)


def pick_points(keypoints: np.ndarray, scores: np.ndarray, points: tuple[int, ...], origin: int | None) -> np.ndarray:
    rows = []
    for point in points:
        x, y = keypoints[point] if origin is None else keypoints[point] - keypoints[origin]
        rows.append([x, y, scores[point]])
    return np.array(rows)


def crop_and_scale(motion: np.ndarray) -> tuple[np.ndarray, float]:
    seen = motion[motion[..., 2] > THRESHOLD][:, :2]
    if len(seen) < 4:
        return np.zeros(motion.shape), 0.0
    left, right = min(seen[:, 0]), max(seen[:, 0])
    top, bottom = min(seen[:, 1]), max(seen[:, 1])
    scale = max(right - left, bottom - top)
    if scale == 0:
        return np.zeros(motion.shape), 0.0
    corner = [(left + right - scale) / 2, (top + bottom - scale) / 2]
    return mask(motion, ((motion[..., :2] - corner) / scale - 0.5) * 2), scale


def mask(motion: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    result = np.concatenate([coordinates, motion[..., 2:]], axis=-1)
    result = np.clip(result, -1, 1)
    result[result[..., 2] <= THRESHOLD] = 0
    return result


if __name__ == "__main__":
    main()
