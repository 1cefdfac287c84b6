"""Faces of 68 points to themselves, through a vector a region and one of the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uni_sign.config import at_least, flag
from uni_sign.data.holistic import SLICES, Frames, read_faces
from uni_sign.data.keypoint_items import FrameItems
from uni_sign.data.skeleton_images import draw_skeleton, face_alone
from uni_sign.stages._frames import FramesConfig, OfFrames
from uni_sign.stages._keypoints import DEFAULTS
from uni_sign.stages.base import Batch, Evaluation


@dataclass(frozen=True)
class HierarchicalKeypointConfig(FramesConfig):
    """The flags of faces to themselves."""

    num_decoder_layers: int = flag(4, "transformer layers of the decoder", check=at_least(1))

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if (self.d_global + self.d_region) % self.nhead:
            return f"--d_global plus --d_region must be a multiple of --nhead {self.nhead}"
        return super().conflicts()


class HierarchicalKeypoint(OfFrames):
    """An autoencoder of faces."""

    Config: ClassVar[type] = HierarchicalKeypointConfig
    name: ClassVar[str] = "hierarchical_keypoint"
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "epochs": 100, "batch_size": 16}

    def read_frames(self) -> Frames:
        """`keypoints_data.pkl`."""
        return read_faces(self.config.data_path)

    @cached_property
    def splits(self) -> dict[str, FrameItems]:
        """Training part and held-out one."""
        frames = self.frames
        points = self.normalization.apply(frames.points, frames.present)[:, SLICES["face"]]
        return {n: FrameItems(points, frames.present, frames.names, chosen) for n, chosen in self.parts.items()}

    def told_config(self) -> dict[str, Any]:
        """Sizes of encoder and decoder."""
        return {**super().told_config(), "num_decoder_layers": self.config.num_decoder_layers}

    @cached_property
    def mean_face(self) -> np.ndarray:
        """That of the training part (68, 3)."""
        train = self.splits["train"]
        mean: np.ndarray = train.points[train.chosen].mean(axis=0)
        return mean

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of each face, summed over those that count."""
        losses = _losses(model(batch["points"]), batch["points"])
        return losses.sum() * float(batch["counted"]), {}

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """Losses of each face, that of the mean face, and the first faces themselves."""
        points, rebuilt = batch["points"], model(batch["points"])
        losses = _losses(rebuilt, points).tolist()
        of_mean = _losses(torch.from_numpy(self.mean_face).to(points).expand_as(points), points).tolist()
        rows = zip(batch["indices"], batch["names"], losses, of_mean, range(len(points)), strict=True)
        return [
            {"index": index, "name": name, "loss": loss, "of_mean": mean}
            | ({"points": torch.stack([points[i], rebuilt[i].float()]).cpu().numpy()} if index < self.drawn else {})
            for index, name, loss, mean, i in rows
            if index >= 0
        ]

    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Mean loss, and how many times below that of the mean face."""
        shown = np.stack([row.pop("points") for row in rows if "points" in row])
        loss, of_mean = (float(np.mean([row[name] for row in rows])) for name in ("loss", "of_mean"))
        for row in rows:
            del row["index"], row["of_mean"]
        grid = [(name, self._drawn(shown[:, place])) for place, name in enumerate(("true", "rebuilt"))]
        scores = {"loss": loss, "below_mean_face": of_mean / max(loss, 1e-12), "n": len(rows)}
        return Evaluation(scores, rows, grids={"faces": grid})

    def _drawn(self, points: np.ndarray) -> np.ndarray:
        """Normalised faces (N, 68, 3) as pictures that they fill."""
        faces = self.normalization.undo(points)
        true = self.normalization.undo(self.mean_face)
        low, side = true[:, :2].min(axis=0), np.ptp(true[:, :2], axis=0).max()
        faces[..., :2] = (faces[..., :2] - low) / side * 0.7 + 0.15
        return np.stack([draw_skeleton(*one) for one in zip(*face_alone(faces), strict=True)])


def _losses(rebuilt: Tensor, points: Tensor) -> Tensor:
    return (rebuilt.float() - points.float()).square().mean(dim=(1, 2))


STAGE = HierarchicalKeypoint
