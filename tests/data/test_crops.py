"""Hand crops: golden cases, image borders against padding by hand, and what is drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from uni_sign.data.crops import HandCrops, Locate, Patch, Patches, clip_crops, cut, region, region_in
from uni_sign.data.hands import HANDS, choose_crops, corners, hand_planes, square_side
from uni_sign.data.wholebody import used_planes

HEIGHT, WIDTH = 96, 128
CASES = ("both", "right_only", "none", "left_over_border", "zero_box")
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def image(number: int) -> np.ndarray:
    """The golden data's own formula."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = ((2 * x + 7 * number) % 256, (2 * y + 13 * number) % 256, ((x // 8 + y // 8 + number) % 2) * 200)
    return np.stack(planes, -1).astype(np.uint8)


def drawn_frames(numbers: Mapping[str, np.ndarray], _: Locate) -> Patches:
    return Patches(
        {hand: [Patch(Image.fromarray(image(i))) for i in n.tolist()] for hand, n in numbers.items()}, WIDTH, HEIGHT
    )


def crops_of(golden: Callable[[str], Any], case: str) -> tuple[Any, dict[str, HandCrops]]:
    io = {k.split("/")[1]: v for k, v in golden("01_rgb_support.npz").items() if k.startswith(f"{case}/")}
    planes = used_planes(io["keypoints"][:, 0], io["scores"][:, 0])
    draw = np.random.RandomState(golden("01_rgb_support.json")[case]["np_random_seed"])
    return io, clip_crops(hand_planes(planes), np.arange(planes.shape[1]), drawn_frames, draw)


@pytest.mark.parametrize("case", CASES)
def test_golden(golden: Callable[[str], Any], case: str) -> None:
    io, crops = crops_of(golden, case)
    for hand, made in crops.items():
        indices = io[f"out_{hand}_sampled_indices"]
        assert made.places.tolist() == [index for index in indices.tolist() if index >= 0]
        if not len(made.places):
            continue
        np.testing.assert_array_equal(made.points, io[f"out_{hand}_skeletons_norm"].astype(np.float32))
        if (case, hand) == ("left_over_border", "left"):
            continue  # the published crop is black there
        seen = (made.images.transpose(0, 2, 3, 1) / 255 - MEAN) / DEVIATION
        np.testing.assert_allclose(seen.transpose(0, 3, 1, 2), io[f"out_{hand}_hands"], atol=1e-6)


@pytest.mark.parametrize("case", ["both", "right_only"])
def test_golden_boxes(golden: Callable[[str], Any], case: str) -> None:
    io, crops = crops_of(golden, case)
    points = {
        hand: io["keypoints"][crops[hand].places, 0, first : first + 21] * (WIDTH, HEIGHT)
        for hand, first in (("left", 91), ("right", 112))
    }
    side = square_side(points)
    assert side == golden("01_rgb_support.json")[case]["box_hw"]
    for hand in HANDS:
        if len(points[hand]):
            corner = corners(points[hand], side)
            np.testing.assert_array_equal(np.hstack([corner, corner + side]), io[f"{hand}_box"])


@given(st.integers(-80, 200), st.integers(-80, 200), st.integers(2, 90).map(lambda half: 2 * half))
def test_crops_at_every_border_are_those_of_a_padded_image(left: int, top: int, side: int) -> None:
    whole, margin = image(3), 400
    padded = np.pad(whole, ((margin, margin), (margin, margin), (0, 0)))
    expected = padded[top + margin : top + margin + side, left + margin : left + margin + side]
    np.testing.assert_array_equal(region(Patch(Image.fromarray(whole)), left, top, side), expected)
    x, y = max(0, left - 3), max(0, top - 5)
    part = Patch(Image.fromarray(whole[y : max(y, top + side + 4), x : max(x, left + side + 2)].copy()), x, y)
    for patch in (part, *(region_in(whole, (left, top), side, margin) for margin in (0, 1, 2))):
        np.testing.assert_array_equal(region(patch, left, top, side), expected)


def test_a_crop_over_the_border_shows_the_hand() -> None:
    crop = cut(Patch(Image.new("RGB", (50, 50), (200, 200, 200))), (-10, 20), 20)
    assert crop.shape == (3, 112, 112)
    assert (crop[:, :, :50] == 0).all()
    assert (crop[:, :, 64:] == 200).all()


@given(st.integers(0, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_what_is_drawn(frames: int, seed: int, random: bool) -> None:
    scores = np.random.default_rng(seed).random((frames, 21)).astype(np.float32)
    chosen = choose_crops(scores, np.random.default_rng(seed) if random else None)
    seen = np.flatnonzero(scores.mean(1) > 0.3)
    assert len(chosen) == int(np.ceil(0.1 * len(seen)))
    assert chosen.tolist() == sorted(set(chosen.tolist()) & set(seen.tolist()))
    if not random and len(chosen):
        worst = scores[:, [4, 8, 12, 16, 20]].min(1)
        assert worst[chosen].max() <= np.sort(worst[seen])[len(chosen) - 1]


@given(
    hnp.arrays(np.float64, (3, 2, 10, 21), elements=st.floats(-1e6, 1e6) | st.floats(-0.5, 1.5)),
    st.integers(2, 200),
    st.integers(2, 200),
)
def test_any_points_give_crops_of_bounded_squares(points: np.ndarray, width: int, height: int) -> None:
    """Noise far outside the picture must not take more memory than the picture."""
    planes = np.concatenate([points[:2], np.full((1, 2, 10, 21), 0.9)])
    sides = []

    def frames(numbers: Mapping[str, np.ndarray], locate: Locate) -> Patches:
        sides.append(locate(width, height).side)
        black = Patch(Image.new("RGB", (width, height)))
        return Patches({hand: [black] * len(n) for hand, n in numbers.items()}, width, height)

    crops = clip_crops({"left": planes[:, 0], "right": planes[:, 1]}, np.arange(10), frames, None)
    assert all(0 <= side <= max(width, height) for side in sides)
    for made in crops.values():
        assert len(made.images) == len(made.points) == len(made.places)
        assert ((made.points >= 0) & (made.points <= 1)).all()


@given(hnp.arrays(np.float64, (6, 21, 2), elements=st.floats(-300, 500)), st.integers(1, 60), st.integers(0, 60))
def test_a_smaller_square_lies_within_a_larger_one(points: np.ndarray, half: int, more: int) -> None:
    """What `uni-sign prepare --crops` keeps of a frame is enough for whatever training draws."""
    small, large = 2 * half, 2 * (half + more)
    inner, outer = corners(points, small), corners(points, large)
    assert (outer <= inner).all()
    assert (inner + small <= outer + large).all()
