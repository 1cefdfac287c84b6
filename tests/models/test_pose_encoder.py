"""Graphs, chains and features against golden data; padding, packing and batch-norm statistics."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from uni_sign.models.batch_norm import BatchNormMode, FrameBatchNorm, set_batch_norm_mode
from uni_sign.models.frame_layout import FrameLayout
from uni_sign.models.pose_encoder import GRAPHS, Block, PoseEncoder, adjacency, run_layer

CHAINS = {
    "spatial_left": ("left", [(64, 64), (64, 128), (128, 256)], False),
    "spatial_body": ("body", [(64, 64), (64, 128), (128, 256)], False),
    "temporal_face": ("face_all", [(256, 256)] * 3, True),
    "temporal_body_T1": ("body", [(256, 256)] * 3, True),
}


def _parts(lengths: list[int], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {part: torch.randn(sum(lengths), v, 3, generator=generator) for part, (v, _) in GRAPHS.items()}


def test_golden_graphs(golden: Callable[[str], Any]) -> None:
    graphs = golden("03_graphs.npz")
    for part in GRAPHS:
        torch.testing.assert_close(adjacency(part).double(), torch.from_numpy(graphs[f"{part}/distance"]))


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_golden_chains(
    name: str, mode: str, golden: Callable[[str], Any], golden_weights: Callable[[str, str], dict[str, Tensor]]
) -> None:
    part, widths, temporal = CHAINS[name]
    io = golden(f"03_stgcn_chain_io_{2 if temporal else 1}.npz")
    weights = golden_weights("03_stgcn_chain_recipe.json", "03_stgcn_chain_small.npz")
    names = [f"layer0_{i}" if temporal else f"layer{i}_0" for i in range(3)]
    blocks = torch.nn.ModuleDict(
        {n: Block(a, b, adjacency(part), temporal) for n, (a, b) in zip(names, widths, strict=True)}
    )
    blocks.load_state_dict({k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")})
    blocks.train(mode == "train")
    x = torch.from_numpy(io[f"{name}/x"])
    clips, _, frames, points = x.shape
    layout = FrameLayout([frames] * clips)
    maps = [x.permute(1, 3, 0, 2).flatten(2)]
    if temporal:
        maps = [layout.space(maps[0])]
    for block in blocks.values():
        maps = run_layer([block], maps, [layout])
    packed = layout.pack(maps[0]) if temporal else maps[0]
    ours = packed.view(-1, points, clips, frames).permute(2, 0, 3, 1)
    torch.testing.assert_close(ours, torch.from_numpy(io[f"{name}/y_{mode}"]), atol=1e-5, rtol=1e-5)
    if mode == "train":
        expected = torch.from_numpy(io[f"{name}/running_mean_after"])
        torch.testing.assert_close(blocks[names[0]].gcn.bn.running_mean, expected, atol=1e-6, rtol=1e-5)


def test_a_clip_has_the_same_features_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    encoder = PoseEncoder(24, hidden_dim=16).eval()
    lengths = [9, 1, 14, 5]
    parts = _parts(lengths)
    together = encoder.pose_features(parts, lengths).split(lengths)
    start = 0
    for length, features in zip(lengths, together, strict=True):
        own = {part: x[start : start + length] for part, x in parts.items()}
        torch.testing.assert_close(features, encoder.pose_features(own, [length]), atol=1e-5, rtol=1e-5)
        start += length


def test_left_and_right_share_their_weights() -> None:
    encoder = PoseEncoder(24, hidden_dim=16)
    state = encoder.state_dict()
    assert state["gcn_modules.left.layer0_0.gcn.A"].data_ptr() == state["gcn_modules.right.layer0_0.gcn.A"].data_ptr()
    assert len(dict(encoder.named_parameters())) < len(dict(encoder.named_parameters(remove_duplicate=False)))


def test_anchors_are_detached() -> None:
    encoder = PoseEncoder(24, hidden_dim=16).eval()
    parts = {part: x.requires_grad_() for part, x in _parts([6]).items()}
    features = encoder.concat_parts(parts, [6])
    (grad,) = torch.autograd.grad(features[:, 16:32].sum(), parts["body"], allow_unused=True)
    assert grad is None or not grad.any()


def test_frozen_statistics_make_a_clip_independent_of_its_batch_in_training() -> None:
    encoder = PoseEncoder(24, hidden_dim=16).train()
    set_batch_norm_mode(encoder, "frozen")
    parts = _parts([7, 4])
    together = encoder.pose_features(parts, [7, 4])[:7]
    alone = encoder.pose_features({part: x[:7] for part, x in parts.items()}, [7])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mode", "same"), [("pooled", True), ("sync", False)])
def test_pooled_statistics_evaluate_what_was_trained(mode: BatchNormMode, same: bool) -> None:
    """One batch's statistics as running ones: the hands, which share them, are evaluated as trained if pooled."""
    torch.manual_seed(0)
    encoder = PoseEncoder(24, hidden_dim=16).train()
    set_batch_norm_mode(encoder, mode)
    for module in encoder.modules():
        if isinstance(module, FrameBatchNorm):
            module.momentum = 1.0
    lengths = [30, 25]
    parts = _parts(lengths)
    parts["left"] = 0.2 * parts["left"] + 1
    trained = encoder.pose_features(parts, lengths)
    evaluated = encoder.eval().pose_features(parts, lengths)
    assert torch.allclose(trained, evaluated, atol=0.02) == same


