"""Losses of generated signing where they are known by hand, and predicted lengths."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from uni_sign.models.flow_transformer import FlowSizes
from uni_sign.models.rectified_flow import flow_losses, interpolate, velocity_target
from uni_sign.models.signing_flow import (
    POINTS,
    POSE_VALUES,
    LengthPredictor,
    PoseScale,
    bone_lengths,
    length_losses,
    predicted_frames,
    signing_bones,
    signing_losses,
    signing_motion,
)


def test_bones_stay_within_their_part() -> None:
    bones = signing_bones()
    assert POINTS == 9 + 21 + 21 + 18
    starts = [0, 9, 30, 51, 69]
    of_part = [[sum(end >= start for start in starts) for end in bone] for bone in bones]
    assert all(one == other for one, other in of_part)
    assert (9 + 0, 9 + 5) in bones  # the left wrist to a knuckle
    assert {end for bone in bones for end in bone} == set(range(POINTS))


def test_lengths_by_hand() -> None:
    pose = torch.tensor([[[0.0, 0.0, 1.0, 3.0, 4.0, 0.5, 3.0, 4.0, 1.0]]])
    assert bone_lengths(pose, [(0, 1), (1, 2)]).flatten().tolist() == pytest.approx([5.0, 0.0], abs=1e-5)


def case(frames: int = 6) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    x0, x1, t = torch.randn(2, frames, 9), torch.rand(2, frames, 9), torch.tensor([0.2, 0.7])
    mask = torch.tensor([[True] * frames, [True] * 4 + [False] * (frames - 4)])
    return x0, x1, interpolate(x0, x1, t), t, mask


BONES = [(0, 1), (1, 2)]
AS_IS = PoseScale(torch.zeros(9), torch.ones(9))


def test_the_true_velocity_costs_nothing() -> None:
    x0, x1, x_t, t, mask = case()
    losses = signing_losses(velocity_target(x0, x1), x0, x1, x_t, t, mask, AS_IS, BONES)
    torch.testing.assert_close(torch.stack(list(losses)), torch.zeros(5, 2), atol=1e-5, rtol=0)


def test_parts_by_hand() -> None:
    x0, x1, x_t, t, mask = case()
    wrong = velocity_target(x0, x1) + 0.5
    losses = signing_losses(wrong, x0, x1, x_t, t, mask, AS_IS, BONES, lambda_reconstruction=2.0, lambda_bone=3.0)
    torch.testing.assert_close(losses.flow, torch.full((2,), 0.5))
    torch.testing.assert_close(losses.reconstruction, 0.5 * (1 - t))  # x1 is missed by (1 - t) times as much
    torch.testing.assert_close(losses.velocity, torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(losses.bone, torch.zeros(2), atol=1e-5, rtol=0)  # all points move alike
    torch.testing.assert_close(losses.total, 0.5 + 2 * losses.reconstruction, atol=1e-4, rtol=0)
    half = flow_losses(wrong, velocity_target(x0, x1), mask=mask)
    torch.testing.assert_close(losses.flow, half.flow)


def test_bones_that_were_not_seen_do_not_count() -> None:
    x0, x1, x_t, t, mask = case()
    x1[..., 2::3] = 1.0
    x_t = interpolate(x0, x1, t)
    wrong = velocity_target(x0, x1)
    wrong[..., 6] += 2.0  # x of the last point, which the second bone has
    bone = signing_losses(wrong, x0, x1, x_t, t, mask, AS_IS, BONES).bone
    assert (bone > 0.01).all()
    x1[..., 8] = 0.0
    assert not signing_losses(wrong, x0, x1, x_t, t, mask, AS_IS, BONES).bone.gt(1e-5).any()


def test_bones_are_measured_in_poses_as_they_are() -> None:
    x0, x1, _, t, mask = case()
    x1[..., 2::3] = 1.0
    x1[0, :, 2::3] = 0.0  # of a clip in which nothing was seen
    scale = PoseScale(torch.randn(9), torch.rand(9) + 0.5)
    scaled = scale.scaled(x1)
    torch.testing.assert_close(scale.poses(scaled), x1, atol=1e-6, rtol=0)
    wrong = velocity_target(x0, scaled)
    wrong[..., 6] += 2.0
    bone = signing_losses(wrong, x0, scaled, interpolate(x0, scaled, t), t, mask, scale, BONES).bone
    ends = x1.clone()
    ends[..., 6] += 2.0 * (1 - t)[:, None] * scale.deviation[6]
    expected = (bone_lengths(ends, BONES) - bone_lengths(x1, BONES)).abs()[1, :4].mean()
    torch.testing.assert_close(bone, torch.stack([torch.zeros(()), expected]), atol=1e-5, rtol=1e-4)


def test_a_model_is_built_of_plain_values_alone() -> None:
    sizes = FlowSizes(
        frames=8, num_prev_frames=0, dim_w=POSE_VALUES, dim_a=0, dim_r=0, dim_e=0, dim_h=8, fmt_depth=1, num_heads=2,
        attention_window=0, dim_text=4, languages=1,
    )  # fmt: skip
    config = {"sizes": asdict(sizes), "languages": ["English"]}
    assert signing_motion(config).sizes == sizes
    for wrong in (
        {**config, "languages": ["English", "Chinese"]},
        {**config, "languages": None},
        {**config, "sizes": asdict(replace(sizes, dim_w=9))},
        {**config, "sizes": asdict(replace(sizes, dim_text=0))},
        {"languages": ["English"]},
        {},
    ):
        with pytest.raises(ValueError, match="sizes"):
            signing_motion(wrong)


def test_nothing_behind_the_mask_counts_whatever_it_is() -> None:
    x0, x1, x_t, t, mask = case()
    predicted = torch.randn(2, 6, 9).requires_grad_()
    given = [each[1:, :4] for each in (predicted, x0, x1, x_t)]
    expected = signing_losses(*given, t[1:], mask[1:, :4], AS_IS, BONES)
    gradient = torch.autograd.grad(expected.total.sum(), predicted)[0]
    x1[1, 4:] = float("inf")
    x_t[1, 4:] = float("nan")
    losses = signing_losses(predicted, x0, x1, x_t, t, mask, AS_IS, BONES)
    for one, other in zip(losses, expected, strict=True):
        torch.testing.assert_close(one[1:], other)
    torch.testing.assert_close(torch.autograd.grad(losses.total[1], predicted)[0], gradient)


def test_lengths_are_learnt_from_text_and_language() -> None:
    torch.manual_seed(0)
    model = LengthPredictor(6, 16, languages=2)
    text, mask = torch.randn(4, 5, 6), torch.arange(5) < torch.tensor([5, 2, 3, 1])[:, None]
    language, frames = torch.tensor([0, 0, 1, 1]), torch.tensor([90, 20, 200, 50])
    torch.testing.assert_close(model(text, mask, language), torch.full((4,), math.log(64)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        length_losses(model(text, mask, language), frames).mean().backward()
        optimizer.step()
    logarithms = model(text, mask, language)
    assert (predicted_frames(logarithms, 256) / frames - 1).abs().max() < 0.15
    other = text.masked_fill(~mask[:, :, None], 1e4)
    torch.testing.assert_close(model(other, mask, language), logarithms)
    assert (model(text, mask, torch.full((4,), -1)) - logarithms).abs().max() > 0.01


def test_lengths_stay_possible() -> None:
    logarithms = torch.tensor([-9.0, math.log(12.4), 50.0])
    assert predicted_frames(logarithms, 256).tolist() == [1, 12, 256]
    torch.testing.assert_close(
        length_losses(torch.log(torch.tensor([20.0, 5.0])), torch.tensor([10, 10])), torch.full((2,), math.log(2))
    )
