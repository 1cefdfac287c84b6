"""What is made of clips is kept once, whole, and never taken for another clip's or other settings'."""

import json
import mmap
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data import feature_cache
from uni_sign.data.feature_cache import FeatureCache
from uni_sign.data.motion_clips import MotionClip
from uni_sign.errors import InputError

SETTINGS = {"model": "a", "fps": 25.0}


def clip_of(folder: Path, name: str, content: bytes) -> MotionClip:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return MotionClip(name, folder / name, None, None, "train")


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "coordinates": rng.normal(size=(7, 20)).astype(np.float32),
        "audio": rng.normal(size=(7, 5)).astype(np.float16),
        "frames": rng.integers(0, 255, (7, 2, 2, 3), dtype=np.uint8),
    }


@pytest.fixture
def clips(tmp_path: Path) -> list[MotionClip]:
    return [clip_of(tmp_path / "clips", f"{i}.mp4", bytes([i]) * 100) for i in range(3)]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", SETTINGS)


def test_what_was_stored_comes_back(cache: FeatureCache, clips: list[MotionClip], tmp_path: Path) -> None:
    assert cache.missing(clips) == clips
    for i, clip in enumerate(clips[:2]):
        cache.store(clip, arrays(i))
    again = FeatureCache(tmp_path / "cache", SETTINGS)
    assert again.missing(clips) == clips[2:]
    for i, clip in enumerate(clips[:2]):
        loaded = again.load(clip)
        assert {name: value.dtype for name, value in loaded.items()} == {n: v.dtype for n, v in arrays(i).items()}
        assert all(np.array_equal(value, arrays(i)[name]) for name, value in loaded.items())
    assert "2 of 3 are there" in str(again.status(clips))


def test_what_changed_is_made_anew(cache: FeatureCache, clips: list[MotionClip], tmp_path: Path) -> None:
    for clip in clips:
        cache.store(clip, arrays(0))
    changed = clip_of(tmp_path / "clips", clips[0].name, b"another" * 30)
    other = FeatureCache(tmp_path / "cache", SETTINGS)
    assert other.missing(clips) == [changed]
    assert (other.status(clips).present, other.status(clips).stale) == (2, 1)
    assert FeatureCache(tmp_path / "cache", {**SETTINGS, "fps": 30.0}).missing(clips) == clips


def test_a_file_that_is_only_touched_or_moved_keeps_its_entry(
    cache: FeatureCache, clips: list[MotionClip], tmp_path: Path
) -> None:
    cache.store(clips[0], arrays(0))
    os.utime(clips[0].video, ns=(1, 1))
    moved = clip_of(tmp_path / "elsewhere", "x.mp4", clips[0].video.read_bytes())
    assert FeatureCache(tmp_path / "cache", SETTINGS).missing([clips[0], moved]) == []


