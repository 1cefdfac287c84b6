"""Shards from a folder or an fsspec URL, fetched in the order in which they are needed, into a bounded cache."""

import contextlib
import errno
import hashlib
import mmap
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np

from uni_sign.data.shard_index import MAX_BYTES, NAME, parse_index
from uni_sign.data.stream_cache import StreamCache
from uni_sign.errors import InputError, RunError, one_line

_PAUSES = (0.5, 1, 2, 4, 8, 16)  # seconds between attempts, half a minute in all
_SILENCE = 60  # seconds without a byte, or a connection, that end an attempt over HTTP
_WAIT = 0.2  # seconds
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
_Result = TypeVar("_Result")


class Stream:
    """The shards at ``url``; see `uni_sign.data.shards.Source`. Picklable, and for processes that are forked, too.

    Raises InputError where there is no index, or where the cache cannot be used.
    """

    def __init__(self, url: str, cache: Path, limit: int) -> None:
        self.folder = url.rstrip("/")
        self.files, self.sizes, self.index = parse_index(self._read_index(), f"{self.folder}/{NAME}")
        digest = hashlib.blake2b(self.folder.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self._cache = StreamCache(cache, digest, limit)
        self.limit = limit

    def open(self, shard: int) -> mmap.mmap:
        """The shard from the cache, mapped; fetched where it is not there."""
        name = self.files[shard].name
        return self._cache.open(name, self.sizes[shard], lambda target: self._fetch(shard, target))

    def still_open(self, shard: int) -> bool:
        """Whether the cache has the shard."""
        return self._cache.holds(self.files[shard].name)

    def fetch(self, shard: int) -> bool:
        """See that the cache has the shard, unless another process is fetching it: then False."""
        name = self.files[shard].name
        return self._cache.fill(name, self.sizes[shard], lambda target: self._fetch(shard, target))

    def touch(self, shard: int) -> None:
        """Count the shard as used now."""
        self._cache.touch(self.files[shard].name)

    def _read_index(self) -> bytes:
        def read() -> bytes:
            system, path = _system(self.folder)
            place = f"{path}/{NAME}"
            if (system.size(place) or 0) > MAX_BYTES:
                raise InputError(f"{self.folder}/{NAME} has more than {MAX_BYTES:,} bytes: that is no index.")
            content: bytes = system.cat_file(place)
            return content

        try:
            return _patiently(read, f"{self.folder}/{NAME}")
        except RunError as error:  # nothing runs yet
            raise InputError(str(error)) from error

    def _fetch(self, shard: int, target: Path) -> None:
        name, size = self.files[shard].name, self.sizes[shard]

        def copy() -> None:
            system, path = _system(self.folder)
            system.get_file(f"{path}/{name}", str(target))
            if (found := target.stat().st_size) != size:
                raise EOFError(f"{found} bytes came, {size} are due")

        _patiently(copy, f"{self.folder}/{name}")


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there; of each process its own, for few of them bear a fork."""
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # Its usual limit is five minutes for all of a file.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
        options = {"client_kwargs": {"timeout": limits}}
    try:
        found: tuple[Any, str] = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise InputError(f"--stream {url} needs a package that is not installed: {error}.") from error
    except ValueError as error:
        raise InputError(f"--stream {url} is neither a folder nor a URL that fsspec knows: {error}.") from error
    return found


def _patiently(action: Callable[[], _Result], what: str) -> _Result:
    """Its result; a failure that may pass is met by another attempt, one that lasts raises RunError."""
    for pause in (*_PAUSES, None):
        try:
            return action()
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{what} does not exist: --stream takes the folder that `uni-sign prepare` has made, complete."
            ) from None
        except InputError:
            raise
        except PermissionError as error:
            raise InputError(f"{what} may not be read ({_reason(error)}): check the credentials.") from error
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, OSError) and error.errno in _FULL:
                raise  # of the disk here
            if pause is None:
                raise RunError(
                    f"{what} cannot be fetched ({_reason(error)}), {len(_PAUSES) + 1} attempts have failed: check the "
                    "network and go on with --resume auto."
                ) from error
            time.sleep(pause * random.uniform(0.5, 1))
    raise AssertionError("the last attempt returns or raises")


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}"[:300])


class ReadAhead:
    """Fetches in the background what the coming optimizer steps will read, and no more than the cache holds with it.

    ``file_of``: the shard of each training item.
    """

    def __init__(self, stream: Stream, file_of: np.ndarray) -> None:
        self._stream, self._file_of = stream, file_of
        # A shard more can be on its way to another process.
        self._budget = stream.limit - max(stream.sizes)
        self._change = threading.Condition()
        self._due: list[int] = []  # shards in the order of their first use
        self._last_use = np.zeros(len(stream.files), np.int64)
        self._step = 0
        self._thread: threading.Thread | None = None

    def follow(self, steps: Sequence[np.ndarray], first: int) -> None:
        """Begin an epoch at its step ``first``: the items that this process reads in each step still to come."""
        with self._change:
            self._due, self._last_use[:], self._step = [], -1, first
            seen: set[int] = set()
            for step, items in enumerate(steps, first):
                shards = np.unique(self._file_of[items])
                self._last_use[shards] = step
                fresh = [shard for shard in shards.tolist() if shard not in seen]
                seen.update(fresh)
                self._due += fresh
            self._change.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
            self._thread.start()

    def reach(self, step: int) -> None:
        """All steps before this one are done."""
        with self._change:
            self._step = step
            self._due = [shard for shard in self._due if self._last_use[shard] >= step]
            self._change.notify()

    def _work(self) -> None:
        here: set[int] = set()
        while True:
            with self._change:
                wanted = self._wanted()
                here &= set(wanted)
                if here.issuperset(wanted):
                    self._change.wait()
                    continue
            for shard in reversed(wanted):
                self._stream.touch(shard)  # what is needed soonest is the last to make room
            fetched = next((shard for shard in wanted if shard not in here and self._fetched(shard)), None)
            if fetched is None:
                time.sleep(_WAIT)  # others are at them
            else:
                here.add(fetched)

    def _fetched(self, shard: int) -> bool:
        # Where a shard cannot be fetched, whoever reads it will say so.
        with contextlib.suppress(InputError, RunError):
            return self._stream.fetch(shard)
        return False

    def _wanted(self) -> list[int]:
        """The shards that are in use and those that come next, as many as the cache holds."""
        sizes = np.cumsum([self._stream.sizes[shard] for shard in self._due])
        return self._due[: max(1, int(np.searchsorted(sizes, self._budget, side="right")))] if self._due else []
