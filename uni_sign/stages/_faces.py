"""What the stages of talking faces share: their clips, and what is made of each clip once and kept on disk."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm import tqdm

from uni_sign.config import above, flag
from uni_sign.data.feature_cache import FeatureCache
from uni_sign.data.motion_clips import MotionClip, read_motion_clips
from uni_sign.data.signs import Key
from uni_sign.errors import Done, InputError
from uni_sign.stages._held_out_loss import HeldOutLoss
from uni_sign.stages.base import Datasets

Extractor = Callable[[MotionClip], dict[str, np.ndarray]]
_SPLITS = {"train": "train", "val": "test"}


@dataclass(frozen=True)
class FacesConfig:
    """The flags of talking faces: where they are, and what is kept of them."""

    data_root: Path = flag(
        Path("talking_faces"), "folder of train/ and test/ with Actor_*/*.mp4 and .wav beside, or a manifest of clips"
    )
    fps: float = flag(25.0, "frames a second", check=above(0))
    cache_dir: str = flag("", "folder of what is made of each clip once; default: .cache beside the clips")
    force_preprocess: bool = flag(False, "make it anew for all clips")
    clear_cache_first: bool = flag(False, "delete first what other settings left in that folder, too")
    train_only: bool = flag(False, "make it for the training clips, and stop")
    test_only: bool = flag(False, "make it for the held-out clips, and stop")
    check_status: bool = flag(False, "say how much of it is there, and stop")

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.train_only and self.test_only:
            return "--train_only and --test_only exclude each other: give one of them"
        return None


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
        """Makes the arrays that are kept of a clip; it raises InputError for a clip that cannot be read."""

    @cached_property
    def clips(self) -> dict[str, list[MotionClip]]:
        """Those that train, and those held out."""
        found = read_motion_clips(self.config.data_root)
        clips = {name: [clip for clip in found if clip.split == folder] for name, folder in _SPLITS.items()}
        for name, folder in _SPLITS.items():
            if not clips[name]:
                raise InputError(f"{self.config.data_root} holds no clips of the split {folder}: {name} needs some.")
        return clips

    @cached_property
    def cache(self) -> FeatureCache:
        """What is kept of the clips."""
        root = self.config.data_root
        folder = self.config.cache_dir or (root if root.is_dir() else root.parent) / ".cache"
        return FeatureCache(Path(folder), self.settings)

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        _ = self.clips, self.settings
        if self.config.check_status:
            raise Done("\n".join(f"{name}: {self.cache.status(clips)}" for name, clips in self.clips.items()))

    def counted(self) -> str:
        """The clips of each part, for a person."""
        return ", ".join(f"{len(clips)} {name} clips" for name, clips in self.clips.items())

    def prepare(self, accelerator: Any) -> None:
        """Collective: what is kept of each clip, each rank a share of what is missing; a second run goes on."""
        config = self.config
        if config.clear_cache_first and accelerator.is_main_process:
            self.cache.clear()
        accelerator.wait_for_everyone()
        wanted = [
            split for split, left_out in (("train", config.test_only), ("val", config.train_only)) if not left_out
        ]
        clips = [clip for split in wanted for clip in self.clips[split]]
        missing = clips if config.force_preprocess else self.cache.missing(clips)
        # Before any rank adds to the cache, so that all of them share out the same.
        accelerator.wait_for_everyone()
        problems = self._make(missing[accelerator.process_index :: accelerator.num_processes], accelerator)
        self.problems = sorted(gather_object(problems)) if accelerator.num_processes > 1 else problems
        if config.train_only or config.test_only:
            raise Done("\n".join([*self.problems, f"{', '.join(wanted)}: {self.cache.status(clips)}"]))
        gone = set(self.cache.missing(clips))
        if len(gone) > len(self.problems):
            raise InputError("--cache_dir must be the same folder for all processes: give one that all machines share.")
        self.clips = {name: [clip for clip in own if clip not in gone] for name, own in self.clips.items()}
        for name, own in self.clips.items():
            if not own:
                raise InputError(f"No clip for {name} can be used: {self.problems[0]}")

    def _make(self, clips: list[MotionClip], accelerator: Any) -> list[str]:
        """Make and keep what these clips lack; returns a sentence for each that cannot be read."""
        if not clips:
            return []
        extract = self.extractor(accelerator.device)
        problems = []
        for clip in tqdm(clips, desc=f"clips to {self.name}", unit="clip", disable=not accelerator.is_main_process):
            try:
                arrays = extract(clip)
            except InputError as error:
                problems.append(str(error))
                continue
            self.cache.store(clip, arrays)
        return problems

    def build_datasets(self) -> Datasets:
        """The training part and the held-out one."""
        return Datasets(self.splits, self.collate, Key, problems=self.problems, notes=self.notes)


def drawn_seed(seed: int, key: Key) -> np.random.Generator:
    """Draws of one item in one epoch, the same ones on whichever process and in whichever batch it comes."""
    return np.random.default_rng([seed, key.epoch, key.index])