def test_files_are_read_once(
    cache: FeatureCache, clips: list[MotionClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(clips[0], arrays(0))
    monkeypatch.delattr(feature_cache, "_digest")
    assert FeatureCache(tmp_path / "cache", SETTINGS).missing(clips[:1]) == []


@given(cut=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_entry_is_made_anew(tmp_path_factory: pytest.TempPathFactory, cut: int, byte: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    clip, cache = clip_of(folder, "a.mp4", b"a"), FeatureCache(folder / "cache", SETTINGS)
    cache.store(clip, arrays(0))
    content = cache.path(clip).read_bytes()
    cache.path(clip).write_bytes(content[: cut % len(content)])
    assert cache.missing([clip]) == [clip]
    with pytest.raises(InputError, match="missing or damaged"):
        cache.load(clip)
    header = bytearray(content)
    header[cut % 200] = byte
    cache.path(clip).write_bytes(header)
    if cache.missing([clip]):
        with pytest.raises(InputError, match="missing or damaged"):
            cache.load(clip)
    else:
        cache.load(clip)
    cache.store(clip, arrays(1))
    assert np.array_equal(cache.load(clip)["audio"], arrays(1)["audio"])


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.binary(max_size=3))
def test_what_is_remembered_of_files_may_be_torn(
    tmp_path_factory: pytest.TempPathFactory, kept: int, place: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    clips = [clip_of(folder, f"{i}.mp4", bytes([i])) for i in range(3)]
    cache = FeatureCache(folder / "cache", SETTINGS)
    for i, clip in enumerate(clips):
        cache.store(clip, arrays(i))
    known = folder / "cache" / "contents.jsonl"
    lines = known.read_bytes()
    lines = lines[: kept % len(lines)]
    place %= len(lines) + 1
    known.write_bytes(lines[:place] + noise + lines[place:])
    again = FeatureCache(folder / "cache", SETTINGS)
    # A digest that was changed on disk can only make a clip look new.
    missing = again.missing(clips)
    for i, clip in enumerate(clips):
        assert clip in missing or np.array_equal(again.load(clip)["frames"], arrays(i)["frames"])
    if not noise:
        assert not missing


def _fills(folder: Path, clips: list[MotionClip], first: int) -> None:
    cache = FeatureCache(folder, SETTINGS)
    for _ in range(5):
        for place in range(len(clips)):
            number = (first + place) % len(clips)
            cache.store(clips[number], arrays(number))
            # What another process replaces meanwhile stays whole for those who look at it.
            assert np.array_equal(cache.load(clips[number])["audio"], arrays(number)["audio"])


def test_several_processes_fill_one_cache(clips: list[MotionClip], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fills, args=(tmp_path / "cache", clips, first)) for first in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    assert cache.missing(clips) == []
    assert len(list((tmp_path / "cache").glob("*/*"))) == len(clips)
    lines = (tmp_path / "cache" / "contents.jsonl").read_text().splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {("file", "content")}


def test_an_entry_is_opened_without_being_read(cache: FeatureCache, clips: list[MotionClip]) -> None:
    cache.store(clips[0], {"large": np.zeros((1 << 22, 4), np.float32)})
    held = cache.load(clips[0])["large"]
    base: Any = held
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
    assert not held.flags.writeable


def test_sound_is_part_of_a_clip(cache: FeatureCache, clips: list[MotionClip], tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    sound.write_bytes(b"one")
    clip = MotionClip("a", clips[0].video, sound, None, "train")
    cache.store(clip, arrays(0))
    assert cache.missing([clips[0], clip]) == [clips[0]]
    sound.write_bytes(b"another")
    assert FeatureCache(tmp_path / "cache", SETTINGS).missing([clip]) == [clip]


def _killed(folder: Path, clip: MotionClip) -> None:
    Path.replace = lambda *_: os._exit(1)  # type: ignore[method-assign]
    FeatureCache(folder, SETTINGS).store(clip, arrays(0))


def test_a_process_that_dies_while_storing_leaves_no_entry(
    cache: FeatureCache, clips: list[MotionClip], tmp_path: Path
) -> None:
    cache.store(clips[1], arrays(1))
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path / "cache", clips[0]))
    process.start()
    process.join()
    assert process.exitcode == 1
    assert cache.missing(clips) == [clips[0], clips[2]]
    (tmp_path / "cache" / "mine.txt").touch()
    (tmp_path / "cache" / "other").mkdir()
    (tmp_path / "cache" / "other" / ".hidden").touch()
    cache.clear()
    left = sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*"))
    assert left == ["mine.txt", "other", "other/.hidden"]


def test_a_folder_that_cannot_be_written_is_named(clips: list[MotionClip], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file", SETTINGS)
    with pytest.raises(InputError, match="cannot be written"):
        cache.store(clips[0], arrays(0))
    gone = MotionClip("gone", tmp_path / "gone.mp4", None, None, "train")
    assert cache.missing([gone]) == [gone]
    with pytest.raises(InputError, match="cannot be read"):
        cache.path(gone)


def test_names_that_are_not_in_utf_8(cache: FeatureCache, tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "clips", os.fsdecode(b"caf\xe9.mp4"), b"a")
    cache.store(clip, arrays(0))
    assert np.array_equal(cache.load(clip)["audio"], arrays(0)["audio"])
    clip_of(tmp_path / "clips", clip.name, b"another")
    assert FeatureCache(tmp_path / "cache", SETTINGS).status([clip]).stale == 1


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_byte_that_changed_on_disk_is_told(tmp_path_factory: pytest.TempPathFactory, place: int, flip: int) -> None:
    folder = tmp_path_factory.mktemp("spoiled")
    clip, cache = clip_of(folder, "a.mp4", b"a"), FeatureCache(folder / "cache", SETTINGS)
    cache.store(clip, arrays(0))
    assert cache.status([clip]).spoiled == ()
    content = bytearray(cache.path(clip).read_bytes())
    data = 8 + int.from_bytes(content[:8], "little")
    content[data + place % (len(content) - data)] ^= flip
    cache.path(clip).write_bytes(content)
    assert cache.missing([clip]) == []
    assert cache.status([clip]).spoiled == (cache.path(clip),)
    assert str(cache.path(clip)) in str(cache.status([clip]))


def test_a_torn_entry_is_told(cache: FeatureCache, clips: list[MotionClip]) -> None:
    for clip in clips:
        cache.store(clip, arrays(0))
    cache.path(clips[0]).write_bytes(cache.path(clips[0]).read_bytes()[:-1])
    status = cache.status(clips)
    assert (status.present, status.missing, status.torn) == (2, 1, 1)
    assert "of 1 others there is a torn file" in str(status)
    cache.path(clips[0]).unlink()
    assert cache.status(clips).torn == 0
