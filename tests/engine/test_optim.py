"""The learning rate where it is known by hand, and which parameters decay."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from uni_sign.config import TrainConfig
from uni_sign.engine.optim import Schedule, make_optimizer, make_schedule, set_lr

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


def test_set_lr_reaches_every_group() -> None:
    optimizer = make_optimizer(model(), TrainConfig())
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
