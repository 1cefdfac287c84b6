"""Similarities, distances and retrieval, where the answer is known by hand."""

import numpy as np
import pytest

from uni_sign.metrics.similarity import cosine_similarities, distances, mean_similarity, retrieval_top1

VECTORS = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])


def test_cosines() -> None:
    found = cosine_similarities(VECTORS)
    assert found.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert mean_similarity(found[:3, :3]) == pytest.approx(1 / 3)
    assert mean_similarity(np.ones((1, 1))) == 1.0


def test_distances() -> None:
    expected = np.linalg.norm(VECTORS[:, None] - VECTORS, axis=2)
    np.testing.assert_allclose(distances(VECTORS), expected, atol=1e-7)


def test_retrieval() -> None:
    similarities = cosine_similarities(np.array([[1, 0], [1, 0.1], [0, 1], [0.2, 1], [1, 1.0]]))
    assert retrieval_top1(similarities, ["a", "a", "b", "b", "c"]) == (1.0, 0.25)
    found = retrieval_top1(similarities, ["a", "b", "a", "b", "c"])
    assert found == (0.0, 0.25)
    assert retrieval_top1(similarities, list("abcde")) is None
