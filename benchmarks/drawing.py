"""True pictures of skeletons: one by one on a fresh canvas in loops, ours, and kept; and how long training waits.

Run: `python benchmarks/drawing.py` (a minute).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from uni_sign.canvas import Canvas
from uni_sign.data.demo.holistic import generate_holistic
from uni_sign.data.holistic import REGIONS, SLICES, read_frames
from uni_sign.data.signs import Key
from uni_sign.data.skeleton_images import STYLES, SkeletonImages, draw_skeleton
from uni_sign.stages.skeleton import Skeleton, SkeletonConfig

SIZE, PICTURES, BATCH = 256, 512, 16


def in_loops(points: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The straightforward way: a canvas a picture, and every line and dot by itself."""
    canvas = Canvas(SIZE, SIZE, "white")
    for region, (edges, width, radius) in STYLES.items():
        if not present[list(REGIONS).index(region)]:
            continue
        places = points[SLICES[region], :2].astype(np.float64) * SIZE
        for first, second in edges:
            canvas.lines(np.array([[places[first], places[second]]]), "black", width)
        for place in places:
            canvas.dots(place[None], "black", radius)
    return canvas.pixels()[:, :, 0]


def pictures_a_second(draw: Callable[[int], object], count: int) -> float:
    """After one that does not count."""
    draw(0)
    start = time.perf_counter()
    for number in range(count):
        draw(number)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as root:
        folder = generate_holistic(Path(root), clips_per_sign=1)
        frames = read_frames(folder / "sign_language_keypoints.pkl")
        kept = SkeletonImages(frames.points, frames.present, SIZE, folder / ".cache")
        speeds = {
            "a fresh canvas, loops": pictures_a_second(lambda i: in_loops(frames.points[i], frames.present[i]), 100),
            "ours": pictures_a_second(lambda i: draw_skeleton(frames.points[i], frames.present[i], SIZE), PICTURES),
            "ours, kept (first pass)": pictures_a_second(lambda i: kept[i], PICTURES),
            "ours, kept (later ones)": pictures_a_second(lambda i: kept[i], PICTURES),
        }
        print("| true pictures, 256 x 256 | a second | times faster |\n|---|---|---|")
        for name, speed in speeds.items():
            print(f"| {name} | {speed:.0f} | {speed / speeds['a fresh canvas, loops']:.1f} |")
        _wait(folder)


def _wait(folder: Path) -> None:
    """The share of a training step at full size that it waits for pictures drawn anew by one process."""
    stage = Skeleton(
        SkeletonConfig(data_path=folder / "sign_language_keypoints.pkl", image_cache=str(folder / "new")), 0
    )
    keys = [Key(0, index) for index in range(12 * BATCH)]
    batches = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
    loader: DataLoader[Any] = DataLoader(
        cast(Any, stage.splits["train"]), batch_sampler=batches, collate_fn=stage.collate, num_workers=1
    )
    model = stage.starting_model().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    waited, trained = 0.0, 0.0
    begin = time.perf_counter()
    for number, batch in enumerate(loader):
        got = time.perf_counter()
        optimizer.zero_grad()
        loss, _ = stage.compute_loss(model, batch)
        loss.backward()
        optimizer.step()
        done = time.perf_counter()
        if number:  # the first waits for the process to start
            waited, trained = waited + got - begin, trained + done - got
        begin = done
    print(f"\na step of {BATCH} pictures at full size: {trained / 11:.2f} s, of which waiting {waited / 11:.4f} s "
          f"({100 * waited / (waited + trained):.2f} %), one process drawing them for the first time")  # fmt: skip


if __name__ == "__main__":
    main()
