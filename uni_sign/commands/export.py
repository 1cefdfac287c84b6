"""`uni-sign export`: best_checkpoint.pth to a folder of safetensors + config.json, and back."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from uni_sign.data.safe_tensors import load_tensors
from uni_sign.errors import InputError
from uni_sign.models.weights import unwrap

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def export(source: Path, target: Path) -> None:
    """A ``.pth`` file becomes a folder, a folder a ``.pth`` file; nothing is overwritten."""
    if target.exists():
        raise InputError(f"{target} exists already: choose another name.")
    try:
        if source.is_dir():
            _to_pth(source, target)
        else:
            _to_folder(source, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}): choose another place.") from error
    print(f"Wrote {target}")


def _to_folder(source: Path, target: Path) -> None:
    checkpoint = unwrap(load_tensors(source), str(source))
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


def _to_pth(source: Path, target: Path) -> None:
    content = read_exported(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, target)


def _plain(value: Any) -> bool:
    """Whether a value is what flags are: scalars, lists of scalars, and dicts of both."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and (_scalar(item) or _scalars(item)) for key, item in value.items())
    return _scalar(value) or _scalars(value)


def _scalars(value: Any) -> bool:
    return isinstance(value, list) and all(map(_scalar, value))


def _scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None)))
