"""Smooth lines, dots and words on pixels, thousands a second: matplotlib's Agg renderer without its figures."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path as FilePath
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.ft2font import FT2Font
from matplotlib.path import Path
from matplotlib.transforms import Bbox, IdentityTransform
from PIL import Image

_DPI = 72  # a point is a pixel
_IDENTITY = IdentityTransform()
_CIRCLE = Path.unit_circle()
_LEVELS = 64  # of each colour that a film tells apart


class Box(NamedTuple):
    """A rectangle in pixels, from the upper left corner."""

    x: float
    y: float
    width: float
    height: float


class Canvas:
    """A picture of ``width`` x ``height`` pixels; places are (x, y) in pixels from the upper left corner."""

    def __init__(self, width: int, height: int, background: str) -> None:
        self.width, self.height = width, height
        self._renderer = RendererAgg(width, height, _DPI)
        self.rectangle(Box(0, 0, width, height), background)
        self.keep()

    def rectangle(self, box: Box, fill: str | None, edge: str | None = None, radius: float = 0) -> None:
        """A filled rectangle, an outlined one, or both; with rounded corners."""
        pen = self._pen(edge or "white", 1.0 if edge else 0.0, 1.0, None)
        self._renderer.draw_path(pen, _rounded(box, radius, self.height), _IDENTITY, to_rgb(fill) if fill else None)

    def lines(self, ends: np.ndarray, colour: str, width: float, alpha: float = 1.0, within: Box | None = None) -> None:
        """Straight lines (N, 2, 2) between two places each; where they cross, they are no darker."""
        if len(ends):
            codes = np.tile(np.array([Path.MOVETO, Path.LINETO], Path.code_type), len(ends))
            path = Path(self._flipped(ends.reshape(-1, 2)), codes)
            self._renderer.draw_path(self._pen(colour, width, alpha, within), path, _IDENTITY, None)

    def dots(self, places: np.ndarray, colour: str, radius: float, alpha: float = 1.0, within: Box | None = None,
             hollow: bool = False) -> None:  # fmt: skip
        """Round dots at places (N, 2)."""
        if len(places):
            pen = self._pen(colour, 1.0 if hollow else 0.0, alpha, within)
            marker = Path(np.asarray(_CIRCLE.vertices) * radius, _CIRCLE.codes)
            fill = None if hollow else (*to_rgb(colour), alpha)
            self._renderer.draw_markers(pen, marker, _IDENTITY, Path(self._flipped(places)), _IDENTITY, fill)

    def text(
        self, x: float, y: float, words: str, size: float, colour: str,
        align: Literal["left", "centre", "right"] = "left", bold: bool = False,
    ) -> None:  # fmt: skip
        """One line of words; (x, y) is on the base line. Letters that the font lacks become question marks."""
        words = drawable(words)
        font = _font(size, bold)
        width, _, _ = self._renderer.get_text_width_height_descent(words, font, False)
        x -= width * {"left": 0.0, "centre": 0.5, "right": 1.0}[align]
        self._renderer.draw_text(self._pen(colour, 1.0, 1.0, None), round(x), round(y), words, font, 0)

    def keep(self) -> None:
        """What is drawn now is what `clear` goes back to."""
        self._kept = self._renderer.copy_from_bbox(Bbox.from_bounds(0, 0, self.width, self.height))

    def clear(self) -> None:
        """Takes away what was drawn since `keep`."""
        self._renderer.restore_region(self._kept)

    def pixels(self) -> np.ndarray:
        """The picture, (height, width, 4) uint8: red, green, blue, and 255."""
        return np.array(self._renderer.buffer_rgba())

    def _flipped(self, places: np.ndarray) -> np.ndarray:
        return np.stack([places[:, 0], self.height - places[:, 1]], axis=1)

    def _pen(self, colour: str, width: float, alpha: float, within: Box | None) -> Any:
        pen = self._renderer.new_gc()
        pen.set_foreground(to_rgb(colour))
        pen.set_linewidth(width)
        pen.set_alpha(alpha)
        pen.set_capstyle("round")
        pen.set_joinstyle("round")
        if within is not None:
            low = self.height - within.y - within.height
            pen.set_clip_rectangle(Bbox.from_bounds(within.x, low, within.width, within.height))
        return pen


def drawable(words: str) -> str:
    """Words in letters that the font has."""
    known = _letters()
    return "".join(letter if ord(letter) in known else "?" for letter in words)


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


@cache
def _font(size: float, bold: bool) -> Any:
    return font_manager.FontProperties("DejaVu Sans", size=size, weight="bold" if bold else "normal")


def _rounded(box: Box, radius: float, height: int) -> Path:
    """A rectangle whose corners are Bézier curves."""
    x, y, width, tall = box
    low, high, left, right = height - y - tall, height - y, x, x + width
    r = min(radius, width / 2, tall / 2)
    if r <= 0:
        return Path([(left, low), (right, low), (right, high), (left, high), (left, low)], closed=True)
    places = [
        *((left + r, low), (right - r, low), (right, low), (right, low + r)),
        *((right, high - r), (right, high), (right - r, high), (left + r, high)),
        *((left, high), (left, high - r), (left, low + r), (left, low), (left + r, low)),
    ]
    line, curve = Path.LINETO, Path.CURVE3
    codes = [Path.MOVETO, line, curve, curve, line, curve, curve, line, curve, curve, line, curve, curve]
    return Path(places, codes)


# --- files -------------------------------------------------------------------------------------------------


def png_bytes(pixels: np.ndarray) -> bytes:
    """A picture (height, width, 4) as a PNG file, its colours reduced to a palette: a third of the size."""
    out = BytesIO()
    _rgb(pixels).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(out, "PNG")
    return out.getvalue()


def write_gif(path: FilePath, frames: Iterable[np.ndarray], sample: Sequence[np.ndarray], seconds: float) -> None:
    """An endless film of pictures (height, width, 4), ``seconds`` each; the colours are those of the ``sample``."""
    palette = _rgb(np.concatenate(sample)).quantize(256, Image.Quantize.MEDIANCUT)
    # Pillow's own look-up of each pixel's nearest colour would take most of the time: one table for all of them.
    steps = (np.arange(_LEVELS) * 4 + 2).astype(np.uint8)
    every = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")[::-1], axis=-1).reshape(_LEVELS, -1, 3)
    nearest = np.asarray(Image.fromarray(every).quantize(palette=palette, dither=Image.Dither.NONE)).reshape(-1)

    def indexed() -> Iterator[Image.Image]:
        for pixels in frames:
            colours = pixels.view("<u4")[:, :, 0]
            places = (colours >> 2 & 63) | (colours >> 4 & 63 << 6) | (colours >> 6 & 63 << 12)
            image = Image.fromarray(nearest[places])
            image.putpalette(palette.getpalette() or [])
            yield image

    film = indexed()
    # Hundredths of a second are what the format has; browsers slow down what is faster than two.
    duration = max(20, round(seconds * 100) * 10)
    next(film).save(path, "GIF", save_all=True, append_images=film, duration=duration, loop=0, optimize=False)


def _rgb(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB")
