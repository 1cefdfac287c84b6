"""A checkpoint file to the stage it came from, with that run's flags."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uni_sign.config import flag, parse_flags
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.errors import InputError
from uni_sign.stages.base import load_stage

# What belongs to the run that made the checkpoint, not to its model.
_NOT_KEPT = ("finetune", "fusion_checkpoint", "fusion_only", "rgb_backbone", "text_cache")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """The checkpoint to work with."""

    checkpoint: Path = flag(Path("best_checkpoint.pth"), "weights of a finished run")


def checkpoint_flag(argv: Sequence[str]) -> Path:
    """The value of ``--checkpoint``, needed before the other flags can be read: it brings their defaults."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--checkpoint":
            return Path(following)
        if word.startswith("--checkpoint="):
            return Path(word.partition("=")[2])
    raise InputError("Give the weights of a finished run: --checkpoint out/run/best_checkpoint.pth.")


def stage_of(
    path: Path, argv: Sequence[str], *kinds: Any, program: str, defaults: Mapping[str, Any] | None = None
) -> tuple[Any, list[Any]]:
    """The stage class of a checkpoint, and parsed ``kinds`` followed by the stage's config.

    Flags not given in ``argv`` come from ``defaults``, then from the run that made the checkpoint. Raises
    InputError for a file that says of no stage, such as published weights.
    """
    content = load_tensors(path)
    stage, flags, run_flags = content.get("stage"), content.get("config"), content.get("run")
    if not isinstance(stage, str) or not isinstance(flags, dict) or not isinstance(run_flags, dict):
        raise InputError(
            f"{path} does not say how it was trained: use `uni-sign train <stage> --eval --finetune {path}`."
        )
    try:
        stage_type = load_stage(stage)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    known = {field.name for kind in (*kinds, stage_type.Config) for field in dataclasses.fields(kind)}
    kept = {name: value for name, value in {**run_flags, **flags, **(defaults or {})}.items() if name in known}
    kept = {name: value for name, value in kept.items() if name not in _NOT_KEPT}
    kept["finetune"] = str(path)
    source = f"the flags in {path}"
    return stage_type, parse_flags(argv, *kinds, stage_type.Config, program=program, defaults=kept, source=source)
