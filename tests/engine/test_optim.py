"""The learning rate where it is known by hand, and which parameters decay."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from uni_sign.config import TrainConfig
from uni_sign.engine.memory import optimizer_bytes
from uni_sign.engine.optim import Patience, Schedule, make_optimizer, make_schedule, set_lr

COSINE = Schedule("cosine", lr=1.0, min_lr=0.2, warmup=0, total=8)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(2, 2, 3), nn.Embedding(5, 2))


def names_by_decay(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[float, set[str]]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}


# --- the learning rate -------------------------------------------------------------------------------------


def test_cosine_known_by_hand() -> None:
    rates = [COSINE.lr_at(step) for step in (0, 2, 4, 6, 8)]
    half = math.sqrt(0.5)
    expected = [1.0, 0.2 + 0.4 * (1 + half), 0.6, 0.2 + 0.4 * (1 - half), 0.2]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_cosine_ends_at_the_lowest_rate_and_stays() -> None:
    assert COSINE.lr_at(8) == COSINE.lr_at(100) == 0.2
    published = make_schedule(TrainConfig(), steps_per_epoch=5)
    assert published.lr_at(0) == 1e-3
    assert published.lr_at(100) == pytest.approx(1e-8, rel=1e-9)


def test_linear_and_constant() -> None:
    linear = replace(COSINE, kind="linear")
    assert [linear.lr_at(step) for step in (0, 2, 4, 8, 9)] == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2])
    constant = replace(COSINE, kind="constant")
    assert {constant.lr_at(step) for step in range(12)} == {1.0}


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warm_up_rises_to_the_highest_rate(kind: str) -> None:
    schedule = Schedule(kind, lr=0.4, min_lr=0.0, warmup=4, total=8)
    assert [schedule.lr_at(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    ending = 0.4 if kind == "constant" else 0.0
    assert schedule.lr_at(8) == pytest.approx(ending)
    if kind != "constant":
        assert schedule.lr_at(6) == pytest.approx(0.2)


def test_rates_fall_steadily() -> None:
    for kind in ("cosine", "linear"):
        rates = [replace(COSINE, kind=kind).lr_at(step) for step in range(9)]
        assert rates == sorted(rates, reverse=True)
        assert len(set(rates)) == 9


def test_nothing_but_warm_up() -> None:
    schedule = Schedule("cosine", lr=1.0, min_lr=0.0, warmup=2, total=2)
    assert [schedule.lr_at(step) for step in range(3)] == [0.5, 1.0, 1.0]


def test_schedule_of_the_flags() -> None:
    config = TrainConfig(epochs=4, warmup_epochs=0.5, lr=0.1, min_lr=0.01, sched="linear", max_steps=3)
    assert make_schedule(config, steps_per_epoch=10) == Schedule("linear", 0.1, 0.01, warmup=5, total=40)


def test_patience_counts_evaluations_without_a_gain() -> None:
    def waits(scores: list[float], higher: bool, min_delta: float = 0.0) -> list[int]:
        config, patience, waited = TrainConfig(early_stopping_min_delta=min_delta), Patience(), []
        for score in scores:
            patience = patience.after(score, higher, config)
            waited.append(patience.waited)
        return waited

    assert waits([1, 2, 2, 1.5, 3], higher=True) == [0, 0, 1, 2, 0]
    assert waits([3, 2, 2, 2.5, 1], higher=False) == [0, 0, 1, 2, 0]
    # Gains of 0.5 do not count, two of them in a row do.
    assert waits([4, 3.5, 3, 2.5, 2.5], higher=False, min_delta=0.75) == [0, 1, 0, 1, 2]
    assert waits([0, 0.75, 0.76], higher=True, min_delta=0.75) == [0, 1, 0]


# --- the optimizer -----------------------------------------------------------------------------------------


def test_vectors_do_not_decay() -> None:
    module = model()
    groups = names_by_decay(make_optimizer(module, TrainConfig(weight_decay=0.3)), module)
    assert groups == {
        0.3: {"0.weight", "2.weight", "3.weight"},
        0.0: {"0.bias", "1.weight", "1.bias", "2.bias"},
    }


def test_frozen_parameters_are_left_out() -> None:
    module = model()
    for parameter in module[0].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    groups = names_by_decay(make_optimizer(module, TrainConfig()), module)
    assert groups == {1e-4: {"2.weight", "3.weight"}, 0.0: {"1.weight", "1.bias", "2.bias"}}


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(make_optimizer(nn.LayerNorm(3), TrainConfig()).param_groups) == 1


def test_tied_parameters_stand_once() -> None:
    module = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    module[1].weight = module[0].weight
    optimizer = make_optimizer(module, TrainConfig())
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 2]


def test_adamw_takes_the_flags() -> None:
    optimizer = make_optimizer(model(), TrainConfig(lr=0.1, opt_eps=1e-7, opt_betas=(0.5, 0.6)))
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert (group["lr"], group["eps"], group["betas"]) == (0.1, 1e-7, (0.5, 0.6))


def test_sgd_and_a_step_known_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    optimizer = make_optimizer(module, TrainConfig(opt="sgd", lr=9.0, weight_decay=0.5))
    assert isinstance(optimizer, torch.optim.SGD)
    set_lr(optimizer, 0.1)
    with torch.no_grad():
        module.weight.fill_(2.0)
    module(torch.tensor([[3.0]])).sum().backward()
    optimizer.step()
    assert module.weight.item() == pytest.approx(2.0 - 0.1 * (3.0 + 0.5 * 2.0))


def big_model() -> nn.Module:
    """bitsandbytes keeps what has fewer than 4096 values in fp32."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 2))


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_lr(optimizer, 0.01 / (step + 1))
        optimizer.zero_grad()
        module(torch.full((4, 64), 0.1 * (step + 1))).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("opt", ["adamw", "adamw8bit", "adafactor", "sgd"])
