"""`uni-sign trim`: an mT5 folder with the part of the vocabulary that a corpus needs."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from uni_sign.config import check_values, parse_flags
from uni_sign.data.vocabulary import KEPT_FILE
from uni_sign.errors import InputError
from uni_sign.models.mt5 import load_mt5
from uni_sign.models.vocabulary import sliced
from uni_sign.stages.base import load_stage

STAGE = "fine_tuning"


def trim(target: Path, argv: Sequence[str]) -> int:
    """Write the folder, for ``--mt5``: what ``--trim_vocab`` with these flags would keep; nothing is overwritten."""
    stage_type = load_stage(STAGE)
    (given,) = parse_flags(argv, stage_type.Config, program="uni-sign trim")
    if given.finetune:
        raise InputError("uni-sign trim cuts an mT5 folder, not a checkpoint: leave out --finetune.")
    if target.exists():
        raise InputError(f"{target} exists already: choose another name.")
    # The folder may serve a text encoder, frozen or not: with --use_descriptions it keeps their pieces, too.
    config = dataclasses.replace(given, trim_vocab=True, text_encoder_freeze=False)
    check_values(config)
    stage = stage_type(config, 0)
    before, after = _write_beside(stage, target)
    pieces = len(stage.folder_tokenizer)
    print(f"pieces      {pieces:>13,} -> {len(stage.tokenizer):>13,}")
    print(f"parameters  {before:>13,} -> {after:>13,}  ({100 * (1 - after / before):.1f} % fewer)")
    print(f"Wrote {target}: give it as --mt5 {target}, without --trim_vocab")
    return 0


def _write_beside(stage: Any, target: Path) -> tuple[int, int]:
    """All files, under another name until they are complete; mT5's parameters before and after."""
    _ = stage.kept  # wrong flags and files are told before anything is written
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        sizes = _write(stage, partial)
        partial.rename(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}): choose another place.") from error
    return sizes


def _write(stage: Any, folder: Path) -> tuple[int, int]:
    kept, source = stage.kept, stage.mt5_folder
    weights = {name: value for name, value in load_mt5(source).state_dict().items() if "embed_tokens" not in name}
    cut = sliced(weights, kept.ids, kept.rows)
    shape = {**json.loads((source / "config.json").read_text(encoding="utf-8")), "vocab_size": len(kept.ids)}
    (folder / "config.json").write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    (folder / KEPT_FILE).write_text(json.dumps(kept.plain()) + "\n", encoding="utf-8")
    (folder / "spiece.model").write_bytes(stage.tokenizer.model_bytes)
    save_file(cut, folder / "model.safetensors", metadata={"format": "pt"})
    before, after = (sum(value.numel() for value in some.values()) for some in (weights, cut))
    return before, after
