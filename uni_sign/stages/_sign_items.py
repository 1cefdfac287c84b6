"""Clips of a corpus as text to signing trains on them, each with draws of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from uni_sign.data.pose_vectors import POSE_VALUES, pose_vectors
from uni_sign.data.samples import Samples
from uni_sign.data.signs import Clip, Key, SignDataset, Unusable
from uni_sign.errors import InputError
from uni_sign.models.flow_transformer import draw_masks
from uni_sign.models.rectified_flow import TimeKind, sample_time
from uni_sign.models.signing_flow import PoseScale
from uni_sign.stages._faces import drawn_seed
from uni_sign.stages.base import Batch

Item = dict[str, Any]


@dataclass(frozen=True)
class SignDraws:
    """How an item is drawn in training: the share that loses the text, and times."""

    text: float
    times: TimeKind
    seed: int


@dataclass(frozen=True, eq=False)
class SignItems:
    """Clips with what ``read`` has of their texts (S, width), and the number of their language.

    With ``draws`` each brings noise, time and a lost text that depend on seed, epoch and its number alone: so they are
    the same for any number of processes and any batch size.
    """

    clips: SignDataset
    read: Callable[[str], np.ndarray]
    languages: Sequence[str]
    scale: PoseScale
    draws: SignDraws | None = None

    @property
    def samples(self) -> Samples:
        """The clips' files and texts."""
        return self.clips.samples

    @property
    def sizes(self) -> Sequence[int]:
        """A measure of each clip's length."""
        return self.clips.sizes

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Item | Unusable:
        clip = self.clips[key]
        if isinstance(clip, Unusable):
            return clip
        try:
            text = torch.from_numpy(np.array(self.read(clip.sample.target)))
        except InputError as error:  # it could not be made, which is told already
            return Unusable(str(error))
        item = {
            **{"index": key.index if key.counted else -1, "name": clip.sample.name},
            "poses": self.scale.scaled(torch.from_numpy(pose_vectors(clip.parts))),
            "text": text,
            "language": self.languages.index(clip.sample.language),
        }
        return item if self.draws is None else item | _drawn(self.draws, clip)


def _drawn(draws: SignDraws, clip: Clip) -> Item:
    generator = torch.Generator().manual_seed(int(drawn_seed(draws.seed, clip.key).integers(1 << 62)))
    return {
        "t": sample_time(1, generator, draws.times)[0],
        "lost_text": draw_masks({"text": draws.text}, 1, generator)["text"][0],
        "noise": torch.randn(len(clip.parts["body"]), POSE_VALUES, generator=generator),
    }


def blank_item(dim_text: int, frames: int = 1, pieces: int = 1) -> Item:
    """An item without a content: stands where every clip of a rank's batch was unusable, and for the largest ones."""
    return {
        **{"index": -1, "name": "", "language": 0, "t": torch.zeros(()), "lost_text": torch.tensor(False)},
        **{"poses": torch.zeros(frames, POSE_VALUES), "noise": torch.zeros(frames, POSE_VALUES)},
        "text": torch.zeros(pieces, dim_text),
    }


def collate_signs(items: Sequence[Item | Unusable], dim_text: int) -> Batch:
    """Items to a batch: poses and noise (B, L, values), text (B, S, width), padded, and their masks."""
    usable = [item for item in items if not isinstance(item, Unusable)] or [blank_item(dim_text)]
    indices = [item["index"] for item in usable]
    batch: Batch = {
        **{"indices": indices, "names": [item["name"] for item in usable]},
        "problems": [item.problem for item in items if isinstance(item, Unusable)],
        # Either all items count, or there is one that only fills this rank's place.
        "counted": any(index >= 0 for index in indices),
        "language": torch.tensor([item["language"] for item in usable]),
    }
    for name, mask in (("poses", "frame_mask"), ("text", "text_mask")):
        lengths = torch.tensor([len(item[name]) for item in usable])
        batch[name] = pad_sequence([item[name] for item in usable], batch_first=True)
        batch[mask] = torch.arange(batch[name].shape[1]) < lengths[:, None]
    if all("noise" in item for item in usable):
        batch["noise"] = pad_sequence([item["noise"] for item in usable], batch_first=True)
        batch |= {name: torch.stack([item[name] for item in usable]) for name in ("t", "lost_text")}
    return batch
