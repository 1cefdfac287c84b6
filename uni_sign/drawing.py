"""Pictures for people: heat maps over time and curves over steps, as matplotlib figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

# A sequential scale from pale to dark blue, readable in print and for colour-blind eyes.
_SCALE = "Blues"
_LINE, _ACCENT, _INK, _GRID = "#2a78d6", "#1b4f8f", "#333333", "#dddddd"


def heat_map(rows: Sequence[tuple[str, np.ndarray]], title: str, value_name: str) -> Figure:
    """One strip a clip over its frames; ``rows`` are (label, values (T,) in [0, 1])."""
    width = max(len(values) for _, values in rows)
    table = np.full((len(rows), width), np.nan)
    for i, (_, values) in enumerate(rows):
        table[i, : len(values)] = values
    figure = Figure(figsize=(9, 1.2 + 0.38 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(table, aspect="auto", cmap=_SCALE, vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="white", linewidth=3)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("frame")
    low, high = np.nanmin(table), np.nanmax(table)
    axes.set_title(f"{title}: {low:.3f} to {high:.3f}", loc="left", fontsize=11)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=value_name, fraction=0.03, pad=0.01)
    return figure


def picture_grid(rows: Sequence[tuple[str, np.ndarray]], title: str) -> Figure:
    """Rows of grey pictures, (label, (N, H, W) uint8), one below the other; those of a column belong together."""
    columns = len(rows[0][1])
    figure = Figure(figsize=(1.2 + 1.6 * columns, 0.6 + 1.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for panels_of_row, (label, pictures) in zip(panels, rows, strict=True):
        for axes, picture in zip(panels_of_row, pictures, strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(_GRID)
        panels_of_row[0].set_ylabel(label, color=_INK)
    figure.suptitle(title, fontsize=11, color=_INK, x=0.01, ha="left")
    return figure


def matrix(labels: Sequence[str], values: np.ndarray, title: str, scale: str = "cosine similarity") -> Figure:
    """What clips are to one another, (N, N), each named where there are few enough to read."""
    side = 3.0 + 0.16 * min(len(labels), 48)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap=_SCALE, interpolation="nearest")
    if len(labels) <= 48:
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        axes.set_yticks(range(len(labels)), labels, fontsize=6)
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=scale, fraction=0.04, pad=0.02)
    return figure


def loss_curve(records: Sequence[Mapping[str, Any]], monitor: str) -> Figure:
    """Training loss over optimizer steps, and below it the monitored score where there is one."""
    losses = [(r["step"], r["train/loss"]) for r in records if "train/loss" in r]
    scores = [(r["step"], r[monitor]) for r in records if monitor in r]
    figure = Figure(figsize=(8, 6 if scores else 3.5), layout="constrained")
    panels = figure.subplots(2 if scores else 1, 1, sharex=True, squeeze=False)[:, 0]
    _curve(panels[0], losses, "training loss per target", marker="")
    if scores:
        _curve(panels[1], scores, monitor, marker="o")
        step, score = scores[-1]
        panels[1].annotate(f"{score:.1f}", (step, score), xytext=(4, 4), textcoords="offset points", color=_INK)
    panels[-1].set_xlabel("optimizer step")
    return figure


def _curve(axes: Any, points: Sequence[tuple[float, float]], name: str, marker: str) -> None:
    steps, values = zip(*points, strict=True) if points else ((), ())
    axes.plot(steps, values, color=_LINE, linewidth=1.6, marker=marker, markersize=4, markerfacecolor=_ACCENT)
    axes.set_title(name, loc="left", fontsize=11, color=_INK)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, colors=_INK)
