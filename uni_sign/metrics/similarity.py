"""How alike the vectors of clips are, and whether the nearest clip shows the same sign."""

from collections.abc import Sequence

import numpy as np


def cosine_similarities(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of vectors (N, d): (N, N); a zero vector is like nothing."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors.astype(np.float64) / np.where(norms > 0, norms, 1)
    cosines: np.ndarray = (unit @ unit.T).clip(-1, 1)
    return cosines


def distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs of vectors (N, d): (N, N)."""
    wide = vectors.astype(np.float64)
    squares = (wide**2).sum(axis=1)
    found: np.ndarray = np.sqrt((squares[:, None] + squares - 2 * wide @ wide.T).clip(0))
    return found


def mean_similarity(similarities: np.ndarray) -> float:
    """Mean of (N, N) over pairs of different clips; 1 for a single one."""
    count = len(similarities)
    if count < 2:
        return 1.0
    return float((similarities.sum() - np.trace(similarities)) / (count * (count - 1)))


def retrieval_top1(similarities: np.ndarray, labels: Sequence[str]) -> tuple[float, float] | None:
    """Share of clips whose nearest other clip has the same label, and what chance gives; None where none has a twin.

    Clips whose label no other clip has are not asked for, but may be found.
    """
    codes = np.unique(np.array(labels), return_inverse=True)[1]
    twins = np.bincount(codes)[codes] - 1
    asked = twins > 0
    if not asked.any():
        return None
    others = np.where(np.eye(len(codes), dtype=bool), -np.inf, similarities)
    found = codes[others.argmax(axis=1)] == codes
    return float(found[asked].mean()), float((twins[asked] / (len(codes) - 1)).mean())
