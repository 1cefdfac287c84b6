"""A folder of fetched files with a bound, shared by all processes of a machine.

A file stands complete under its name or not at all. One process fetches it while the others that need it wait; the one
that was used longest ago makes room. A file that is deleted stays readable for those who have it mapped.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from uni_sign.errors import InputError

_PARTIAL = ".partial"
_WAIT = 0.05  # seconds


class StreamCache:
    """Files of one source, in ``folder``; ``root`` holds the folders of all, which ``limit`` bounds, in bytes."""

    def __init__(self, root: Path, source: str, limit: int) -> None:
        self.root, self._folder, self.limit = root, root / source, limit
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(root, error) from error

    def open(self, name: str, size: int, fetch: Callable[[Path], None]) -> mmap.mmap:
        """The file, mapped; where it is not here yet, ``fetch`` writes it to the path it is given."""
        while True:
            data = self._mapped(name, size)
            if data is not None:
                return data
            with self._lock(f"{name}.lock"):
                if not self.holds(name):
                    self._fill(name, size, fetch)

    def fill(self, name: str, size: int, fetch: Callable[[Path], None]) -> bool:
        """See that the file is here, unless another process is at it: then False."""
        with self._lock(f"{name}.lock", wait=False) as locked:
            if locked and not self.holds(name):
                self._fill(name, size, fetch)
            return locked

    def holds(self, name: str) -> bool:
        """Whether the file is here."""
        return (self._folder / name).exists()

    def touch(self, name: str) -> None:
        """Count the file as used now."""
        try:
            os.utime(self._folder / name)
        except OSError:
            return

    def _mapped(self, name: str, size: int) -> mmap.mmap | None:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == size:
                    os.utime(file.fileno())
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            path.unlink()  # of an earlier state of the source
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unwritable(self.root, error) from error
        return None

    def _fill(self, name: str, size: int, fetch: Callable[[Path], None]) -> None:
        partial = self._folder / f"{name}.{size}{_PARTIAL}"
        try:
            for left in self._folder.glob(f"{name}.*{_PARTIAL}"):  # by a process that was killed
                left.unlink()
            self._make_room(size, partial)
            fetch(partial)
            partial.replace(self._folder / name)
        except OSError as error:
            raise _unwritable(self.root, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int, partial: Path) -> None:
        """Delete what was used longest ago until there is room for a file, and take the room."""
        if size > self.limit:
            raise InputError(
                f"--stream_cache_gb {self.limit / 1e9:g} holds no shard of {size / 1e9:.2f} GB: give more."
            )
        while True:
            with self._lock("../room.lock"):
                taken, whole = self._taken()
                for path, bytes_, _ in sorted(whole, key=lambda file: file[2]):
                    if taken + size <= self.limit:
                        break
                    path.unlink(missing_ok=True)
                    taken -= bytes_
                if taken + size <= self.limit:
                    partial.touch()
                    return
            time.sleep(_WAIT)  # until others, who have their room, have fetched their files

    def _taken(self) -> tuple[int, list[tuple[Path, int, int]]]:
        """Bytes that all files take, and path, size and time of use of those that are complete."""
        taken, whole = 0, []
        for folder in self.root.iterdir():
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.suffix == _PARTIAL:
                    taken += self._announced(path)
                elif path.suffix != ".lock":
                    try:
                        state = path.stat()
                    except FileNotFoundError:
                        continue
                    taken += state.st_size
                    whole.append((path, state.st_size, state.st_mtime_ns))
        return taken, whole

    def _announced(self, partial: Path) -> int:
        """Bytes that a file being fetched will have; what a killed process left is deleted."""
        name, _, size = partial.stem.rpartition(".")
        with self._lock(f"../{partial.parent.name}/{name}.lock", wait=False) as free:
            if free:
                partial.unlink(missing_ok=True)
                return 0
        return int(size) if size.isdecimal() else 0

    @contextmanager
    def _lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock between processes; yields whether it is held, which it is where ``wait``."""
        try:
            descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _unwritable(self.root, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                # Not by closing alone: a process that was forked meanwhile has the descriptor, too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)


def _unwritable(root: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"--stream_cache {root} cannot be used ({reason}): free space there, or name another folder.")
