"""The velocity network against golden numbers, and what each input can change."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uni_sign.models.flow_transformer import (
    DROPOUT_RATES,
    FlowSizes,
    FlowTransformer,
    draw_masks,
    drop_conditions,
    flow_sizes,
)

TINY = FlowSizes(
    frames=10, num_prev_frames=4, dim_w=32, dim_a=32, dim_r=32, dim_e=7, dim_h=64, fmt_depth=2, num_heads=4
)
SIGNING = FlowSizes(
    frames=12, num_prev_frames=0, dim_w=6, dim_a=0, dim_r=0, dim_e=0, dim_h=32, fmt_depth=2, num_heads=2,
    attention_window=0, dim_text=10, languages=3,
)  # fmt: skip
NAMES = ("t", "x", "wa", "wr", "we", "prev_x", "prev_wa")


def stirred(model: nn.Module) -> nn.Module:
    """Nothing at zero any more, so that everything shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def inputs(sizes: FlowSizes = TINY, batch: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(2)
    length, previous = sizes.frames, sizes.num_prev_frames
    return {
        "t": torch.rand(batch),
        "x": torch.randn(batch, length, sizes.dim_w),
        "wa": torch.randn(batch, length, sizes.dim_a),
        "wr": torch.randn(batch, 1, sizes.dim_r),
        "we": torch.randn(batch, 1, sizes.dim_e),
        "prev_x": torch.randn(batch, previous, sizes.dim_w),
        "prev_wa": torch.randn(batch, previous, sizes.dim_a),
    }


def signing_inputs(batch: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {
        "t": torch.rand(batch),
        "x": torch.randn(batch, 12, 6),
        "text": torch.randn(batch, 5, 10),
        "text_mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:batch],
        "language": torch.tensor([1, 2])[:batch],
        "frame_mask": torch.tensor([[True] * 12, [True] * 8 + [False] * 4])[:batch],
    }


@torch.no_grad()
def test_the_published_network(golden: Callable[[str], Any], golden_weights: Callable[..., dict[str, Tensor]]) -> None:
    numbers = golden("10_float_fmt_io.npz")
    model = FlowTransformer(TINY).eval()
    missing, unknown = model.load_state_dict(
        {k[4:]: v for k, v in golden_weights("10_float_recipe.json").items() if k.startswith("fmt.")}, strict=False
    )
    assert (sorted(missing), unknown) == (["alignment_mask", "pos_embed"], [])
    for name in ("alignment_mask", "pos_embed"):
        torch.testing.assert_close(getattr(model, name), torch.from_numpy(numbers[f"fmt/{name}"]), atol=1e-6, rtol=0)
    found = model(*(torch.from_numpy(numbers[f"in/{name}"]) for name in NAMES))
    torch.testing.assert_close(found, torch.from_numpy(numbers["fmt/out"]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("sizes", "given"), [(TINY, inputs()), (SIGNING, signing_inputs())])
def test_the_first_output_is_zero_and_learning_moves_it(sizes: FlowSizes, given: dict[str, Tensor]) -> None:
    model = FlowTransformer(sizes).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = model(**given)
    assert first.shape == (2, sizes.positions, sizes.dim_w)
    assert not first.any()
    for _ in range(3):
        optimizer.zero_grad()
        (model(**given) - 1).square().mean().backward()
        optimizer.step()
    assert model(**given).abs().max() > 0.01
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_nothing_is_added_to_the_published_form() -> None:
    assert not [name for name in FlowTransformer(TINY).state_dict() if "text" in name or "language" in name]


@torch.no_grad()
def test_a_frame_reaches_as_far_as_the_windows() -> None:
    model, given = stirred(FlowTransformer(TINY)), inputs()
    before = model(**given)
    given["x"][:, 0] += 1.0
    changed = (model(**given) - before).abs().amax(dim=(0, 2)) > 1e-6
    place = TINY.num_prev_frames
    assert changed.nonzero().flatten().tolist() == list(range(place - 4, place + 5))  # two blocks of window 2
    whole = stirred(FlowTransformer(replace(TINY, attention_window=0)))
    before = whole(**given)
    given["x"][:, 0] += 1.0
    assert ((whole(**given) - before).abs().amax(dim=(0, 2)) > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_each_input_counts_and_no_other_sample(name: str) -> None:
    model, given = stirred(FlowTransformer(TINY)), inputs()
    before = model(**given)
    given[name] = given[name].clone()
    given[name][0] += 0.5
    after = model(**given)
    assert not torch.allclose(after[0], before[0], atol=1e-4)
    torch.testing.assert_close(after[1], before[1])


@torch.no_grad()
def test_one_time_for_all_and_times_that_lie_close() -> None:
    model, given = stirred(FlowTransformer(TINY)), inputs()
    given["t"] = torch.full((2,), 0.3)
    torch.testing.assert_close(model(**{**given, "t": torch.tensor(0.3)}), model(**given))
    embedded = model.t_embedder(torch.tensor([0.990, 0.991]))
    assert (embedded[0] - embedded[1]).abs().max() > 1e-4


@torch.no_grad()
def test_signing_depends_on_text_and_language_and_on_no_padding() -> None:
    model, given = stirred(FlowTransformer(SIGNING)), signing_inputs()
    before = model(**given)
    other = {name: value.clone() for name, value in given.items()}
    other["x"][1, 8:] = 7.0
    other["text"][1, 3:] = 7.0
    torch.testing.assert_close(model(**other)[1, :8], before[1, :8])
    alone = {name: value[1:] for name, value in given.items()}
    alone |= {"x": alone["x"][:, :8], "frame_mask": alone["frame_mask"][:, :8]}
    alone |= {"text": alone["text"][:, :3], "text_mask": alone["text_mask"][:, :3]}
    torch.testing.assert_close(model(**alone)[0], before[1, :8])
    for name, value in (("text", given["text"].flip(2)), ("language", torch.tensor([0, 0]))):
        assert ((model(**{**given, name: value}) - before).abs().amax(dim=(1, 2)) > 1e-4).all(), name


@torch.no_grad()
def test_a_language_that_is_left_out_adds_nothing() -> None:
    model, given = stirred(FlowTransformer(SIGNING)), signing_inputs()
    given["language"] = torch.tensor([-1, -1])
    before = model(**given)
    model.language_embedder.weight.add_(1.0)
    assert torch.equal(model(**given), before)


@torch.no_grad()
def test_no_frame_and_no_piece_of_text_give_numbers() -> None:
    model, given = stirred(FlowTransformer(replace(SIGNING, attention_window=1))), signing_inputs()
    given["frame_mask"][0] = False
    given["text_mask"][0] = False
    assert model(**given).isfinite().all()


def test_recomputation_changes_no_gradient() -> None:
    gradients = []
    for recomputes in (False, True):
        model = stirred(FlowTransformer(SIGNING)).train()
        if recomputes:
            model.gradient_checkpointing_enable()
        model(**signing_inputs()).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@torch.no_grad()
def test_bf16_weights_take_float32_inputs() -> None:
    model = stirred(FlowTransformer(TINY))
    expected = model(**inputs())
    found = model.bfloat16()(**inputs())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.15 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"wa": None}, "wa is missing"), ({"language": torch.tensor([0, 0])}, "language is given"),
     ({"prev_x": None}, "prev_x is missing"), ({"x": torch.zeros(2, 11, 32)}, "more than the 14")],
)  # fmt: skip
def test_conditions_are_those_of_the_sizes(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FlowTransformer(TINY)(**{**inputs(), **change})


def test_sizes_come_back_from_plain_values() -> None:
    assert flow_sizes(asdict(SIGNING)) == SIGNING
    with pytest.raises(ValueError, match="frames"):
        flow_sizes({name: value for name, value in asdict(TINY).items() if name != "frames"})
    with pytest.raises(ValueError, match="evil"):
        flow_sizes({**asdict(TINY), "evil": 1})


@pytest.mark.parametrize(
    "change",
    [{"frames": 0}, {"dim_h": 1 << 20}, {"fmt_depth": 1000}, {"num_heads": 5}, {"num_heads": True}, {"dim_a": -1},
     {"mlp_ratio": float("nan")}, {"mlp_ratio": 0}, {"dim_w": 8.0}, {"num_prev_frames": 11}, {"attention_window": -1}],
)  # fmt: skip
def test_impossible_sizes(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"impossible value|no multiple|more than"):
        replace(TINY, **change)


def test_masks_are_drawn_by_sample_and_condition_at_their_rates() -> None:
    masks = draw_masks(DROPOUT_RATES, 4000, torch.Generator().manual_seed(0))
    assert list(masks) == list(DROPOUT_RATES)
    for name, rate in DROPOUT_RATES.items():
        assert masks[name].float().mean().item() == pytest.approx(rate, abs=0.03)
    both = torch.stack(list(masks.values())).float()
    assert (torch.corrcoef(both) - torch.eye(5)).abs().max() < 0.06
    again = draw_masks(DROPOUT_RATES, 4000, torch.Generator().manual_seed(0))
    assert all(torch.equal(masks[name], again[name]) for name in masks)


def test_dropping_leaves_what_is_given_alone() -> None:
    given = {"wa": torch.ones(2, 3, 4), "we": torch.ones(2, 1, 7), "language": torch.tensor([0, 2])}
    before = {name: value.clone() for name, value in given.items()}
    found = drop_conditions(given, {"wa": torch.tensor([True, False]), "language": torch.tensor([False, True])})
    assert all(torch.equal(given[name], before[name]) for name in given)
    assert (found["wa"][0].any().item(), found["wa"][1].all().item()) == (False, True)
    assert torch.equal(found["we"], given["we"])
    assert found["language"].tolist() == [0, -1]
    with pytest.raises(ValueError, match="prev_x"):
        drop_conditions(given, {"prev_x": torch.tensor([True, False])})
