"""Shards elsewhere: the same clips as beside the run, whatever the network does; and reading ahead."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from test_shards import SETTINGS, TOKENIZER, every_kind, prepared, write

from uni_sign.data import streaming
from uni_sign.data.shard_index import NAME, parse_index, write_index
from uni_sign.data.shard_writer import remove_leftovers
from uni_sign.data.shards import UNREADABLE, Shards
from uni_sign.data.signs import Key, SignDataset
from uni_sign.data.streaming import ReadAhead, Stream
from uni_sign.errors import InputError, RunError


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_PAUSES", (0.0, 0.0))


def folder_of(root: Path) -> tuple[Path, Shards, list[Any]]:
    samples = [*every_kind(root), write(root, "broken.pkl", b"nothing")]
    shards = prepared(root, samples, 30_000)
    write_index(root / "prepared")
    return root / "prepared", shards, samples


def assert_same(streamed: Shards, shards: Shards, samples: list[Any]) -> None:
    rows, theirs = streamed.locate(samples), shards.locate(samples)
    assert (rows == UNREADABLE).sum() == 1
    assert ((rows == UNREADABLE) == (theirs == UNREADABLE)).all()
    for row, other in zip(rows[rows >= 0].tolist(), theirs[theirs >= 0].tolist(), strict=True):
        for name, part in streamed.parts(row).items():
            np.testing.assert_array_equal(part, shards.parts(other)[name])
        chosen = np.arange(int(streamed.frames[row]))[::2]
        np.testing.assert_array_equal(streamed.points(row, chosen), shards.points(other, chosen))
        assert streamed.starts[row] == shards.starts[other]
    assert streamed.problems(samples) == shards.problems(samples)
    assert streamed.states() == {sample.pose_path.name: (sample.size, sample.mtime_ns) for sample in samples}


def test_another_share_that_ends_too_lets_the_index_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, shards, _ = folder_of(tmp_path)
    (folder / NAME).unlink()
    monkeypatch.setattr(os, "fsync", lambda _: remove_leftovers(folder))
    write_index(folder)
    assert sum(map(len, (rows["name"] for rows in parse_index((folder / NAME).read_bytes(), NAME).rows))) == len(shards)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("spelling", ["{}", "{}/", "file://{}"])
def test_a_folder(tmp_path: Path, spelling: str) -> None:
    folder, shards, samples = folder_of(tmp_path)
    assert len(shards.files) > 2
    stream = Stream(spelling.format(folder), tmp_path / "cache", 10**9)
    assert_same(Shards(source=stream), shards, samples)
    # In another process, from the cache alone.
    again = pickle.loads(pickle.dumps(Shards(source=stream)))
    shutil.rmtree(folder)
    again.parts(0)


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def uploaded(folder: Path, memory: Any) -> str:
    for path in folder.iterdir():
        memory.pipe_file(f"/bucket/x/{path.name}", path.read_bytes())
    return "memory://bucket/x"


def test_a_url_and_a_cache_that_holds_one_shard(tmp_path: Path, memory: Any) -> None:
    folder, shards, samples = folder_of(tmp_path)
    limit = max(path.stat().st_size for path in shards.files)
    streamed = Shards(source=Stream(uploaded(folder, memory), tmp_path / "cache", limit))
    assert_same(streamed, shards, samples)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.arrow")) <= limit
    held = {path.name for path in (tmp_path / "cache").rglob("*.arrow")}
    assert {streamed.files[shard].name for shard in streamed._maps._maps} <= held  # what was deleted is let go


def test_clips_are_those_from_the_files(tmp_path: Path, memory: Any) -> None:
    folder, _, samples = folder_of(tmp_path)
    streamed = Shards(source=Stream(uploaded(folder, memory), tmp_path / "cache", 10**9))
    ours, theirs = (SignDataset(samples[:-1], TOKENIZER, SETTINGS, source) for source in (streamed, None))
    for index in range(len(ours)):
        one, other = (data[Key(2, index)] for data in (ours, theirs))
        assert all(np.array_equal(one.parts[name], other.parts[name]) for name in other.parts)  # type: ignore[union-attr]


# --- faults of the network ---------------------------------------------------------------------------------


class Flaky:
    """A file system of which some calls raise, or cut what they fetch short; counts the calls."""

    def __init__(self, error: Exception | None, failures: int) -> None:
        self.system, self.error, self.failures = fsspec.filesystem("file"), error, failures
        self.calls = Counter[str]()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            fails, self.failures = self.failures > 0, self.failures - 1
            if fails and self.error:
                raise self.error
            result = getattr(self.system, name)(*arguments)
            if fails:
                Path(arguments[1]).write_bytes(Path(arguments[1]).read_bytes()[:-1])
            return result

        return call


@pytest.mark.parametrize(
    ("error", "failures", "attempts", "says"),
    [
        (ConnectionResetError("reset"), 2, 3, ""),
        (TimeoutError("slow"), 3, 3, r"cannot be fetched \(TimeoutError: slow\), 3 attempts .*--resume auto"),
        (RuntimeError("a\nb"), 3, 3, r"RuntimeError: a\\nb"),
        (PermissionError("denied"), 1, 1, r"may not be read \(PermissionError: denied\): check the credentials"),
        (FileNotFoundError("gone"), 1, 1, "does not exist: --stream takes the folder"),
        (OSError(28, "No space left on device"), 1, 1, r"--stream_cache .* cannot be used \(No space left"),
        (None, 2, 3, ""),
        (None, 3, 3, "EOFError: .* bytes came, .* are due"),
    ],
)
def test_a_network_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    failures: int,
    attempts: int,
    says: str,
) -> None:
    folder, _, _ = folder_of(tmp_path)
    streamed = Shards(source=Stream(str(folder), tmp_path / "cache", 10**9))
    flaky = Flaky(error, failures)
    monkeypatch.setattr(streaming, "_system", lambda url: (flaky, url))
    if says:
        with pytest.raises((InputError, RunError), match=says) as caught:
            streamed.parts(0)
        assert "\n" not in str(caught.value)
        assert not [*(tmp_path / "cache").rglob("*.arrow"), *(tmp_path / "cache").rglob("*.partial")]
    else:
        streamed.parts(0)
    assert flaky.calls["get_file"] == attempts
    streamed.parts(0)


def test_a_shard_that_is_damaged_or_another_one(tmp_path: Path) -> None:
    folder, shards, _ = folder_of(tmp_path)
    stream = Stream(str(folder), tmp_path / "cache", 10**9)
    first, second, third = shards.files[:3]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    with pytest.raises(InputError, match=rf"prepared: {first.name} is not a shard of poses, or is damaged"):
        Shards(source=stream).parts(0)
    shutil.copy(third, second)
    stream.sizes[1] = second.stat().st_size
    with pytest.raises(InputError, match=f"{second.name} is another one than the index says: run `uni-sign prepare`"):
        Shards(source=stream).parts(int(np.flatnonzero(shards.file_of == 1)[0]))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nowhere", "nowhere/shards.index does not exist: --stream takes the folder that `uni-sign prepare` has made"),
        ("carrier://pigeon", "--stream carrier://pigeon is neither a folder nor a URL that fsspec knows"),
        ("dropbox://x", "--stream dropbox://x needs a package that is not installed"),
    ],
)
def test_urls_that_lead_nowhere(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Stream(url, tmp_path / "cache", 10**9)


@pytest.mark.parametrize("damage", ["cut", "bits", "empty", "shard"])
def test_a_damaged_index(tmp_path: Path, damage: str) -> None:
    folder, shards, _ = folder_of(tmp_path)
    content = bytearray((folder / NAME).read_bytes())
    if damage == "bits":
        content[40] ^= 255
    damaged = {"cut": content[:-9], "bits": content, "empty": b"", "shard": shards.files[0].read_bytes()}[damage]
    with pytest.raises(InputError, match=r"an/index (is no index of shards|is of another version)"):
        parse_index(bytes(damaged), "an/index")


# --- reading ahead -----------------------------------------------------------------------------------------


class Fetching:
    """Stands for a stream of ten shards of one byte; says what is fetched, and in which order."""

    def __init__(self, limit: int) -> None:
        self.files, self.sizes, self.limit = [Path(str(n)) for n in range(10)], [1] * 10, limit
        self.fetched: list[int] = []
        self.busy: set[int] = set()
        self.failures: list[Exception] = []

    def fetch(self, shard: int) -> bool:
        if self.failures:
            raise self.failures.pop()
        if shard in self.busy:
            return False
        self.fetched.append(shard)
        return True

    def touch(self, shard: int) -> None: ...


def settled(stream: Fetching, expected: list[int]) -> None:
    end = time.monotonic() + 10
    while stream.fetched != expected and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    assert stream.fetched == expected


def test_what_is_read_next_is_fetched_as_far_as_the_cache_reaches() -> None:
    stream = Fetching(limit=4)
    ahead = ReadAhead(stream, np.arange(10)[::-1].copy())  # type: ignore[arg-type]
    steps = [np.array([item, min(item + 1, 9)]) for item in range(10)]
    ahead.follow(steps[2:], 2)  # items 2 and 3 lie in shards 7 and 6
    settled(stream, [6, 7, 5])
    ahead.reach(4)
    settled(stream, [6, 7, 5, 4, 3])
    ahead.reach(9)
    settled(stream, [6, 7, 5, 4, 3, 0])
    stream.fetched.clear()
    ahead.follow(steps, 0)
    settled(stream, [8, 9, 7])


def test_what_another_process_fetches_is_left_to_it() -> None:
    stream = Fetching(limit=4)
    stream.busy = {1}
    ReadAhead(stream, np.arange(10)).follow([np.array([0, 1, 2])], 0)  # type: ignore[arg-type]
    settled(stream, [0, 2])
    stream.busy = set()
    settled(stream, [0, 2, 1])


def test_a_fetch_that_fails_is_tried_again_and_ends_nothing() -> None:
    stream = Fetching(limit=4)
    stream.failures = [RunError("no network"), InputError("gone")]
    ReadAhead(stream, np.arange(10)).follow([np.array([0])], 0)  # type: ignore[arg-type]
    settled(stream, [0])
