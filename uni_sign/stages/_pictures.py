"""Keypoints to pictures, as two stages share it: of whole skeletons, and of faces."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uni_sign.config import at_least, flag
from uni_sign.data.holistic import point_mask
from uni_sign.data.keypoint_items import FrameItems, boxes_of
from uni_sign.data.skeleton_images import SkeletonImages
from uni_sign.errors import InputError
from uni_sign.models.picture_loss import STATIC_BOXES, box_weights, picture_losses
from uni_sign.stages._frames import FramesConfig, OfFrames
from uni_sign.stages.base import Batch, Datasets, Evaluation

_FARTHEST = 2.0  # shares of the picture, which half of the points do not exceed
_OF_MEAN = 512  # training pictures that the mean picture is taken of


def _power_of_two(value: int) -> str | None:
    return None if value in (16, 32, 64, 128, 256, 512, 1024) else "must be a power of two from 16 to 1024"


@dataclass(frozen=True)
class PictureConfig(FramesConfig):
    """The flags of keypoints to pictures."""

    image_size: int = flag(256, "height and width of the pictures", check=_power_of_two)
    image_cache: str = flag("", "folder that keeps drawn pictures; default: .cache beside --data_path")
    use_weighted_loss: bool = flag(False, "hands and face count for more")
    hand_weight: float = flag(2.0, "weight of the hands' pixels", check=at_least(1))
    face_weight: float = flag(1.5, "weight of the face's pixels", check=at_least(1))
    static_loss_regions: bool = flag(False, "weigh fixed rectangles, not where each sample's hands and face are")

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.static_loss_regions and not self.use_weighted_loss:
            return "--static_loss_regions needs --use_weighted_loss"
        return super().conflicts()


class Pictures(OfFrames):
    """Points to a picture of them."""

    @abstractmethod
    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The model's points and regions."""

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        super().check()
        points = self.frames.points[..., :2][point_mask(self.frames.present)]
        if len(points) and np.median(np.abs(points)) > _FARTHEST:
            raise InputError(
                f"{self.config.data_path}: half of its points lie outside of the picture: x and y must be shares of "
                "its width and height, not pixels."
            )

    @cached_property
    def images(self) -> SkeletonImages:
        """The true pictures."""
        folder = Path(self.config.image_cache or self.config.data_path.parent / ".cache")
        return SkeletonImages(self.frames.points, self.frames.present, self.image_size, folder)

    @cached_property
    def splits(self) -> dict[str, FrameItems]:
        """Training part and held-out one."""
        frames = self.frames
        points = self.normalization.apply(frames.points, frames.present)
        boxes = None
        if self.config.use_weighted_loss:
            boxes = boxes_of(frames.points, frames.present)
            if self.config.static_loss_regions:
                boxes[:] = STATIC_BOXES
        return {
            name: FrameItems(points, frames.present, frames.names, chosen, self.images, boxes)
            for name, chosen in self.parts.items()
        }

    @cached_property
    def mean_picture(self) -> np.ndarray:
        """That of the training part (size, size), in [-1, 1]: what knows nothing of a frame would draw."""
        chosen = self.parts["train"]
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), _OF_MEAN)).astype(int)]
        total = np.zeros((self.image_size,) * 2)
        for frame in chosen:
            total += self.images[frame]
        return total / len(chosen) / 127.5 - 1

    @property
    def image_size(self) -> int:
        """Height and width of the model's pictures."""
        return int(self.model_config["image_size"])

    def told_config(self) -> dict[str, Any]:
        """Sizes of encoder and picture."""
        return {**super().told_config(), "image_size": self.config.image_size}

    def build_datasets(self) -> Datasets:
        """The training part and the held-out one."""
        self.notes.append(self.images.note)
        return super().build_datasets()

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of each picture, summed over those that count."""
        generated = model(*self.inputs(batch), batch["counted"])
        losses = picture_losses(generated, _unit(batch["images"]), self._weights(batch))
        return losses.sum() * float(batch["counted"]), {}

    def _weights(self, batch: Batch) -> Tensor | None:
        config = self.config
        if not config.use_weighted_loss:
            return None
        weights = (config.hand_weight, config.hand_weight, config.face_weight)
        return box_weights(batch["boxes"], weights, self.image_size)

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """Losses of each picture, and the first pictures themselves."""
        generated, target = model(*self.inputs(batch)), _unit(batch["images"])
        losses = picture_losses(generated, target, self._weights(batch)).tolist()
        plain = picture_losses(generated, target).tolist()
        mean = torch.from_numpy(self.mean_picture).to(target)
        of_mean = picture_losses(mean.expand_as(target), target).tolist()
        rows = []
        for place, (index, name) in enumerate(zip(batch["indices"], batch["names"], strict=True)):
            if index < 0:
                continue
            row = {"index": index, "name": name, "loss": losses[place], "mse": plain[place], "of_mean": of_mean[place]}
            if index < self.drawn:
                row["true"] = batch["images"][place, 0].cpu().numpy()
                row["generated"] = ((generated[place, 0].float() + 1) * 127.5).round().byte().cpu().numpy()
            rows.append(row)
        return rows

    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Mean loss, and how many times below what drawing the mean picture costs."""
        shown = [row for row in rows if "true" in row]
        grid = [(name, np.stack([row.pop(name) for row in shown])) for name in ("true", "generated")]
        loss, mse, of_mean = (float(np.mean([row[name] for row in rows])) for name in ("loss", "mse", "of_mean"))
        for row in rows:
            del row["index"], row["of_mean"]
        scores = {"loss": loss, "mse": mse, "below_mean_picture": of_mean / max(mse, 1e-12), "n": len(rows)}
        return Evaluation(scores, rows, grids={"pictures": grid})


def _unit(images: Tensor) -> Tensor:
    """Bytes (B, 1, H, W) to [-1, 1]."""
    return images.float() / 127.5 - 1
