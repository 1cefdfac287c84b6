"""The RGB branch: trunk and prior-guided fusion against golden data, and what crops may and may not change."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import weights_recipe
from torch import Tensor
from transformers import MT5Config

from uni_sign.errors import InputError
from uni_sign.models.batch_norm import set_batch_norm_mode
from uni_sign.models.efficientnet import EfficientNet
from uni_sign.models.pose_encoder import GRAPHS
from uni_sign.models.rgb_fusion import DeformableAttention, add_rgb_fusion, fused_hands
from uni_sign.models.uni_sign import UniSign
from uni_sign.models.weights import compared, dead_gate, load_checkpoint, load_trunk, unwrap
from uni_sign.stages.base import to_device

Golden = Callable[[str], Any]
Weights = Callable[[str, str | None], dict[str, Tensor]]


def drawn(key: str, shape: tuple[int, ...], mid: float, amp: float) -> Tensor:
    return torch.from_numpy(np.asarray(weights_recipe.tensor(key, shape, mid, amp)))


@pytest.fixture(scope="module")
def trunk(golden_weights: Weights) -> EfficientNet:
    weights = golden_weights("05_efficientnet_recipe.json", "05_efficientnet_bn.npz")
    trunk = EfficientNet().eval()
    trunk.load_state_dict({name.removeprefix("rgb_support_backbone."): value for name, value in weights.items()})
    return trunk


def test_golden_trunk(trunk: EfficientNet, golden: Golden) -> None:
    io = golden("05_efficientnet_io.npz")
    images = drawn("effnet_input", (2, 3, 112, 112), 0, 2) + 1.5 * drawn("effnet_input_dc", (2, 3, 1, 1), 0, 2)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images), torch.from_numpy(io["out"]), atol=2e-4, rtol=0)
        odd = trunk(drawn("effnet_input2", (1, 3, 75, 90), 0, 2))
    torch.testing.assert_close(odd, torch.from_numpy(io["out_75x90"]), atol=2e-4, rtol=0)


@pytest.fixture
def branch(golden_weights: Weights) -> Any:
    model = torch.nn.Module()
    add_rgb_fusion(model, 256)
    weights = golden_weights("04_deform_recipe.json", None)
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown
    assert {name.split(".")[0] for name in missing} == {"rgb_support_backbone"}
    return model.eval()


def test_golden_attention(branch: Any, golden: Golden) -> None:
    io = {name: torch.from_numpy(array) for name, array in golden("04_deform_io_attention.npz").items()}
    attention: DeformableAttention = branch.fusion_pose_rgb_DA
    points = 2 * io["da/pose_init"].transpose(1, 2) - 1
    with torch.no_grad():
        out = attention(io["da/pose_feat"], io["da/rgb_feat"], points)
    torch.testing.assert_close(out, io["da/out"], atol=1e-5, rtol=0)


class Given(torch.nn.Module):
    """A trunk whose features are given."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor, counted: bool, recompute: bool) -> Tensor:
        assert (len(images), counted, recompute) == (len(self.maps), True, False)
        return self.maps


def crops_of(hand: str, points: Tensor, places: Tensor, crops: Tensor | None = None) -> dict[str, Tensor]:
    blank = torch.zeros(len(places), 3, 112, 112, dtype=torch.uint8)
    return {
        f"crops.{hand}": blank if crops is None else crops,
        f"crop_points.{hand}": points,
        f"crop_place.{hand}": places,
    }


