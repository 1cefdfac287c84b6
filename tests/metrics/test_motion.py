"""Correlation of two courses; errors of motion that is warped in time, and how far it travels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.errors import InputError
from uni_sign.metrics.motion import distance_ratio, dtw_mje, duration_ratio, pearson, steps_at_borders


@given(st.integers(0, 2**32 - 1), st.integers(2, 50), st.floats(0.1, 10), st.floats(-5, 5))
def test_it_is_numpys_and_blind_to_scale(seed: int, length: int, scale: float, shift: float) -> None:
    one, other = np.random.default_rng(seed).normal(size=(2, length))
    expected = np.corrcoef(one, other)[0, 1]
    assert pearson(one, other) == pytest.approx(expected, abs=1e-9)
    assert pearson(one * scale + shift, other) == pytest.approx(expected, abs=1e-9)
    assert pearson(-one, other) == pytest.approx(-expected, abs=1e-9)


def test_what_does_not_change_correlates_with_nothing() -> None:
    assert pearson(np.ones(5), np.arange(5)) == 0.0


def plain_dtw_mje(generated: np.ndarray, true: np.ndarray, mask: np.ndarray) -> float:
    """The definition, cell by cell: the least sum, and how many matches it has, of frames that show a joint."""
    shown = mask.any(axis=1)
    true, mask = true[shown], mask[shown]
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i, made in enumerate(generated):
        for j, real in enumerate(true):
            apart = [np.linalg.norm(a - b) for a, b, seen in zip(made, real, mask[j], strict=True) if seen]
            error = float(np.mean(apart))
            sources = [best[key] for key in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if key in best]
            total, matches = min(sources, key=lambda found: found[0]) if sources else (0.0, 0)
            best[i, j] = total + error, matches + 1
    total, matches = best[len(generated) - 1, len(true) - 1]
    return total / matches


def motions(seed: int, frames: int, true_frames: int, axes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random((true_frames, 4)) < 0.6
    mask[rng.integers(true_frames)] = True
    return rng.normal(size=(frames, 4, axes)), rng.normal(size=(true_frames, 4, axes)), mask


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.sampled_from([2, 3]))
def test_warped_errors_are_those_of_the_definition(seed: int, frames: int, true_frames: int, axes: int) -> None:
    generated, true, mask = motions(seed, frames, true_frames, axes)
    assert dtw_mje(generated, true, mask) == pytest.approx(plain_dtw_mje(generated, true, mask), abs=1e-12)
    seen = np.ones_like(mask)
    assert dtw_mje(generated, true) == pytest.approx(plain_dtw_mje(generated, true, seen), abs=1e-12)
    hidden = np.where(mask[:, :, None], true, np.nan)
    assert dtw_mje(generated, hidden, mask) == dtw_mje(generated, true, mask)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=10), st.floats(0, 3))
def test_slower_motion_has_no_error_and_moved_motion_that_of_the_move(
    seed: int, repeats: list[int], shift: float
) -> None:
    true, _, _ = motions(seed, len(repeats), 1)
    slower = np.repeat(true, repeats, axis=0)
    assert dtw_mje(slower, true) == 0.0
    assert dtw_mje(true, slower) == 0.0
    still = np.broadcast_to(true[:1], true.shape)
    assert dtw_mje(still + np.array([0.0, shift]), still) == pytest.approx(shift, abs=1e-9)


def test_errors_of_a_case_by_hand() -> None:
    course = np.array([[[0.0, 0.0]], [[1.0, 0.0]], [[5.0, 0.0]]])
    # Matches 0-0, 1-1, 5-1: 0 + 0 + 4, of three.
    assert dtw_mje(course, course[:2]) == pytest.approx(4 / 3)
    # The second true frame shows nothing: the second generated one is matched with the first, at (1, 2) from it.
    seen = np.array([[True], [False], [True]])
    assert dtw_mje(course + np.array([0.0, 2.0]), course, seen) == pytest.approx((2 + 5**0.5 + 2) / 3)


def test_a_frame_that_shows_nothing_hides_no_error() -> None:
    rng = np.random.default_rng(0)
    true, seen = rng.normal(size=(20, 4, 2)), np.ones((20, 4), bool)
    wrong = true.copy()
    wrong[1:-1] += 50.0
    seen[10] = False
    assert dtw_mje(wrong, true, seen) > 40
    assert dtw_mje(true[seen.any(axis=1)], true, seen) == 0.0


def test_how_far_and_how_long() -> None:
    true, _, mask = motions(0, 9, 1)[0], None, np.ones((9, 4), bool)
    assert distance_ratio(true, true) == pytest.approx(1.0)
    assert distance_ratio(true * 3 + 1, true) == pytest.approx(3.0)
    steady = np.arange(9.0)[:, None, None] * np.ones((1, 4, 2))
    mask[4, 2] = mask[7] = False
    assert distance_ratio(steady, np.where(mask[:, :, None], steady, 1e6), mask) == pytest.approx(1.0)
    assert distance_ratio(steady[:5], steady) == pytest.approx(0.5)
    assert distance_ratio(steady, np.zeros_like(steady)) == float("inf")
    assert distance_ratio(steady * 0, steady * 0) == 1.0
    assert (duration_ratio(true[:3], true), duration_ratio(np.repeat(true, 2, axis=0), true)) == (3 / 9, 2.0)


@pytest.mark.parametrize(
    ("generated", "true", "mask", "said"),
    [
        (np.zeros((3, 4, 2)), np.zeros((3, 5, 2)), None, "do not belong together"),
        (np.zeros((3, 4, 2)), np.zeros((3, 4, 3)), None, "do not belong together"),
        (np.zeros((3, 4, 2)), np.zeros((5, 4, 2)), np.ones((3, 4)), "do not belong together"),
        (np.zeros((0, 4, 2)), np.zeros((5, 4, 2)), None, "nothing to score"),
        (np.zeros((3, 4, 2)), np.zeros((5, 4, 2)), np.zeros((5, 4)), "nothing to score"),
        (np.full((3, 4, 2), np.nan), np.zeros((5, 4, 2)), None, "not numbers"),
        (np.zeros((3, 4, 2)), np.full((5, 4, 2), np.inf), None, "not numbers"),
    ],
)
def test_motion_that_cannot_be_compared(
    generated: np.ndarray, true: np.ndarray, mask: np.ndarray | None, said: str
) -> None:
    for score in (dtw_mje, distance_ratio):
        with pytest.raises(InputError, match=said):
            score(generated, true, mask)
    with pytest.raises(InputError, match="nothing to score"):
        duration_ratio(generated, true[:0])


def test_steps_at_borders() -> None:
    motion = np.array([0.0, 1, 3, 10, 11, 13, 20])[:, None] * np.array([[0.6, 0.8]])
    borders, inside = steps_at_borders(motion, 3)
    np.testing.assert_allclose(borders, [7, 7])
    np.testing.assert_allclose(inside, [1, 2, 1, 2])
    assert len(steps_at_borders(motion[:3], 3)[0]) == 0
