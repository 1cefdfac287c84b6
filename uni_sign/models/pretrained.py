"""Weights of transformers from a local folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from uni_sign.errors import InputError


def load_pretrained(kind: Any, folder: Path, config: Any, what: str, may_lack: Callable[[str], bool]) -> Any:
    """A model of transformers in float32, in training mode; ``what`` names it in errors.

    Raises InputError where the weights cannot be read, or lack a tensor that they may not lack.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder, config=config, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        # from_pretrained answers a truncated or foreign file with whatever its reader raised.
        raise InputError(f"The {what} weights in {folder} cannot be loaded: {first_line(error)}") from error
    missing = sorted(name for name in info["missing_keys"] if not may_lack(name))
    if missing:
        raise InputError(
            f"The {what} weights in {folder} lack {len(missing)} tensors, first {missing[0]}: copy the folder again."
        )
    # from_pretrained gives it in evaluation mode: without dropout, and with nothing recomputed.
    return model.train()


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__
