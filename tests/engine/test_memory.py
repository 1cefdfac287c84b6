"""The memory forecast: counting without data, and how it follows flags."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uni_sign.config import TrainConfig
from uni_sign.engine import memory
from uni_sign.engine.memory import Forecast, forecast, peak_of_passes
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig

FP32 = TrainConfig(dtype="fp32", zero_stage=0, batch_size=4)


class OneMatrix:
    """A stage whose passes are known by hand: y = tanh(x W^T), its sum."""

    def largest_batch(self, items: int, frames: int) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        return {"x": torch.ones(items, 64)}

    def meta_model(self) -> nn.Module:
        with torch.device("meta"):
            return nn.Linear(64, 1000, bias=False)

    def compute_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        return model(batch["x"]).tanh().sum(), {}


def passes(config: TrainConfig, device: str = "cpu") -> int:
    stage: Any = OneMatrix()
    return peak_of_passes(stage, stage.meta_model(), config, device)


def test_passes_known_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_HEAP", 1.0)
    maps, gradient = 4 * 4 * 1000, 4 * 64 * 1000
    # At the end: the gradient and that of the map it is made of; tanh's output is held by the graph until then.
    assert gradient + maps <= passes(FP32) <= gradient + 3 * maps
    twice = passes(replace(FP32, gradient_accumulation_steps=4))
    assert 2 * gradient + maps <= twice <= 2 * gradient + 3 * maps
    assert passes(replace(FP32, batch_size=400)) == pytest.approx(gradient + 100 * 2 * maps, rel=0.2)


def test_blocks_of_the_heap_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_HEAP", 2.0)
    in_heap = passes(FP32)
    monkeypatch.setattr(memory, "_MAPPED", 0)
    assert in_heap == 2 * passes(FP32)


def forecast_of(root: Path, config: TrainConfig, processes: int = 1, **flags: Any) -> Forecast:
    stage = FineTuning(FineTuningConfig(dataset="Demo", data_root=root, hidden_dim=16, **flags), seed=0)
    return forecast(stage, config, processes)


def test_recomputed_layers_are_counted(demo_root: Path) -> None:
    plain, recomputed = (
        forecast_of(demo_root, replace(FP32, batch_size=2, gradient_checkpointing=recomputes))
        for recomputes in (False, True)
    )
    assert recomputed.passes < 0.7 * plain.passes
    assert recomputed.weights == plain.weights


@pytest.fixture
def without_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_of_passes", lambda *_: 0)
    monkeypatch.setattr(memory, "_HEAP", 1.0)


@pytest.mark.usefixtures("without_passes")
def test_weights_and_optimizer_follow_the_flags(demo_root: Path, tmp_path: Path) -> None:
    described: dict[str, Any] = {"use_descriptions": True, "text_cache": str(tmp_path)}
    plain = forecast_of(demo_root, FP32, **described)
    frozen = forecast_of(demo_root, FP32, **described, text_encoder_freeze=True)
    fusion = forecast_of(demo_root, FP32, **described, text_encoder_freeze=True, fusion_only=True)
    assert plain.optimizer == 2 * plain.weights
    assert frozen.weights < plain.weights
    assert fusion.weights == frozen.weights
    assert fusion.optimizer < frozen.optimizer / 3
    assert forecast_of(demo_root, replace(FP32, opt="adafactor")).optimizer < plain.optimizer / 8
    averaged = forecast_of(demo_root, replace(FP32, ema_decay=0.9), **described)
    # What the process itself holds grows by what was imported meanwhile.
    assert replace(averaged, process=plain.process) == replace(plain, optimizer=plain.optimizer + plain.weights)
    assert forecast_of(demo_root, FP32, processes=2).step == 2 * forecast_of(demo_root, FP32).step


@pytest.mark.usefixtures("without_passes")
def test_zero_shares_out(demo_root: Path) -> None:
    config = replace(FP32, zero_stage=3)
    one, four = (forecast_of(demo_root, config, processes) for processes in (1, 4))
    assert four.weights == pytest.approx(one.weights / 4)
    assert four.optimizer == pytest.approx(one.optimizer / 4)
    assert one.optimizer == 2 * one.weights
    second = forecast_of(demo_root, replace(config, zero_stage=2), processes=4)
    assert (second.weights, second.optimizer) == (one.weights, 1.5 * four.optimizer)
    averaged = forecast_of(demo_root, replace(config, zero_stage=2, ema_decay=0.9), processes=4)
    assert averaged.optimizer == pytest.approx(second.optimizer + one.weights / 4)
    offloaded = forecast_of(demo_root, replace(config, offload=True), processes=4)
    assert offloaded.host == 0  # without a GPU it is the same memory
    assert offloaded.optimizer > four.optimizer


def test_the_peak_is_the_dearest_moment() -> None:
    assert Forecast(process=1, weights=2, optimizer=3, start=4, passes=5, step=6).peak == 12
    assert Forecast(process=1, weights=2, optimizer=3, start=40, passes=5, step=6).peak == 41
