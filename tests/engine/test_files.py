"""The order of an epoch whose clips lie in files: every clip once, few files at a time, on any number of processes."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.engine.batching import BatchShape, Files, TrainSampler, plan_epoch


def key(epoch: int, index: int, counted: bool) -> tuple[int, int, bool]:
    return epoch, index, counted


def as_lists(plan: list[list[np.ndarray]]) -> list[list[list[int]]]:
    return [[micro.tolist() for micro in window] for window in plan]


CLIPS = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 9)), max_size=80)


@given(CLIPS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4))
def test_an_epoch_shows_every_clip_once(
    clips: list[tuple[int, int]], batch: int, accumulation: int, machines: int, each: int, mixed: int
) -> None:
    sizes = [size for size, _ in clips]
    files = Files(np.array([file for _, file in clips], np.int64), mixed, machines)
    shape = BatchShape(batch, accumulation, machines * each)
    for epoch in range(3):
        plan = as_lists(plan_epoch(sizes, shape, 1, epoch, files))
        assert sorted(index for window in plan for micro in window for index in micro) == list(range(len(sizes)))
        assert len(plan) == -(-len(sizes) // shape.window)
        whole = [[shape.micro] * accumulation] * (len(sizes) // shape.window)
        assert [[len(micro) for micro in window] for window in plan][: len(whole)] == whole
        assert plan == as_lists(plan_epoch(sizes, shape, 1, epoch, files))


@given(CLIPS.filter(len), st.integers(100, 400), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2))
def test_so_does_one_by_frames_in_as_many_steps(
    clips: list[tuple[int, int]], budget: int, mixed: int, processes: int, accumulation: int
) -> None:
    frames = [size for size, _ in clips]
    files = Files(np.array([file for _, file in clips], np.int64), mixed)
    shape = BatchShape(8, accumulation, processes, budget)
    plans = [as_lists(plan_epoch(frames, shape, 1, epoch, files)) for epoch in range(3)]
    for plan in plans:
        assert sorted(index for window in plan for micro in window for index in micro) == list(range(len(frames)))
        assert len(plan) == len(plans[0])
    sampler = TrainSampler(frames, shape, 0, 1, key, files)
    assert all(sum(frames[index] for _, index, _ in batch) <= budget for batch in sampler)


def test_few_files_are_read_at_a_time_and_all_are_shuffled() -> None:
    file_of = np.repeat(np.arange(40), 100)
    sizes = np.random.default_rng(0).integers(20, 256, 4000)
    for mixed, frames in ((4, 0), (4, 1024)):
        shape = BatchShape(8, 1, 1, frames)
        plan = plan_epoch(sizes, shape, 0, 1, Files(file_of, mixed))
        steps = [np.concatenate(window) for window in plan]
        first, last = np.full(40, len(steps)), np.zeros(40, np.int64)
        for number, items in enumerate(steps):
            np.minimum.at(first, file_of[items], number)
            np.maximum.at(last, file_of[items], number)
        in_use = [int(((first <= number) & (number <= last)).sum()) for number in range(len(steps))]
        assert max(in_use) <= 2 * mixed
        assert np.mean([len(set(file_of[items].tolist())) for items in steps]) > mixed / 2
        assert np.mean([np.ptp(sizes[items]) for items in steps]) < 40  # alike in size
        assert first.tolist() != sorted(first.tolist())
        other = plan_epoch(sizes, shape, 0, 2, Files(file_of, mixed))
        assert as_lists(other) != as_lists(plan)


def test_machines_read_files_of_their_own() -> None:
    """Two machines of two processes: but for the end of an epoch no file is read by both."""
    file_of = np.repeat(np.arange(40), 100)
    sizes = np.random.default_rng(0).integers(20, 256, 4000)
    shape, files = BatchShape(4, 2, 4), Files(file_of, 4, 2)
    read = [TrainSampler(sizes, shape, rank, 0, key, files).items for rank in range(4)]
    owners: dict[int, set[int]] = {}
    for rank, steps in enumerate(read):
        for items in steps[:-4]:
            for file in file_of[items].tolist():
                owners.setdefault(file, set()).add(rank // 2)
    assert all(len(machines) == 1 for machines in owners.values())
    assert sorted(len({file for file in owners if machine in owners[file]}) for machine in (0, 1)) == [20, 20]
    # What is read at the same time is alike in length, on both.
    spread = [np.ptp([sizes[steps[number]].mean() for steps in read]) for number in range(len(read[0]) - 4)]
    assert np.mean(spread) < 40
    assert sorted(np.concatenate([np.concatenate(steps) for steps in read]).tolist()) == list(range(4000))


@given(CLIPS, st.integers(1, 4), st.integers(0, 3), st.data())
def test_seeking_goes_on_with_exactly_the_rest(
    clips: list[tuple[int, int]], mixed: int, epoch: int, data: st.DataObject
) -> None:
    sizes, files = [size for size, _ in clips], Files(np.array([file for _, file in clips], np.int64), mixed)
    through, resumed = (TrainSampler(sizes, BatchShape(2, 2, 2), 1, 5, key, files) for _ in range(2))
    through.seek(epoch, 0)
    first = data.draw(st.integers(0, through.windows_per_epoch))
    resumed.seek(epoch, first)
    assert list(resumed) == list(through)[sum(through.micro_batches[:first]) :]
    assert [items.tolist() for items in resumed.items] == [items.tolist() for items in through.items[first:]]


def test_the_digest_knows_the_files() -> None:
    sizes, shape = list(range(1, 41)), BatchShape(2, 1, 2)
    file_of = np.repeat(np.arange(8), 5)
    kinds = [None, Files(file_of, 2), Files(file_of, 3), Files(file_of, 2, 2), Files(file_of[::-1].copy() // 2, 2)]
    assert len({TrainSampler(sizes, shape, 0, 0, key, files).digest() for files in kinds}) == 5


def test_a_million_clips_are_planned_in_seconds() -> None:
    start = time.process_time()
    sizes = np.random.default_rng(0).integers(1, 256, 1_000_000)
    sampler = TrainSampler(sizes, BatchShape(8, 1, 4), 0, 0, key, Files(np.arange(1_000_000) // 1000, 8))
    assert len(sampler.items) == 31250
    assert time.process_time() - start < 15
