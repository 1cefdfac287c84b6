"""`uni-sign export`: best_checkpoint.pth to a folder of safetensors + config.json, and back."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from uni_sign.commands.export_motion import float_weights, is_motion
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.vocabulary import kept_from, tokenizer_digest
from uni_sign.errors import InputError
from uni_sign.models.mt5 import load_mt5, read_config
from uni_sign.models.vocabulary import restored
from uni_sign.models.weights import Checkpoint, unwrap

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def export(source: Path, target: Path, full_vocab: Path | None = None) -> None:
    """A ``.pth`` file becomes a folder, a folder a ``.pth`` file; nothing is overwritten.

    A best file of talking faces becomes a ``.pth`` of FLOAT's form where ``target`` ends with that. With
    ``full_vocab``, an mT5 folder, a trimmed model gets its whole vocabulary back, and ``target`` is a file where
    its name ends with ``.pth``.
    """
    if target.exists():
        raise InputError(f"{target} exists already: choose another name.")
    to_file = source.is_dir()
    content = read_exported(source) if source.is_dir() else load_tensors(source)
    if full_vocab is not None:
        to_file = target.suffix == ".pth"
        content = with_full_vocabulary(unwrap(content, str(source)), full_vocab)
    elif not to_file and target.suffix == ".pth" and is_motion(content):
        to_file, content = True, dict(float_weights(content, str(source)))
    try:
        if to_file:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, target)
        else:
            _to_folder(unwrap(content, str(source)), target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}): choose another place.") from error
    print(f"Wrote {target}")


def with_full_vocabulary(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """A trimmed checkpoint's content with its whole vocabulary, the rows that it does not keep being the mT5 folder's.

    Raises InputError where it is not trimmed, or was trimmed from another mT5.
    """
    source, extras = checkpoint.source, dict(checkpoint.extras)
    if "kept_pieces" not in extras:
        raise InputError(f"{source} says of no trimmed vocabulary: leave out --full_vocab.")
    kept = kept_from(extras.pop("kept_pieces"), source)
    if (read_config(folder).vocab_size, tokenizer_digest(Tokenizer(folder))) != (kept.rows, kept.tokenizer):
        raise InputError(f"--full_vocab {folder} is not the mT5 that {source} was trimmed from: give that one.")
    weights = restored(checkpoint.weights, kept.ids, load_mt5(folder).state_dict())
    flags = extras["config"] if isinstance(extras.get("config"), dict) else {}
    if flags.get("trim_vocab"):
        extras["config"] = {**flags, "trim_vocab": False}
    elif flags:  # its --mt5 was a trimmed folder
        extras["config"] = {**flags, "mt5": str(folder)}
    texts = [name for name in weights if name.startswith("text_encoder.")]
    if not flags.get("trim_vocab") or any(weights[name] is not checkpoint.weights[name] for name in texts):
        extras.pop("text_encoder_fingerprint", None)  # of an encoder of another vocabulary
    return {"model": weights, **extras}


def _to_folder(checkpoint: Checkpoint, target: Path) -> None:
    first: dict[tuple[int, torch.Size], str] = {}
    tied: dict[str, str] = {}
    weights: dict[str, Tensor] = {}
    for name, value in checkpoint.weights.items():
        # safetensors refuses tied tensors: each is stored once, its other names in the config.
        owner = first.setdefault((value.data_ptr(), value.shape), name)
        if owner == name:
            weights[name] = value.contiguous()
        else:
            tied[name] = owner
    extras = {key: value for key, value in checkpoint.extras.items() if _plain(value)}
    config = json.dumps({**extras, "tied": tied}, indent=1)
    target.mkdir(parents=True)
    save_file(weights, target / _WEIGHTS, metadata={"format": "pt"})
    (target / _CONFIG).write_text(config)


def read_exported(folder: Path) -> dict[str, Any]:
    """What `export` wrote to a folder, as it was in the ``.pth`` file; raises InputError where it is broken."""
    try:
        extras: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        tied: dict[str, str] = dict(extras.pop("tied").items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{folder / _CONFIG} is missing or not one that `uni-sign export` wrote.") from error
    weights = load_tensors(folder / _WEIGHTS)
    missing = [owner for owner in tied.values() if not isinstance(owner, str) or owner not in weights]
    if missing:
        raise InputError(f"{folder / _WEIGHTS} lacks {missing[0]}: export it again.")
    return {"model": {**weights, **{name: weights[owner] for name, owner in tied.items()}}, **extras}


def _plain(value: Any) -> bool:
    """Whether a value is what flags are: scalars, lists of scalars, and dicts of both."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and (_scalar(item) or _scalars(item)) for key, item in value.items())
    return _scalar(value) or _scalars(value)


def _scalars(value: Any) -> bool:
    return isinstance(value, list) and all(map(_scalar, value))


def _scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None)))
