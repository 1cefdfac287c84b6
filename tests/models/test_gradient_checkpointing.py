"""Recomputed activations: the same loss, gradients, dropout and running statistics, and less kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import MT5Config

from uni_sign.models.batch_norm import BatchNormMode, set_batch_norm_mode
from uni_sign.models.pose_encoder import GRAPHS
from uni_sign.models.uni_sign import UniSign

LENGTHS = [9, 6]
PREFIX = 2
MT5 = {"vocab_size": 60, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.2}


def small_model(**options: Any) -> UniSign:
    torch.manual_seed(0)
    config = MT5Config(**MT5, feed_forward_proj="gated-gelu")
    return UniSign(config, hidden_dim=16, fusion=True, text_encoder_config=config, **options).train()


def small_batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    frames, width = sum(LENGTHS), PREFIX + max(LENGTHS)
    starts = [clip * width for clip in range(len(LENGTHS))]
    places = [start + PREFIX + i for start, length in zip(starts, LENGTHS, strict=True) for i in range(length)]
    mask = torch.tensor([[1] * (PREFIX + n) + [0] * (width - PREFIX - n) for n in LENGTHS])
    return {
        **{f"parts.{part}": torch.randn(frames, v, 3, generator=generator) for part, (v, _) in GRAPHS.items()},
        "lengths": LENGTHS,
        "prefix_ids": torch.tensor([3, 4] * len(LENGTHS)),
        "prefix_position": torch.tensor([start + i for start in starts for i in range(PREFIX)]),
        "frame_position": torch.tensor(places),
        "attention_mask": mask,
        "labels": torch.tensor([[5, 6, 7, 1], [8, 1, -100, -100]]),
        "target_position": torch.tensor([0, 1, 2, 3, 4, 5]),
        "text_left": torch.arange(frames) % 3,
        "text_right": torch.arange(frames) % 4,
        "text_weight": torch.rand(frames, generator=generator),
        "text_indicator": torch.ones(frames),
        "text_groups": [torch.tensor([[9, 10, 1], [11, 12, 1]]), torch.tensor([[13, 14, 15, 16, 1]])],
    }


@contextmanager
def counted_values() -> Iterator[list[int]]:
    """The sizes of all tensors kept for the backward pass."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def step(model: UniSign, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], int]:
    """Loss and gradients of two micro-batches with dropout, the buffers after them, and how many values were kept."""
    torch.manual_seed(7)
    total, kept_values = torch.zeros(()), 0
    for _ in range(2):
        with counted_values() as kept:
            loss = model.summed_loss(model(batch), batch, 0.1)
        loss.backward()
        total, kept_values = total + loss.detach(), kept_values + sum(kept)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total, gradients, dict(model.named_buffers()), kept_values


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mode", ["sync", "pooled", "frozen"])
def test_recomputation_changes_nothing_but_what_is_kept(mode: BatchNormMode, autocast: bool) -> None:
    results = []
    for recomputes in (False, True):
        model = small_model()
        set_batch_norm_mode(model, mode)
        if recomputes:
            model.gradient_checkpointing_enable()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results.append(step(model, small_batch()))
    (loss, gradients, buffers, kept), (loss_again, gradients_again, buffers_again, kept_again) = results
    assert torch.equal(loss, loss_again)
    assert gradients.keys() == gradients_again.keys()
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)
    assert all(torch.equal(buffers[name], buffers_again[name]) for name in buffers)
    tracked = {int(value) for name, value in buffers_again.items() if name.endswith("num_batches_tracked")}
    # Both hands have their turn with one set of weights, unless they are one map.
    assert tracked == {"sync": {2, 4}, "pooled": {2}, "frozen": {0}}[mode]
    assert kept_again < kept / 3


def test_a_large_batch_of_texts_is_recomputed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uni_sign.models.text_fusion.KEPT_TOKENS", 4)
    plain, nested = small_model(), small_model()
    nested.gradient_checkpointing_enable()
    (loss, gradients, *_), (loss_again, gradients_again, *_) = (step(m, small_batch()) for m in (plain, nested))
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


def test_what_is_frozen_asks_for_no_gradient() -> None:
    """Canary: transformers hooks its embeddings so that what they look up does, wherever activations are recomputed."""
    model = small_model()
    model.gradient_checkpointing_enable()
    model.mt5_model.shared.requires_grad_(False)
    assert not model.mt5_model.shared(torch.tensor([3])).requires_grad


def test_the_backward_pass_may_run_twice() -> None:
    model, batch = small_model(), small_batch()
    model.gradient_checkpointing_enable()
    loss = model(batch).hidden_states.square().sum()
    once = torch.autograd.grad(loss, [model.part_para, model.pose_proj.weight], retain_graph=True)
    again = torch.autograd.grad(loss, [model.part_para, model.pose_proj.weight])
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


def test_evaluation_and_forward_passes_without_gradient_are_as_before() -> None:
    model, batch = small_model().eval(), small_batch()
    with torch.no_grad():
        plain = model(batch).hidden_states
        model.gradient_checkpointing_enable()
        assert torch.equal(model(batch).hidden_states, plain)
        assert model.train()(batch).hidden_states.shape == plain.shape
