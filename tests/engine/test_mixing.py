"""Corpora mixed by weight: what an epoch shows, and how often."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uni_sign.engine.batching import BatchShape, TrainSampler, plan_epoch
from uni_sign.engine.mixing import Draws, takes
from uni_sign.stages.base import Mixture


def mixture_of(counts: list[int], weights: list[float]) -> Mixture:
    return Mixture(np.repeat(np.arange(len(counts)), counts), tuple(weights))


counts_and_weights = st.lists(
    st.tuples(st.integers(1, 60), st.floats(0.01, 100, allow_nan=False)), min_size=1, max_size=4
).map(lambda pairs: ([count for count, _ in pairs], [weight for _, weight in pairs]))


@settings(max_examples=60, deadline=None)
@given(counts_and_weights, st.integers(0, 5), st.integers(1, 12))
def test_every_clip_is_shown_as_often_as_its_corpus_weighs(
    told: tuple[list[int], list[float]], seed: int, epochs: int
) -> None:
    mixture = mixture_of(*told)
    draws = Draws(mixture, np.zeros(len(mixture.corpus_of), np.int64), seed)
    shown = np.zeros(len(mixture.corpus_of), np.int64)
    for epoch in range(epochs):
        items = draws.items(epoch)
        for corpus, take in enumerate(takes(mixture)):
            assert (mixture.corpus_of[items] == corpus).sum() == take
        np.add.at(shown, items, 1)
    for corpus, take in enumerate(takes(mixture)):
        own = shown[mixture.corpus_of == corpus]
        assert own.max() - own.min() <= 1
        assert own.sum() == take * epochs


def test_weights_are_shares_of_an_epoch() -> None:
    mixture = mixture_of([900, 100], [0.7, 0.3])
    assert takes(mixture) == [700, 300]
    assert takes(mixture_of([900, 100], [7, 3])) == [700, 300]
    items = Draws(mixture, np.zeros(1000, np.int64), 0).items(0)
    assert len(items) == 1000
    assert len(set(items[items >= 900].tolist())) == 100, "each clip of the small corpus three times"


@settings(max_examples=40, deadline=None)
@given(counts_and_weights, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 3))
def test_every_epoch_of_a_mixture_has_as_many_steps_and_keeps_to_its_budget(
    told: tuple[list[int], list[float]], accumulation: int, processes: int, by_frames: bool, seed: int
) -> None:
    mixture = mixture_of(*told)
    rng = np.random.default_rng(seed)
    frames = rng.integers(1, 200, len(mixture.corpus_of))
    shape = BatchShape(5, accumulation, processes, 300 if by_frames else 0)
    plans = [plan_epoch(frames, shape, seed, epoch, mixture=mixture) for epoch in range(4)]
    assert len({len(plan) for plan in plans}) == 1
    samplers = [TrainSampler(frames, shape, rank, seed, lambda *key: key, mixture=mixture) for rank in range(processes)]
    shown = [index for sampler in samplers for batch in sampler for _, index, counted in batch if counted]
    assert sorted(shown) == sorted(samplers[0].clips.tolist())
    for sampler in samplers:
        for batch in sampler:
            assert len(batch) <= 5
            assert not by_frames or sum(frames[index] for _, index, _ in batch) <= 300


def test_a_stopped_epoch_of_a_mixture_goes_on_where_it_was() -> None:
    mixture, shape = mixture_of([50, 20], [1, 3]), BatchShape(4, 2, 1)
    sampler = TrainSampler(np.arange(70) + 1, shape, 0, 3, lambda *key: key, mixture=mixture)
    sampler.seek(2, 0)
    whole = list(sampler)
    sampler.seek(2, 3)
    assert list(sampler) == whole[6:]
    other = TrainSampler(np.arange(70) + 1, shape, 0, 3, lambda *key: key, mixture=mixture_of([50, 20], [1, 2]))
    assert other.digest() != sampler.digest()


@pytest.mark.parametrize("by_frames", [True, False])
def test_no_length_is_left_out(by_frames: bool) -> None:
    mixture = mixture_of([300, 300], [0.9, 0.1])
    frames = np.tile(np.arange(1, 301), 2)
    shape = BatchShape(8, 1, 1, 600 if by_frames else 0)
    shown = {
        i for epoch in range(10) for w in plan_epoch(frames, shape, 0, epoch, mixture=mixture) for m in w for i in m
    }
    assert shown == set(range(600))
