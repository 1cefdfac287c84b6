"""Where packed clips lie along the frame axis."""

import itertools

import torch
from torch import Tensor

GAP = 2


class FrameLayout:
    """Clips one behind the other: packed, (..., N) frames, or spaced, (..., F): each followed by `GAP` zero frames.

    ``lengths``: frames of each clip; ``counted``: whether these clips count, or only fill a place; ``device``: of the
    maps. In a spaced map a temporal kernel sees zeros beyond a clip's end, exactly as at the border of a clip alone.
    """

    def __init__(self, lengths: list[int], counted: bool = True, device: torch.device | None = None) -> None:
        self.counted, self.lengths, self.frames = counted, lengths, sum(lengths)
        ends = itertools.accumulate(length + GAP for length in lengths)
        gaps = [end - GAP + i for end in ends for i in range(GAP)]
        self._gaps = torch.tensor(gaps).to(device, non_blocking=True)

    def space(self, x: Tensor) -> Tensor:
        """(C, V, N) packed -> (C, V, F) with zero frames behind each clip."""
        gap = x.new_zeros(*x.shape[:-1], GAP)
        # Not by index: along the innermost axis that takes ten times as long.
        return torch.cat([piece for clip in x.split(self.lengths, -1) for piece in (clip, gap)], -1)

    def pack(self, x: Tensor) -> Tensor:
        """Inverse of ``space``, of (..., F)."""
        sizes = [size for length in self.lengths for size in (length, GAP)]
        return torch.cat(x.split(sizes, -1)[::2], -1)

    def clear(self, x: Tensor) -> Tensor:
        """Zero the gaps of ``x`` (..., F) in place; a packed map has none."""
        return x if x.shape[-1] == self.frames else x.index_fill_(-1, self._gaps, 0)
