"""Skeletons of 143 points to pictures of them: the frame encoder of the keypoint pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from uni_sign.config import flag
from uni_sign.data.holistic import Frames, read_frames
from uni_sign.stages._keypoints import DEFAULTS
from uni_sign.stages._pictures import PictureConfig, Pictures
from uni_sign.stages.base import Batch


@dataclass(frozen=True)
class SkeletonConfig(PictureConfig):
    """The flags of skeletons to pictures."""

    data_path: Path = flag(Path("sign_language_keypoints.pkl"), "the skeletons: a pickle")


class Skeleton(Pictures):
    """Face, hands and body to a picture."""

    Config: ClassVar[type] = SkeletonConfig
    name: ClassVar[str] = "skeleton"
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "epochs": 100, "batch_size": 16}

    def read_frames(self) -> Frames:
        """`sign_language_keypoints.pkl`."""
        return read_frames(self.config.data_path)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """All points, and which regions are there."""
        return batch["points"], batch["present"]


STAGE = Skeleton
