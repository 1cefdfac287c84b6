"""Sequences of holistic frames: `video_sequences.pkl`, and the windows of them that training reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.data.holistic import AXES, MAX_FRAMES, POINTS, REGIONS, frames_of, names_of
from uni_sign.data.safe_pickle import load_pickle
from uni_sign.errors import InputError


@dataclass(frozen=True)
class Sequences:
    """Clips one behind the other: points (F, 143, 3), regions (F, 4), where each begins and the last ends (N + 1,)."""

    points: np.ndarray
    present: np.ndarray
    bounds: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each (N,)."""
        return np.diff(self.bounds)


def read_sequences(path: Path) -> Sequences:
    """`video_sequences.pkl`: {"sequences": [(T, 143, 3) or a list of T frames, ...]}, perhaps with "names".

    Raises InputError, naming file and sequence, for anything else.
    """
    content = load_pickle(path)
    listed = content.get("sequences") if isinstance(content, Mapping) else content
    if isinstance(listed, np.ndarray) and listed.ndim:
        listed = list(listed)
    if not isinstance(listed, (list, tuple)) or not listed:
        raise InputError(f"{path} holds no list under 'sequences': it must hold one array (T, 143, 3) a clip.")
    # One array that is named many times takes no room in the file.
    frames = sum(
        len(one) for one in listed if isinstance(one, (list, tuple)) or (isinstance(one, np.ndarray) and one.ndim)
    )
    if frames > MAX_FRAMES:
        raise InputError(f"{path} holds {frames:,} frames, of which {MAX_FRAMES:,} are too many: split it.")
    read = [sequence_of(one, f"{path}: sequence {number}") for number, one in enumerate(listed)]
    names = names_of(content, "names", len(read)) or [f"{number:05d}" for number in range(len(read))]
    bounds = np.cumsum([0, *(len(points) for points, _ in read)])
    try:
        points, present = (np.concatenate(parts) for parts in zip(*read, strict=True))
    except MemoryError:
        raise InputError(f"{path}: its {bounds[-1]:,} frames do not fit into memory: split it.") from None
    return Sequences(points, present, bounds, names)


def sequence_of(one: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """One clip, (T, 143, 3) or a list of frames, to points and regions (T, 4); ``where`` is named in errors."""
    if isinstance(one, np.ndarray) and one.dtype != object:
        if one.ndim != 3 or one.shape[1:] != (POINTS, AXES) or not len(one):
            raise InputError(f"{where} is of shape {one.shape}, not (T, {POINTS}, {AXES}).")
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                points = one.astype(np.float32)
        except (TypeError, ValueError):
            raise InputError(f"{where} is of type {one.dtype}, not of numbers.") from None
        if one.dtype.kind not in "fiub" or not np.isfinite(points).all():
            raise InputError(f"{where} holds a value that is no number, such as NaN: leave the frame out.")
        # A region that is missing is all zero.
        ends = np.cumsum([0, *REGIONS.values()])
        present = np.stack([points[:, a:b].any(axis=(1, 2)) for a, b in pairwise(ends)], axis=1)
        return points, present
    if isinstance(one, np.ndarray) and one.ndim:
        one = list(one)
    if not isinstance(one, (list, tuple)) or not one:
        raise InputError(f"{where} is neither an array (T, {POINTS}, {AXES}) nor a list of frames.")
    return frames_of(one, where)


@dataclass(frozen=True)
class Windows:
    """Stretches of sequences: the sequence of each (W,), its first frame among all (W,) and its frames (W,).

    ``dropped``: sequences too short for one.
    """

    sequence: np.ndarray
    first: np.ndarray
    length: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.first)


def windows_of(sequences: Sequences, seq_len: int, least: int, chosen: np.ndarray) -> Windows:
    """All windows of ``seq_len`` frames, one beginning at each frame, of the ``chosen`` sequences (numbers).

    A shorter sequence of at least ``least`` frames is a window by itself.
    """
    lengths = sequences.lengths[chosen]
    counts = np.where(lengths >= least, np.maximum(lengths - seq_len, 0) + 1, 0)
    owner = np.repeat(np.arange(len(chosen)), counts)
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = sequences.bounds[chosen][owner] + step
    return Windows(chosen[owner], first, np.minimum(lengths, seq_len)[owner], int((counts == 0).sum()))


def padded_window(values: np.ndarray, first: int, length: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``values`` (F, ...) from ``first``, the last repeated; and which are repetitions (seq_len,)."""
    places = np.arange(seq_len)
    return values[first + np.minimum(places, length - 1)], places >= length


def first_part(count: int, share: float = 0.8) -> np.ndarray:
    """Which of ``count`` clips train (count,), bool: the first ones, at least one and not all."""
    return np.arange(count) < min(max(1, int(count * share)), max(1, count - 1))
