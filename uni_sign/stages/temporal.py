"""Clips of skeletons to vectors: one of the whole clip, two of every second frame, one a frame."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uni_sign.config import at_least, flag
from uni_sign.data.holistic import REGIONS, Normalization
from uni_sign.data.holistic_clips import read_arrow
from uni_sign.data.keypoint_items import WindowItems
from uni_sign.data.sequences import Sequences, first_part, read_sequences, windows_of
from uni_sign.data.skeleton_images import draw_skeleton
from uni_sign.errors import InputError
from uni_sign.metrics.similarity import cosine_similarities, mean_similarity
from uni_sign.models.temporal import Fusion, TemporalSkeletonTransformer
from uni_sign.models.weights import load_checkpoint
from uni_sign.stages._keypoints import BEST, DEFAULTS, EncoderConfig, Keypoints, Trained, encoder_flags, read_trained
from uni_sign.stages.base import Batch, BestFile, Evaluation

_COMPARED = 200  # clips whose vectors are compared while training
_SHOWN = 24  # of them in the picture
_FRAME_BATCH = 512
_REGION_OF_POINT = np.repeat(np.arange(len(REGIONS)), list(REGIONS.values())).tolist()


@dataclass(frozen=True)
class TemporalConfig(EncoderConfig):
    """The flags of clips to vectors; those of the frame encoder come from its checkpoint, where there is one."""

    video_data_path: Path = flag(Path("video_sequences.pkl"), "the clips: a pickle, or an .arrow file")
    frame_encoder_checkpoint: str = flag("", "best_model.pth of the skeleton stage; default: an untrained encoder")
    freeze_frame_encoder: bool = flag(False, "keep the frame encoder as it is; its features are computed once")
    seq_len: int = flag(6, "frames of a training window", check=at_least(2))
    min_seq_len: int = flag(4, "frames of the shortest clip that is used", check=at_least(1))
    fusion_method: Fusion = flag("concat", "a frame's vectors side by side, or added by weight")
    d_temporal: int = flag(512, "width of a frame's vector", check=at_least(4))
    d_final: int = flag(512, "width of the global and the local vectors", check=at_least(4))
    temporal_nhead: int = flag(8, "attention heads over time", check=at_least(1))
    num_temporal_layers: int = flag(4, "transformer layers over time", check=at_least(1))
    num_decoder_layers: int = flag(4, "transformer layers of the decoder", check=at_least(1))
    temporal_dim_feedforward: int = flag(2048, "width of their feed-forward layers", check=at_least(1))
    temporal_dropout: float = flag(0.1, "dropout over time")

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.d_temporal % self.temporal_nhead:
            return f"--d_temporal {self.d_temporal} must be a multiple of --temporal_nhead {self.temporal_nhead}"
        if self.min_seq_len > self.seq_len:
            return f"--min_seq_len {self.min_seq_len} is more than --seq_len {self.seq_len}"
        if self.freeze_frame_encoder and not (self.frame_encoder_checkpoint or self.finetune):
            return "--freeze_frame_encoder needs --frame_encoder_checkpoint: an untrained one is worth nothing"
        return super().conflicts()


class Temporal(Keypoints):
    """Windows of skeletons to themselves, through the vector of the clip."""

    Config: ClassVar[type] = TemporalConfig
    name: ClassVar[str] = "temporal"
    best_file: ClassVar[BestFile] = BestFile("best_model_stage1.pth", BEST.weights, BEST.optimizer)
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "epochs": 50, "batch_size": 8}

    @cached_property
    def frame_encoder(self) -> Trained | None:
        """The trained skeleton model of ``--frame_encoder_checkpoint``."""
        path = self.config.frame_encoder_checkpoint
        return read_trained(Path(path), "skeleton") if path and self.trained is None else None

    @cached_property
    def sequences(self) -> Sequences:
        """What ``--video_data_path`` holds."""
        path = self.config.video_data_path
        sequences = read_arrow(path) if path.suffix == ".arrow" else read_sequences(path)
        if len(sequences) < 2:
            raise InputError(f"{path} holds one clip: one trains and another is held out.")
        return sequences

    @cached_property
    def normalization(self) -> Normalization:
        """That which the trained encoder knows, or that of the training part."""
        known = self.trained or self.frame_encoder
        if known is not None and known.normalization is not None:
            return known.normalization
        end = self.sequences.bounds[int(first_part(len(self.sequences), self.config.train_share).sum())]
        return Normalization.of(
            self.sequences.points[:end], self.sequences.present[:end], str(self.config.video_data_path)
        )

    @cached_property
    def points(self) -> np.ndarray:
        """All frames, normalised (F, 143, 3)."""
        return self.normalization.apply(self.sequences.points, self.sequences.present)

    @cached_property
    def splits(self) -> dict[str, WindowItems]:
        """Windows of the first clips, and of the others."""
        config, sequences = self.config, self.sequences
        trains = first_part(len(sequences), config.train_share)
        splits = {}
        for name, chosen in (("train", np.flatnonzero(trains)), ("val", np.flatnonzero(~trains))):
            windows = windows_of(sequences, config.seq_len, config.min_seq_len, chosen)
            if not len(windows):
                raise InputError(
                    f"{config.video_data_path}: none of the {len(chosen)} clips for {name} has --min_seq_len "
                    f"{config.min_seq_len} frames."
                )
            if windows.dropped:
                self.notes.append(
                    f"{name}: {windows.dropped} of {len(chosen)} clips have fewer than {config.min_seq_len} frames, "
                    "and are left out."
                )
            splits[name] = WindowItems(self.points, sequences.present, sequences.names, windows, config.seq_len)
        return splits

    def told_config(self) -> dict[str, Any]:
        """Sizes of frame encoder, those of its checkpoint where there is one, and of what stands over it."""
        if self.frame_encoder is None:
            frames = {**encoder_flags(self.config), "image_size": 256}
        else:
            names = (*encoder_flags(self.config), "image_size")
            frames = {name: self.frame_encoder.model_config[name] for name in names}
        own = {name: getattr(self.config, name) for name in TemporalConfig.__annotations__ if name not in _NOT_SIZES}
        return {**frames, **own}

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        super().check()
        sizes = self.model_config
        if sizes["fusion_method"] == "weighted" and sizes["d_global"] != sizes["d_region"]:
            raise InputError(
                f"--fusion_method weighted adds the global vector to the regions': --d_global {sizes['d_global']} must "
                f"be --d_region {sizes['d_region']}."
            )

    def prepare(self, accelerator: Any) -> None:
        """With a frozen frame encoder: what it makes of every frame, once, each rank a share of them."""
        if not self.config.freeze_frame_encoder:
            return
        encoder: Any = self.build_model().to(accelerator.device).eval()
        self.notes.clear()
        ranks, rank = accelerator.num_processes, accelerator.process_index
        share = -(-len(self.points) // ranks)
        own = np.minimum(np.arange(rank * share, (rank + 1) * share), len(self.points) - 1)
        features = accelerator.gather(_features(encoder, self.points[own], self.sequences.present[own]))
        of_frame = features.cpu().numpy()[: len(self.points)]
        self.splits = {name: replace(split, features=of_frame) for name, split in self.splits.items()}

    def starting_model(self) -> Any:
        """The model with the frame encoder of its own checkpoint."""
        model: Any = super().starting_model()
        if self.frame_encoder is not None:
            self.notes.append(load_checkpoint(model.frame_encoder, self.frame_encoder.weights))
        return model

    def _frozen(self, model: Any) -> Any:
        if self.config.freeze_frame_encoder:
            model.freeze_frame_encoder()
        return model

    def count_targets(self, batch: Batch) -> int:
        """Real frames of the windows that count."""
        return int((~batch["padding"]).sum()) if batch["counted"] else 0

    @cached_property
    def compared(self) -> set[int]:
        """The first windows of held-out clips, whose vectors are compared."""
        starts = np.unique(self.splits["val"].windows.sequence, return_index=True)[1]
        return set(starts[:_COMPARED].tolist())

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of each frame's points, summed over the real frames."""
        losses, _, _ = self._rebuilt(model, batch)
        return losses.sum() * float(batch["counted"]), {}

    def _rebuilt(self, model: TemporalSkeletonTransformer, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each frame (B, T), zero where it is padding; the clips' vectors, and their points anew."""
        points, padding = batch["points"], batch["padding"]
        found = model(points, padding, batch["present"], batch.get("features"))
        rebuilt = model.reconstruct(found.global_vector, points.shape[1], padding)
        seen = batch["present"][:, :, _REGION_OF_POINT]
        error = (rebuilt.float() - points.float()).square().mean(dim=3)
        of_frame = torch.where(seen, error, 0).sum(dim=2) / seen.sum(dim=2).clamp(min=1)
        return of_frame.masked_fill(padding, 0.0), found.global_vector, rebuilt

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """Loss of each window; of a clip's first window its vector, and of the first clip's its frames."""
        losses, vectors, rebuilt = self._rebuilt(model, batch)
        rows = []
        for place, (index, name) in enumerate(zip(batch["indices"], batch["names"], strict=True)):
            if index < 0:
                continue
            real = int((~batch["padding"][place]).sum())
            row: dict[str, Any] = {"index": index, "name": name, "loss": float(losses[place].sum() / real), "n": real}
            if index in self.compared:
                row["vector"] = vectors[place].float().cpu().numpy()
            if index == 0:
                row["drawn"] = rebuilt[place, :real].float().cpu().numpy()
            rows.append(row)
        return rows

    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Mean loss of a frame, and how alike the vectors of different clips are."""
        frames = np.array([row.pop("n") for row in rows])
        loss = float((np.array([row["loss"] for row in rows]) * frames).sum() / frames.sum())
        compared = [(row["name"], row.pop("vector")) for row in rows if "vector" in row]
        similarities = cosine_similarities(np.stack([vector for _, vector in compared]))
        grid = self._drawn(rows[0].pop("drawn"))
        for row in rows:
            del row["index"]
        labels = [name for name, _ in compared[:_SHOWN]]
        return Evaluation(
            {"loss": loss, "similarity": mean_similarity(similarities), "n": len(rows)},
            rows,
            grids={"frames": grid},
            matrices={"similarity": (labels, similarities[:_SHOWN, :_SHOWN])},
        )

    def _drawn(self, rebuilt: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """The first window of the held-out part and what the model made of it."""
        split = self.splits["val"]
        frames = slice(int(split.windows.first[0]), int(split.windows.first[0]) + len(rebuilt))
        present = self.sequences.present[frames]
        draw = partial(draw_skeleton, size=192)
        rows = (("true", self.sequences.points[frames]), ("rebuilt", self.normalization.undo(rebuilt)))
        return [(name, np.stack([draw(*one) for one in zip(points, present, strict=True)])) for name, points in rows]


_NOT_SIZES = ("video_data_path", "frame_encoder_checkpoint", "freeze_frame_encoder", "seq_len", "min_seq_len")


@torch.no_grad()
def _features(model: TemporalSkeletonTransformer, points: np.ndarray, present: np.ndarray) -> Tensor:
    """The frame encoder's vectors of frames (F, 143, 3), side by side."""
    device = next(model.parameters()).device
    parts = [
        model.frame_features(*(torch.from_numpy(v[at : at + _FRAME_BATCH])[None].to(device) for v in (points, present)))
        for at in range(0, len(points), _FRAME_BATCH)
    ]
    return torch.cat([part[0] for part in parts])


STAGE = Temporal
