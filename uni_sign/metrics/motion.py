"""How near generated motion is to true motion."""

import numpy as np

from uni_sign.errors import InputError


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two courses (T,); 0 where either does not change."""
    first, second = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (one, other))
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0


def dtw_mje(generated: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean joint error of generated (T', J, 2 or 3) to true motion (T, J, as many), each sped up and slowed to fit.

    ``mask`` (T, J): which true joints were seen, all unless given; frames that show none are left out. Frames are
    matched so that their errors, each a mean over joints, have the least sum (dynamic time warping: Sakoe and Chiba,
    1978), which the number of matches divides.
    Of equally good matches, that of both next frames counts. DTW-MJE: Huang et al., 2021, "Towards Fast and
    High-Quality Sign Language Production". Raises InputError for motion that cannot be compared.
    """
    made, real, seen = _comparable(generated, true, mask)
    # A true frame of no error with anything would take in all that is wrong.
    shown = seen.any(axis=1)
    errors = _joint_errors(made, real[shown], seen[shown])
    rows, columns = errors.shape
    # Of the cells of one anti-diagonal, by row, behind a row before the first: none needs another of its own.
    before = np.full(rows + 1, np.inf), np.zeros(rows + 1, int)
    last = np.full(rows + 1, np.inf), np.zeros(rows + 1, int)
    before[0][0] = 0.0
    for diagonal in range(rows + columns - 1):
        row = np.arange(max(0, diagonal - columns + 1), min(diagonal + 1, rows))
        sums, steps = (
            np.stack([beyond[row], near[row], near[row + 1]]) for beyond, near in zip(before, last, strict=True)
        )
        best = sums.argmin(axis=0), np.arange(len(row))
        total, matches = np.full(rows + 1, np.inf), np.zeros(rows + 1, int)
        total[row + 1] = sums[best] + errors[row, diagonal - row]
        matches[row + 1] = steps[best] + 1
        before, last = last, (total, matches)
    return float(last[0][rows] / last[1][rows])


def distance_ratio(generated: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> float:
    """How far generated joints (T', J, 2 or 3) travel in all, over how far true ones (T, J, as many) do.

    Steps from or to a joint that ``mask`` (T, J) says was not seen count as the mean of those that were. Infinite
    where true motion stands still, but 1 where both do. Raises InputError for motion that cannot be compared.
    """
    made, real, seen = _comparable(generated, true, mask)
    ours, theirs = _travelled(made, np.ones(made.shape[:2], bool)), _travelled(real, seen)
    if theirs:
        return ours / theirs
    return float("inf") if ours else 1.0


def duration_ratio(generated: np.ndarray, true: np.ndarray) -> float:
    """How many frames generated motion (T', ...) lasts, over those of true motion (T, ...)."""
    if not len(true):
        raise InputError("there is nothing to score, true motion has no frames: leave the clip out")
    return len(generated) / len(true)


def _comparable(
    generated: np.ndarray, true: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both in float64, 0 where true joints were not seen, and which were: (T, J)."""
    seen = np.ones(true.shape[:2], bool) if mask is None else mask.astype(bool)
    shapes = f"generated motion {generated.shape}, true motion {true.shape} and its mask {seen.shape}"
    if generated.ndim != 3 or generated.shape[1:] != true.shape[1:] or seen.shape != true.shape[:2]:
        raise InputError(f"{shapes} do not belong together: give (frames, joints, axes) of the same joints and axes")
    if not len(generated) or not seen.any():
        raise InputError(f"there is nothing to score, {shapes} have no frames or no joint that was seen")
    made, real = generated.astype(np.float64), np.where(seen[:, :, None], true, 0.0).astype(np.float64)
    if not np.isfinite(made).all() or not np.isfinite(real).all():
        raise InputError("motion holds values that are not numbers: it cannot be scored")
    return made, real, seen


def _joint_errors(made: np.ndarray, real: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Mean distance of seen joints, of which each true frame has some, of all pairs of frames: (T', T)."""
    errors = np.zeros((len(made), len(real)))
    for joint in np.flatnonzero(seen.any(axis=0)):  # one by one: all at once would not fit into memory
        squares = sum(np.subtract.outer(*axis) ** 2 for axis in zip(made[:, joint].T, real[:, joint].T, strict=True))
        errors += np.sqrt(squares) * seen[:, joint]
    mean: np.ndarray = errors / seen.sum(axis=1)
    return mean


def _travelled(motion: np.ndarray, seen: np.ndarray) -> float:
    """Frames' steps times the mean distance of those of joints that were seen before and after it."""
    both = seen[1:] & seen[:-1]
    steps = np.linalg.norm(np.diff(motion, axis=0), axis=2)
    return len(both) * float(steps[both].mean()) if both.any() else 0.0


def steps_at_borders(motion: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """How far motion (T, M) goes from frame to frame where windows of so many ``frames`` begin, and elsewhere."""
    steps = np.linalg.norm(np.diff(motion, axis=0), axis=1)
    begins = (np.arange(len(steps)) + 1) % frames == 0
    return steps[begins], steps[~begins]
