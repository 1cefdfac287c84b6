"""The order of an epoch: every clip once, the same for any number of processes, and seekable."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
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
    assert len(plan) == -(-len(sizes) // shape.window)
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
    last = np.concatenate(plan_epoch(sizes, BatchShape(8, 4, 2), 0, 0)[-1])
    assert len(last) == 400 % 64
    assert [sizes[index] for index in last] == sorted(sizes[index] for index in last)


def test_windows_per_epoch() -> None:
    shape = BatchShape(2, 3, 4)
    assert (shape.micro, shape.window) == (8, 24)
    samplers = [TrainSampler([1] * clips, shape, 0, 0, key) for clips in (1, 24, 25, 48, 0)]
    assert [sampler.windows_per_epoch for sampler in samplers] == [1, 1, 2, 2, 0]


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
    through, resumed = (TrainSampler(sizes, shape, rank, 5, key) for _ in range(2))
    first = data.draw(st.integers(0, through.windows_per_epoch))
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


# --- a budget of frames ------------------------------------------------------------------------------------

BUDGET = 400
# Most of them in classes of several lengths, and some as long as the budget.
FRAMES = st.lists(st.one_of(st.integers(60, 140), st.integers(1, BUDGET)), min_size=1, max_size=60)
FRAME_SHAPES = st.builds(BatchShape, st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.just(BUDGET))


def shares_of(frames: list[int], shape: BatchShape, epoch: int) -> list[list[list[list[int]]]]:
    """The clips that count, by window, micro-batch and rank."""
    samplers = [TrainSampler(frames, shape, rank, 1, key) for rank in range(shape.processes)]
    for sampler in samplers:
        sampler.seek(epoch, 0)
    assert len({tuple(sampler.micro_batches) for sampler in samplers}) == 1
    steps = zip(*map(iter, samplers), strict=True)
    return [
        [[[i for _, i, counted in part if counted] for part in next(steps)] for _ in range(count)]
        for count in samplers[0].micro_batches
    ]


@given(FRAMES, FRAME_SHAPES, st.integers(0, 3))
@example([BUDGET, 201, 201], BatchShape(9, 1, 1, BUDGET), 0)
@example([129] * 90 + [134] * 90, BatchShape(9, 1, 1, BUDGET), 0)
def test_every_share_keeps_to_the_budget_and_every_clip_counts_once(
    frames: list[int], shape: BatchShape, epoch: int
) -> None:
    windows = shares_of(frames, shape, epoch)
    shares = [share for window in windows for micro in window for share in micro]
    assert sorted(index for share in shares for index in share) == list(range(len(frames)))
    assert all(sum(frames[index] for index in share) <= BUDGET for share in shares)
    assert all(len(share) <= shape.batch_size for share in shares)
    assert all(len(window) <= shape.accumulation for window in windows)
    assert windows == shares_of(frames, shape, epoch)


@given(FRAMES, FRAME_SHAPES)
def test_every_epoch_has_as_many_windows(frames: list[int], shape: BatchShape) -> None:
    sampler = TrainSampler(frames, shape, 0, 1, key)
    counts = [len(plan_epoch(frames, shape, seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert set(counts) == {sampler.windows_per_epoch}


@given(FRAMES, FRAME_SHAPES, st.integers(0, 3))
def test_windows_are_the_same_for_any_split_of_the_shares(frames: list[int], shape: BatchShape, epoch: int) -> None:
    shares = shape.accumulation * shape.processes
    cut = [
        BatchShape(shape.batch_size, shares // processes, processes, BUDGET)
        for processes in range(1, shares + 1)
        if shares % processes == 0
    ]
    plans = [[np.concatenate(window).tolist() for window in plan_epoch(frames, s, 1, epoch)] for s in cut]
    assert all(plan == plans[0] for plan in plans)
    assert len({TrainSampler(frames, s, 0, 1, key).digest() for s in cut}) == 1


@given(FRAMES, FRAME_SHAPES)
def test_no_rank_waits_for_another_that_could_have_less(frames: list[int], shape: BatchShape) -> None:
    for micro in (micro for window in shares_of(frames, shape, 0) for micro in window):
        loads = [sum(frames[index] for index in share) for share in micro]
        clips = sorted(frames[index] for share in micro for index in share)
        if max(map(len, micro)) < shape.batch_size:
            assert max(loads) <= sum(loads) / shape.processes + max(clips)
        assert min(map(len, micro)) > 0 or max(map(len, micro)) <= 1


@given(FRAMES, FRAME_SHAPES, st.data())
def test_seeking_with_a_budget_goes_on_with_exactly_the_rest(
    frames: list[int], shape: BatchShape, data: st.DataObject
) -> None:
    rank, epoch = data.draw(st.integers(0, shape.processes - 1)), data.draw(st.integers(0, 3))
    through, resumed = (TrainSampler(frames, shape, rank, 5, key) for _ in range(2))
    first = data.draw(st.integers(0, through.windows_per_epoch))
    through.seek(epoch, 0)
    everything, skipped = list(through), sum(through.micro_batches[:first])
    resumed.seek(epoch, first)
    assert list(resumed) == everything[skipped:]


def real_lengths(clips: int) -> list[int]:
    """Log-normal, median 120, from 40 to 256."""
    return np.clip(np.random.default_rng(0).lognormal(np.log(120), 0.5, clips), 40, 256).astype(int).tolist()


def test_shares_are_full_alike_and_mixed_anew() -> None:
    frames = real_lengths(4000)
    first, second = (shares_of(frames, BatchShape(64, 2, 4, 2048), epoch) for epoch in (0, 1))
    shares = [share for window in first for micro in window for share in micro]
    loads = [sum(frames[index] for index in share) for share in shares]
    assert np.mean(loads) > 0.9 * 2048
    assert max(loads) <= 2048
    padded = sum(len(share) * max(frames[index] for index in share) for share in shares)
    assert sum(loads) > 0.99 * padded
    by_rank = [[sum(frames[i] for i in share) for share in micro] for window in first for micro in window]
    assert np.mean([max(own) / np.mean(own) for own in by_rank]) < 1.05
    together = [
        {frozenset(share) for window in epoch for micro in window for share in micro} for epoch in (first, second)
    ]
    assert len(together[0] & together[1]) < 0.1 * len(shares)
    firsts = [frames[window[0][0][0]] for window in first]
    assert abs(np.corrcoef(firsts, range(len(firsts)))[0, 1]) < 0.8


def test_windows_have_alike_many_frames_down_to_the_last() -> None:
    """Nine shares of two clips fill two windows of eight: as two of eight or nine clips, not of sixteen and one."""
    windows = plan_epoch([100] * 17, BatchShape(9, 2, 4, 200), 0, 0)
    assert sorted(sum(map(len, window)) for window in windows) == [8, 9]


def test_200_000_clips_are_planned_without_a_loop_over_them() -> None:
    frames, shape = real_lengths(200_000), BatchShape(64, 2, 8, 2048)
    start = time.process_time()
    plan_epoch(frames, shape, 0, 0)
    assert time.process_time() - start < 2


def test_a_digest_tells_lengths_and_shapes_apart() -> None:
    frames = real_lengths(50)
    shapes = [BatchShape(4, 1, 2), BatchShape(4, 1, 2, 512), BatchShape(4, 1, 2, 600), BatchShape(8, 1, 1, 512)]
    digests = {TrainSampler(frames, shape, 0, 1, key).digest() for shape in shapes}
    digests.add(TrainSampler([*frames[:-1], frames[-1] + 1], shapes[0], 0, 1, key).digest())
    digests.add(TrainSampler(frames, shapes[0], 0, 2, key).digest())
    assert len(digests) == 6
    assert all(0 <= digest < 1 << 32 for digest in digests)


@given(FRAMES, st.integers(1, 9))
def test_held_out_batches_keep_to_the_budget(frames: list[int], batch_size: int) -> None:
    made = []
    for processes in (1, 2, 3):
        ranks = [list(EvalSampler(frames, batch_size, rank, processes, key, BUDGET)) for rank in range(processes)]
        assert len({len(batches) for batches in ranks}) == 1
        batches = [batch for rank in ranks for batch in rank if batch[0][2]]
        assert sorted(index for batch in batches for _, index, _ in batch) == list(range(len(frames)))
        assert all(sum(frames[index] for _, index, _ in batch) <= BUDGET for batch in batches)
        assert all(len(batch) <= batch_size for batch in batches)
        made.append(sorted(tuple(index for _, index, _ in batch) for batch in batches))
    assert made[0] == made[1] == made[2]


def test_a_held_out_clip_longer_than_the_budget_is_alone() -> None:
    batches = list(EvalSampler([3, 9, 2, 7], 4, 0, 1, key, 5))
    assert [[index for _, index, _ in batch] for batch in batches] == [[1], [3], [0, 2]]


@pytest.mark.parametrize("budget", [0, 2048])
def test_ranks_finish_scoring_together(budget: int) -> None:
    frames = real_lengths(2000)
    ranks = [list(EvalSampler(frames, 16, rank, 4, key, budget)) for rank in range(4)]
    loads = [sum(frames[i] for batch in rank for _, i, counted in batch if counted) for rank in ranks]
    assert max(loads) - min(loads) < 0.02 * np.mean(loads)
    per_turn = [[sum(frames[i] for _, i, _ in batch) for batch in turn] for turn in zip(*ranks, strict=True)]
    assert all(max(turn) < 1.25 * min(turn) for turn in per_turn[:-1])
