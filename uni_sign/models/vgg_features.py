"""What VGG-19 (arXiv 1409.1556) sees in images, and how far two images are apart in that (arXiv 1603.08155)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uni_sign.errors import InputError
from uni_sign.models.weights import unwrap

# Channels of the convolutions between poolings; features are taken behind the first of each.
_STAGES = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))
_LINEARS = (0, 3, 6)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SMALLEST = 16  # pixels a side: what the last features halve to one


class VGG19Features(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to five maps, (B, 64, H, W) to (B, 512, H / 16, W / 16). It does not train."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        self.convs = nn.ModuleList(nn.Conv2d(before, to, 3, padding=1) for before, to in _needed().values())
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps behind the first ReLU of each stage."""
        x = (images * 0.5 + 0.5 - self.mean) / self.std
        found, convs = [], iter(self.convs)
        for number, stage in enumerate(_STAGES):
            x = F.relu(next(convs)(x))
            found.append(x)
            if number < len(_STAGES) - 1:
                for _ in stage[1:]:
                    x = F.relu(next(convs)(x))
                x = F.max_pool2d(x, 2)
        return found


def _places() -> dict[int, tuple[int, int]]:
    """Channels in and out of every convolution, by its number in torchvision's ``features``."""
    found, number, before = {}, 0, 3
    for stage in _STAGES:
        for to in stage:
            found[number] = (before, to)
            number, before = number + 2, to  # a ReLU behind each
        number += 1  # a pooling
    return found


def _needed() -> dict[int, tuple[int, int]]:
    """Those up to the first of the last stage."""
    places = _places()
    return {number: places[number] for number in sorted(places)[: 1 - len(_STAGES[-1])]}


def vgg19_features(content: Mapping[str, Any], source: str) -> VGG19Features:
    """The network with ImageNet's weights from a file's content, by torchvision's names.

    Raises InputError where a tensor is missing, unknown or of another shape; ``source`` names the file.
    """
    given = unwrap(content, source).weights
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (before, to) in _places().items():
        shapes |= {f"features.{number}.weight": (to, before, 3, 3), f"features.{number}.bias": (to,)}
    linears = {f"classifier.{number}.{kind}" for number in _LINEARS for kind in ("weight", "bias")}
    missing = sorted(set(shapes) - set(given))
    unknown = sorted(set(given) - set(shapes) - linears)
    wrong = sorted(name for name, shape in shapes.items() if name in given and given[name].shape != shape)
    for names, what in ((missing, "are missing"), (unknown, "are unknown"), (wrong, "have another shape")):
        if names:
            raise InputError(
                f"{source} is no VGG-19: {len(names)} tensors {what} (first {names[0]}); give torchvision's vgg19 "
                "weights, or leave the perceptual loss off."
            )
    model = VGG19Features()
    for conv, number in zip(model.convs, _needed(), strict=True):
        conv.load_state_dict({kind: given[f"features.{number}.{kind}"] for kind in ("weight", "bias")})
    return model


class PerceptualLosses(NamedTuple):
    """Of each item (B,), float32: over the whole image, and over the parts of a face."""

    whole: Tensor
    component: Tensor


def perceptual_losses(
    vgg: VGG19Features, generated: Tensor, target: Tensor, mask: Tensor | None = None, scales: int = 4
) -> PerceptualLosses:
    """Mean absolute difference of features, summed over five maps and over sizes H, H / 2, ... of both images.

    Images (B, 3, H, W) in [-1, 1]; ``mask`` (B, 1, H, W) in [0, 1] says where the parts of a face are. Images are
    halved at most ``scales`` - 1 times, and as long as 16 pixels are left.
    """
    whole = generated.new_zeros(len(generated), dtype=torch.float32)
    component = whole
    for number in range(scales):
        if number:
            generated, target = F.avg_pool2d(generated, 2), F.avg_pool2d(target, 2)
        if min(generated.shape[2:]) < _SMALLEST:
            break
        with torch.no_grad():
            expected = vgg(target)
        for one, other in zip(vgg(generated), expected, strict=True):
            distance = (one.float() - other.float()).abs().mean(dim=1, keepdim=True)
            whole = whole + distance.mean(dim=(1, 2, 3))
            if mask is not None:
                share = F.adaptive_avg_pool2d(mask.float(), distance.shape[2:])
                component = component + (distance * share).mean(dim=(1, 2, 3))
    return PerceptualLosses(whole, component)


def component_mask(boxes: Tensor, size: int) -> Tensor:
    """1 within any of the boxes (B, R, 4), left, top, right and bottom as shares of the image: (B, 1, size, size)."""
    place = (torch.arange(size, device=boxes.device) + 0.5) / size
    left, top, right, bottom = boxes.unbind(dim=2)
    across = (place >= left[..., None]) & (place < right[..., None])
    down = (place >= top[..., None]) & (place < bottom[..., None])
    inside = (down[..., :, None] & across[..., None, :]).any(dim=1, keepdim=True)
    return inside.float()
