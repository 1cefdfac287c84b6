"""What the keypoint pipeline trains on, item by item: frames and pictures, windows of clips, texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uni_sign.data.holistic import SLICES
from uni_sign.data.representations import Representations
from uni_sign.data.sequences import Windows, padded_window
from uni_sign.data.signs import Key
from uni_sign.data.skeleton_images import SkeletonImages

BOXED = ("left_hand", "right_hand", "face")
IGNORED = -100  # label of a padded place
_MARGIN = 2 / 256  # of the picture, around the points of a box
_NOWHERE = (1.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class FrameItems:
    """Frames ``chosen`` of points (N, P, 3), normalised; ``images`` and ``boxes`` (N, 3, 4) where pictures are due."""

    points: np.ndarray
    present: np.ndarray
    names: Sequence[str]
    chosen: np.ndarray
    images: SkeletonImages | None = None
    boxes: np.ndarray | None = None

    @cached_property
    def sizes(self) -> list[int]:
        """All alike."""
        return [1] * len(self.chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        frame = self.chosen[key.index]
        item = _item(key, self.names[frame]) | {"points": self.points[frame], "present": self.present[frame]}
        if self.images is not None:
            item["images"] = self.images[frame][None]
        if self.boxes is not None:
            item["boxes"] = self.boxes[frame]
        return item


def boxes_of(points: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Where hands and face are in the picture, (N, 3, 4): left, top, right and bottom as shares; nowhere if missing.

    ``points`` (N, 143, 3) are in shares of the picture; the order is that of `BOXED`.
    """
    regions = list(SLICES)
    boxes = np.empty((len(points), len(BOXED), 4), np.float32)
    for place, name in enumerate(BOXED):
        own = points[:, SLICES[name], :2]
        found = np.concatenate([own.min(axis=1) - _MARGIN, own.max(axis=1) + _MARGIN], axis=1)
        there = present[:, regions.index(name), None]
        boxes[:, place] = np.where(there, found, _NOWHERE)
    return boxes


@dataclass(frozen=True, eq=False)
class WindowItems:
    """Windows of sequences: points (F, 143, 3), normalised; beside them ``features`` (F, d), where given."""

    points: np.ndarray
    present: np.ndarray
    names: Sequence[str]
    windows: Windows
    seq_len: int
    features: np.ndarray | None = None

    @cached_property
    def sizes(self) -> list[int]:
        """Frames of each."""
        lengths: list[int] = self.windows.length.tolist()
        return lengths

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        first, length = int(self.windows.first[key.index]), int(self.windows.length[key.index])
        item = _item(key, self.names[self.windows.sequence[key.index]])
        for name in ("points", "present", "features"):
            values = getattr(self, name)
            if values is not None:
                item[name], item["padding"] = padded_window(values, first, length, self.seq_len)
        return item


@dataclass(frozen=True, eq=False)
class TextItems:
    """Clips ``chosen`` in vectors, with the piece ids of all clips' texts."""

    representations: Representations
    chosen: np.ndarray
    ids: Sequence[Sequence[int]]

    @cached_property
    def sizes(self) -> list[int]:
        """Pieces of each text."""
        return [len(self.ids[clip]) for clip in self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        clip, held = self.chosen[key.index], self.representations
        length = held.lengths[clip]
        return _item(key, held.names[clip]) | {
            "global": held.global_reprs[clip],
            "local": held.local_reprs[clip],
            "temporal": held.temporal_reprs[clip, :length],
            "labels": np.array(self.ids[clip], np.int64),
        }


def _item(key: Key, name: str) -> dict[str, Any]:
    return {"index": key.index if key.counted else -1, "name": name}


def stacked(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch: arrays of one shape become a tensor (B, ...)."""
    batch = _batch(items)
    for name, value in items[0].items():
        if isinstance(value, np.ndarray):
            batch[name] = torch.from_numpy(np.stack([item[name] for item in items]))
    return batch


def stacked_texts(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`TextItems` to a batch: temporal vectors and labels are padded to the longest of them."""
    batch = _batch(items)
    for name in ("global", "local"):
        batch[name] = torch.from_numpy(np.stack([item[name] for item in items]))
    lengths = torch.tensor([len(item["temporal"]) for item in items])
    batch["temporal"] = _padded([torch.from_numpy(item["temporal"]) for item in items], 0.0)
    batch["padding"] = torch.arange(batch["temporal"].shape[1]) >= lengths[:, None]
    batch["labels"] = _padded([torch.from_numpy(item["labels"]) for item in items], IGNORED)
    batch["target_position"] = (batch["labels"].flatten() != IGNORED).nonzero()[:, 0]
    return batch


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _batch(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    indices = [item["index"] for item in items]
    return {
        "indices": indices,
        "names": [item["name"] for item in items],
        "problems": list[str](),
        # Either all items count, or there is one that only fills this rank's place.
        "counted": any(index >= 0 for index in indices),
    }
