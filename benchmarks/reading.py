"""How long one clip takes to become parts: from its pickle in loops, from its pickle vectorised, and from a shard.

The slow side is research code's usual way, `preprocess.py`'s loop over frames. All sides give the same numbers, with
the files in the system's memory. A view of a mapped file costs nothing until it is read, so the second column goes on
to what reads it: the batch that `Collate` packs. Run: `python benchmarks/reading.py` (`--clips 8` to try it).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from preprocess import FRAMES, Parts, in_loops, pick_by_index, write_clip

from uni_sign.data.samples import Sample
from uni_sign.data.shard_writer import ShardWriter, row_of
from uni_sign.data.shards import Shards
from uni_sign.data.signs import packed
from uni_sign.data.wholebody import PARTS, read_pose, split_parts

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=200, help="clips, each a file of its own")
    clips = parser.parse_args().clips // BATCH * BATCH
    with tempfile.TemporaryDirectory() as folder:
        samples = [make_clip(Path(folder) / f"{number}.pkl") for number in range(clips)]
        with ShardWriter(Path(folder) / "prepared", "0-of-1", 512 << 20) as writer:
            for sample in samples:
                writer.append(row_of(sample))
        shards = Shards(Path(folder) / "prepared")
        rows = shards.locate(samples).tolist()
        sides: dict[str, Callable[[int], Parts]] = {
            "pickle, loop over frames": lambda clip: in_loops(samples[clip].pose_path, pick_by_index),
            "pickle, vectorised": lambda clip: as_float32(vectorised(samples[clip].pose_path)),
            "shard": lambda clip: shards.parts(rows[clip]),
        }
        expected = as_float32(vectorised(samples[-1].pose_path))
        for side in sides.values():
            for name, part in as_float32(side(clips - 1)).items():
                np.testing.assert_array_equal(part, expected[name])
        to_parts = medians(list(sides.values()), clips, 1)
        to_batch = medians([batch_of(side) for side in sides.values()], clips, BATCH)
    print(f"One clip of {FRAMES} frames, median over {clips} clips, one thread, files in memory\n")
    print(
        "|                          | to parts, ms | ratio  | to the packed batch, ms | ratio |\n|---|---|---|---|---|"
    )
    for name, parts, batch in zip(sides, to_parts, to_batch, strict=True):
        ratios = f"{parts / to_parts[-1]:5.0f}x | {batch * 1e3:23.3f} | {batch / to_batch[-1]:4.0f}x"
        print(f"| {name:<24} | {parts * 1e3:12.3f} | {ratios} |")


def make_clip(path: Path) -> Sample:
    write_clip(path)
    state = path.stat()
    return Sample(path.stem, path, None, "", "English", state.st_size, state.st_mtime_ns)


def vectorised(path: Path) -> Parts:
    pose = read_pose(path)
    return split_parts(pose.keypoints, pose.scores)


def as_float32(parts: Parts) -> Parts:
    return {name: part.astype(np.float32, copy=False) for name, part in parts.items()}


def batch_of(side: Callable[[int], Parts]) -> Callable[[int], object]:
    """Packs the batch that starts at a clip."""

    def pack(first: int) -> object:
        clips = [as_float32(side(clip)) for clip in range(first, first + BATCH)]
        return {part: packed([clip[part] for clip in clips]) for part in PARTS}

    return pack


def medians(functions: Sequence[Callable[[int], object]], clips: int, step: int) -> list[float]:
    """Seconds a clip; the sides take turns, so that a busy machine is busy for all."""
    times: list[list[float]] = [[] for _ in functions]
    for clip in range(0, clips, step):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function(clip)
            taken.append((time.perf_counter() - start) / step)
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main()
