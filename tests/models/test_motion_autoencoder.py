"""The motion autoencoder against golden numbers; its motion has its coordinates in it."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder, autoencoder_sizes
from uni_sign.models.stylegan_layers import Blur, EqualLinear, ModulatedConv2d, Upsample, conv_layer, width_at

TINY = AutoencoderSizes(input_size=32, dim_w=24, dim_m=5, channels=16)


def tiny() -> MotionAutoencoder:
    torch.manual_seed(0)
    return MotionAutoencoder(TINY)


@torch.no_grad()
def test_the_published_autoencoder(
    golden: Callable[[str], Any], golden_weights: Callable[..., dict[str, Tensor]]
) -> None:
    numbers = {name[4:]: torch.from_numpy(value) for name, value in golden("10_float_generator_io.npz").items()}
    model = MotionAutoencoder(AutoencoderSizes(input_size=64)).eval()
    weights = {k[4:]: v for k, v in golden_weights("10_float_recipe.json").items() if k.startswith("gen.")}
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert unknown == []
    assert {name.split(".")[-1] for name in missing} == {"kernel"}

    def close(found: Tensor, name: str) -> None:
        torch.testing.assert_close(found, numbers[name], atol=1e-4, rtol=1e-4, msg=lambda said: f"{name}: {said}")

    source, features = model.encode(numbers["img"])
    driving, _ = model.encode(numbers["drv"])
    own, other = model.coordinates(source), model.coordinates(driving)
    close(source, "wa")
    assert [list(each.shape) for each in features] == numbers["feat_shapes"].tolist()
    statistics = torch.stack([torch.stack([each.mean(), each.std()]) for each in features])
    close(statistics.double(), "feats_mean_std")
    close(own, "r_s_lambda")
    close(other, "alpha")
    close(model.basis(), "Q")
    close(model.motion(own), "direction")
    both = model.decode(source, torch.cat([model.motion(own), model.motion(other)]), features)
    close(both[:1], "self_img")
    close(both[1:], "d_hat")
    close(model(numbers["img"], numbers["drv"]), "d_hat")


def test_motion_gives_its_coordinates_back() -> None:
    model = tiny()
    coordinates = torch.randn(3, 7, 5)
    motion = model.motion(coordinates)
    torch.testing.assert_close(model.basis().T @ model.basis(), torch.eye(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(motion.norm(dim=-1), coordinates.norm(dim=-1))
    torch.testing.assert_close(model.coordinates_of(motion), coordinates, atol=1e-5, rtol=1e-5)
    aside = torch.randn(24)
    aside -= model.motion(model.coordinates_of(aside))
    torch.testing.assert_close(model.coordinates_of(motion + aside), coordinates, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.coordinates_of(model.motion(coordinates)), coordinates, atol=1e-5, rtol=1e-5)
    low = tiny().bfloat16()
    torch.testing.assert_close(low.coordinates_of(low.motion(coordinates)), coordinates, atol=1e-5, rtol=1e-5)


def test_all_that_trains_has_a_gradient_and_recomputation_changes_none() -> None:
    gradients = []
    for recomputes in (False, True):
        model = tiny().train()
        if recomputes:
            model.gradient_checkpointing_enable()
        torch.manual_seed(1)
        image = model(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
        assert image.shape == (2, 3, 32, 32)
        image.square().mean().backward()
        assert [name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    frozen = {name for name, p in tiny().named_parameters() if not p.requires_grad}
    assert all(name.startswith("dec.to_rgb1.") or name.endswith("noise.weight") for name in frozen)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("size", [8, 16, 128])
@torch.no_grad()
def test_image_sizes(size: int) -> None:
    model = MotionAutoencoder(replace(TINY, input_size=size)).eval()
    images = torch.rand(2, 3, size, size)
    latent, features = model.encode(images)
    assert [each.shape[-1] for each in features] == [8 << power for power in range(len(features))]
    assert model.decode(latent, torch.zeros(2, 24), features).shape == images.shape
    # Nothing but the images: no noise.
    assert torch.equal(model(images, images), model(images, images))


@torch.no_grad()
def test_one_source_serves_many_motions() -> None:
    model = tiny().eval()
    source, features = model.encode(torch.rand(1, 3, 32, 32))
    motion = model.motion(torch.randn(4, 5))
    together = model.decode(source, motion, features)
    for number in range(4):
        alone = model.decode(source, motion[number : number + 1], features)
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bf16_weights_draw_nearly_the_same() -> None:
    model = tiny().eval()
    images = torch.rand(2, 3, 32, 32)
    expected, found = model(images, images.flip(0)), model.bfloat16()(images, images.flip(0))
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize(
    "change", [{"input_size": 100}, {"input_size": 4}, {"dim_m": 25}, {"dim_w": 0}, {"channels": True}]
)
def test_impossible_sizes(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"impossible value|more than"):
        replace(TINY, **change)


def test_sizes_come_back_from_plain_values() -> None:
    assert autoencoder_sizes(asdict(TINY)) == TINY
    with pytest.raises(ValueError, match="evil"):
        autoencoder_sizes({**asdict(TINY), "evil": 1})


def test_widths_of_the_published_maps() -> None:
    assert [width_at(size, 512) for size in (4, 32, 64, 128, 256, 512)] == [512, 512, 256, 128, 64, 32]


@torch.no_grad()
def test_scaled_channels_are_scaled_weights() -> None:
    """StyleGAN2, equations 1 and 3: weights scaled by the style, brought to unit norm, one convolution an item."""
    torch.manual_seed(0)
    x, style = torch.randn(3, 6, 5, 5), torch.randn(3, 8)
    layer = ModulatedConv2d(6, 4, 3, 8)
    weight = layer.weight * layer.scale * layer.modulation(style)[:, None, :, None, None]
    weight = weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    expected = torch.cat([F.conv2d(x[i : i + 1], weight[i], padding=1) for i in range(3)])
    torch.testing.assert_close(layer(x, style), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_filters_keep_what_is_even() -> None:
    even = torch.full((1, 2, 8, 8), 3.0)
    torch.testing.assert_close(Upsample()(even)[..., 1:-1, 1:-1], torch.full((1, 2, 14, 14), 3.0))
    torch.testing.assert_close(Blur(0)(even), torch.full((1, 2, 5, 5), 3.0))
    zeros = torch.zeros(1, 1, 8, 8)
    zeros[..., ::2, ::2] = 4.0  # a map of ones, zeros between them
    inner = Blur(2)(zeros)[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.ones_like(inner))


@torch.no_grad()
def test_layers_begin_with_unit_variance() -> None:
    torch.manual_seed(0)
    assert EqualLinear(400, 300)(torch.randn(200, 400)).var().item() == pytest.approx(1.0, rel=0.05)
    conv = conv_layer(64, 48, 3, activated=False)
    assert conv(torch.randn(2, 64, 16, 16))[..., 1:-1, 1:-1].var().item() == pytest.approx(1.0, rel=0.1)
