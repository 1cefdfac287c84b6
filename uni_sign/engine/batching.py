"""The order of an epoch: length-grouped, the same for any number of processes, and seekable.

An epoch is a list of *windows*; a window is what one optimizer step sees: up to `accumulation` global
micro-batches, each of which is shared out over the ranks. All of it is a pure function of seed and epoch.
"""

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Clips of similar length are sought among this many global batches.
_POOL_BATCHES = 50
# With a budget of frames, clips of one length class take each other's place: 6 % from its shortest to its longest.
_CLASS_WIDTH = 16

MakeKey = Callable[[int, int, bool], Any]
Sizes = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class BatchShape:
    """How a global batch is cut: clips per process and micro-batch, micro-batches per step, processes.

    ``frames`` is the budget of a process and micro-batch, ``batch_size`` then the most clips; 0: clips alone count.
    """

    batch_size: int
    accumulation: int
    processes: int
    frames: int = 0

    @property
    def micro(self) -> int:
        """Clips of one micro-batch over all processes; with a budget of frames the most."""
        return self.batch_size * self.processes

    @property
    def window(self) -> int:
        """Clips of one optimizer step; with a budget of frames the most."""
        return self.micro * self.accumulation

    @property
    def shares(self) -> int:
        """Shares that one optimizer step is made of: one for each process and micro-batch."""
        return self.processes * self.accumulation


# --- an epoch ----------------------------------------------------------------------------------------------


def plan_epoch(sizes: Sizes, shape: BatchShape, seed: int, epoch: int) -> list[list[np.ndarray]]:
    """Windows of global micro-batches of clip indices; each clip exactly once, neighbours alike in ``sizes``.

    With a budget of frames ``sizes`` are frames, none above the budget. Every epoch has as many windows.
    """
    rng, measured = np.random.default_rng([seed, epoch]), np.asarray(sizes, np.int64)
    return (_plan_by_frames if shape.frames else _plan_by_clips)(measured, shape, rng)


def _plan_by_clips(sizes: np.ndarray, shape: BatchShape, rng: np.random.Generator) -> list[list[np.ndarray]]:
    order = rng.permutation(len(sizes))
    # What does not fill a whole window is set aside, so that the incomplete step comes last.
    whole = len(order) - len(order) % shape.window
    pools = np.split(order[:whole], range(shape.window * _POOL_BATCHES, whole, shape.window * _POOL_BATCHES))
    windows = np.concatenate([_sorted(pool, sizes) for pool in pools]).reshape(-1, shape.window)
    windows = windows[rng.permutation(len(windows))]
    chunks = [*windows, _sorted(order[whole:], sizes)] if whole < len(order) else list(windows)
    return [np.split(chunk, range(shape.micro, len(chunk), shape.micro)) for chunk in chunks]


