"""A checkpoint file to the stage it came from, with that run's flags."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uni_sign.config import parse_flags
from uni_sign.data.safe_pickle import load_tensors
from uni_sign.errors import InputError
from uni_sign.stages.base import load_stage

# What belongs to the run that made the checkpoint, not to its model.
_NOT_KEPT = ("finetune", "fusion_checkpoint", "fusion_only", "text_cache")


def stage_of(path: Path, argv: Sequence[str], *kinds: Any, program: str) -> tuple[Any, list[Any]]:
    """The stage class of a checkpoint, and parsed ``kinds`` followed by the stage's config.

    Flags not given in ``argv`` are those of the run that made the checkpoint. Raises InputError for a file that
    says of no stage, such as published weights.
    """
    content = load_tensors(path)
    stage, flags = content.get("stage"), content.get("config")
    if not isinstance(stage, str) or not isinstance(flags, dict):
        raise InputError(
            f"{path} does not say how it was trained: use `uni-sign train <stage> --eval --finetune {path}`."
        )
    stage_type = load_stage(stage)
    kept = {name: value for name, value in flags.items() if name not in _NOT_KEPT}
    parsed = parse_flags(argv, *kinds, stage_type.Config, program=program, defaults={**kept, "finetune": str(path)})
    return stage_type, parsed
