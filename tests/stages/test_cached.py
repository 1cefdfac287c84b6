"""What frozen models make of each item once: what cannot be made is named, and ends nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from uni_sign.data.feature_cache import FeatureCache
from uni_sign.data.motion_clips import MotionClip
from uni_sign.errors import InputError
from uni_sign.stages._cached import CacheConfig, fill_cache

ALONE = SimpleNamespace(
    device=torch.device("cpu"), num_processes=1, process_index=0, is_main_process=True, wait_for_everyone=lambda: None
)


def filled(
    folder: Path, items: Sequence[Any], extract: Callable[[Sequence[Any]], Any]
) -> tuple[FeatureCache, list[str]]:
    cache = FeatureCache(folder / "cache", {})
    stage = SimpleNamespace(config=CacheConfig(), cache=cache, notes=[], extractor=lambda _: extract)
    return cache, fill_cache(stage, {"train": items[:-1], "val": items[-1:]}, ALONE, "made")


def _finite(items: Sequence[str]) -> list[dict[str, np.ndarray]]:
    return [{"a": np.full(3, np.inf if item == "bad" else 1, np.float16)} for item in items]


def _small(items: Sequence[str]) -> list[dict[str, np.ndarray]]:
    if items[0] == "bad":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 PiB")
    return _finite(items)


@pytest.mark.parametrize(
    ("extract", "said"), [(_finite, "bad is not finite"), (_small, "bad does not fit into memory")]
)
def test_a_bad_item_is_left_out_and_named(tmp_path: Path, extract: Callable[..., Any], said: str) -> None:
    items = [*map(str, range(9)), "bad", "last"]
    cache, problems = filled(tmp_path, items, extract)
    assert cache.missing(items) == ["bad"]
    assert len(problems) == 1
    assert said in problems[0]


def test_another_error_of_a_model_is_not_hidden(tmp_path: Path) -> None:
    def broken(_: Sequence[str]) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        filled(tmp_path, ["a", "b"], broken)


def test_a_clip_whose_sound_is_gone_is_left_out_where_it_is_heard_and_kept_where_it_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    clips = [
        MotionClip("a", tmp_path / "a.mp4", tmp_path / "gone.wav", None, "train"),
        MotionClip("b", tmp_path / "b.mp4", None, None, "test"),
    ]
    _, problems = filled(tmp_path, clips, lambda items: [{"a": np.zeros(1)} for _ in items])
    assert len(problems) == 1
    assert "gone.wav cannot be read" in problems[0]
    seen = FeatureCache(tmp_path / "cache", {}, with_sound=False)
    seen.store(clips[0], {"a": np.zeros(1)})
    assert seen.missing(clips[:1]) == []


def test_a_cache_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(InputError, match="choose another --cache_dir"):
        filled(tmp_path, ["a", "b"], _finite)


def test_of_several_at_once_only_the_bad_one_is_left_out(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", {})
    stage = SimpleNamespace(config=CacheConfig(), cache=cache, notes=[], extractor=lambda _: _finite)
    items = [*map(str, range(9)), "bad", "last"]
    problems = fill_cache(stage, {"train": items[:-1], "val": items[-1:]}, ALONE, "made", at_once=4)
    assert cache.missing(items) == ["bad"]
    assert len(problems) == 1
