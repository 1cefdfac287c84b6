"""Windows of clips as rectified flow trains on them, each with draws of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from uni_sign.data.signs import Key
from uni_sign.models.flow_transformer import draw_masks
from uni_sign.models.rectified_flow import TimeKind, sample_time
from uni_sign.stages._faces import drawn_seed

Features = Mapping[str, np.ndarray]
ReferenceFrame = Literal["random", "first"]


@dataclass(frozen=True)
class Draws:
    """How an item is drawn in training: rates of losing each condition, times, and the reference's frame."""

    rates: Mapping[str, float]
    times: TimeKind = "uniform"
    reference: ReferenceFrame = "random"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class MotionWindows:
    """Windows of ``frames`` behind ``previous`` ones, as many of each clip as fit side by side.

    ``read`` gives a clip's features: coordinates (T, M), audio (T, width), emotion (E,). ``lengths`` are the T, none
    less than a window. ``basis`` (D, M) makes motion of coordinates. With ``draws`` each window lies anywhere in its
    clip, and brings noise, time and lost conditions that depend on seed, epoch and its number alone: so they are the
    same for any number of processes and any batch size. Without, it lies where it is, behind the one before.
    """

    read: Callable[[int], Features]
    names: Sequence[str]
    lengths: Sequence[int]
    basis: Tensor
    frames: int
    previous: int
    draws: Draws | None = None
    places: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        places = [
            (clip, start)
            for clip, length in enumerate(self.lengths)
            for start in range(self.previous, length - self.frames + 1, self.frames)
        ]
        object.__setattr__(self, "places", places)

    @cached_property
    def sizes(self) -> list[int]:
        """All alike."""
        return [1] * len(self)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        clip, start = self.places[key.index]
        reference, rng = 0, drawn_seed(self.draws.seed, key) if self.draws else None
        if self.draws and rng is not None:
            start = int(rng.integers(self.previous, self.lengths[clip] - self.frames + 1))
            if self.draws.reference == "random":
                reference = int(rng.integers(self.lengths[clip]))
        features = self.read(clip)
        window = slice(start - self.previous, start + self.frames)
        item = {
            **{"index": key.index if key.counted else -1, "name": f"{self.names[clip]} {start}"},
            "motion": self._motion(features["coordinates"][window]),
            "reference": self._motion(features["coordinates"][reference : reference + 1]),
            "audio": np.array(features["audio"][window]),
            "emotion": np.array(features["emotion"], np.float32)[None],
        }
        return item if self.draws is None or rng is None else item | self._drawn(self.draws, rng)

    def _motion(self, coordinates: np.ndarray) -> np.ndarray:
        motion: np.ndarray = np.asarray(coordinates, np.float32) @ self.basis.numpy().T
        return motion

    def _drawn(self, draws: Draws, rng: np.random.Generator) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        noise = torch.randn(self.frames, len(self.basis), generator=generator)
        time = sample_time(1, generator, draws.times)
        lost = draw_masks(draws.rates, 1, generator)
        return {
            **{"noise": noise.numpy(), "t": time[0].numpy()[None]},
            **{f"lost_{name}": mask.numpy() for name, mask in lost.items()},
        }