NOTHING = (torch.zeros(0, 21, 2), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("hand", ["left", "right"])
def test_golden_fusion_and_its_gradients(branch: Any, golden: Golden, hand: str) -> None:
    files = [golden(f"04_deform_io_gather_{part}.npz") for part in (1, 2)]
    io = {name.removeprefix("gather/"): torch.from_numpy(file[name]) for file in files for name in file}
    clips, channels, frames, points = io["gcn"].shape
    clip_of = torch.arange(clips).repeat_interleave(io["rgb_len"])
    kept = io["indices"] >= 0
    places = (clip_of * frames + io["indices"])[kept]
    branch.rgb_support_backbone = Given(drawn("rgb", (6, 1280, 4, 4), 0, 1)[kept])
    hands = {name: torch.zeros(channels, points, clips * frames) for name in ("left", "right")}
    hands[hand] = io["gcn"].permute(1, 3, 0, 2).flatten(2)
    other = {"left": "right", "right": "left"}[hand]
    made = fused_hands(branch, hands, crops_of(hand, io["pose_init"][kept], places) | crops_of(other, *NOTHING))
    out = made[hand].unflatten(2, (clips, frames)).permute(2, 0, 3, 1)
    torch.testing.assert_close(out, io["out"], atol=1e-5, rtol=0)
    assert not made[other].any()
    (out * drawn("cot", tuple(out.shape), 0, 1)).sum().backward()
    norms = golden("04_deform_gradnorms.json")["grad_norms"]
    parameters = dict(branch.named_parameters())
    for name, norm in norms.items():
        grad = parameters[name].grad
        assert (grad is None) == (norm is None), name
        if grad is not None:
            assert float(grad.norm()) == pytest.approx(norm, rel=1e-4, abs=1e-4), name


# --- in the whole model ---------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny_config: dict[str, Any]) -> UniSign:
    torch.manual_seed(0)
    return UniSign(MT5Config(**tiny_config), hidden_dim=32, rgb_support=True)


def batch_of(lengths: list[int], places: dict[str, list[int]]) -> dict[str, Any]:
    """Random clips, with random crops at these places of the packed frames."""
    draws, frames, width = torch.Generator().manual_seed(1), sum(lengths), max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    batch: dict[str, Any] = {
        **{f"parts.{part}": torch.randn(frames, points, 3, generator=draws) for part, (points, _) in GRAPHS.items()},
        "lengths": lengths,
        "prefix_ids": torch.zeros(0, dtype=torch.int64),
        "prefix_position": torch.zeros(0, dtype=torch.int64),
        "frame_position": mask.flatten().nonzero()[:, 0],
        "attention_mask": mask.long(),
        "labels": torch.ones(len(lengths), 2, dtype=torch.int64),
        "target_position": torch.arange(2 * len(lengths)),
    }
    for hand, of_hand in places.items():
        images = torch.randint(0, 256, (len(of_hand), 3, 112, 112), dtype=torch.uint8, generator=draws)
        points = torch.rand(len(of_hand), 21, 2, generator=draws)
        batch |= crops_of(hand, points, torch.tensor(of_hand, dtype=torch.int64), images)
    return batch


def test_gradient_reaches_the_trunk_from_the_first_step(model: UniSign) -> None:
    batch = batch_of([5, 7], {"left": [1, 6], "right": [11]})
    model.summed_loss(model.train()(batch), batch, 0.2).backward()
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert {name.split(".")[0] for name in still} == {"fusion_pose_rgb_linear"}
    first = model.rgb_support_backbone.get_parameter("0.0.0.weight").grad
    assert first is not None
    assert first.abs().max() > 0
    assert model.fusion_gate[2].weight.grad.abs().max() > 0


def test_without_crops_it_is_the_pose_model(model: UniSign, tiny_config: dict[str, Any]) -> None:
    plain = UniSign(MT5Config(**tiny_config), hidden_dim=32)
    load_checkpoint(plain, unwrap({k: v for k, v in model.state_dict().items() if k in plain.state_dict()}, "here"))
    batch = batch_of([5, 7], {"left": [], "right": []})
    for mode in (True, False):
        ours, theirs = model.train(mode)(batch).hidden_states, plain.train(mode)(batch).hidden_states
        if not mode:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    before = {name: value.clone() for name, value in model.rgb_support_backbone.state_dict().items()}
    model.train()
    model.summed_loss(model(batch), batch, 0.2).backward()
    assert all(value.equal(before[name]) for name, value in model.rgb_support_backbone.state_dict().items())
    gradients = [parameter.grad for parameter in model.rgb_support_backbone.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("mode", ["sync", "pooled"])
def test_a_crop_changes_its_own_frame_alone(model: UniSign, mode: Any) -> None:
    set_batch_norm_mode(model.eval(), mode)
    batch = batch_of([300, 280], {"left": [257, 301], "right": [579]})
    parts = {part: batch[f"parts.{part}"] for part in GRAPHS}
    seen: list[dict[str, Tensor]] = []

    def refine(hands: Any) -> Any:
        seen.append({hand: x.clone() for hand, x in hands.items()})
        seen.append(fused_hands(model, hands, batch))
        return seen[-1]

    with torch.no_grad():
        model.concat_parts(parts, batch["lengths"], True, refine)
    changed = {
        hand: (seen[0][hand] != seen[1][hand]).any(0).any(0).nonzero()[:, 0].tolist() for hand in ("left", "right")
    }
    assert changed == {"left": [257, 301], "right": [579]}


def test_places_above_256_are_exact_in_bf16(model: UniSign) -> None:
    model.to(torch.bfloat16).eval()
    batch = batch_of([300], {"left": [257, 259], "right": [299]})
    assert model.fusion_pose_rgb_DA.pe_layer.positional_encoding_gaussian_matrix.dtype == torch.float32
    taken: list[Tensor] = []
    model.fusion_pose_rgb_DA.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    hands = {hand: torch.arange(300, dtype=torch.float32).expand(32, 21, 300).clone() for hand in ("left", "right")}
    with torch.no_grad():
        made = fused_hands(model, hands, batch)
        encoded = model({**batch, **{f"parts.{part}": batch[f"parts.{part}"].bfloat16() for part in GRAPHS}})
    assert [float(row[0, 0]) for row in taken[0]] == [257.0, 259.0, 299.0]
    assert taken[0].dtype == torch.float32
    assert (made["left"] != hands["left"]).any(0).any(0).nonzero()[:, 0].tolist() == [257, 259]
    assert encoded.hidden_states.isfinite().all()


def test_recomputation_gives_the_same_gradients(model: UniSign) -> None:
    batch = batch_of([5, 7], {"left": [1, 6], "right": [11]})
    model.mt5_model.eval()
    set_batch_norm_mode(model, "frozen")
    gradients = []
    for recompute in (False, True):
        model.gradient_checkpointing = recompute
        model.zero_grad()
        model.summed_loss(model(batch), batch, 0.2).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# --- checkpoints ----------------------------------------------------------------------------------------------


def test_published_keys(golden: Golden) -> None:
    published = golden("checkpoint_keys_uni_sign_rgb.json")["keys"]
    base = {"vocab_size": 250112, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
    with torch.device("meta"):
        model = UniSign(MT5Config(**base, feed_forward_proj="gated-gelu"), rgb_support=True)
        weights = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in published.items()}
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == {
        name: shape for name, (shape, _) in published.items()
    }
    compared(model, unwrap(weights, "published"))
    del weights["fusion_gate.2.bias"]
    with pytest.raises(InputError, match=r"1 tensors are missing \(first fusion_gate\.2\.bias\)"):
        compared(model, unwrap(weights, "published"))


def test_a_pose_checkpoint_starts_an_rgb_model_and_not_the_other_way(
    model: UniSign, tiny_config: dict[str, Any]
) -> None:
    plain = UniSign(MT5Config(**tiny_config), hidden_dim=32)
    said = load_checkpoint(model, unwrap(plain.state_dict(), "pose.pth"))
    assert "not in it, so at their start: fusion_gate, fusion_pose_rgb_DA, fusion_pose_rgb_linear, rgb_proj" in said
    assert not dead_gate(model)
    with pytest.raises(InputError, match=r"hand crops: add --rgb_support"):
        load_checkpoint(plain, unwrap(model.state_dict(), "rgb.pth"))
    partial = {k: v for k, v in model.state_dict().items() if not k.startswith("fusion_gate")}
    with pytest.raises(InputError, match=r"4 tensors are missing \(first fusion_gate"):
        load_checkpoint(model, unwrap(partial, "partial.pth"))


def test_a_dead_gate_is_seen(model: UniSign) -> None:
    torch.nn.init.zeros_(model.fusion_gate[2].weight)
    assert not dead_gate(model)
    torch.nn.init.zeros_(model.fusion_gate[2].bias)
    assert dead_gate(model)


def test_imagenet_weights(model: UniSign) -> None:
    torch.manual_seed(5)
    other = EfficientNet()
    given = {f"features.{name[2:]}": value for name, value in other.state_dict().items()}
    given |= {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}
    assert "358 tensors" in load_trunk(model.rgb_support_backbone, given, "b0.pth")
    assert model.rgb_support_backbone.get_parameter("0.3.1.block.0.0.weight").equal(
        other.get_parameter("0.3.1.block.0.0.weight")
    )
    for change, says in (
        ({"features.9.weight": torch.zeros(1)}, "1 are unknown"),
        ({"head.weight": torch.zeros(1)}, "head"),
        ({"features.0.0.weight": torch.zeros(1)}, "shape"),
    ):
        with pytest.raises(InputError, match=says):
            load_trunk(model.rgb_support_backbone, given | change, "b0.pth")
    del given["features.0.0.weight"]
    with pytest.raises(InputError, match="1 tensors are missing"):
        load_trunk(model.rgb_support_backbone, given, "b0.pth")


@pytest.mark.gpu
def test_a_gpu_gives_the_numbers_of_the_cpu(model: UniSign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    batch = batch_of([5, 7], {"left": [1, 6], "right": [11]})
    model.mt5_model.eval()
    set_batch_norm_mode(model, "frozen")
    results: dict[str, tuple[float, Tensor]] = {}
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        given = to_device(batch, torch.device(device))
        loss = model.summed_loss(model(given), given, 0.2)
        loss.backward()
        gradient = model.rgb_support_backbone.get_parameter("0.0.0.weight").grad
        assert gradient is not None
        # Through frozen norms and random weights little comes back: some 1e-15.
        results[device] = float(loss.detach()), (gradient / gradient.abs().max()).flatten().cpu()
    assert results["cuda"][0] == pytest.approx(results["cpu"][0], rel=1e-4)
    assert float(torch.cosine_similarity(results["cuda"][1], results["cpu"][1], dim=0)) > 0.999
    model.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.summed_loss(model(given), given, 0.2)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(results["cpu"][0], rel=0.05)
