"""VGG-19's features from a file, and how far images are apart in them."""

import pytest
import torch
from torch import Tensor

from uni_sign.errors import InputError
from uni_sign.models.vgg_features import VGG19Features, component_mask, perceptual_losses, vgg19_features

# torchvision's vgg19, by hand: numbers of its convolutions, and their channels.
CONVS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512), 25: (512, 512), 28: (512, 512), 30: (512, 512),
    32: (512, 512), 34: (512, 512),
}  # fmt: skip


@pytest.fixture(scope="module")
def content() -> dict[str, Tensor]:
    torch.manual_seed(0)
    weights = {"classifier.0.weight": torch.zeros(1), "classifier.6.bias": torch.zeros(1)}
    for number, (before, to) in CONVS.items():
        weights[f"features.{number}.weight"] = torch.randn(to, before, 3, 3) * (2 / (9 * before)) ** 0.5
        weights[f"features.{number}.bias"] = torch.zeros(to)
    return weights


@pytest.fixture(scope="module")
def vgg(content: dict[str, Tensor]) -> VGG19Features:
    return vgg19_features(content, "vgg19.pth")


def test_features_are_those_of_the_sequence(vgg: VGG19Features, content: dict[str, Tensor]) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    expected = []
    for number in range(30):
        if number in CONVS:
            weight, bias = (content[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
            x = torch.conv2d(x, weight, bias, padding=1).relu()
            expected += [x] if number in (0, 5, 10, 19, 28) else []
        elif number in (4, 9, 18, 27):
            x = torch.max_pool2d(x, 2)
    found = vgg(images)
    assert [tuple(each.shape) for each in found] == [
        (2, 64, 32, 32), (2, 128, 16, 16), (2, 256, 8, 8), (2, 512, 4, 4), (2, 512, 2, 2)
    ]  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    assert vgg.state_dict().keys() == {f"convs.{i}.{kind}" for i in range(13) for kind in ("weight", "bias")}


def test_equal_images_are_no_way_apart_and_others_pull(vgg: VGG19Features) -> None:
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    same = perceptual_losses(vgg, target, target)
    assert not same.whole.any()
    generated = target.clone()
    generated[1] *= 0.5
    generated.requires_grad_()
    losses = perceptual_losses(vgg, generated, target)
    assert losses.whole[0] == 0
    assert losses.whole[1] > 0.01
    assert not losses.component.any()
    losses.whole.sum().backward()
    assert generated.grad is not None
    assert generated.grad[1].abs().sum() > 0


def test_only_what_lies_in_the_boxes_is_a_component(vgg: VGG19Features) -> None:
    target = torch.zeros(2, 3, 64, 64)
    generated = target.clone()
    generated[0, :, :4, :4] = 1.0
    generated[1, :, -4:, -4:] = 1.0
    mask = component_mask(torch.tensor([[[0.0, 0.0, 0.1, 0.1], [0.1, 0.1, 0.25, 0.25]]] * 2), 64)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [6**2 + 10**2] * 2
    # The first maps alone: later ones see further.
    losses = perceptual_losses(vgg, generated, target, mask, scales=1)
    whole = perceptual_losses(vgg, generated, target, torch.ones(2, 1, 64, 64), scales=1)
    torch.testing.assert_close(whole.component, whole.whole)
    assert losses.component[0] > 3 * losses.component[1]


def test_small_images_are_halved_less_often(vgg: VGG19Features) -> None:
    one, other = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        perceptual_losses(vgg, one, other).whole, perceptual_losses(vgg, one, other, scales=2).whole
    )
    assert perceptual_losses(vgg, one, other).whole > perceptual_losses(vgg, one, other, scales=1).whole


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("features.28.weight", None, "1 tensors are missing .first features.28.weight"),
     ("features.34.bias", None, "are missing .first features.34.bias"),
     ("features.1.weight", torch.zeros(64), "are unknown .first features.1.weight"),
     ("features.0.weight", torch.zeros(64, 1, 3, 3), "another shape .first features.0.weight")],
)  # fmt: skip
def test_other_files(content: dict[str, Tensor], name: str, value: Tensor | None, says: str) -> None:
    changed = {key: tensor for key, tensor in {**content, name: value}.items() if tensor is not None}
    with pytest.raises(InputError, match=rf"vgg19\.pth is no VGG-19: .*{says}"):
        vgg19_features(changed, "vgg19.pth")
