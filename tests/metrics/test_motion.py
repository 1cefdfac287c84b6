"""Correlation of two courses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.metrics.motion import pearson


@given(st.integers(0, 2**32 - 1), st.integers(2, 50), st.floats(0.1, 10), st.floats(-5, 5))
def test_it_is_numpys_and_blind_to_scale(seed: int, length: int, scale: float, shift: float) -> None:
    one, other = np.random.default_rng(seed).normal(size=(2, length))
    expected = np.corrcoef(one, other)[0, 1]
    assert pearson(one, other) == pytest.approx(expected, abs=1e-9)
    assert pearson(one * scale + shift, other) == pytest.approx(expected, abs=1e-9)
    assert pearson(-one, other) == pytest.approx(-expected, abs=1e-9)


def test_what_does_not_change_correlates_with_nothing() -> None:
    assert pearson(np.ones(5), np.arange(5)) == 0.0
