"""Keypoints to pictures, as two stages share it: of whole skeletons, and of faces."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uni_sign.config import at_least, flag
from uni_sign.data.holistic import Frames, Normalization, training_part
from uni_sign.data.keypoint_items import FrameItems, boxes_of
from uni_sign.data.skeleton_images import SkeletonImages
from uni_sign.errors import InputError
from uni_sign.models.hierarchical import HierarchicalImageTransformer
from uni_sign.models.picture_loss import STATIC_BOXES, box_weights, picture_losses
from uni_sign.stages._keypoints import EncoderConfig, Keypoints, encoder_sizes
from uni_sign.stages.base import Batch, Evaluation

_DRAWN = 8
_OF_MEAN = 512  # training pictures that the mean picture is taken of


def _power_of_two(value: int) -> str | None:
    return None if value in (16, 32, 64, 128, 256, 512, 1024) else "must be a power of two from 16 to 1024"


@dataclass(frozen=True)
class PictureConfig(EncoderConfig):
    """The flags of keypoints to pictures."""

    data_path: Path = flag(Path("sign_language_keypoints.pkl"), "the keypoints: a pickle")
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


class Pictures(Keypoints):
    """Points to a picture of them."""

    regions: ClassVar[Sequence[tuple[int, int]]]
    drawn = _DRAWN
    """How many pictures an evaluation hands back."""

    def read_frames(self) -> Frames:
        """The frames of ``--data_path``; faces as skeletons of nothing else."""
        raise NotImplementedError

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The model's points and regions."""
        raise NotImplementedError

    @cached_property
    def frames(self) -> Frames:
        """What ``--data_path`` holds."""
        frames = self.read_frames()
        if len(frames) < 2:
            raise InputError(f"{self.config.data_path} holds {len(frames)} frame: one trains and another is held out.")
        return frames

    @cached_property
    def trains(self) -> np.ndarray:
        """Which frames train (N,)."""
        return training_part(self.frames.clips, self.config.train_share)

    @cached_property
    def normalization(self) -> Normalization:
        """That of ``--finetune``, or of the training part."""
        if self.trained is not None:
            return self.trained.normalization
        return Normalization.of(self.frames.points[self.trains], self.frames.present[self.trains])

    @cached_property
    def images(self) -> SkeletonImages:
        """The true pictures."""
        folder = Path(self.config.image_cache or self.config.data_path.parent / ".cache")
        return SkeletonImages(self.frames.points, self.frames.present, self.config.image_size, folder)

    @cached_property
    def splits(self) -> dict[str, FrameItems]:
        """Training part and held-out one, no clip in both."""
        frames = self.frames
        points = self.normalization.apply(frames.points, frames.present)
        boxes = None
        if self.config.use_weighted_loss:
            boxes = boxes_of(frames.points, frames.present)
            if self.config.static_loss_regions:
                boxes[:] = STATIC_BOXES
        parts = {"train": np.flatnonzero(self.trains), "val": np.flatnonzero(~self.trains)}
        return {
            name: FrameItems(points, frames.present, frames.names, chosen, self.images, boxes)
            for name, chosen in parts.items()
        }

    @cached_property
    def mean_picture(self) -> np.ndarray:
        """That of the training part (size, size), in [-1, 1]: what knows nothing of a frame would draw."""
        chosen = np.flatnonzero(self.trains)
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), _OF_MEAN)).astype(int)]
        total = np.zeros((self.config.image_size,) * 2)
        for frame in chosen:
            total += self.images[frame]
        return total / len(chosen) / 127.5 - 1

    def make_model(self) -> HierarchicalImageTransformer:
        """The model, its weights drawn at random."""
        return HierarchicalImageTransformer(self.regions, encoder_sizes(self.config), self.config.image_size)

    def build_datasets(self) -> Any:
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
        return box_weights(batch["boxes"], weights, config.image_size)

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

    def model_config(self) -> dict[str, Any]:
        """Sizes of encoder and picture."""
        return {**vars(encoder_sizes(self.config)), "image_size": self.config.image_size}

    def extras(self) -> dict[str, Any]:
        """How points are scaled."""
        return {"normalization": self.normalization.plain()}


def _unit(images: Tensor) -> Tensor:
    """Bytes (B, 1, H, W) to [-1, 1]."""
    return images.float() / 127.5 - 1
