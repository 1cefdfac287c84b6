"""Normalisation with residual and ReLU against torch's batch norm clip by clip, and the layout of frames."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from uni_sign.models.batch_norm import Case, FrameBatchNorm, Rule, normalize
from uni_sign.models.frame_layout import GAP, FrameLayout
from uni_sign.models.temporal_conv import temporal_conv

LENGTHS = [5, 1, 8]
CHANNELS, POINTS = 6, 4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_spaced_map_has_zeros_behind_each_clip_and_packs_again(lengths: list[int]) -> None:
    layout = FrameLayout(lengths)
    x = torch.arange(1.0, 1 + 2 * 3 * sum(lengths)).view(2, 3, -1)
    spaced = layout.space(x)
    assert torch.equal(layout.pack(spaced), x)
    assert spaced.shape[-1] == sum(lengths) + GAP * len(lengths)
    assert torch.equal(spaced, layout.clear(spaced + (spaced == 0)))
    for own, clip in zip(spaced.split([n + GAP for n in lengths], -1), x.split(lengths, -1), strict=True):
        assert torch.equal(own[..., :-GAP], clip)
        assert not own[..., -GAP:].any()


@pytest.mark.parametrize("trains", [True, False])
def test_temporal_convolution_is_that_of_each_clip_alone(trains: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(CHANNELS, 3, (5, 1), padding=(2, 0), bias=False).requires_grad_(trains)
    x = torch.randn(CHANNELS, POINTS, sum(LENGTHS), requires_grad=True)
    layout = FrameLayout(LENGTHS)
    ours = layout.pack(temporal_conv(layout.space(x), conv.weight))
    alone = [conv(clip.transpose(1, 2)[None])[0].transpose(1, 2) for clip in x.split(LENGTHS, -1)]
    _assert_same(ours, torch.cat(alone, -1), [x, *(p for p in conv.parameters() if trains)])


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("shifted_points", [POINTS, 1])
@pytest.mark.parametrize("training", [True, False])
def test_normalisation_is_that_of_torch(relu: bool, spaced: bool, shifted_points: int, training: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = FrameBatchNorm(CHANNELS).train(training), nn.BatchNorm2d(CHANNELS).train(training)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.normal_()
        ours.running_mean.normal_()
        ours.running_var.uniform_(0.5, 2)
    theirs.load_state_dict(ours.state_dict())
    x = (torch.randn(CHANNELS, POINTS, sum(LENGTHS)) + 80).requires_grad_()
    shift = (3 * torch.randn(CHANNELS, shifted_points)).requires_grad_()
    residual = torch.randn(CHANNELS, POINTS, sum(LENGTHS), requires_grad=True)
    layout = FrameLayout(LENGTHS)
    expected = theirs((x + shift[..., None])[None])[0] + residual
    given_map, added = (layout.space(t) if spaced else t.clone() for t in (x, residual))
    (y,) = normalize([Case(Rule(ours, layout, relu), given_map, shift, added)])
    assert not spaced or torch.equal(y, layout.clear(y.clone()))
    if training:
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    leaves = [x, shift, residual]
    weights = torch.randn(expected.shape)
    of_ours = torch.autograd.grad(((layout.pack(y) if spaced else y) * weights).sum(), [*leaves, *ours.parameters()])
    expected = expected.relu() if relu else expected
    of_theirs = torch.autograd.grad((expected * weights).sum(), [*leaves, *theirs.parameters()])
    torch.testing.assert_close(layout.pack(y) if spaced else y, expected, atol=5e-5, rtol=1e-4)
    for mine, other in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-4, rtol=1e-3)


def _assert_same(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    weights = torch.randn(theirs.shape)
    torch.testing.assert_close(ours, theirs)
    mine = torch.autograd.grad((ours * weights).sum(), leaves)
    for one, other in zip(mine, torch.autograd.grad((theirs * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_statistics_of_many_deviations_are_exact_to_float32() -> None:
    """A mean of 80 deviations: the normalised map is off by no more than the rounding of its own values."""
    torch.manual_seed(0)
    norm = FrameBatchNorm(CHANNELS)
    x = torch.randn(CHANNELS, 21, 512) + 80
    exact = x.double()
    exact = (exact - exact.mean((1, 2), keepdim=True)) / (exact.var((1, 2), keepdim=True, correction=0) + 1e-5).sqrt()
    layout = FrameLayout([512])
    (y,) = normalize([Case(Rule(norm, layout, relu=False), x.clone(), torch.zeros(CHANNELS, 1))])
    assert float((y.detach() - exact).abs().max()) < 8e-6  # one step of float32 at 80
