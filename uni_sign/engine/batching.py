"""The order of an epoch: length-grouped, the same for any number of processes, and seekable.

An epoch is a list of *windows*; a window is what one optimizer step sees: up to `accumulation` global
micro-batches, each of which is shared out over the ranks. All of it is a pure function of seed and epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Clips of similar length are sought among this many global batches.
_POOL_BATCHES = 50

MakeKey = Callable[[int, int, bool], Any]


@dataclass(frozen=True)
class BatchShape:
    """How a global batch is cut: clips per process and micro-batch, micro-batches per step, processes."""

    batch_size: int
    accumulation: int
    processes: int

    @property
    def micro(self) -> int:
        """Clips of one micro-batch over all processes."""
        return self.batch_size * self.processes

    @property
    def window(self) -> int:
        """Clips of one optimizer step."""
        return self.micro * self.accumulation

    def windows_per_epoch(self, clips: int) -> int:
        """Optimizer steps per epoch, the last incomplete one included."""
        return -(-clips // self.window)


def plan_epoch(sizes: Sequence[int], shape: BatchShape, seed: int, epoch: int) -> list[list[np.ndarray]]:
    """Windows of global micro-batches of clip indices; each clip exactly once, neighbours alike in ``sizes``."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sizes))
    # What does not fill a whole window is set aside, so that the incomplete step comes last.
    whole = len(order) - len(order) % shape.window
    measured = np.asarray(sizes)
    pools = np.split(order[:whole], range(shape.window * _POOL_BATCHES, whole, shape.window * _POOL_BATCHES))
    sorted_pools = [pool[np.argsort(measured[pool], kind="stable")] for pool in pools]
    windows = np.concatenate(sorted_pools).reshape(-1, shape.window)
    windows = windows[rng.permutation(len(windows))]
    chunks = [*windows, order[whole:]] if whole < len(order) else list(windows)
    return [np.split(chunk, range(shape.micro, len(chunk), shape.micro)) for chunk in chunks]


def share(micro_batch: np.ndarray, rank: int, processes: int) -> list[tuple[int, bool]]:
    """This rank's (index, counted) of a global micro-batch; never empty: a clip shown to fill a place counts not."""
    parts = np.array_split(micro_batch, processes)
    if len(parts[rank]):
        return [(int(index), True) for index in parts[rank]]
    return [(int(micro_batch[rank % len(micro_batch)]), False)]


class TrainSampler:
    """Batch sampler of one rank: the keys of its micro-batches in ``epoch``, from window ``first_window`` on."""

    def __init__(self, sizes: Sequence[int], shape: BatchShape, rank: int, seed: int, make_key: MakeKey) -> None:
        self._sizes, self._shape, self._rank, self._seed = list(sizes), shape, rank, seed
        self._make_key = make_key
        self.seek(0, 0)

    def seek(self, epoch: int, first_window: int) -> None:
        """Choose the epoch and the window to start from."""
        self.epoch, self.first_window = epoch, first_window
        self._plan = plan_epoch(self._sizes, self._shape, self._seed, epoch)

    @property
    def micro_batches(self) -> list[int]:
        """Micro-batches of each window still to come."""
        return [len(window) for window in self._plan[self.first_window :]]

    def __len__(self) -> int:
        return sum(self.micro_batches)

    def __iter__(self) -> Iterator[list[Any]]:
        for window in self._plan[self.first_window :]:
            for micro_batch in window:
                places = share(micro_batch, self._rank, self._shape.processes)
                yield [self._make_key(self.epoch, index, counted) for index, counted in places]


class EvalSampler:
    """Batch sampler of one rank over a held-out split.

    Batches are made first, of clips alike in size, and then dealt to the ranks: a clip sits among the same clips
    for any number of processes, so its prediction is the same. Every rank gets the same number of batches.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, rank: int, processes: int, make_key: MakeKey) -> None:
        order = np.argsort(-np.asarray(sizes), kind="stable")
        batches = np.split(order, range(batch_size, len(order), batch_size))
        rounds = -(-len(batches) // processes)
        mine = [(number, number < len(batches)) for number in range(rank, rounds * processes, processes)]
        self._batches = [
            [make_key(0, int(index), counted) for index in batches[min(number, len(batches) - 1)]]
            for number, counted in mine
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._batches)
