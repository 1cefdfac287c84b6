"""On a GPU the model gives the numbers of the CPU: loss, gradients and generated tokens; and in bf16 nearly so."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MT5Config

from uni_sign.data.wholebody import PARTS
from uni_sign.models.uni_sign import UniSign
from uni_sign.stages.base import to_device

LENGTHS, PREFIX, D_MODEL, WIDTH = [7, 12, 5], 4, 32, 16

pytestmark = pytest.mark.gpu


@pytest.fixture
def model(tiny_config: dict[str, Any]) -> UniSign:
    torch.manual_seed(0)
    config = MT5Config(**{**tiny_config, "d_model": D_MODEL, "dropout_rate": 0.0})
    return UniSign(config, hidden_dim=WIDTH, fusion=True, text_encoder_config=config)


@pytest.fixture
def batch() -> dict[str, Any]:
    torch.manual_seed(1)
    count, width = sum(LENGTHS), PREFIX + max(LENGTHS)
    starts = [width * clip for clip in range(len(LENGTHS))]
    places = [torch.arange(start + PREFIX, start + PREFIX + n) for start, n in zip(starts, LENGTHS, strict=True)]
    labels = torch.randint(3, 50, (len(LENGTHS), 6))
    labels[0, 4:] = -100
    return {
        **{f"parts.{part}": torch.rand(count, len(points), 3) * 2 - 1 for part, points in PARTS.items()},
        "lengths": LENGTHS,
        "prefix_ids": torch.arange(3, 3 + PREFIX).repeat(len(LENGTHS)),
        "prefix_position": torch.cat([torch.arange(start, start + PREFIX) for start in starts]),
        "frame_position": torch.cat(places),
        "attention_mask": torch.stack([(torch.arange(width) < PREFIX + n).long() for n in LENGTHS]),
        "labels": labels,
        "target_position": (labels.flatten() != -100).nonzero()[:, 0],
        "text_left": torch.arange(count) % 5,
        "text_right": torch.arange(count) % 3,
        "text_weight": torch.rand(count),
        "text_indicator": (torch.arange(count) % 4 > 0).float(),
        "text_groups": [torch.randint(3, 50, (1, n)) for n in (3, 4, 6, 9)],
    }


def loss_and_gradients(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = model.summed_loss(model(batch), batch, 0.2)
    loss.backward()
    return loss.detach().cpu(), {
        name: parameter.grad.cpu() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def test_the_cpus_loss_and_gradients(model: UniSign, batch: dict[str, Any]) -> None:
    on_gpu = copy.deepcopy(model).cuda()
    loss, gradients = loss_and_gradients(model.train(), batch)
    gpu_loss, gpu_gradients = loss_and_gradients(on_gpu.train(), to_device(batch, torch.device("cuda")))
    torch.testing.assert_close(gpu_loss, loss, atol=1e-3, rtol=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    assert gpu_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gpu_gradients[name], gradient, atol=1e-3 * largest, rtol=1e-3, msg=name)


def test_the_cpus_tokens(model: UniSign, batch: dict[str, Any]) -> None:
    model.eval()
    expected = model.generate(model(batch), 4, 12)
    on_gpu = model.cuda()
    given = to_device(batch, torch.device("cuda"))
    assert torch.equal(on_gpu.generate(on_gpu(given), 4, 12).cpu(), expected)


@pytest.mark.parametrize("cast", ["autocast", "weights"])
def test_bf16_is_near(model: UniSign, batch: dict[str, Any], cast: str) -> None:
    """With autocast, and with the weights themselves in bf16 as DeepSpeed has them."""
    loss, gradients = loss_and_gradients(copy.deepcopy(model).train(), batch)
    on_gpu = model.cuda().train()
    given = to_device(batch, torch.device("cuda"))
    if cast == "weights":
        on_gpu = on_gpu.bfloat16()
    with torch.autocast("cuda", torch.bfloat16, enabled=cast == "autocast"):
        gpu_loss, gpu_gradients = loss_and_gradients(on_gpu, given)
    torch.testing.assert_close(gpu_loss.float(), loss, atol=0, rtol=0.03)
    own = torch.cat([gradients[name].flatten() for name in gradients])
    theirs = torch.cat([gpu_gradients[name].float().flatten() for name in gradients])
    assert float(torch.cosine_similarity(own, theirs, dim=0)) > 0.97
