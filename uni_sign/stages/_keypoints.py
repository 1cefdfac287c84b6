"""What the stages of the keypoint pipeline share: flags, files of trained models, scores."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from uni_sign.config import above, at_least, between, flag
from uni_sign.data.holistic import Normalization
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.errors import InputError
from uni_sign.models.hierarchical import EncoderSizes
from uni_sign.models.keypoint_models import keypoint_model
from uni_sign.models.weights import Checkpoint, load_checkpoint, unwrap
from uni_sign.stages._held_out_loss import HeldOutLoss
from uni_sign.stages.base import BestFile

BEST = BestFile("best_model.pth", "model_state_dict", "optimizer_state_dict")
# Adam, as users know these stages.
DEFAULTS = {
    "lr": 1e-4,
    "opt_eps": 1e-8,
    "weight_decay": 0.0,
    "sched": "plateau",
    "dtype": "fp32",
    "zero_stage": 0,
}


@dataclass(frozen=True)
class EncoderConfig:
    """The flags of a hierarchical encoder."""

    finetune: str = flag("", "start from the weights of this best file, with its sizes and its scaling of points")
    d_global: int = flag(256, "width of the global vector", check=at_least(4))
    d_region: int = flag(128, "width of a region's vector", check=at_least(4))
    nhead: int = flag(8, "attention heads; the encoder's have half as many", check=at_least(2))
    num_region_layers: int = flag(2, "transformer layers of each region", check=at_least(1))
    num_interaction_layers: int = flag(2, "transformer layers over the regions", check=at_least(1))
    dim_feedforward: int = flag(1024, "width of the feed-forward layers; the encoder's have half of it", check=above(1))
    dropout: float = flag(0.1, "dropout", check=between(0, 0.9))
    train_share: float = flag(0.8, "share of the frames that train: the first clips", check=between(0.01, 0.99))

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        heads = self.nhead // 2
        if self.nhead % 2 or self.d_region % heads:
            return f"--d_region {self.d_region} must be a multiple of half of --nhead {self.nhead}, which is even"
        return None


def encoder_flags(config: EncoderConfig) -> dict[str, Any]:
    """The encoder's sizes as the flags say, as plain values."""
    return {"input_dim": 3, **{f.name: getattr(config, f.name) for f in fields(EncoderSizes) if f.name != "input_dim"}}


@dataclass(frozen=True)
class Trained:
    """A best file of a stage: what rebuilds its model, its weights, and how its points were scaled, if it has any."""

    source: str
    model_config: dict[str, Any]
    weights: Checkpoint
    normalization: Normalization | None


def read_trained(path: Path, stage: str, scaled: bool = True) -> Trained:
    """The best file of ``stage``; ``scaled``: it must hold how points were scaled.

    Raises InputError for anything else, and where its ``model_config`` describes no model.
    """
    content = load_tensors(path)
    config, scaling = content.get("model_config"), content.get("normalization")
    if not isinstance(config, dict) or not isinstance(scaling, dict):
        raise InputError(f"{path} holds no model_config and normalization: give a best file of {stage}.")
    if config.get("stage") != stage:
        raise InputError(f"{path} is of the stage {config.get('stage')}, not {stage}.")
    try:
        with torch.device("meta"):
            keypoint_model(config)
        normalization = Normalization.from_plain(scaling) if scaled else None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} describes no model that can be built: {error}.") from None
    return Trained(str(path), config, unwrap(content, str(path)), normalization)


class Keypoints(HeldOutLoss):
    """A stage of the keypoint pipeline.

    A stage of its own gives the splits, what its flags say of the model, the loss, and scores.
    """

    best_file: ClassVar[BestFile] = BEST
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS
    scaled: ClassVar[bool] = True
    """Whether it reads points, which are scaled."""

    @abstractmethod
    def told_config(self) -> dict[str, Any]:
        """What the flags and files of this stage say of the model, without its name."""

    @cached_property
    def trained(self) -> Trained | None:
        """The model of ``--finetune``."""
        return read_trained(Path(self.config.finetune), self.name, self.scaled) if self.config.finetune else None

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """All that rebuilds the model: that of ``--finetune``, or what is told here."""
        return {"stage": self.name, **self.told_config()} if self.trained is None else self.trained.model_config

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        _ = self.trained, self.splits

    def meta_model(self) -> nn.Module:
        """The model without its weights."""
        with torch.device("meta"):
            return self._frozen(keypoint_model(self.model_config))

    def build_model(self) -> nn.Module:
        """The model with its starting weights."""
        model = self._frozen(self.starting_model())
        if self.trained is not None:
            self.notes += [load_checkpoint(model, self.trained.weights), *self._sizes_note()]
        return model

    def starting_model(self) -> nn.Module:
        """The model before ``--finetune``, its weights drawn at random."""
        return keypoint_model(self.model_config)

    def _frozen(self, model: nn.Module) -> nn.Module:
        """The model, with what does not train frozen."""
        return model

    def _sizes_note(self) -> list[str]:
        told = self.told_config()
        other = [name for name, value in told.items() if self.model_config.get(name, value) != value]
        if not other:
            return []
        named = ", ".join(f"{name} {self.model_config[name]} (told {told[name]})" for name in other if name != "mbart")
        return [f"Its sizes are those of --finetune, not of flags or defaults: {named or 'mBART'}."]

    def hot_modules(self, model: Any) -> list[nn.Module]:
        """The transformers' layers."""
        kinds = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
        return [module for module in model.modules() if isinstance(module, kinds)]

    @property
    def normalization(self) -> Normalization | None:
        """How points are scaled, where this stage reads any."""
        return None

    def checkpoint_extras(self) -> dict[str, Any]:
        """Stage, flags, and all that rebuilds the model."""
        scaling = self.normalization.plain() if self.normalization is not None else {}
        return {
            "stage": self.name,
            "config": self.plain_flags(),
            "model_config": self.model_config,
            "normalization": scaling,
        }