def test_a_bias_before_a_batch_norm_has_no_gradient_but_moves_the_running_mean() -> None:
    encoder = PoseEncoder(24, hidden_dim=16).train()
    parts = _parts([7, 4])
    norm = encoder.fusion_gcn_modules["body"]["layer0_0"].tcn[1]
    bias = encoder.fusion_gcn_modules["body"]["layer0_0"].tcn[0].bias
    norm.momentum = 1.0
    encoder.pose_features(parts, [7, 4]).square().sum().backward()
    assert bias.grad is not None
    assert not bias.grad.any()
    before = norm.running_mean.clone()
    bias.data += 80
    encoder.pose_features(parts, [7, 4])
    torch.testing.assert_close(norm.running_mean, before + 80)


def test_clips_that_do_not_count_are_normalised_by_running_statistics_and_leave_them_alone() -> None:
    encoder = PoseEncoder(24, hidden_dim=16).train()
    parts, lengths = _parts([7, 4]), [7, 4]
    encoder.pose_features(parts, lengths)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    filled = encoder.pose_features(parts, lengths, counted=False)
    filled.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    torch.testing.assert_close(filled, encoder.eval().pose_features(parts, lengths), atol=1e-5, rtol=1e-5)


def test_a_bias_of_many_deviations_costs_no_half_precision() -> None:
    torch.manual_seed(0)
    encoder = PoseEncoder(24, hidden_dim=16).train()
    parts, lengths = _parts([40]), [40]
    features = []
    for bias in (0.0, 80.0):
        for name, parameter in encoder.named_parameters():
            if name.endswith(("gcn.conv.bias", "tcn.0.bias", "residual.0.bias")):
                parameter.data.fill_(bias)
        with torch.autocast("cpu", torch.bfloat16):
            features.append(encoder.concat_parts(parts, lengths))
    assert (features[0] - features[1]).abs().mean() < 0.005 * features[0].std()


def test_running_statistics_stay_in_float32() -> None:
    norm = FrameBatchNorm(4)
    norm.running_mean.fill_(80.17)
    norm = norm.to(torch.bfloat16)
    assert norm.weight.dtype == torch.bfloat16
    assert float(norm.running_mean[0]) == pytest.approx(80.17, abs=1e-4)
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32


def test_a_frozen_encoder_keeps_nothing_for_a_backward_pass() -> None:
    """With --fusion_only nothing below the fusion trains: no activation may be held, and no gradient made."""
    encoder = PoseEncoder(24, hidden_dim=16).train().requires_grad_(False)
    set_batch_norm_mode(encoder, "frozen")
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        features = encoder.pose_features(_parts([7, 4]), [7, 4])
        assert not features.requires_grad
        assert not kept
        encoder.requires_grad_()
        encoder.pose_features(_parts([7, 4]), [7, 4])
        assert kept


def test_half_precision_takes_float_coordinates() -> None:
    encoder = PoseEncoder(24, hidden_dim=16).to(torch.bfloat16).eval()
    assert encoder.pose_features(_parts([3]), [3]).dtype == torch.bfloat16
