"""How a training step's time and memory grow: with frames, clips a batch, descriptions a clip, and processes.

An mT5-small (8 + 8 layers, d_model 512) with a trimmed vocabulary of 20,480 pieces, its pose encoder at full width,
and a trainable text encoder. Every point is a process of its own; two processes share the clips of one, a thread
each, under data parallel. Prints a table and draws it: `python benchmarks/cost.py [--picture docs/cost.png]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch.nn.parallel import DistributedDataParallel
from workload import TINY, Loss, Size, batches, draw_clips, measured, mt5_config, packed_batch, training_step

from uni_sign.models.uni_sign import UniSign

SMALL = Size(d_model=512, d_ff=1024, layers=8, heads=6, pieces=20_480, batches=2)
# Axis title, field of `Size`, values.
SWEEPS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("frames a clip (4 clips)", "frames", (64, 128, 256, 512)),
    ("clips a batch (128 frames)", "batch", (1, 2, 4, 8, 16)),
    ("different descriptions a clip (4 clips)", "texts_per_clip", (1, 4, 16, 64)),
    ("processes (4 clips in all)", "processes", (1, 2)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model of toy size: does everything run?")
    parser.add_argument("--picture", type=Path, help="where to draw the table")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    known = parser.parse_args()
    if known.point:
        point(Size(**json.loads(known.point)))
        return
    size = TINY if known.tiny else SMALL
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, cpu, float32\n")
    print("| | | s a step | ms a frame | peak GB a process |\n|---|---|---|---|---|")
    sweeps = []
    for title, field, values in SWEEPS:
        rows = []
        for value in values:
            processes = value if field == "processes" else 1
            given = size if field == "processes" else dataclasses.replace(size, **{field: value})
            # One and two processes have a thread each; all else has both cores.
            row = run(given, processes, threads=1 if field == "processes" else torch.get_num_threads())
            frames = given.batch * given.frames
            print(
                f"| {title} | {value} | {row['seconds']:.2f} | {row['seconds'] / frames * 1e3:.2f} | {row['gb']:.2f} |"
            )
            sys.stdout.flush()
            rows.append((value, row["seconds"], row["gb"]))
        sweeps.append((title, rows))
    if known.picture:
        draw(sweeps).savefig(known.picture, dpi=110)


def run(size: Size, processes: int, threads: int) -> dict[str, float]:
    """One point, measured in new processes."""
    own = [
        __file__,
        "--point",
        json.dumps(dataclasses.asdict(dataclasses.replace(size, batch=size.batch // processes))),
    ]
    launcher = [sys.executable]
    if processes > 1:
        launcher = ["torchrun", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*launcher, *own], check=True, capture_output=True, text=True, env=environment)
    row: dict[str, float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return row


def point(size: Size) -> None:
    torch.manual_seed(0)
    config = mt5_config(size, size.pieces)
    loss: torch.nn.Module = Loss(UniSign(config, size.hidden_dim, fusion=True, text_encoder_config=config).train())
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        loss = DistributedDataParallel(loss, broadcast_buffers=False)
    clips = draw_clips(size, "equal", size.pieces)
    given: list[dict[str, Any]] = [packed_batch(b, size, "ids") for b in batches(clips, size, by_length=True)]
    row = measured(training_step(loss), given, len(clips) * size.frames)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(json.dumps(row))
    if dist.is_initialized():
        dist.destroy_process_group()


def draw(sweeps: Sequence[tuple[str, Sequence[tuple[int, float, float]]]]) -> Figure:
    """Time above, memory below, a column a sweep."""
    figure = Figure(figsize=(3.2 * len(sweeps), 5.4), layout="constrained")
    panels = figure.subplots(2, len(sweeps), sharey="row")
    for column, (title, rows) in enumerate(sweeps):
        values = [row[0] for row in rows]
        for line, name, color in ((1, "seconds a step", "#2a78d6"), (2, "peak GB a process", "#b5651d")):
            axes = panels[line - 1][column]
            axes.plot(values, [row[line] for row in rows], color=color, marker="o", markersize=4, linewidth=1.6)
            axes.set_xscale("log", base=2)
            axes.set_xticks(values, [str(value) for value in values])
            axes.minorticks_off()
            axes.set_ylim(0, 1.06 * max(row[line] for _, rows_of_sweep in sweeps for row in rows_of_sweep))
            axes.grid(axis="y", color="#dddddd", linewidth=0.8)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0, colors="#333333", labelsize=8)
            if column == 0:
                axes.set_ylabel(name, fontsize=9, color="#333333")
        panels[1][column].set_xlabel(title, fontsize=9, color="#333333")
    return figure


if __name__ == "__main__":
    main()
