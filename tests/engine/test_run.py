"""How a run is put together: budgets that hold every clip, and what is said of a step."""

from __future__ import annotations

from typing import Any

import pytest

from uni_sign.engine.batching import BatchShape, TrainSampler
from uni_sign.engine.run import _frame_counts, global_batch
from uni_sign.errors import InputError


class CountingStage:
    """All of a stage that counts."""

    def frame_counts(self, _: Any) -> dict[str, list[int]]:
        return {"train": [10, 30, 20], "dev": [5, 40]}


def test_a_budget_must_hold_the_longest_clip_of_any_split() -> None:
    stage: Any = CountingStage()
    assert _frame_counts(stage, stage, 40) == {"train": [10, 30, 20], "dev": [5, 40]}
    with pytest.raises(InputError, match=r"--frames_per_batch 39 holds no clip of 40 frames.* give at least 40"):
        _frame_counts(stage, stage, 39)


def test_what_a_step_sees_is_said() -> None:
    def sampler(shape: BatchShape) -> TrainSampler:
        return TrainSampler([10] * 24, shape, 0, 0, lambda *key: key)

    assert global_batch(sampler(BatchShape(3, 2, 1))) == "Global batch 6 = 3 clips x 2 accumulation x 1 processes"
    assert global_batch(sampler(BatchShape(8, 1, 2, 40))) == (
        "Global batch of at most 40 frames and 8 clips x 1 accumulation x 2 processes, "
        "in the mean 80 frames and 8.0 clips"
    )
