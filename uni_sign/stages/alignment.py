"""Clips in vectors to their texts, by mBART's decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uni_sign.config import above, at_least, between, flag
from uni_sign.data.keypoint_items import TextItems, stacked_texts
from uni_sign.data.representations import Representations, read_representations, read_texts
from uni_sign.data.sequences import first_part
from uni_sign.errors import InputError
from uni_sign.metrics.translation import translation_scores
from uni_sign.models.alignment import VideoLanguageAlignment
from uni_sign.models.keypoint_models import aligned
from uni_sign.models.mbart import MBartTexts, load_mbart, plain_config, read_mbart_config
from uni_sign.stages._keypoints import DEFAULTS, Keypoints
from uni_sign.stages.base import Batch, Evaluation


@dataclass(frozen=True)
class AlignmentConfig:
    """The flags of vectors to text."""

    finetune: str = flag("", "start from the weights of this best_model.pth")
    video_reprs_path: Path = flag(
        Path("temporal_representations_all/all_representations.npz"), "the clips in vectors, an .npz"
    )
    text_data_path: Path = flag(Path("text_data.json"), 'their texts: {"texts": [...]}')
    mbart_model_path: Path = flag(Path("pretrained_weight/mbart-large-50"), "mBART folder")
    tgt_lang: str = flag("", "language code of the texts, such as zh_CN; default: the tokenizer's own")
    freeze_mbart: bool = flag(False, "train the projection alone")
    use_temporal_tokens: bool = flag(False, "let the decoder attend to each frame's vector, too")
    cross_attention_heads: int = flag(16, "heads of a module that published checkpoints hold", check=at_least(1))
    dropout: float = flag(0.1, "dropout of the projection", check=between(0, 0.9))
    label_smoothing: float = flag(0.0, "label smoothing of the loss", check=between(0, 0.999))
    train_share: float = flag(0.8, "share of the clips that train: the first ones", check=between(0.01, 0.99))
    num_beams: int = flag(4, "beams of the search", check=at_least(1))
    max_length: int = flag(128, "most pieces of a text", check=above(1))


class Alignment(Keypoints):
    """mBART writes what a clip's vectors say."""

    Config: ClassVar[type] = AlignmentConfig
    name: ClassVar[str] = "alignment"
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "epochs": 20, "batch_size": 4}
    scaled: ClassVar[bool] = False

    @cached_property
    def representations(self) -> Representations:
        """What ``--video_reprs_path`` holds."""
        return read_representations(self.config.video_reprs_path)

    @cached_property
    def texts(self) -> list[str]:
        """What ``--text_data_path`` holds: a text a clip."""
        texts, clips = read_texts(self.config.text_data_path), len(self.representations)
        if len(texts) != clips:
            raise InputError(
                f"{self.config.text_data_path} holds {len(texts)} texts, {self.config.video_reprs_path} {clips} clips: "
                "each clip needs its text, in the same order."
            )
        if clips < 2:
            raise InputError(f"{self.config.video_reprs_path} holds one clip: one trains and another is held out.")
        return texts

    @cached_property
    def tokenizer(self) -> MBartTexts:
        """That of the mBART folder."""
        return MBartTexts(self.config.mbart_model_path, self.config.tgt_lang)

    @cached_property
    def splits(self) -> dict[str, TextItems]:
        """The first clips, and the others."""
        trains = first_part(len(self.texts), self.config.train_share)
        ids = self.tokenizer.encode_all(self.texts, self.config.max_length)
        return {
            name: TextItems(self.representations, np.flatnonzero(chosen), ids)
            for name, chosen in (("train", trains), ("val", ~trains))
        }

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        super().check()
        held, sizes = self.representations, self.model_config
        pieces, width = sizes["mbart"]["vocab_size"], sizes["mbart"]["d_model"]
        if pieces < len(self.tokenizer):
            raise InputError(
                f"{self.config.mbart_model_path}: the tokenizer has {len(self.tokenizer)} pieces, the model only "
                f"{pieces}: they do not belong together."
            )
        if width % sizes["cross_attention_heads"]:
            raise InputError(f"--cross_attention_heads {sizes['cross_attention_heads']} must divide mBART's {width}.")
        given = (held.global_reprs.shape[1] * 3, held.temporal_reprs.shape[2])
        if given != (sizes["video_repr_dim"], sizes["temporal_dim"] or given[1]):
            raise InputError(
                f"{self.config.video_reprs_path} holds vectors of widths {given}, but --finetune was trained on "
                f"{(sizes['video_repr_dim'], sizes['temporal_dim'])}."
            )

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """Items to a batch, padded."""
        return stacked_texts(items)

    def told_config(self) -> dict[str, Any]:
        """The shape of the folder's mBART, and of what stands before it."""
        held, config = self.representations, self.config
        return {
            "mbart": plain_config(read_mbart_config(config.mbart_model_path)),
            "video_repr_dim": held.global_reprs.shape[1] * 3,
            "temporal_dim": held.temporal_reprs.shape[2] if config.use_temporal_tokens else 0,
            "cross_attention_heads": config.cross_attention_heads,
            "dropout": config.dropout,
        }

    def starting_model(self) -> Any:
        """The model around the folder's mBART."""
        if self.trained is not None:
            return super().starting_model()
        return aligned(load_mbart(self.config.mbart_model_path), self.model_config)

    def _frozen(self, model: Any) -> Any:
        if self.config.freeze_mbart:
            model.freeze_mbart()
        return model

    def count_targets(self, batch: Batch) -> int:
        """Pieces to write."""
        return len(batch["target_position"]) if batch["counted"] else 0

    def _states(self, model: VideoLanguageAlignment, batch: Batch) -> tuple[Tensor, Tensor]:
        temporal = (batch["temporal"], batch["padding"]) if self.model_config["temporal_dim"] else ()
        states: tuple[Tensor, Tensor] = model(batch["global"], batch["local"], *temporal)
        return states

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy summed over the pieces."""
        labels, places = batch["labels"], batch["target_position"]
        loss = model.summed_loss(*self._states(model, batch), labels, places, self.config.label_smoothing)
        return loss * float(batch["counted"]), {}

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """What is written of each clip, and the loss of the batch with its first row."""
        states, mask = self._states(model, batch)
        loss = float(model.summed_loss(states, mask, batch["labels"], batch["target_position"], 0.0))
        synced = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
        start = self.tokenizer.start()
        ids = model.generate(
            states,
            mask,
            self.config.num_beams,
            self.config.max_length,
            early_stopping=True,
            decoder_start_token_id=start.decoder_start,
            forced_bos_token_id=start.forced,
            synced_gpus=synced,
        )
        written = self.tokenizer.decode_all(ids.cpu().tolist())
        clips = self.splits["val"].chosen
        rows = [
            {
                **{"index": index, "name": name, "prediction": text, "reference": self.texts[clips[index]]},
                **{"language": self.config.tgt_lang, "summed_loss": 0.0},
            }
            for index, name, text in zip(batch["indices"], batch["names"], written, strict=True)
            if index >= 0
        ]
        if rows:
            rows[0]["summed_loss"] = loss
        return rows

    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Loss of a piece, BLEU, ROUGE-L and chrF."""
        split = self.splits["val"]
        pieces = sum(len(split.ids[clip]) for clip in split.chosen)
        loss = sum(row.pop("summed_loss") for row in rows) / pieces
        for row in rows:
            del row["index"]
        style: Any = "characters" if self._chinese else "words"
        predictions, references = ([row[name] for row in rows] for name in ("prediction", "reference"))
        scores = translation_scores(predictions, references, [style] * len(rows))
        return Evaluation({"loss": loss, **scores, "n": len(rows)}, rows)

    @property
    def _chinese(self) -> bool:
        """Whether texts are scored by character: most of them have no spaces, and letters beyond ASCII."""
        return sum(not text.isascii() and " " not in text.strip() for text in self.texts) > len(self.texts) / 2


STAGE = Alignment
