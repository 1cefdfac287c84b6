"""What the stages of talking faces share: their clips, and what is made of each clip once and kept on disk."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uni_sign.config import above, flag
from uni_sign.data.feature_cache import FeatureCache
from uni_sign.data.motion_clips import MotionClip, read_motion_clips
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.stages._cached import CacheConfig, Extractor, fill_cache, status
from uni_sign.stages._face_findings import face_findings
from uni_sign.stages._held_out_loss import HeldOutLoss
from uni_sign.stages.base import Datasets, Finding

_SPLITS = {"train": "train", "val": "test"}
_USUAL_FOLDER = "talking_faces"


@dataclass(frozen=True)
class FacesConfig(CacheConfig):
    """The flags of talking faces: where they are, and what is kept of them."""

    data_root: str = flag(
        "",
        "folder of train/ and test/ with Actor_*/*.mp4 and .wav beside, or a manifest of clips; default: talking_faces",
    )
    fps: float = flag(25.0, "frames a second", check=above(0))


class Faces(HeldOutLoss):
    """A stage whose items are parts of clips."""

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.problems: list[str] = []

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that what is kept depends on, beside the clip: plain values."""

    @abstractmethod
    def extractor(self, device: torch.device) -> Extractor:
        """Makes the arrays that are kept of clips; it raises InputError where one cannot be read."""

    @property
    def hears(self) -> bool:
        """Whether what is kept of a clip depends on its sound."""
        return True

    @property
    def root(self) -> Path:
        """The folder or manifest of the clips."""
        return Path(self.config.data_root or _USUAL_FOLDER)

    @cached_property
    def clips(self) -> dict[str, list[MotionClip]]:
        """Those that train, and those held out."""
        found = read_motion_clips(self.root)
        clips = {name: [clip for clip in found if clip.split == folder] for name, folder in _SPLITS.items()}
        for name, folder in _SPLITS.items():
            if not clips[name]:
                raise InputError(f"{self.root} holds no clips of the split {folder}: {name} needs some.")
        return clips

    @cached_property
    def cache(self) -> FeatureCache:
        """What is kept of the clips."""
        root = self.root
        folder = self.config.cache_dir or (root if root.is_dir() else root.parent) / ".cache"
        return FeatureCache(Path(folder), self.settings, self.hears)

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        _ = self.clips, self.settings
        if self.config.check_status:
            raise status(self.cache, self.clips)

    @property
    def least_frames(self) -> int:
        """Frames that a clip must have to be of use."""
        return 2

    def examine(self) -> list[Finding]:
        """What `check` reads, and what is in the clips."""
        findings = super().examine()
        if any(finding.level == "fail" for finding in findings):
            return findings
        clips = [clip for own in self.clips.values() for clip in own]
        return findings + face_findings(clips, self.least_frames, self.config.fps)

    def counted(self) -> str:
        """The clips of each part, for a person."""
        return ", ".join(f"{len(clips)} {name} clips" for name, clips in self.clips.items())

    def prepare(self, accelerator: Any) -> None:
        """Collective: what is kept of each clip; those that cannot be read are left out, and named."""
        self.problems = fill_cache(self, self.clips, accelerator, f"clips to {self.name}")
        gone = set(self.cache.missing([clip for own in self.clips.values() for clip in own]))
        self.clips = {name: [clip for clip in own if clip not in gone] for name, own in self.clips.items()}
        for name, own in self.clips.items():
            if not own:
                raise InputError(f"No clip for {name} can be used: {self.problems[0]}")

    def build_datasets(self) -> Datasets:
        """The training part and the held-out one."""
        return Datasets(self.splits, self.collate, Key, problems=self.problems, notes=self.notes)


def drawn_seed(seed: int, key: Key) -> np.random.Generator:
    """Draws of one item in one epoch, the same ones on whichever process and in whichever batch it comes."""
    return np.random.default_rng([seed, key.epoch, key.index])
