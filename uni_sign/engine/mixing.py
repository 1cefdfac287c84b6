"""Items of several corpora mixed by weight: which of them an epoch shows."""

import numpy as np

from uni_sign.stages.base import Mixture


def takes(mixture: Mixture) -> list[int]:
    """Items of each corpus that an epoch shows: by weight, as many in all as there are, and one at the least."""
    shares = np.array(mixture.weights) / sum(mixture.weights) * len(mixture.corpus_of)
    return [max(1, round(share)) for share in shares.tolist()]


class Draws:
    """The items of each epoch, the same number of each class of a corpus in every one.

    A class is walked through in one random order after the other, on from epoch to epoch: each of its items is shown
    as often as any other, give or take once, however many an epoch takes. ``classes``: of each item (n,).
    """

    def __init__(self, mixture: Mixture, classes: np.ndarray, seed: int) -> None:
        self._seed = seed
        self._strata: list[tuple[np.ndarray, int]] = []
        for corpus, take in enumerate(takes(mixture)):
            items = np.flatnonzero(mixture.corpus_of == corpus)
            of_class = [items[places] for places in places_by(classes[items])]
            # Rounded at the bounds, not class by class, so that the sum is right; a small class is not left out.
            bounds = np.cumsum([0, *map(len, of_class)]) * take / max(1, len(items))
            counts = np.maximum(np.diff(np.rint(bounds).astype(np.int64)), 1)
            self._strata += zip(of_class, counts.tolist(), strict=True)

    def items(self, epoch: int) -> np.ndarray:
        """The items of an epoch, sorted; one that it shows several times is there as often."""
        drawn = [self._walked(number, epoch) for number in range(len(self._strata))]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *drawn]))

    def _walked(self, number: int, epoch: int) -> np.ndarray:
        items, take = self._strata[number]
        first, last = epoch * take, (epoch + 1) * take
        rounds = range(first // len(items), -(-last // len(items)))
        orders = [np.random.default_rng([self._seed, number, turn]).permutation(items) for turn in rounds]
        start = first - rounds.start * len(items)
        return np.concatenate(orders)[start : start + take]


def places_by(numbers: np.ndarray) -> list[np.ndarray]:
    """Where each number stands among these (n,), from the lowest number on."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
