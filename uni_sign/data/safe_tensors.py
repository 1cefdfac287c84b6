"""Reads checkpoints that come from strangers: their tensors and plain data, and nothing that would run.

`torch.load(weights_only=True)` runs no foreign code, but calls that it allows can fill the memory from a file of a
hundred bytes. So the programs in a checkpoint are rehearsed first, with nothing behind the names in them.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uni_sign.data.safe_pickle import (
    SHALLOW_TUPLES,
    DataUnpickler,
    InertName,
    RefusedError,
    check_file,
    check_program,
    inert,
)
from uni_sign.errors import InputError

MAX_DIMENSIONS = 64  # of a tensor, as in torch


def load_tensors(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint, `.safetensors` or what `torch.save` wrote, onto the CPU, memory-mapped if possible.

    Raises InputError, naming the file, when it cannot be read, is damaged, is no dict with str keys, or holds
    anything but dense tensors, dicts, lists, tuples, text and numbers.
    """
    path = Path(path)
    check_file(path)
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise InputError(f"{path} holds no dict of named tensors: give a checkpoint's state dict.")
    return loaded


def _load_torch(path: Path) -> Any:
    import torch

    try:
        zipped = zipfile.is_zipfile(path)
        for program in _zipped_programs(path) if zipped else _plain_programs(path):
            _rehearse(program, path.stat().st_size)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except RefusedError as refused:
        raise InputError(
            f"{path} asks for {refused}, and was refused before anything ran: save the state dict alone."
        ) from None
    except Exception:  # torch.load raises a dozen types, by version and by kind of damage
        raise InputError(f"{path} is not a checkpoint, or is damaged or cut short: get it anew.") from None


def _load_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception:  # SafetensorError, or what a header that lies provokes
        raise InputError(f"{path} is not a safetensors file, or is damaged: get it anew.") from None


def _zipped_programs(path: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise RefusedError("decompression, which torch.save never needs")
        yield from (archive.read(entry) for entry in entries if entry.filename.endswith("data.pkl"))


def _plain_programs(path: Path) -> Iterator[bytes]:
    """The five pickles at the start of a file as torch wrote them before 1.6: three of its own, content, keys."""
    with path.open("rb") as file:
        for _ in range(5):
            start = file.tell()
            for _ in pickletools.genops(file):
                pass
            size = file.tell() - start
            file.seek(start)
            yield file.read(size)


# --- the rehearsal -----------------------------------------------------------------------------------------


class _OrderedDict(dict[Any, Any]):
    """Stands for an OrderedDict; a state dict has one attribute, and others could take the place of its methods."""

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict or state.keys() - {"_metadata"}:
            raise RefusedError("attributes of a dict")


def _make_ordered_dict(*items: Any) -> _OrderedDict:
    if items:
        raise RefusedError("a dict made of another, which can be done again and again")
    return _OrderedDict()


def _make_size(size: Any) -> InertName:
    if type(size) is not tuple or len(size) > MAX_DIMENSIONS:  # a long one could be copied again and again
        raise ValueError("not a size")
    return InertName()


def _make_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> InertName:
    """A tensor must lie inside its storage and not be larger: torch would make the storage larger."""
    _make_size(size)
    if type(storage) is not _Storage or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise TypeError("not a tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.numel or (math.prod(size) and last >= storage.numel):
        raise ValueError("a tensor larger than its storage")
    return InertName()


class _Storage:
    """Stands for a storage of `numel` numbers."""

    __slots__ = ("numel",)

    def __init__(self, numel: int) -> None:
        self.numel = numel


def _make_nothing(*_: Any) -> InertName:
    return InertName()


_TORCH_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _make_ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _make_tensor,  # of the newer dtypes
    ("torch._utils", "_rebuild_parameter"): _make_nothing,
    ("torch", "Size"): _make_size,
    ("torch", "device"): _make_nothing,
}
_TORCH_TYPE = re.compile(r"[A-Z][A-Za-z0-9]*Storage|b?float[0-9a-z_]+|u?int[0-9]+|bool|complex[0-9]+")


class _Rehearsal(DataUnpickler):
    """Runs a checkpoint's program with nothing behind its names: torch allows some that fill the memory."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.left = size
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TORCH_NAMES:
            return inert(_TORCH_NAMES[module, name])
        if module in ("torch", "torch.storage") and _TORCH_TYPE.fullmatch(name):
            return InertName()
        raise RefusedError(ascii(f"{module}.{name}"[:120])[1:-1])

    def persistent_load(self, pid: Any) -> _Storage:
        kind, _, key, _, numel, *_ = pid
        if kind != "storage" or type(key) is not str or type(numel) is not int or numel < 0:
            raise ValueError("not a storage")
        if key not in self.storages:
            self.left -= numel
            self.storages[key] = _Storage(numel)
        if self.left < 0 or self.storages[key].numel != numel:
            raise ValueError("storages larger than the file")
        return self.storages[key]


def _rehearse(program: bytes, size: int) -> None:
    """Raises where `torch.load` would run anything but data, or take more memory than the `size` of the file."""
    if check_program(program, persistent=True) > SHALLOW_TUPLES:
        raise RefusedError("more tuples than a checkpoint has")
    _Rehearsal(program, size).load()
