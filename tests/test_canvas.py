"""Pixels where they are told, words in letters that there are, films with the colours of their frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uni_sign.canvas import Box, Canvas, drawable, png_bytes, write_gif

RED, WHITE = (255, 0, 0), (255, 255, 255)


def at(canvas: Canvas, x: int, y: int) -> tuple[int, ...]:
    return tuple(canvas.pixels()[y, x, :3].tolist())


def test_places_count_from_the_upper_left_corner() -> None:
    canvas = Canvas(60, 40, "white")
    canvas.lines(np.array([[(5, 8.5), (30, 8.5)]]), "red", 4)
    canvas.dots(np.array([(50.0, 30.0)]), "red", 4)
    canvas.rectangle(Box(40, 2, 10, 6), "blue")
    assert at(canvas, 15, 8) == at(canvas, 50, 30) == RED
    assert at(canvas, 45, 5) == (0, 0, 255)
    assert at(canvas, 15, 31) == at(canvas, 50, 9) == at(canvas, 36, 8) == WHITE
    assert canvas.pixels().shape == (40, 60, 4)


def test_lines_are_smooth_fade_and_end_at_their_box() -> None:
    canvas = Canvas(60, 40, "white")
    canvas.lines(np.array([[(5, 3), (55, 37)]]), "black", 2)
    assert len(np.unique(canvas.pixels()[:, :, 0])) > 20
    faint = Canvas(60, 40, "white")
    faint.lines(np.array([[(5, 10), (55, 10)], [(30, 2), (30, 30)]]), "black", 4, 0.2, Box(0, 0, 40, 40))
    assert at(faint, 20, 10) == at(faint, 30, 20) == at(faint, 30, 10)  # no darker where they cross
    assert 200 <= at(faint, 20, 10)[0] <= 208
    assert at(faint, 50, 10) == WHITE


def test_what_was_kept_comes_back() -> None:
    canvas = Canvas(20, 20, "white")
    canvas.rectangle(Box(0, 0, 5, 5), "red")
    canvas.keep()
    canvas.rectangle(Box(0, 0, 20, 20), "blue")
    canvas.clear()
    assert (at(canvas, 2, 2), at(canvas, 12, 12)) == (RED, WHITE)


def test_words_are_aligned_and_keep_to_the_letters_of_the_font() -> None:
    assert drawable("clip \u00e9 \u4eca\u8a9e\ud800") == "clip \u00e9 ???"
    left = {}
    for align in ("left", "centre", "right"):
        canvas = Canvas(120, 30, "white")
        canvas.text(60, 20, "word", 12, "black", align)
        left[align] = int(np.flatnonzero((canvas.pixels()[:, :, 0] < 128).any(axis=0))[0])
    assert left["right"] < left["centre"] < left["left"]
    assert 58 <= left["left"] <= 63


def test_a_png_shows_the_picture() -> None:
    canvas = Canvas(60, 40, "#eef1f5")
    canvas.rectangle(Box(10, 10, 20, 20), "#2a78d6", radius=4)
    shown = np.asarray(Image.open(io.BytesIO(png_bytes(canvas.pixels()))).convert("RGB"))
    assert np.abs(shown.astype(int) - canvas.pixels()[:, :, :3]).max() <= 6


@pytest.mark.parametrize(("seconds", "milliseconds"), [(1 / 25, 40), (1 / 240, 20), (1 / 30, 30)])
def test_a_gif_shows_every_frame(tmp_path: Path, seconds: float, milliseconds: int) -> None:
    frames = []
    for x in (5, 20, 35):
        canvas = Canvas(60, 40, "#eef1f5")
        canvas.rectangle(Box(x, 10, 10, 10), "#d9741c")
        canvas.rectangle(Box(40, 30, 9, 9), "#8cbcf2")
        frames.append(canvas.pixels())
    write_gif(tmp_path / "film.gif", iter(frames), frames[:1], seconds)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (3, milliseconds, 0)
        for number, pixels in enumerate(frames):
            film.seek(number)
            assert np.abs(np.asarray(film.convert("RGB")).astype(int) - pixels[:, :, :3]).max() <= 6
