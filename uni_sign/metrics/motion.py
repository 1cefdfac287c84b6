"""How near generated motion is to true motion."""

import numpy as np


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two courses (T,); 0 where either does not change."""
    first, second = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (one, other))
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0
