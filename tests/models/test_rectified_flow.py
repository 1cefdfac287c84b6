"""Path, loss, guidance and sampling against golden numbers, and where the answer is known by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from uni_sign.models.flow_transformer import FlowSizes, FlowTransformer, drop_conditions
from uni_sign.models.rectified_flow import (
    Solver,
    estimated_data,
    float_guidance,
    flow_losses,
    guided_velocity,
    integrate,
    interpolate,
    item_noise,
    joined,
    lambda_errors,
    sample,
    sample_clip,
    sample_time,
    span_errors,
    stratified_times,
    velocity_target,
)

TINY = FlowSizes(
    frames=10, num_prev_frames=4, dim_w=32, dim_a=32, dim_r=32, dim_e=7, dim_h=64, fmt_depth=2, num_heads=4
)
CONDITIONS = ("wa", "wr", "we", "prev_x", "prev_wa")
HAPPY, SAD = 3, 5
PLAIN = float_guidance(1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def numbers(golden: Callable[[str], Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in golden("10_float_fmt_io.npz").items()}


@pytest.fixture(scope="module")
def model(golden_weights: Callable[..., dict[str, Tensor]]) -> FlowTransformer:
    model = FlowTransformer(TINY).eval()
    weights = {k[4:]: v for k, v in golden_weights("10_float_recipe.json").items() if k.startswith("fmt.")}
    model.load_state_dict(weights, strict=False)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("name", "a", "e"), [("111", 1, 1), ("211", 2, 1), ("21_1.5", 2, 1.5)])
def test_guidance_is_the_published_one(
    model: FlowTransformer, numbers: dict[str, Tensor], name: str, a: float, e: float
) -> None:
    conditions = {name: numbers[f"in/{name}"][:1] for name in CONDITIONS}
    found = guided_velocity(model, torch.tensor(0.3), numbers["in/x"][:1], conditions, float_guidance(1, a, e))
    torch.testing.assert_close(found, numbers[f"cfv/{name}"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_guidance_adds_a_condition_at_a_time(model: FlowTransformer, numbers: dict[str, Tensor]) -> None:
    t, x = torch.rand(3), numbers["in/x"]
    conditions = {name: numbers[f"in/{name}"] for name in CONDITIONS}
    everywhere = torch.ones(3, dtype=torch.bool)

    def without(*names: str) -> Tensor:
        return model(t, x, **drop_conditions(conditions, dict.fromkeys(names, everywhere)))

    none, reference, audio, whole = without("wr", "wa", "we"), without("wa", "we"), without("we"), without()
    expected = none + 0.5 * (reference - none) + 3.0 * (audio - reference) + 1.5 * (whole - audio)
    found = guided_velocity(model, t, x, conditions, float_guidance(0.5, 3.0, 1.5))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("scales", "views"), [((1, 1, 1), 1), ((1, 2, 1), 3), ((0, 2, 1), 4), ((0, 0, 0), 1)])
def test_guidance_asks_once_for_what_counts(scales: tuple[float, ...], views: int) -> None:
    asked: list[int] = []

    def velocity(t: Tensor, x: Tensor, **given: Tensor) -> Tensor:
        asked.append(len(x))
        assert all(len(value) == len(x) for value in (t, *given.values()))
        return x

    conditions = {name: torch.ones(2, 1, 3) for name in ("wr", "wa", "we", "prev_x")}
    found = guided_velocity(velocity, torch.zeros(2), torch.ones(2, 4, 3), conditions, float_guidance(*scales))
    assert asked == [2 * views]
    torch.testing.assert_close(found, torch.ones(2, 4, 3))


@pytest.mark.parametrize(
    ("name", "method", "a", "e", "felt"),
    [("pred_emo_111", "euler", 1, 1, None), ("emo_happy_a2", "euler", 2, 1, HAPPY), ("a2_e1.5", "euler", 2, 1.5, None),
     ("nfe_arg_ignored", "euler", 1, 1, None), ("method_midpoint", "midpoint", 2, 1, SAD),
     ("method_rk4", "rk4", 2, 1, SAD)],
)  # fmt: skip
def test_published_samples(
    model: FlowTransformer, numbers: dict[str, Tensor], name: str, method: Any, a: float, e: float, felt: int | None
) -> None:
    emotion = numbers["sample/in_pred_emo"][:, None] if felt is None else torch.eye(7)[felt].view(1, 1, 7)
    found = sample(
        model,
        numbers["sample/x0_every_chunk"][:, None].expand(-1, 3, -1, -1),
        numbers["sample/in_WA"],
        numbers["sample/in_r_s"][:, None],
        emotion,
        num_prev_frames=4,
        guidance=float_guidance(1, a, e),
        solver=Solver(method, 5, "official"),
    )
    torch.testing.assert_close(found, numbers[f"sample/{name}"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["default", "heavy"])
def test_the_published_loss_and_its_gradients(
    model: FlowTransformer, numbers: dict[str, Tensor], golden: Callable[[str], Any], case: str
) -> None:
    meta = golden("10_float_meta.json")[f"rf_{case}"]
    given = {name: numbers[f"rf/in_{name}"] for name in CONDITIONS}
    before = {name: value.clone() for name, value in given.items()}
    conditions = drop_conditions(given, {name: numbers[f"rf/{case}/drop_{name}"] for name in CONDITIONS})
    assert all(torch.equal(given[name], before[name]) for name in given)
    x0, x1, t = numbers[f"rf/{case}/x0"], numbers["rf/in_x1"], numbers[f"rf/{case}/t"]
    model.zero_grad()
    losses = flow_losses(
        model(t, interpolate(x0, x1, t), **conditions),
        velocity_target(x0, x1),
        lambda_velocity=0.0,
        prev_weight=1.0,
        previous=conditions["prev_x"],
    )
    assert losses.flow.mean().item() == pytest.approx(meta["loss_current"], abs=1e-5)
    assert losses.previous.mean().item() == pytest.approx(meta["loss_prev"], abs=1e-5)
    losses.total.mean().backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(meta["grad_norm"], rel=1e-4, abs=1e-6)


def test_ends_and_slope_of_the_path() -> None:
    x0, x1 = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    assert torch.equal(interpolate(x0, x1, torch.zeros(3)), x0)
    assert torch.equal(interpolate(x0, x1, torch.ones(3)), x1)
    u = velocity_target(x0, x1)
    slope = interpolate(x0, x1, torch.full((3,), 0.75)) - interpolate(x0, x1, torch.full((3,), 0.25))
    torch.testing.assert_close(slope, 0.5 * u)
    t = torch.rand(3)
    torch.testing.assert_close(estimated_data(interpolate(x0, x1, t), u, t), x1)
    assert interpolate(x0.bfloat16(), x1.bfloat16(), t.bfloat16()).dtype == torch.float32


def test_times() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform, middle = (sample_time(20_000, generator, kind) for kind in ("uniform", "logit_normal"))
    for times, tail in ((uniform, 0.2), (middle, 2 * 0.01395)):  # P(N < logit 0.1) = 0.01395
        assert (times >= 0).all()
        assert (times <= 1).all()
        assert times.mean().item() == pytest.approx(0.5, abs=0.01)
        assert ((times < 0.1) | (times > 0.9)).float().mean().item() == pytest.approx(tail, abs=0.01)


def test_times_of_validation_are_stratified_and_the_items_own() -> None:
    times = stratified_times(torch.arange(50), 4)
    assert times.shape == (50, 4)
    assert torch.equal((times * 4).floor(), torch.arange(4.0).expand(50, 4))
    assert torch.equal(stratified_times(torch.tensor([17]), 4)[0], times[17])
    gaps = times.flatten().sort().values.diff()
    assert gaps.max() < 4 / 200


LOSSES = {"l1": abs, "mse": lambda d: d * d, "huber": lambda d: d * d / 2 if abs(d) < 1 else abs(d) - 0.5}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_by_hand(kind: Any) -> None:
    # One value a frame; two frames before. Errors 0.5, 2 and 3, so their differences are 1.5 and 1.
    target = torch.tensor([[[1.0], [2.0], [3.0]]])
    predicted = torch.tensor([[[7.0], [9.0], [1.5], [4.0], [6.0]]])
    f = LOSSES[kind]
    losses = flow_losses(predicted, target, kind=kind, lambda_flow=2.0, lambda_velocity=3.0)
    flow, velocity = (f(0.5) + f(2.0) + f(3.0)) / 3, (f(1.5) + f(1.0)) / 2
    assert [value.item() for value in losses] == pytest.approx([2 * flow + 3 * velocity, flow, velocity, 0.0])
    masked = flow_losses(predicted, target, kind=kind, mask=torch.tensor([[True, True, False]]))
    assert masked.flow.item() == pytest.approx((f(0.5) + f(2.0)) / 2)
    assert masked.velocity.item() == pytest.approx(f(1.5))
    nothing = flow_losses(predicted, target, kind=kind, mask=torch.zeros(1, 3, dtype=torch.bool))
    assert nothing.total.item() == 0


@pytest.mark.parametrize("kind", LOSSES)
def test_nothing_behind_the_mask_counts_whatever_it_is(kind: Any) -> None:
    target, predicted = torch.randn(2, 5, 3), torch.randn(2, 5, 3).requires_grad_()
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    expected = flow_losses(predicted[:, :3], target[:, :3], kind=kind).total
    target = torch.cat([target[:, :3], torch.full((2, 2, 3), float("inf"))], dim=1)
    found = flow_losses(predicted, target, kind=kind, mask=mask).total
    torch.testing.assert_close(found, expected)
    gradient = torch.autograd.grad(found.sum(), predicted)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), predicted)[0])


def test_errors_on_a_basis_by_hand() -> None:
    basis = torch.eye(4)[:, :2]
    target, predicted = torch.zeros(1, 3, 4), torch.full((1, 5, 4), 2.0)
    assert span_errors(predicted, target, basis).tolist() == [1.0]  # 2 on two of four values
    assert lambda_errors(predicted[:, 2:], target, basis).tolist() == [2.0]
    turned = torch.linalg.qr(torch.randn(4, 4))[0]
    aside = predicted - predicted @ turned[:, :2] @ turned[:, :2].T
    torch.testing.assert_close(span_errors(aside, target, turned[:, :2]), torch.zeros(1), atol=1e-6, rtol=0)


def test_the_loss_is_float32_and_wants_the_previous_motion() -> None:
    assert flow_losses(torch.zeros(1, 3, 2).bfloat16(), torch.ones(1, 3, 2).bfloat16()).total.dtype == torch.float32
    with pytest.raises(ValueError, match="previous motion"):
        flow_losses(torch.zeros(1, 3, 2), torch.zeros(1, 2, 2), prev_weight=1.0)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
def test_a_constant_velocity_is_followed_exactly(method: Any) -> None:
    x0, c = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(integrate(lambda _t, _x: c, x0, Solver(method)), x0 + c, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("method", "order", "stages"), [("euler", 1, 1), ("midpoint", 2, 2), ("rk4", 4, 4)])
def test_the_order_of_a_step_method(method: Any, order: int, stages: int) -> None:
    """dx/dt = 2x: halving the step divides the error by 2 ** order (Hairer et al., chapter II.3)."""
    errors, calls = [], 0

    def velocity(_t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 2 * x

    for steps in (4, 8):
        calls = 0
        end = integrate(velocity, torch.ones(1, 1, 1), Solver(method, stages * steps)).item()
        assert calls == stages * steps
        errors.append(abs(end - math.exp(2.0)))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.35)


def test_dopri5_keeps_to_its_tolerance_and_looks_at_real_frames() -> None:
    solvers = [Solver("dopri5", atol=tolerance, rtol=tolerance) for tolerance in (1e-2, 1e-6)]
    ends = [integrate(lambda _t, x: 2 * x, torch.ones(1, 1, 1), solver).item() for solver in solvers]
    loose, tight = (abs(end - math.e**2) for end in ends)
    assert tight < 2e-5 < loose
    calls = 0

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.cat([x[:, :1], (40 * t).sin() * 90 * x[:, 1:].abs()], dim=1)

    counts = []
    for mask in (None, torch.tensor([[True, False]])):
        calls = 0
        integrate(velocity, torch.ones(1, 2, 1), Solver("dopri5"), mask)
        counts.append(calls)
    assert counts[1] < counts[0] / 2
    with pytest.raises(ValueError, match="dopri5 cannot follow"):
        integrate(lambda _t, x: x * float("nan"), torch.ones(1, 1, 1), Solver("dopri5"))


@pytest.mark.parametrize(
    ("solver", "points"),
    [(Solver("euler", 10), 11), (Solver("euler", 10, "official"), 10), (Solver("midpoint", 10), 6),
     (Solver("midpoint", 10, "official"), 10), (Solver("rk4", 10), 3), (Solver("dopri5", 1), 2)],
)  # fmt: skip
def test_grids(solver: Solver, points: int) -> None:
    grid = solver.grid()
    assert (len(grid), grid[0].item(), grid[-1].item()) == (points, 0.0, 1.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"nfe": 0}, "at least 1"), ({"method": "rk4", "nfe": 3}, "at least 4"), ({"method": "heun"}, "no method"),
     ({"nfe": 1, "nfe_mode": "official"}, "at least 2"), ({"nfe_mode": "both"}, "nfe_mode"),
     ({"method": "dopri5", "atol": 0.0}, "above 0")],
)  # fmt: skip
def test_solvers_that_cannot_be(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Solver(**change)


def speech(lengths: list[int], width: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Audio, reference and emotion of items, each its own whatever the others are; rubbish behind an item's end."""
    rows = []
    for number, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(100 + number)
        audio = torch.full((max(lengths), width), 1e4)
        audio[:length] = torch.randn(length, width, generator=generator)
        rows.append((audio, torch.randn(1, width, generator=generator), torch.rand(1, 7, generator=generator)))
    audio, reference, emotion = (torch.stack(part) for part in zip(*rows, strict=True))
    return audio, reference, emotion


