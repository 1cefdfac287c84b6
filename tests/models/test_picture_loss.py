"""The loss of pictures against golden numbers, and weights against boxes painted by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import weights_recipe

from uni_sign.models.picture_loss import STATIC_BOXES, box_weights, picture_losses


def test_golden_numbers(golden: Callable[[str], Any]) -> None:
    expected = golden("09_keypoint_meta.json")["weighted_loss"]
    shape = (2, 1, 256, 256)
    generated, target = (torch.from_numpy(weights_recipe.tensor(name, shape, 0, 1)).tanh() for name in ("gen", "tgt"))
    boxes = torch.tensor(STATIC_BOXES).expand(2, -1, -1)
    assert float(picture_losses(generated, target).mean()) == pytest.approx(expected["mse"], abs=1e-5)
    for name, hand, face in (("loss", 2.0, 1.5), ("loss_3_2", 3.0, 2.0)):
        weights = box_weights(boxes, (hand, hand, face), 256)
        assert float(picture_losses(generated, target, weights).mean()) == pytest.approx(expected[name], abs=1e-5)


def test_weights_are_those_of_boxes_painted_by_hand() -> None:
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [1, 1, 0, 0], [0.0, 0.0, 1.0, 0.75]]])
    expected = torch.ones(4, 4)
    expected[:3] = 1.5
    expected[2:, 1] = 2.0
    assert torch.equal(box_weights(boxes, (2.0, 2.0, 1.5), 4)[0, 0], expected)