def _plan_by_frames(frames: np.ndarray, shape: BatchShape, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Shares are cut from all clips in the order of their length classes, whose clips are mixed anew in each epoch.

    Where the cuts lie depends on the classes alone, so it is the same in every epoch; a clip is charged as much as
    the longest of its class, so that whichever clips meet keep to the budget.
    """
    classes, charged = _length_classes(frames)
    bounds = _share_bounds(np.sort(charged), shape)
    order = rng.permutation(len(frames))
    order = order[np.argsort(classes[order], kind="stable")]
    windows = []
    starts = np.arange(0, len(bounds) - 1, shape.shares)
    for start in starts[rng.permutation(len(starts))]:
        cuts = bounds[start : start + shape.shares + 1]
        window = _sorted(order[cuts[0] : cuts[-1]], frames)
        windows.append(np.split(window, cuts[shape.processes : -1 : shape.processes] - cuts[0]))
    return windows


def _sorted(clips: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return clips[np.argsort(sizes[clips], kind="stable")]


def _length_classes(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class of each clip, and the frames of the longest clip in that class."""
    edges = [1]  # whole numbers: the same on every machine
    while edges[-1] <= frames.max(initial=0):
        edges.append(edges[-1] + max(1, edges[-1] // _CLASS_WIDTH))
    classes = np.searchsorted(edges, frames, side="right")
    longest = np.zeros(len(edges) + 1, np.int64)
    np.maximum.at(longest, classes, frames)
    return classes, longest[classes]


def _share_bounds(charged: np.ndarray, shape: BatchShape) -> np.ndarray:
    """Where the shares of an epoch begin and end among its sorted clips: as many as fill the fewest windows."""
    fewest = len(_filled(_totals(charged), shape.frames, shape.batch_size)) - 1
    return _evenly_cut(charged, -(-fewest // shape.shares) * shape.shares, shape)


# --- sharing out -------------------------------------------------------------------------------------------


def share(
    micro_batch: np.ndarray, rank: int, processes: int, bounds: np.ndarray | None = None
) -> list[tuple[int, bool]]:
    """This rank's (index, counted) of a global micro-batch; never empty: a clip shown to fill a place counts not.

    The ranks' parts have as many clips each, or lie between ``bounds``.
    """
    parts = np.array_split(micro_batch, processes) if bounds is None else np.split(micro_batch, bounds[1:-1])
    if rank < len(parts) and len(parts[rank]):
        return [(int(index), True) for index in parts[rank]]
    return [(int(micro_batch[rank % len(micro_batch)]), False)]


def _evenly_cut(frames: np.ndarray, parts: int, shape: BatchShape) -> np.ndarray:
    """Bounds of ``parts`` runs of clips, the longest of them as short as can be; fewer where there are fewer clips.

    Some cut into as many runs must keep to budget and clips of ``shape``.
    """
    totals = _totals(frames)
    least = int(max(frames.max(initial=0), totals[-1] // max(parts, 1)))

    def fits(budget: int) -> bool:
        return len(_filled(totals, budget, shape.batch_size)) - 1 <= parts

    budget = least + bisect_left(range(least, shape.frames), True, key=fits)
    bounds = np.array(_filled(totals, budget, shape.batch_size))
    # No share is left empty while another has two clips.
    while (lacking := min(parts, len(frames)) - (len(bounds) - 1)) > 0:
        clips = np.diff(bounds)
        halved = np.argsort(-clips, kind="stable")[: min(lacking, int((clips > 1).sum()))]
        bounds = np.sort(np.concatenate([bounds, bounds[halved] + clips[halved] // 2]))
    return bounds


def _totals(frames: np.ndarray) -> list[int]:
    """Frames before each clip, and of all."""
    return [0, *np.cumsum(frames).tolist()]


def _filled(totals: Sequence[int], budget: int, most_clips: int) -> list[int]:
    """Bounds of runs of clips, each filled to ``budget`` frames or ``most_clips`` clips, of one clip at the least."""
    bounds, clips = [0], len(totals) - 1
    while (start := bounds[-1]) < clips:
        last = min(start + most_clips, clips)
        bounds.append(bisect_right(totals, totals[start] + budget, start + 2, last + 1) - 1)
    return bounds


# --- batch samplers ----------------------------------------------------------------------------------------


class TrainSampler:
    """Batch sampler of one rank: the keys of its micro-batches in ``epoch``, from window ``first_window`` on."""

    def __init__(self, sizes: Sizes, shape: BatchShape, rank: int, seed: int, make_key: MakeKey) -> None:
        self.sizes, self.shape = np.asarray(sizes, np.int64), shape
        self._rank, self._seed, self._make_key = rank, seed, make_key
        self.seek(0, 0)

    def seek(self, epoch: int, first_window: int) -> None:
        """Choose the epoch and the window to start from."""
        self.epoch, self.first_window = epoch, first_window
        self._plan = plan_epoch(self.sizes, self.shape, self._seed, epoch)

    @property
    def windows_per_epoch(self) -> int:
        """Optimizer steps of an epoch, the same in every one."""
        return len(self._plan)

    @property
    def micro_batches(self) -> list[int]:
        """Micro-batches of each window still to come."""
        return [len(window) for window in self._plan[self.first_window :]]

    def digest(self) -> int:
        """CRC-32 of the lengths and of the windows they make: equal where a stopped epoch can be gone on with."""
        windows = [np.concatenate(window) for window in plan_epoch(self.sizes, self.shape, self._seed, 0)]
        ends = np.cumsum([len(window) for window in windows])
        return zlib.crc32(np.concatenate([self.sizes, *windows, ends]).astype("<i8").tobytes())

    def __len__(self) -> int:
        return sum(self.micro_batches)

    def __iter__(self) -> Iterator[list[Any]]:
        processes = self.shape.processes
        for window in self._plan[self.first_window :]:
            for micro_batch in window:
                bounds = _evenly_cut(self.sizes[micro_batch], processes, self.shape) if self.shape.frames else None
                places = share(micro_batch, self._rank, processes, bounds)
                yield [self._make_key(self.epoch, index, counted) for index, counted in places]


class EvalSampler:
    """Batch sampler of one rank over a held-out split.

    Batches are made first, of clips alike in size, from long to short: of ``batch_size`` clips, or with a budget of
    ``frames`` of that many frames and as many clips at the most. Then they are dealt to the ranks: a clip sits among
    the same clips for any number of processes, so its prediction is the same. Every rank gets as many batches; those
    that the ranks take at the same time are neighbours, and the rank that had the longest has the shortest next.
    """

    def __init__(
        self, sizes: Sizes, batch_size: int, rank: int, processes: int, make_key: MakeKey, frames: int = 0
    ) -> None:
        measured = np.asarray(sizes, np.int64)
        order = np.argsort(-measured, kind="stable")
        totals = _totals(measured[order])
        batches = np.split(order, _filled(totals, frames or totals[-1], batch_size)[1:-1])
        rounds = -(-len(batches) // processes)
        places = [rank if turn % 2 == 0 else processes - 1 - rank for turn in range(rounds)]
        mine = [turn * processes + place for turn, place in enumerate(places)]
        self._batches = [
            [make_key(0, int(index), number < len(batches)) for index in batches[min(number, len(batches) - 1)]]
            for number in mine
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._batches)
