"""What padding and waiting cost: random batches, batches of clips alike in length, and batches by frame budget.

Lengths are as a real corpus has them: log-normal, median 120 frames, from 40 to 256; a prefix of 10 tokens stands
before the frames, and a target has a token for 8 frames, give or take a third. Padded: the share of the positions of
mT5's encoder and decoder that hold nothing. Waiting: the share of the ranks' time that they spend waiting for the
one with the most frames.
Run: `python benchmarks/batching.py [--ranks 8] [--clips 20000]`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from uni_sign.engine.batching import BatchShape, TrainSampler

PREFIX, FRAMES_PER_TOKEN = 10, 8
MANY = 200_000

Step = list[np.ndarray]  # the clips of each rank in one micro-batch


def main() -> None:
    """Print the table, and how long planning takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=8, help="processes")
    parser.add_argument("--clips", type=int, default=20_000, help="clips of the training split")
    arguments = parser.parse_args()
    ranks, rng = arguments.ranks, np.random.default_rng(0)
    frames = lengths(arguments.clips, rng)
    tokens = np.clip(frames / FRAMES_PER_TOKEN * rng.lognormal(0, 0.33, len(frames)), 3, 50).astype(np.int64)
    print(f"{len(frames):,} clips on {ranks} ranks, shares in %\n")
    print("| a rank's batch             | clips | frames | most frames | padded encoder | padded decoder | waiting |")
    print("|---|---|---|---|---|---|---|")
    for clips in (4, 8, 16):
        budget = clips * int(frames.mean())
        report(f"{clips} clips, random", random_steps(rng.permutation(len(frames)), clips, ranks), frames, tokens)
        report(f"{clips} clips, alike", steps(frames, BatchShape(clips, 1, ranks)), frames, tokens)
        report(f"{budget} frames, alike", steps(frames, BatchShape(len(frames), 1, ranks, budget)), frames, tokens)
    many = lengths(MANY, rng)
    print(f"\nPlanning an epoch of {MANY:,} clips, which every rank does for itself:")
    for name, shape in (("16 clips", BatchShape(16, 1, ranks)), ("2048 frames", BatchShape(64, 1, ranks, 2048))):
        sampler = TrainSampler(many.tolist(), shape, 0, 0, as_key)
        plan, batches = seconds(sampler.seek, 1, 0), seconds(list, sampler)
        print(f"  {name:<12} {plan:.2f} s for {sampler.windows_per_epoch:,} steps, {batches:.2f} s for all its batches")


def as_key(_: int, index: int, counted: bool) -> tuple[int, bool]:
    """What the sampler is to show for a clip."""
    return index, counted


def lengths(clips: int, rng: np.random.Generator) -> np.ndarray:
    """Frames of each clip."""
    return np.clip(rng.lognormal(np.log(120), 0.5, clips), 40, 256).astype(np.int64)


def seconds(work: Callable[..., object], *arguments: Any) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def random_steps(order: np.ndarray, clips: int, ranks: int) -> list[Step]:
    """As many clips on every rank, in random order."""
    whole = order[: len(order) - len(order) % (clips * ranks)]
    return [list(step) for step in whole.reshape(-1, ranks, clips)]


def steps(frames: np.ndarray, shape: BatchShape) -> list[Step]:
    """What the samplers of all ranks show; a clip that only fills a place is left out."""
    ranks = [TrainSampler(frames.tolist(), shape, rank, 0, as_key) for rank in range(shape.processes)]
    return [
        [np.array([index for index, counted in batch if counted], np.int64) for batch in step]
        for step in zip(*ranks, strict=True)
    ]


def report(name: str, made: list[Step], frames: np.ndarray, tokens: np.ndarray) -> None:
    """A line of the table."""
    batches = [batch for step in made for batch in step if len(batch)]
    loads = np.array([[frames[batch].sum() for batch in step] for step in made])
    waiting = 1 - loads.mean(axis=1).sum() / loads.max(axis=1).sum()
    encoder, decoder = padded(batches, frames + PREFIX), padded(batches, tokens)
    mean_clips = np.mean([len(batch) for batch in batches])
    print(
        f"| {name:<26} | {mean_clips:5.1f} | {loads.mean():6.0f} | {loads.max():11,} | "
        f"{100 * encoder:14.1f} | {100 * decoder:14.1f} | {100 * waiting:7.1f} |"
    )


def padded(batches: list[np.ndarray], sizes: np.ndarray) -> float:
    """The share of padding where each batch is padded to its longest."""
    held = sum(int(sizes[batch].sum()) for batch in batches)
    return 1 - held / sum(len(batch) * int(sizes[batch].max()) for batch in batches)


if __name__ == "__main__":
    main()
