"""Noise to motion by rectified flow: speech to a talking face (FLOAT, arXiv 2412.01064), or text to signing."""

from collections.abc import Mapping
from typing import Any, ClassVar

from uni_sign.models.motion_models import FLOW
from uni_sign.stages._flow_config import RectifiedFlowConfig
from uni_sign.stages._sign_flow import SignFlow
from uni_sign.stages._speech_flow import SpeechFlow
from uni_sign.stages.base import BestFile


class RectifiedFlow:
    """The motion that ``--motion`` names; see `SpeechFlow` and `SignFlow`."""

    Config: ClassVar[type] = RectifiedFlowConfig
    name: ClassVar[str] = FLOW
    best_file: ClassVar[BestFile] = BestFile()
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"epochs": 100, "batch_size": 8, "lr": 1e-4, "min_lr": 1e-6, "warmup_epochs": 5.0, "weight_decay": 1e-5},
        **{"opt_eps": 1e-8, "sched": "cosine", "zero_stage": 0},
    }

    kinds: ClassVar[Mapping[str, Any]] = {"face": SpeechFlow, "signing": SignFlow}

    def __new__(cls, config: RectifiedFlowConfig, seed: int) -> Any:
        """The stage itself, which is of another class: the loop has one name for both."""
        return cls.kinds[config.motion](config, seed)


STAGE = RectifiedFlow
