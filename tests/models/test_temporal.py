"""The temporal model against golden numbers; padding changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_hierarchical import SMALL, Weights, part

from uni_sign.models.temporal import Fusion, TemporalSizes, TemporalSkeletonTransformer


def build(fusion: Fusion, d_global: int) -> TemporalSkeletonTransformer:
    sizes = TemporalSizes(24, 20, nhead=4, num_temporal_layers=1, num_decoder_layers=1, dim_feedforward=32)
    return TemporalSkeletonTransformer(replace(SMALL, d_global=d_global), sizes, fusion).eval()


@pytest.fixture(params=[("concat", 32), ("weighted", 16)], ids=["concat", "weighted"])
def model(request: pytest.FixtureRequest, golden_weights: Weights) -> TemporalSkeletonTransformer:
    fusion, d_global = request.param
    made = build(fusion, d_global)
    made.load_state_dict(part(golden_weights("09_keypoint_recipe.json"), f"temporal_{fusion}"))
    return made


@torch.no_grad()
def test_golden_numbers(model: TemporalSkeletonTransformer, golden: Callable[[str], Any]) -> None:
    numbers, name = golden("09_keypoint_io.npz"), f"temporal_{model.fusion_method}"
    frames = torch.from_numpy(numbers["temporal/x"])
    for case, given in (("nomask", frames), ("T1", frames[:, :1])):
        for part_name, value in zip(("global", "local", "temporal"), model(given), strict=True):
            expected = torch.from_numpy(numbers[f"{name}/{case}/{part_name}"])
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    rebuilt = model.reconstruct(model(frames).global_vector, frames.shape[1])
    torch.testing.assert_close(rebuilt, torch.from_numpy(numbers[f"{name}/nomask/recon"]), atol=1e-5, rtol=1e-5)
    loss = golden("09_keypoint_meta.json")[name]["recon_loss"]
    assert float((rebuilt - frames).square().mean()) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5])
@torch.no_grad()
def test_padding_changes_nothing(model: TemporalSkeletonTransformer, length: int) -> None:
    frames = torch.randn(2, 7, 143, 3, generator=torch.Generator().manual_seed(0))
    padding = (torch.arange(7) >= length).expand(2, -1)
    padded, short = model(frames, padding), model(frames[:, :length])
    for value, expected in zip(padded[:2], short[:2], strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded.temporal[:, :length], short.temporal, atol=1e-5, rtol=1e-5)
    rebuilt = model.reconstruct(padded.global_vector, 7, padding)[:, :length]
    torch.testing.assert_close(rebuilt, model.reconstruct(short.global_vector, length), atol=1e-5, rtol=1e-5)


def test_weighted_fusion_needs_widths_that_add() -> None:
    with pytest.raises(ValueError, match="d_global must be d_region"):
        build("weighted", 32)


def test_gradients_reach_all_that_trains() -> None:
    model = build("weighted", 16).train()
    found = model(torch.randn(2, 6, 143, 3))
    model.reconstruct(found.global_vector, 6).square().mean().backward()
    assert [name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []
    fixed = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {"frame_encoder", "local_queries", "local_attentions", "local_projs"}
    model.freeze_frame_encoder()
    assert model.train().training
    assert not model.frame_encoder.training
    assert not any(p.requires_grad for p in model.frame_encoder.parameters())
