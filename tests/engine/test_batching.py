"""The order of an epoch: every clip once, the same for any number of processes, and seekable."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.engine.batching import BatchShape, EvalSampler, TrainSampler, plan_epoch, share

SHAPES = st.builds(BatchShape, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
SIZES = st.lists(st.integers(1, 1000), max_size=60)


def key(epoch: int, index: int, counted: bool) -> tuple[int, int, bool]:
    return epoch, index, counted


def as_lists(plan: list[list[np.ndarray]]) -> list[list[list[int]]]:
    return [[micro.tolist() for micro in window] for window in plan]


@given(SIZES, SHAPES, st.integers(0, 5))
def test_an_epoch_shows_every_clip_once(sizes: list[int], shape: BatchShape, epoch: int) -> None:
    plan = as_lists(plan_epoch(sizes, shape, 1, epoch))
    assert sorted(index for window in plan for micro in window for index in micro) == list(range(len(sizes)))
    assert len(plan) == shape.windows_per_epoch(len(sizes))
    assert all(micro for window in plan for micro in window)
    assert plan == as_lists(plan_epoch(sizes, shape, 1, epoch))


@given(SIZES, SHAPES)
def test_only_the_last_window_is_incomplete(sizes: list[int], shape: BatchShape) -> None:
    plan = as_lists(plan_epoch(sizes, shape, 1, 0))
    whole = [[shape.micro] * shape.accumulation] * (len(sizes) // shape.window)
    lengths = [[len(micro) for micro in window] for window in plan]
    assert lengths[: len(whole)] == whole
    assert len(lengths) - len(whole) == (len(sizes) % shape.window > 0)
    if len(lengths) > len(whole):
        assert sum(lengths[-1]) == len(sizes) % shape.window
        assert all(length == shape.micro for length in lengths[-1][:-1])


@given(SIZES, st.integers(1, 3))
def test_the_global_batch_is_the_same_however_it_is_cut(sizes: list[int], accumulation: int) -> None:
    shapes = [BatchShape(4 // processes, accumulation, processes) for processes in (1, 2, 4)]
    plans = [as_lists(plan_epoch(sizes, shape, 3, 0)) for shape in shapes]
    assert plans[0] == plans[1] == plans[2]
    for shape in shapes:
        ranks = [list(TrainSampler(sizes, shape, rank, 3, key)) for rank in range(shape.processes)]
        # Rank 0 first: its parts and those of the others make up the global micro-batch again, in order.
        shown = [
            [index for part in parts for _, index, counted in part if counted] for parts in zip(*ranks, strict=True)
        ]
        assert shown == [micro for window in plans[0] for micro in window]
        assert all(1 <= len(part) <= shape.batch_size for batches in ranks for part in batches)


def test_epochs_and_seeds_differ() -> None:
    sizes, shape = list(range(40)), BatchShape(2, 2, 1)
    orders = [str(as_lists(plan_epoch(sizes, shape, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_neighbours_are_alike_in_size() -> None:
    sizes = np.random.default_rng(0).integers(1, 1000, 400).tolist()
    plan = plan_epoch(sizes, BatchShape(8, 1, 1), 0, 0)
    spreads = [np.ptp([sizes[index] for index in window[0]]) for window in plan]
    assert np.mean(spreads) < 50
    firsts = [sizes[window[0][0]] for window in plan]
    assert firsts != sorted(firsts)


def test_windows_per_epoch() -> None:
    shape = BatchShape(2, 3, 4)
    assert (shape.micro, shape.window) == (8, 24)
    assert [shape.windows_per_epoch(clips) for clips in (1, 24, 25, 48, 0)] == [1, 1, 2, 2, 0]


# --- sharing out -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 99), min_size=1, max_size=9, unique=True), st.integers(1, 6))
def test_shares_are_never_empty_and_cover_all(indices: list[int], processes: int) -> None:
    shares = [share(np.array(indices), rank, processes) for rank in range(processes)]
    assert all(shares)
    assert [index for part in shares for index, counted in part if counted] == indices
    fillers = [part for part in shares if not all(counted for _, counted in part)]
    assert all(len(part) == 1 and part[0][0] in indices for part in fillers)
    assert len(fillers) == max(0, processes - len(indices))


# --- the sampler of an epoch -------------------------------------------------------------------------------


@given(SIZES, SHAPES, st.data())
def test_seeking_goes_on_with_exactly_the_rest(sizes: list[int], shape: BatchShape, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, shape.processes - 1))
    epoch = data.draw(st.integers(0, 3))
    first = data.draw(st.integers(0, shape.windows_per_epoch(len(sizes))))
    through, resumed = (TrainSampler(sizes, shape, rank, 5, key) for _ in range(2))
    through.seek(epoch, 0)
    everything = list(through)
    skipped = sum(through.micro_batches[:first])
    resumed.seek(epoch, first)
    assert list(resumed) == everything[skipped:]
    assert resumed.micro_batches == through.micro_batches[first:]
    assert len(resumed) == len(everything) - skipped
    assert all(item[0] == epoch for batch in everything for item in batch)


def test_every_rank_takes_the_same_number_of_steps() -> None:
    shape = BatchShape(2, 2, 3)
    samplers = [TrainSampler([1] * 14, shape, rank, 0, key) for rank in range(3)]
    assert [sampler.micro_batches for sampler in samplers] == [[2, 1]] * 3
    last = [list(sampler)[-1] for sampler in samplers]
    assert [[counted for _, _, counted in batch] for batch in last] == [[True], [True], [False]]


# --- held-out splits ---------------------------------------------------------------------------------------


def eval_batches(sizes: list[int], batch_size: int, processes: int) -> list[list[list[tuple[int, int, bool]]]]:
    return [list(EvalSampler(sizes, batch_size, rank, processes, key)) for rank in range(processes)]


@given(SIZES.filter(len), st.integers(1, 5))
def test_held_out_clips_count_once_in_the_same_batches(sizes: list[int], batch_size: int) -> None:
    made = []
    for processes in (1, 2, 3):
        ranks = eval_batches(sizes, batch_size, processes)
        assert len({len(batches) for batches in ranks}) == 1
        batches = [batch for rank in ranks for batch in rank]
        counted = Counter(index for batch in batches for _, index, counts in batch if counts)
        assert counted == Counter(range(len(sizes)))
        assert all(len({counts for _, _, counts in batch}) == 1 for batch in batches)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        made.append(sorted(tuple(index for _, index, _ in batch) for batch in batches if batch[0][2]))
    assert made[0] == made[1] == made[2]


def test_held_out_batches_go_from_long_to_short() -> None:
    [batches] = eval_batches([3, 9, 1, 7, 5], 2, 1)
    assert [[index for _, index, _ in batch] for batch in batches] == [[1, 3], [4, 0], [2]]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_sampler_knows_its_length_and_starts_over(processes: int) -> None:
    sampler = EvalSampler([1] * 7, 2, 0, processes, key)
    assert len(sampler) == len(list(sampler)) == -(-4 // processes)
    assert list(sampler) == list(sampler)
