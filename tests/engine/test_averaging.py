"""The average of the weights where it is known by hand, in the model and out again, and in its files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uni_sign.engine.averaging import WeightAverage, decay_at, recut
from uni_sign.errors import Preempted


def accelerator(rank: int = 0, ranks: int = 1, kind: str = "NO") -> Any:
    return SimpleNamespace(process_index=rank, num_processes=ranks, distributed_type=kind)


def average_of(module: nn.Module, decay: float) -> WeightAverage:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return WeightAverage(accelerator(), module, torch.optim.SGD(trained, lr=1.0), decay)


class Zero:
    """All of ZeRO-2 that an average needs: two shards of bf16 weights, in fp32."""

    def __init__(self, sizes: tuple[int, ...] = (5, 3)) -> None:
        self.single_partition_of_fp32_groups = [torch.randn(size, requires_grad=True) for size in sizes]
        self.update_lp_params()

    def update_lp_params(self) -> None:
        self.bit16 = [shard.detach().bfloat16() for shard in self.single_partition_of_fp32_groups]


def sharded(zero: Zero, rank: int = 0, ranks: int = 1, decay: float = 0.5) -> WeightAverage:
    return WeightAverage(accelerator(rank, ranks, "DEEPSPEED"), SimpleNamespace(optimizer=zero), None, decay)


def step(weights: list[Tensor]) -> None:
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn_like(weight))


def test_the_decay_rises_to_what_is_asked_for() -> None:
    assert [decay_at(0.9999, step) for step in (0, 8, 90)] == [0.1, 0.5, 0.91]
    assert decay_at(0.9999, 10**6) == 0.9999
    assert decay_at(0.2, 8) == 0.2


def test_an_average_known_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(8.0)
        average = average_of(module, 0.15)
        module.weight.fill_(4.0)
        average.update(0)  # 0.1 * 8 + 0.9 * 4
        module.weight.fill_(2.0)
        average.update(1)  # the decay is 2 / 11 or 0.15
    with average.in_use():
        assert module.weight.item() == pytest.approx(0.15 * 4.4 + 0.85 * 2.0)
    assert module.weight.item() == 2.0


def test_buffers_and_frozen_weights_stay_as_they_are() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].bias.requires_grad_(False)
    average = average_of(module, 0.9)
    step(list(module.parameters()))
    module(torch.randn(4, 2))
    now = {name: value.clone() for name, value in module.state_dict().items()}
    average.update(3)
    with average.in_use():
        changed = {name for name, value in module.state_dict().items() if not torch.equal(value, now[name])}
    assert changed == {"0.weight", "1.weight", "1.bias"}
    assert all(torch.equal(value, now[name]) for name, value in module.state_dict().items())


def test_without_a_decay_nothing_is_done(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    average = average_of(module, 0.0)
    average.update(0)
    average.save(tmp_path)
    average.load(tmp_path, 1)
    before = module.weight.clone()
    step([module.weight])
    with average.in_use():
        assert not torch.equal(module.weight, before)
    assert not list(tmp_path.iterdir())


def test_half_precision_gets_the_average_of_the_shards_in_fp32() -> None:
    zero = Zero()
    average = sharded(zero)
    expected = [shard.detach().double() for shard in zero.single_partition_of_fp32_groups]
    for number in range(20):
        step(zero.single_partition_of_fp32_groups)
        average.update(number)
        decay = decay_at(0.5, number)
        expected = [
            decay * old + (1 - decay) * new.detach().double()
            for old, new in zip(expected, zero.single_partition_of_fp32_groups, strict=True)
        ]
    zero.update_lp_params()
    weights = [shard.clone() for shard in zero.single_partition_of_fp32_groups]
    halves = zero.bit16
    with average.in_use():
        for shard, half, by_hand in zip(zero.single_partition_of_fp32_groups, zero.bit16, expected, strict=True):
            torch.testing.assert_close(shard.double(), by_hand, rtol=0, atol=1e-5)
            assert torch.equal(half, shard.bfloat16())
    assert all(map(torch.equal, zero.single_partition_of_fp32_groups, weights))
    assert all(map(torch.equal, zero.bit16, halves))


def test_a_run_that_is_stopped_while_it_is_scored_has_its_weights_again() -> None:
    zero = Zero()
    average = sharded(zero)
    step(zero.single_partition_of_fp32_groups)
    weights = [shard.clone() for shard in zero.single_partition_of_fp32_groups]
    with pytest.raises(Preempted), average.in_use():
        raise Preempted("asked to")
    assert all(map(torch.equal, zero.single_partition_of_fp32_groups, weights))
    # Another failure may be this rank's alone, and the others would not come to the exchange.
    in_model = zero.bit16
    with pytest.raises(RuntimeError), average.in_use():
        raise RuntimeError("out of memory")
    assert not any(map(torch.equal, zero.bit16, in_model))


def in_model(average: WeightAverage, zero: Zero) -> list[Tensor]:
    with average.in_use():
        return [shard.detach().clone() for shard in zero.single_partition_of_fp32_groups]


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    module, other = nn.Linear(3, 3), nn.Linear(3, 3)
    average, read = average_of(module, 0.9), average_of(other, 0.9)
    step(list(module.parameters()))
    average.update(0)
    average.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["average_0.pt"]
    read.load(tmp_path, 7)  # of any number of ranks without ZeRO
    with average.in_use(), read.in_use():
        assert torch.equal(module.weight, other.weight)
        assert torch.equal(module.bias, other.bias)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shards_of_two_ranks_come_back_on_any_number(tmp_path: Path, ranks: int) -> None:
    """Rows of 9 and 5 weights, padded to a multiple of the ranks."""
    sizes = (9, 5)
    pairs = [(zero := Zero((5, 3)), sharded(zero, rank, 2)) for rank in (0, 1)]
    for zero, average in pairs:
        step(zero.single_partition_of_fp32_groups)
        average.update(0)
        average.save(tmp_path)
    averages = [in_model(average, zero) for zero, average in pairs]
    whole = [torch.cat(shards)[:size] for *shards, size in zip(*averages, sizes, strict=True)]
    parts = [tuple(-(-size // ranks) for size in sizes)] * ranks
    again = []
    for rank, own in enumerate(parts):
        zero = Zero(own)
        average = sharded(zero, rank, ranks)
        average.load(tmp_path, 2)
        again.append(in_model(average, zero))
    for place, (*shards, row) in enumerate(zip(*again, whole, strict=True)):
        assert torch.equal(torch.cat(shards)[: sizes[place]], row)


def test_what_is_beyond_the_row_is_padding() -> None:
    shards = [torch.arange(1.0, 4.0), torch.arange(4.0, 7.0)]
    assert recut(shards, 4, 1).tolist() == [5, 6, 0, 0]
    assert recut(shards, 4, 2).tolist() == [0, 0, 0, 0]
