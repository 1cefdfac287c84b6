"""Fine-tuning of Uni-Sign: poses and descriptions to a sentence (SLT), glosses (CSLR) or a word (ISLR)."""

from dataclasses import dataclass
from typing import ClassVar

from uni_sign.stages._config import TranslationConfig
from uni_sign.stages._translation import Translation


@dataclass(frozen=True)
class FineTuningConfig(TranslationConfig):
    """The flags of fine-tuning."""


class FineTuning(Translation):
    """The main job."""

    Config: ClassVar[type] = FineTuningConfig
    name: ClassVar[str] = "fine_tuning"


STAGE = FineTuning
