"""The cache of fetched files: whole or not there, within its bound, and one fetch for all processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uni_sign.data.stream_cache import StreamCache
from uni_sign.errors import InputError

SIZE = 1000


def content(name: str) -> bytes:
    return name.encode() * (SIZE // len(name))


def writing(name: str, log: Path | None = None, pause: float = 0) -> Callable[[Path], None]:
    def fetch(target: Path) -> None:
        time.sleep(pause)
        target.write_bytes(content(name))
        if log is not None:
            with log.open("a") as file:
                file.write(f"{name}\n")

    return fetch


def opened(cache: StreamCache, name: str, log: Path | None = None) -> bytes:
    time.sleep(0.01)  # later than the one before, for any clock of a file system
    return bytes(cache.open(name, SIZE, writing(name, log)))


def held(root: Path) -> set[str]:
    return {path.name for path in (root / "source").iterdir() if path.suffix == ".arrow"}


def test_a_file_is_fetched_once_and_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache, log = StreamCache(tmp_path, "source", 3 * SIZE), tmp_path / "log"
    for name in ("aa.arrow", "bb.arrow", "cc.arrow"):
        assert opened(cache, name, log) == content(name)
    time.sleep(0.01)
    kept = cache.open("aa.arrow", SIZE, writing("aa.arrow", log))
    opened(cache, "dd.arrow", log)
    assert held(tmp_path) == {"aa.arrow", "cc.arrow", "dd.arrow"}
    time.sleep(0.01)
    cache.touch("cc.arrow")
    opened(cache, "ee.arrow", log)
    opened(cache, "ff.arrow", log)
    assert held(tmp_path) == {"cc.arrow", "ee.arrow", "ff.arrow"}
    assert bytes(kept) == content("aa.arrow")  # as long as someone has it
    assert log.read_text().split() == [f"{letter * 2}.arrow" for letter in "abcdef"]
    cache.touch("aa.arrow")  # gone: nothing to do


def test_all_sources_share_the_bound_and_leftovers_are_cleared(tmp_path: Path) -> None:
    one, two = (StreamCache(tmp_path, name, 2 * SIZE) for name in ("source", "other"))
    opened(one, "aa.arrow")
    opened(one, "bb.arrow")
    (tmp_path / "source" / f"cc.arrow.{2 * SIZE}.partial").write_bytes(b"killed")
    opened(two, "dd.arrow")
    assert held(tmp_path) == {"bb.arrow"}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_of_another_size_is_fetched_anew(tmp_path: Path) -> None:
    cache = StreamCache(tmp_path, "source", 9 * SIZE)
    (tmp_path / "source" / "aa.arrow").write_bytes(b"old")
    assert opened(cache, "aa.arrow") == content("aa.arrow")


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = StreamCache(tmp_path, "source", 9 * SIZE)

    def fails(target: Path) -> None:
        target.write_bytes(b"half")
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        cache.open("aa.arrow", SIZE, fails)
    assert not held(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    assert opened(cache, "aa.arrow") == content("aa.arrow")


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--stream_cache_gb 5e-07 holds no shard of 0\.00 GB"):
        opened(StreamCache(tmp_path, "source", SIZE // 2), "aa.arrow")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"--stream_cache .*file cannot be used"):
        StreamCache(tmp_path / "file", "source", SIZE)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot be used \(No space left on device\): free space"):
        StreamCache(tmp_path, "source", SIZE).open("bb.arrow", SIZE, full)


def read_all(root: Path, seed: int, bound: int, failures: Any) -> None:
    cache = StreamCache(root, "source", bound)
    names = [f"{letter * 2}.arrow" for letter in "abcdefgh"]
    for turn in range(40):
        name = names[(seed * 3 + turn * (seed + 1)) % len(names)]
        if bytes(cache.open(name, SIZE, writing(name, root.parent / "log", 0.001))) != content(name):
            failures.put(name)


@pytest.mark.parametrize("files", [2, 8])
def test_processes_share_it(tmp_path: Path, files: int) -> None:
    """Also where they need more files at a time than it holds: slower, but no one waits for ever."""
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    (tmp_path / "cache").mkdir()
    arguments = [(tmp_path / "cache", seed, files * SIZE, failures) for seed in range(4)]
    processes = [context.Process(target=read_all, args=some, daemon=True) for some in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert failures.empty()
    assert len(held(tmp_path / "cache")) <= files
    if files == 8:
        assert len((tmp_path / "log").read_text().split()) == 8


def test_a_killed_fetch_is_taken_over(tmp_path: Path) -> None:
    cache = StreamCache(tmp_path / "cache", "source", SIZE)

    def dies(target: Path) -> None:
        target.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    context = multiprocessing.get_context("fork")
    process = context.Process(target=cache.open, args=("aa.arrow", SIZE, dies), daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.rglob("*.partial"))
    assert opened(cache, "bb.arrow") == content("bb.arrow")  # what it left takes no room
    assert not list(tmp_path.rglob("*.partial"))


def test_another_process_at_work_is_not_waited_for(tmp_path: Path) -> None:
    cache = StreamCache(tmp_path, "source", 9 * SIZE)
    seen: list[bool] = []

    def meanwhile(target: Path) -> None:
        seen.append(cache.fill("aa.arrow", SIZE, writing("aa.arrow")))
        target.write_bytes(content("aa.arrow"))

    assert cache.fill("aa.arrow", SIZE, meanwhile)
    assert cache.fill("aa.arrow", SIZE, meanwhile)
    assert seen == [False]
