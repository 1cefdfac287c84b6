"""The order of an epoch: length-grouped, the same for any number of processes, and seekable.

An epoch is a list of *windows*; a window is what one optimizer step sees: up to `accumulation` global
micro-batches, each of which is shared out over the ranks. All of it is a pure function of seed and epoch.
"""

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from uni_sign.engine.mixing import Draws, places_by
from uni_sign.stages.base import Mixture

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


@dataclass(frozen=True)
class Files:
    """Items that lie in files, few of which are at hand at a time.

    ``file_of``: the file of each item; ``mixed``: files whose items are shuffled with one another; ``machines``: each
    reads files of its own, where items are counted and not frames. It must divide the processes of the shape.
    """

    file_of: np.ndarray
    mixed: int
    machines: int = 1


# --- an epoch ----------------------------------------------------------------------------------------------


def plan_epoch(
    sizes: Sizes,
    shape: BatchShape,
    seed: int,
    epoch: int,
    files: Files | None = None,
    mixture: Mixture | None = None,
) -> list[list[np.ndarray]]:
    """Windows of global micro-batches of clip indices, neighbours alike in ``sizes``.

    Each clip comes exactly once, or with a ``mixture`` as often as its corpus's weight asks for. With a budget of
    frames ``sizes`` are frames, none above the budget. Every epoch has as many windows. Clips in ``files`` come file
    by file, as far as that shuffles them; of these there is no mixture.
    """
    rng, measured = np.random.default_rng([seed, epoch]), np.asarray(sizes, np.int64)
    if mixture is not None:
        classes, charged = _length_classes(measured)
        drawn = Draws(mixture, classes if shape.frames else np.zeros_like(classes), seed).items(epoch)
        if shape.frames:
            plan = _plan_classes(measured[drawn], classes[drawn], charged[drawn], shape, rng)
        else:
            plan = _plan_by_clips(measured[drawn], shape, rng)
        return [[drawn[micro] for micro in window] for window in plan]
    if files is not None:
        if shape.frames:
            return _plan_pools_by_frames(measured, shape, files, seed, rng)
        return _plan_files_by_clips(measured, shape, files, rng)
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
    return _plan_classes(frames, *_length_classes(frames), shape, rng)