def test_an_optimizer_goes_on_from_its_file_exactly(opt: Any, tmp_path: Path) -> None:
    config = TrainConfig(opt=opt, zero_stage=0, weight_decay=0.1)
    whole, stopped = big_model(), big_model()
    train(whole, make_optimizer(whole, config), range(4))
    optimizer = make_optimizer(stopped, config)
    train(stopped, optimizer, range(2))
    torch.save({"model": stopped.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "training.pt")
    training = torch.load(tmp_path / "training.pt", weights_only=True)
    resumed = big_model()
    resumed.load_state_dict(training["model"])
    optimizer = make_optimizer(resumed, config)
    optimizer.load_state_dict(training["optimizer"])
    train(resumed, optimizer, range(2, 4))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize(("opt", "tolerance"), [("adamw", 0.0), ("adamw8bit", 0.35), ("adafactor", 0.0), ("sgd", 0.0)])
def test_the_state_is_as_large_as_predicted(opt: Any, tolerance: float) -> None:
    config, module = TrainConfig(opt=opt, zero_stage=0), big_model()
    optimizer = make_optimizer(module, config)
    train(module, optimizer, range(1))
    held = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    size = sum(value.numel() * value.element_size() for value in held if value.dim() > 0)
    assert optimizer_bytes(module, config) == pytest.approx(size, rel=tolerance)


def test_8_bit_adamw_follows_adamw() -> None:
    """Its moments are rounded to 256 levels a block: the way is the same, the steps a little different."""
    start, plain, rounded = big_model(), big_model(), big_model()
    for module, opt in ((plain, "adamw"), (rounded, "adamw8bit")):
        train(module, make_optimizer(module, TrainConfig(opt=opt)), range(4))  # type: ignore[arg-type]
    way = plain[0].weight - start[0].weight  # type: ignore[index,operator]
    difference = plain[0].weight - rounded[0].weight  # type: ignore[index,operator]
    assert 0 < difference.norm() < 0.1 * way.norm()


def test_adafactor_keeps_rows_and_columns() -> None:
    module = nn.Linear(30, 20, bias=False)
    optimizer = make_optimizer(module, TrainConfig(opt="adafactor", zero_stage=0))
    module(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    state = optimizer.state[module.weight]
    assert (state["row_var"].shape, state["col_var"].shape) == ((20, 1), (1, 30))


def test_set_lr_reaches_every_group() -> None:
    optimizer = make_optimizer(model(), TrainConfig())
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
