"""The cache of text features: what is written is found, and a torn tail costs its own rows alone."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.text_cache import TextFeatures, text_key
from uni_sign.errors import InputError

DIM = 3
TEXTS = ["a", "手", "", "b c", "d"]


def feature(text: str) -> np.ndarray:
    """A feature that tells texts apart."""
    return np.frombuffer(text_key(text)[: 4 * DIM], np.uint32).astype(np.float32)


def store(folder: Path, *batches: list[str]) -> TextFeatures:
    """A cache with one new shard of these batches."""
    cache = TextFeatures(folder, DIM)
    writer = cache.writer()
    for texts in batches:
        writer.append(texts, np.stack([feature(text) for text in texts]))
    writer.close()
    cache.refresh()
    return cache


def holds(cache: TextFeatures, texts: list[str]) -> bool:
    expected = np.stack([feature(text) for text in texts])
    return not cache.missing(texts) and np.array_equal(cache.lookup(texts), expected)


def test_an_empty_cache_misses_everything(tmp_path: Path) -> None:
    cache = TextFeatures(tmp_path / "none", DIM)
    assert cache.missing(["b", "a", "b"]) == ["b", "a"]
    assert cache.lookup([]).shape == (0, DIM)
    with pytest.raises(InputError, match="lacks the feature of 'a'"):
        cache.lookup(["a"])


def test_what_is_written_is_found(tmp_path: Path) -> None:
    cache = store(tmp_path / "deep" / "cache", TEXTS[:2], TEXTS[2:4])
    assert holds(cache, TEXTS[:4])
    assert holds(TextFeatures(tmp_path / "deep" / "cache", DIM), ["手", "a", "手"])
    assert cache.missing(TEXTS) == ["d"]
    assert cache.lookup(["a"]).dtype == np.float32


def test_rows_are_seen_after_a_refresh(tmp_path: Path) -> None:
    reader = TextFeatures(tmp_path, DIM)
    writer = reader.writer()
    writer.append(["a"], feature("a")[None])
    assert reader.missing(["a"]) == ["a"]
    reader.refresh()
    assert holds(reader, ["a"])
    writer.append(["b c"], feature("b c")[None])
    reader.refresh()
    assert holds(reader, ["a", "b c"])
    writer.close()


def test_writers_have_shards_of_their_own(tmp_path: Path) -> None:
    cache = TextFeatures(tmp_path, DIM)
    writers = [cache.writer() for _ in range(3)]
    for text, writer in zip([*TEXTS, "a"], writers * 2, strict=True):
        writer.append([text], feature(text)[None])
    for writer in writers:
        writer.close()
    cache.refresh()
    assert len(list(tmp_path.glob("*.keys"))) == len(list(tmp_path.glob("*.bin"))) == 3
    assert holds(cache, TEXTS)


def test_other_dtypes_and_layouts_are_stored_as_float32(tmp_path: Path) -> None:
    cache = TextFeatures(tmp_path, DIM)
    writer = cache.writer()
    rows = np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, DIM))
    writer.append(["a", "d"], rows)
    writer.close()
    cache.refresh()
    assert np.array_equal(cache.lookup(["d", "a"]), rows[::-1])


def test_features_of_another_width_do_not_fit(tmp_path: Path) -> None:
    writer = TextFeatures(tmp_path, DIM).writer()
    with pytest.raises(ValueError, match="reshape"):
        writer.append(["a"], np.zeros((1, DIM + 1)))
    writer.close()
    assert TextFeatures(tmp_path, DIM).missing(["a"]) == ["a"]


def test_a_pickled_cache_still_finds(tmp_path: Path) -> None:
    assert holds(pickle.loads(pickle.dumps(store(tmp_path, TEXTS))), TEXTS)


@given(suffix=st.sampled_from([".bin", ".keys"]), data=st.data())
def test_a_torn_tail_loses_the_torn_rows_alone(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "torn"
    shutil.rmtree(folder, ignore_errors=True)
    store(folder, TEXTS[:2], TEXTS[2:])
    [torn] = folder.glob(f"*{suffix}")
    row_bytes = {".bin": 4 * DIM, ".keys": 16}[suffix]
    size = data.draw(st.integers(0, row_bytes * len(TEXTS)))
    torn.write_bytes(torn.read_bytes()[:size])
    whole = size // row_bytes
    cache = TextFeatures(folder, DIM)
    assert cache.missing(TEXTS) == TEXTS[whole:]
    assert whole == 0 or holds(cache, TEXTS[:whole])
    assert whole == len(TEXTS) or holds(store(folder, TEXTS[whole:]), TEXTS)


def test_keys_without_rows_are_nothing(tmp_path: Path) -> None:
    store(tmp_path, TEXTS)
    next(iter(tmp_path.glob("*.bin"))).unlink()
    assert TextFeatures(tmp_path, DIM).missing(TEXTS) == TEXTS
