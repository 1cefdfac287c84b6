"""The hierarchical encoders against golden numbers, and what a region can change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from uni_sign.models.hierarchical import (
    FACE_REGIONS,
    SKELETON_REGIONS,
    EncoderSizes,
    HierarchicalImageTransformer,
    HierarchicalKeypointTransformer,
    ImageDecoder,
)

SMALL = EncoderSizes(
    d_global=32, d_region=16, nhead=4, num_region_layers=1, num_interaction_layers=1, dim_feedforward=32
)
Weights = Callable[..., dict[str, torch.Tensor]]


def part(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


@pytest.fixture(scope="module")
def weights(golden_weights: Weights) -> dict[str, torch.Tensor]:
    return golden_weights("09_keypoint_recipe.json")


def test_the_keypoint_model(golden: Callable[[str], Any], weights: dict[str, torch.Tensor]) -> None:
    numbers = golden("09_keypoint_io.npz")
    model = HierarchicalKeypointTransformer(SMALL, num_decoder_layers=1).eval()
    model.load_state_dict(part(weights, "keypoint"))
    with torch.no_grad():
        points = torch.from_numpy(numbers["keypoint/x"])
        found = (*model.encode(points), model(points))
    for name, value in zip(("global", "regional", "out"), found, strict=True):
        torch.testing.assert_close(value, torch.from_numpy(numbers[f"keypoint/{name}"]), atol=1e-5, rtol=1e-5)


def test_the_skeleton_model(golden: Callable[[str], Any], weights: dict[str, torch.Tensor]) -> None:
    numbers = golden("09_keypoint_io.npz")
    model = HierarchicalImageTransformer(SKELETON_REGIONS, SMALL).eval()
    model.load_state_dict(part(weights, "skeleton"))
    with torch.no_grad():
        points = torch.from_numpy(numbers["skeleton/x"])
        global_vector, regional = model.encode(points)
        picture = model(points)
    torch.testing.assert_close(global_vector, torch.from_numpy(numbers["skeleton/global"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(regional, torch.from_numpy(numbers["skeleton/regional"]), atol=1e-5, rtol=1e-5)
    assert picture.shape == (3, 1, 256, 256)
    assert picture.abs().max() <= 1


def test_the_image_model_loads_its_checkpoint(weights: dict[str, torch.Tensor]) -> None:
    HierarchicalImageTransformer(FACE_REGIONS, SMALL).load_state_dict(part(weights, "image"))


@pytest.mark.parametrize("image_size", [16, 64, 256])
def test_sizes_of_pictures(image_size: int) -> None:
    model = HierarchicalImageTransformer(SKELETON_REGIONS, SMALL, image_size=image_size).eval()
    assert model(torch.zeros(2, 143, 3)).shape == (2, 1, image_size, image_size)


def test_gradients_reach_all_that_trains() -> None:
    model = HierarchicalKeypointTransformer(SMALL, num_decoder_layers=1)
    model(torch.randn(2, 68, 3)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad} == {"global_aggregator"}


@pytest.mark.parametrize("missing", [0, 1, 3])
@torch.no_grad()
def test_a_missing_region_changes_nothing_else(missing: int) -> None:
    model = HierarchicalImageTransformer(SKELETON_REGIONS, SMALL, image_size=16).eval()
    points, present = torch.randn(2, 143, 3), torch.ones(2, 4, dtype=torch.bool)
    present[0, missing] = False
    other = points.clone()
    start, end = SKELETON_REGIONS[missing]
    other[0, start:end] = torch.randn(end - start, 3)
    for value, expected in zip(model.encode(other, present), model.encode(points, present), strict=True):
        torch.testing.assert_close(value, expected)
    global_vector, regional = model.encode(points, present)
    assert not regional[0, missing].any()
    torch.testing.assert_close(model(other, present), model(points, present))
    whole = model.encode(points)
    torch.testing.assert_close(global_vector[1], whole[0][1])
    assert not torch.allclose(global_vector[0], whole[0][0], atol=1e-4)


@torch.no_grad()
def test_a_frame_without_any_region_gives_numbers() -> None:
    model = HierarchicalImageTransformer(SKELETON_REGIONS, SMALL, image_size=16).eval()
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert model(torch.zeros(1, 143, 3), nothing).isfinite().all()


def test_pictures_are_normalised_as_by_torch_in_training() -> None:
    ours = ImageDecoder(48, 8, image_size=32).train()
    theirs = torch.nn.Sequential(
        *(torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()),
        *(torch.nn.ConvTranspose2d(4, 1, 4, 2, 1), torch.nn.Tanh()),
    ).train()
    theirs.load_state_dict(ours.decoder.state_dict())
    vector = torch.randn(4, 48)
    picture = ours(vector)
    expected = theirs(ours.latent_proj(vector).view(-1, 8, 8, 8))
    torch.testing.assert_close(picture, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decoder[1].running_var, theirs[1].running_var, atol=1e-5, rtol=1e-5)
    found, wanted = (
        torch.autograd.grad(value.square().sum(), decoder[0].weight)[0]
        for value, decoder in ((picture, ours.decoder), (expected, theirs))
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
