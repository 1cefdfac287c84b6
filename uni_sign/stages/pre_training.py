"""Pre-training of Uni-Sign on a large corpus: poses alone (stage 1), then poses and hand crops (stage 2)."""

from dataclasses import dataclass
from typing import ClassVar

from uni_sign.stages._config import TranslationConfig
from uni_sign.stages._translation import Translation


@dataclass(frozen=True)
class PreTrainingConfig(TranslationConfig):
    """The flags of pre-training."""


class PreTraining(Translation):
    """What fine-tuning starts from: stage 2, with ``--rgb_support``, starts from stage 1's weights (``--finetune``)."""

    Config: ClassVar[type] = PreTrainingConfig
    name: ClassVar[str] = "pre_training"
    default_corpus: ClassVar[str] = "CSL_News"


STAGE = PreTraining
