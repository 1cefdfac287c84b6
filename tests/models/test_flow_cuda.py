"""On a GPU the models of rectified-flow motion give the numbers of the CPU, and in bf16 nearly so."""

import copy

import pytest
import torch
from torch import Tensor

from uni_sign.models.flow_transformer import FlowSizes, FlowTransformer
from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder
from uni_sign.models.rectified_flow import Solver, float_guidance, item_noise, sample
from uni_sign.models.stylegan_discriminator import StyleGANDiscriminator

SIZES = FlowSizes(frames=10, num_prev_frames=4, dim_w=32, dim_a=32, dim_r=32, dim_h=64, fmt_depth=2, num_heads=4)

pytestmark = pytest.mark.gpu


@pytest.fixture
def model() -> FlowTransformer:
    torch.manual_seed(0)
    model = FlowTransformer(SIZES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def generate(model: FlowTransformer, device: str, method: str) -> Tensor:
    torch.manual_seed(1)
    given = (torch.randn(2, 23, 32), torch.randn(2, 1, 32), torch.rand(2, 1, 7))
    solver = Solver(method, 4, atol=1e-4, rtol=1e-4)
    noise = item_noise([1, 2], 3, 10, 32)
    moved = copy.deepcopy(model).to(device)
    on_device = [value.to(device) for value in given]
    options = {"num_prev_frames": 4, "guidance": float_guidance(), "solver": solver, "lengths": [23, 12]}
    return sample(moved, noise, *on_device, **options).cpu()


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
def test_the_cpus_motion(model: FlowTransformer, method: str) -> None:
    torch.testing.assert_close(generate(model, "cuda", method), generate(model, "cpu", method), atol=1e-2, rtol=1e-2)


def test_bf16_motion_is_near(model: FlowTransformer) -> None:
    expected = generate(model, "cpu", "euler")
    with torch.autocast("cuda", torch.bfloat16):
        found = generate(model, "cuda", "euler")
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("bf16", [False, True])
def test_faces(bf16: bool) -> None:
    torch.manual_seed(0)
    model, judge = MotionAutoencoder(AutoencoderSizes(32, 24, 5, 16)), StyleGANDiscriminator(32, 16)
    one, other = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    expected = model(one, other)
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        found = model.cuda()(one.cuda(), other.cuda())
        judge.cuda()(found).sum().backward()
    coordinates = torch.randn(3, 5, device="cuda")
    torch.testing.assert_close(model.coordinates_of(model.motion(coordinates)), coordinates, atol=1e-4, rtol=1e-4)
    assert (found.float().cpu() - expected).abs().mean() < (0.1 if bf16 else 0.01) * expected.abs().mean()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
