"""What the stages share that train on single frames: faces, or whole skeletons."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.config import flag
from uni_sign.data.holistic import Frames, Normalization, training_part
from uni_sign.errors import InputError
from uni_sign.stages._keypoints import EncoderConfig, Keypoints, encoder_flags

_DRAWN = 8


@dataclass(frozen=True)
class FramesConfig(EncoderConfig):
    """The flags of single frames."""

    data_path: Path = flag(Path("keypoints_data.pkl"), "the points: a pickle")


class OfFrames(Keypoints):
    """A stage whose items are frames."""

    drawn = _DRAWN
    """How many frames an evaluation hands back to be looked at."""

    @abstractmethod
    def read_frames(self) -> Frames:
        """The frames of ``--data_path``; faces as skeletons of nothing else."""

    @cached_property
    def frames(self) -> Frames:
        """What ``--data_path`` holds."""
        frames = self.read_frames()
        if len(frames) < 2:
            raise InputError(f"{self.config.data_path} holds one frame: one trains and another is held out.")
        return frames

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """The numbers of the frames that train, and of those held out; no clip is in both."""
        trains = training_part(self.frames.clips, self.config.train_share)
        return {"train": np.flatnonzero(trains), "val": np.flatnonzero(~trains)}

    @cached_property
    def normalization(self) -> Normalization:
        """That of ``--finetune``, or of the training part."""
        if self.trained is not None and self.trained.normalization is not None:
            return self.trained.normalization
        trains = self.parts["train"]
        return Normalization.of(self.frames.points[trains], self.frames.present[trains], str(self.config.data_path))

    def told_config(self) -> dict[str, Any]:
        """Sizes of the encoder."""
        return encoder_flags(self.config)