def _plan_classes(
    frames: np.ndarray, classes: np.ndarray, charged: np.ndarray, shape: BatchShape, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Shares are cut from all clips in the order of their length classes, whose clips are mixed anew in each epoch.

    Where the cuts lie depends on the classes alone, so it is the same in every epoch; a clip is charged as much as
    the longest of its class, so that whichever clips meet keep to the budget.
    """
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


def _plan_files_by_clips(
    sizes: np.ndarray, shape: BatchShape, files: Files, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Each machine has a line of clips, in pools of ``mixed`` files: its share of a window is cut from its own line."""
    lines, ends = zip(*(_line(own, files.mixed, rng) for own in _dealt(files, rng)), strict=True)
    part = shape.window // files.machines
    whole = min(len(line) for line in lines) // part
    # Lengths are grouped within blocks of windows that all machines read from the same pools, more or less.
    blocks = [min(end[number] // part for end in ends) for number in range(min(map(len, ends)))]
    bounds = [0, *(block for block in blocks if block < whole), whole]
    windows: list[np.ndarray] = []
    for start, end in pairwise(bounds):
        own = [_grouped(line[start * part : end * part], sizes, part, shape) for line in lines]
        order = rng.permutation(end - start)
        # Machines take windows alike in length at the same time, in micro-batches of which each has its part.
        cut = np.stack([own_windows[order] for own_windows in own], axis=2)
        windows += list(cut.reshape(end - start, shape.window))
    rest = _sorted(np.concatenate([line[whole * part :] for line in lines]), sizes)
    windows += np.split(rest, range(shape.window, len(rest), shape.window)) if len(rest) else []
    return [np.split(window, range(shape.micro, len(window), shape.micro)) for window in windows]


def _dealt(files: Files, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """The clips of each file, the files in random order and dealt to the machines, about as many clips to each."""
    by_file = places_by(files.file_of)
    hands: list[list[np.ndarray]] = [[] for _ in range(files.machines)]
    held = [0] * files.machines
    for number in rng.permutation(len(by_file)):
        fewest = held.index(min(held))
        hands[fewest].append(by_file[number])
        held[fewest] += len(by_file[number])
    return hands


def _line(by_file: list[np.ndarray], mixed: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The clips of these files, shuffled in pools of ``mixed`` files, one pool after the other; and where each ends."""
    pools = [rng.permutation(np.concatenate(by_file[at : at + mixed])) for at in range(0, len(by_file), mixed)]
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *pools]), np.cumsum([len(pool) for pool in pools], dtype=np.int64)


def _grouped(clips: np.ndarray, sizes: np.ndarray, part: int, shape: BatchShape) -> np.ndarray:
    """Shuffled clips as windows (n, accumulation, clips of a micro-batch), alike in size, from short to long."""
    pools = np.split(clips, range(part * _POOL_BATCHES, len(clips), part * _POOL_BATCHES))
    windows = np.concatenate([_sorted(pool, sizes) for pool in pools]).reshape(-1, part)
    by_size = np.argsort(sizes[windows].sum(axis=1), kind="stable")
    return windows[by_size].reshape(len(windows), shape.accumulation, part // shape.accumulation)


def _plan_pools_by_frames(
    frames: np.ndarray, shape: BatchShape, files: Files, seed: int, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Pools of ``mixed`` files, the same in every epoch, so that these have as many windows; one pool at a time."""
    by_file = places_by(files.file_of)
    order = np.random.default_rng(seed).permutation(len(by_file))
    starts = np.arange(0, len(order), files.mixed)
    plan = []
    for start in starts[rng.permutation(len(starts))]:
        pool = np.concatenate([by_file[number] for number in order[start : start + files.mixed]])
        plan += [[pool[micro] for micro in window] for window in _plan_by_frames(frames[pool], shape, rng)]
    return plan


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

    def __init__(
        self,
        sizes: Sizes,
        shape: BatchShape,
        rank: int,
        seed: int,
        make_key: MakeKey,
        files: Files | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        self.sizes, self.shape, self._files, self._mixture = np.asarray(sizes, np.int64), shape, files, mixture
        self._rank, self._seed, self._make_key = rank, seed, make_key
        self.seek(0, 0)

    def seek(self, epoch: int, first_window: int) -> None:
        """Choose the epoch and the window to start from."""
        self.epoch, self.first_window = epoch, first_window
        self._plan = self._planned(epoch)

    @property
    def windows_per_epoch(self) -> int:
        """Optimizer steps of an epoch, the same in every one."""
        return len(self._plan)

    @property
    def clips(self) -> np.ndarray:
        """The clips of the whole epoch over all ranks, each as often as it is shown."""
        return np.concatenate([np.zeros(0, np.int64), *(micro for window in self._plan for micro in window)])

    @property
    def micro_batches(self) -> list[int]:
        """Micro-batches of each window still to come."""
        return [len(window) for window in self._plan[self.first_window :]]

    def digest(self) -> int:
        """CRC-32 of the lengths and of the windows they make: equal where a stopped epoch can be gone on with."""
        plan = self._planned(0)
        windows = [np.concatenate(window) for window in plan]
        ends = np.cumsum([len(window) for window in windows])
        return zlib.crc32(np.concatenate([self.sizes, *windows, ends]).astype("<i8").tobytes())

    @property
    def items(self) -> list[np.ndarray]:
        """The items of this rank in each window still to come."""
        plan = self._plan[self.first_window :]
        return [np.array([i for micro in window for i, _ in self._share(micro)], np.int64) for window in plan]

    def __len__(self) -> int:
        return sum(self.micro_batches)

    def __iter__(self) -> Iterator[list[Any]]:
        for window in self._plan[self.first_window :]:
            for micro_batch in window:
                yield [self._make_key(self.epoch, index, counted) for index, counted in self._share(micro_batch)]

    def _planned(self, epoch: int) -> list[list[np.ndarray]]:
        return plan_epoch(self.sizes, self.shape, self._seed, epoch, self._files, self._mixture)

    def _share(self, micro_batch: np.ndarray) -> list[tuple[int, bool]]:
        processes = self.shape.processes
        bounds = _evenly_cut(self.sizes[micro_batch], processes, self.shape) if self.shape.frames else None
        return share(micro_batch, self._rank, processes, bounds)


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
