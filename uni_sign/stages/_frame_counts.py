"""Frames of all pose files, counted by all ranks together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm

from uni_sign.data.frame_counts import UNREADABLE, FrameCounts, count_frames
from uni_sign.data.splits import Split

# Files that each rank counts between two meetings: none waits long for another, and a killed run loses no more.
_ROUND = 2048


def frames_by_split(
    splits: Mapping[str, Split],
    longest: int,
    cache: Path,
    accelerator: Any,
    known: Mapping[Path, int] | None = None,
) -> tuple[dict[str, list[int]], list[str]]:
    """Collective: frames of each clip of each split, at most ``longest``, and what is worth saying.

    ``known``: frames of pose files that something else knows already.
    """
    files = [sample.pose_path for split in splits.values() for sample in split.samples]
    counts, notes = count_all(files, cache, accelerator, known or {})
    ends = np.cumsum([len(split.samples) for split in splits.values()])[:-1]
    by_split = zip(splits, np.split(counts, ends), strict=True)
    return {name: np.minimum(with_unreadable_spread(frames), longest).tolist() for name, frames in by_split}, notes


def count_all(
    files: Sequence[Path], cache: Path, accelerator: Any, known: Mapping[Path, int]
) -> tuple[np.ndarray, list[str]]:
    """Collective: frames of each file (int64, `UNREADABLE` where it is), and what is worth saying about the cache.

    What neither ``known`` nor ``cache`` holds is read, shared out over the ranks. Rank 0 alone looks at the disk to
    see what is missing, so that all ranks agree.
    """
    main, rank, processes = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    counts = FrameCounts(cache) if main else None
    frames = broadcast_object_list([_known(files, counts, known) if counts else None])[0]
    missing = np.flatnonzero(frames < 0)
    problem = ""
    shown = main and len(missing) > 0
    with tqdm(total=len(missing[rank::processes]), desc="counting frames", unit="clip", disable=not shown) as bar:
        for start in range(0, len(missing), _ROUND * processes):
            due = missing[start : start + _ROUND * processes]
            mine = []
            for index in due[rank::processes].tolist():
                mine.append((index, count_frames(files[index])))
                bar.update()
            for index, count in gather_object(mine):
                frames[index] = count
            if counts and not problem:
                problem = _stored(counts, [files[index] for index in due.tolist()], frames[due])
    return frames, [f"Frame counts are not kept, so every run counts anew: {problem}."] if problem else []


def _known(files: Sequence[Path], counts: FrameCounts, known: Mapping[Path, int]) -> np.ndarray:
    frames = np.array([known.get(file, -1) for file in files], np.int64)
    unknown = np.flatnonzero(frames < 0)
    frames[unknown] = counts.lookup([files[index] for index in unknown.tolist()])
    return frames


def _stored(counts: FrameCounts, files: Sequence[Path], frames: np.ndarray) -> str:
    """Keep counts for later runs; what stands against it comes back."""
    try:
        counts.store(files, frames.tolist())
    except OSError as error:
        return str(error)
    return ""


def with_unreadable_spread(frames: np.ndarray) -> np.ndarray:
    """Frames (n,) in which unreadable clips take lengths of readable ones, spread evenly over all that there are.

    They take no part, but a batch of nothing else would be a step for nothing.
    """
    bad = frames == UNREADABLE
    readable = np.sort(frames[~bad])
    if not bad.any() or not len(readable):
        return np.maximum(frames, 1)
    spread = frames.copy()
    spread[bad] = readable[np.linspace(0, len(readable) - 1, int(bad.sum())).round().astype(np.int64)]
    return spread