@pytest.mark.parametrize("solver", [Solver("euler", 4), Solver("dopri5", atol=1e-3, rtol=1e-3)])
def test_an_item_is_the_same_in_any_batch(model: FlowTransformer, solver: Solver) -> None:
    lengths, seeds = [23, 10, 31], [5, 6, 7]
    options: dict[str, Any] = {"num_prev_frames": 4, "guidance": float_guidance(), "solver": solver}
    audio, reference, emotion = speech(lengths)
    together = sample(model, item_noise(seeds, 4, 10, 32), audio, reference, emotion, lengths=lengths, **options)
    assert together.shape == (3, 31, 32)
    for i, length in enumerate(lengths):
        clips = -(-length // 10)
        one = (audio[i : i + 1, :length], reference[i : i + 1], emotion[i : i + 1])
        alone = sample(model, item_noise(seeds[i : i + 1], clips, 10, 32), *one, **options)
        torch.testing.assert_close(together[i : i + 1, :length], alone, atol=1e-4, rtol=1e-4)
        assert not together[i, length:].any()
    other = sample(model, item_noise([8, 6, 7], 4, 10, 32), audio, reference, emotion, lengths=lengths, **options)
    assert not torch.allclose(other[0, :23], together[0, :23], atol=1e-2)
    torch.testing.assert_close(other[1:], together[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("previous", [0, 2, 3])
def test_clips_hand_on_their_last_frames(previous: int) -> None:
    seen: list[dict[str, Tensor]] = []

    def velocity(_t: Tensor, x: Tensor, **given: Tensor) -> Tensor:
        seen.append(given)
        return torch.cat([given.get("prev_x", x[:, :0]), given["wa"] - x], dim=1)

    audio = torch.arange(8.0).view(1, 8, 1)
    noise = item_noise([0], 3, 3, 1)
    found = sample(velocity, noise, audio, torch.zeros(1, 1, 1), torch.zeros(1, 1, 7), num_prev_frames=previous,
                   guidance=PLAIN, solver=Solver("euler", 1))  # fmt: skip
    torch.testing.assert_close(found, audio)  # one Euler step: x + (wa - x)
    assert [given["wa"].flatten().tolist() for given in seen] == [[0, 1, 2], [3, 4, 5], [6, 7, 7]]
    if previous:
        before = [given["prev_wa"].flatten().tolist() for given in seen]
        assert before == [[0] * previous, [0, 1, 2][3 - previous :], [3, 4, 5][3 - previous :]]
        assert all(torch.allclose(given["prev_x"], given["prev_wa"]) for given in seen)
    with pytest.raises(ValueError, match="8 frames of audio"):
        sample(velocity, noise[:, :2], audio, torch.zeros(1, 1, 1), torch.zeros(1, 1, 7), num_prev_frames=previous,
               guidance=PLAIN, solver=Solver("euler", 1))  # fmt: skip


def test_a_clip_is_led_to_where_the_one_before_ended() -> None:
    before, motion = torch.randn(2, 6, 3), torch.randn(2, 8, 3) + 5
    found = joined(before, motion, 4)
    steps = torch.cat([before, found], dim=1).diff(dim=1)
    torch.testing.assert_close(found[:, 4:], motion[:, 4:])
    torch.testing.assert_close(steps[:, 5], (before[:, -1] - before[:, -2] + motion[:, 1] - motion[:, 0]) / 2)
    line = torch.arange(14.0)[None, :, None].expand(2, 14, 3)
    torch.testing.assert_close(joined(line[:, :6], line[:, 6:], 4), line[:, 6:])
    torch.testing.assert_close(joined(before, motion[:, :1], 4), motion[:, :1])


def test_only_borders_are_led() -> None:
    torch.manual_seed(3)
    model = FlowTransformer(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    options = {"num_prev_frames": 4, "guidance": float_guidance(), "solver": Solver()}
    noise = item_noise([1], 2, 10, 32)
    free, led = (sample(model, noise, *speech([20]), **options, join_frames=frames) for frames in (0, 3))
    torch.testing.assert_close(led[:, :10], free[:, :10])
    torch.testing.assert_close(led[:, 13:], free[:, 13:])
    steps = free.diff(dim=1)
    torch.testing.assert_close(led.diff(dim=1)[:, 9], (steps[:, 8] + steps[:, 10]) / 2)


def test_a_network_without_emotion_reference_and_past() -> None:
    model = FlowTransformer(FlowSizes(10, 0, 32, 32, 0, 0, 32, 1, 2)).eval()
    audio, _, _ = speech([23])
    noise = item_noise([0], 3, 10, 32)
    found = sample(model, noise, audio, None, None, num_prev_frames=0, guidance=float_guidance(), solver=Solver())
    torch.testing.assert_close(found, noise.flatten(1, 2)[:, :23])  # it has learnt nothing yet


def test_signing_is_sampled_whole_whatever_the_padding() -> None:
    torch.manual_seed(0)
    sizes = FlowSizes(12, 0, 6, 0, 0, 0, 32, 2, 2, attention_window=0, dim_text=10, languages=3)
    model = FlowTransformer(sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    lengths = torch.tensor([12, 7])
    conditions = {
        "text": torch.randn(2, 5, 10),
        "text_mask": torch.ones(2, 5, dtype=torch.bool),
        "language": torch.tensor([0, 2]),
        "frame_mask": torch.arange(12) < lengths[:, None],
    }
    noise = item_noise([3, 4], 12, 1, 6).flatten(1, 2)
    alone = {name: value[1:] for name, value in conditions.items()} | {"frame_mask": conditions["frame_mask"][1:, :7]}
    short = item_noise([4], 7, 1, 6).flatten(1, 2)
    assert torch.equal(short[0], noise[1, :7])
    for solver in (Solver("midpoint", 4), Solver("dopri5", atol=1e-3, rtol=1e-3)):
        together = sample_clip(model, noise, conditions, (("text", 2.0), ("language", 1.0)), solver)
        expected = sample_clip(model, short, alone, (("text", 2.0), ("language", 1.0)), solver)
        torch.testing.assert_close(together[1:, :7], expected, atol=1e-4, rtol=1e-4)


def test_one_clip_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = FlowTransformer(FlowSizes(6, 0, 4, 0, 0, 0, 32, 1, 2, attention_window=0))
    clip = torch.randn(1, 6, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        x0, t = torch.randn(16, 6, 4), torch.rand(16)
        velocity = model(t, interpolate(x0, clip.expand(16, -1, -1), t))
        optimizer.zero_grad()
        flow_losses(velocity, velocity_target(x0, clip)).total.mean().backward()
        optimizer.step()
        schedule.step()
    made = sample_clip(model.eval(), item_noise([1, 2], 1, 6, 4)[:, 0], {}, (), Solver())
    assert (made - clip).abs().max() < 0.06
