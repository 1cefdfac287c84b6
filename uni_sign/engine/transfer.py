"""A batch on its way from a data-loading process, in one piece of shared memory.

torch hands over each tensor by itself, and each time the run waits for a connection between the two processes: a
third of a millisecond, twenty times a batch. Here a batch is one tensor of bytes, into which its tensors are views.
"""

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_ALIGNMENT = 64
_Place = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]


class InOnePiece:
    """Collates like ``collate``; in a data-loading process, what it gives travels in one piece."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, items: Sequence[Any]) -> Any:
        batch = self._collate(items)
        return batch if get_worker_info() is None else _Parcel(batch)


class _Parcel:
    """Pickles as a call that gives the batch itself."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpacked, _packed(self._batch)


class _Packer(pickle.Pickler):
    """Leaves tensors out, each with the place that it will have among the bytes."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[Tensor, _Place]] = []
        self.size = 0

    def persistent_id(self, value: Any) -> _Place | None:
        if not isinstance(value, Tensor):
            return None
        tensor = value if _is_dense(value) else value.contiguous()
        place = (self.size, tensor.dtype, tensor.shape, tensor.stride())
        self.tensors.append((tensor, place))
        self.size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        return place


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, content: Tensor) -> None:
        super().__init__(file)
        self._content = content

    def persistent_load(self, place: _Place) -> Tensor:
        return _view(self._content, place)


def _packed(batch: Any) -> tuple[Tensor, bytes]:
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(batch)
    content = torch.empty(0, dtype=torch.uint8)
    content.set_(torch.UntypedStorage._new_shared(packer.size))
    for tensor, place in packer.tensors:
        _view(content, place).copy_(tensor)
    return content, file.getvalue()


def _unpacked(content: Tensor, words: bytes) -> Any:
    return _Unpacker(io.BytesIO(words), content).load()


def _view(content: Tensor, place: _Place) -> Tensor:
    start, dtype, shape, stride = place
    size = shape.numel() * dtype.itemsize
    return content[start : start + size].view(dtype).as_strided(shape, stride)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, in whatever order of the axes."""
    steps = sorted((step, size) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    filled = 1
    for step, size in steps:
        if step != filled:
            return False
        filled *= size
    return tensor.numel() > 0
