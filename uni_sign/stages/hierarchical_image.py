"""Faces of 68 points to pictures of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from uni_sign.data.holistic import SLICES, Frames, read_faces
from uni_sign.stages._keypoints import DEFAULTS
from uni_sign.stages._pictures import PictureConfig, Pictures
from uni_sign.stages.base import Batch


@dataclass(frozen=True)
class HierarchicalImageConfig(PictureConfig):
    """The flags of faces to pictures."""


class HierarchicalImage(Pictures):
    """A face to a picture."""

    Config: ClassVar[type] = HierarchicalImageConfig
    name: ClassVar[str] = "hierarchical_image"
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "epochs": 100, "batch_size": 16}

    def read_frames(self) -> Frames:
        """`keypoints_data.pkl`."""
        return read_faces(self.config.data_path)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The face's points, all of which are there."""
        return batch["points"][:, SLICES["face"]], None


STAGE = HierarchicalImage
