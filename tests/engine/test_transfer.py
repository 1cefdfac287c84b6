"""Batches come out of data-loading processes as they went in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from uni_sign.engine.transfer import InOnePiece


def batch_of(numbers: list[int]) -> dict[str, Any]:
    """Tensors of many kinds: planes, views, nothing, one value, half precision; at any depth; and other things."""
    first = numbers[0]
    grid = torch.arange(24.0).reshape(2, 3, 4) + first
    return {
        "grid": grid,
        "planes": grid.permute(1, 2, 0),
        "every_other": grid[:, ::2, 1:],
        "expanded": torch.ones(3, 1).expand(3, 4),
        "empty": torch.empty(0, 5),
        "one": torch.tensor(first),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "groups": [torch.arange(n) for n in range(3)],
        "names": [f"clip {n}" for n in numbers],
        "counted": first > 1,
        "nested": {"a": (torch.eye(2), None)},
    }


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        if index == 5:
            raise ValueError("the last is broken")
        return index


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], value) for key, value in theirs.items())
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_what_collate_made(workers: int) -> None:
    numbers = [[0, 1], [2], [3, 4]]
    loader = DataLoader(Numbers(), batch_sampler=numbers, num_workers=workers, collate_fn=InOnePiece(batch_of))
    batches = list(loader)
    assert type(batches[0]) is dict
    for batch, made in zip(batches, numbers, strict=True):
        expected = batch_of(made)
        assert same(batch, expected)
        assert batch["planes"].stride() == expected["planes"].stride()
        assert batch["grid"].is_contiguous()
    batches[0]["grid"] += 1  # no other batch's memory
    assert same(batches[1], batch_of([2]))


def test_a_batch_is_one_storage() -> None:
    [batch] = DataLoader(Numbers(), batch_sampler=[[1]], num_workers=1, collate_fn=InOnePiece(batch_of))
    tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert all(tensor.is_shared() for tensor in tensors)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors if tensor.numel())


def test_errors_come_through() -> None:
    loader = DataLoader(Numbers(), batch_sampler=[[5]], num_workers=1, collate_fn=InOnePiece(batch_of))
    with pytest.raises(ValueError, match="the last is broken"):
        next(iter(loader))
    assert get_worker_info() is None
