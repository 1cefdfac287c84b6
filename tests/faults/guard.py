"""One case in a process of its own: what it raised, used, tried to run; a hang or a crash ends the process."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uni_sign.errors import InputError

SECONDS = 10.0  # of processor time, for one case
MEMORY = 256 << 20  # resident bytes more than before, for one case ...
MEMORY_PER_BYTE = 100  # ... and for each byte of its file: a Python list takes 64, and one byte can name it
ADDRESS_SPACE = 4 << 30  # beyond what the process has at the start: more is refused by the system
LONGEST_MESSAGE = 1010

_RUNS_CODE = ("exec", "import", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.find_class", "urllib.")
_HARMLESS = ("os.scandir", "os.listdir")


class Guard:
    """Watches the cases of one reader in this process; `case` says what was wrong with one, or None."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness
        self._seen: list[str] | None = None
        sys.addaudithook(self._audit)
        space = _status("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (space, space))

    def case(self, read: Callable[[Path], Any], path: Path, named: str) -> str | None:
        """Reads one file; its error must be our own, of one line, and name the file: match `named`."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
        before = _status("VmRSS")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process, even inside a C library
        self._seen = seen = []
        try:
            problem = _outcome(read, path, named)
        finally:
            self._seen = None
            signal.setitimer(signal.ITIMER_PROF, 0)
        used = _status("VmHWM") - before
        if seen or self._witness.exists():
            return f"it ran {seen or 'code: the witness file is there'}"
        size = path.stat().st_size if path.is_file() else 0
        if used > MEMORY + MEMORY_PER_BYTE * size:
            return f"it took {used >> 20} MiB for a file of {size} bytes"
        return problem

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._seen is None:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or (event.startswith(_RUNS_CODE) and event not in _HARMLESS):
            self._seen.append(f"{event}{arguments!r}"[:300])
            raise PermissionError(f"forbidden: {event}")


def _outcome(read: Callable[[Path], Any], path: Path, named: str) -> str | None:
    try:
        read(path)
    except InputError as error:
        message = str(error)
        if not re.search(named, message):
            return f"the message does not name the file: {message[:300]!r}"
        if not message.isprintable() or len(message) > LONGEST_MESSAGE:
            return f"the message is not one short printable line: {message[:300]!r}"
        if "does not fit into memory" in message:
            return f"it asked for more than {ADDRESS_SPACE >> 30} GiB"
    except BaseException as error:  # a panic of a Rust library is no Exception
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]!r}"
    return None


def _status(field: str) -> int:
    """Bytes that the system counts for this process under `field`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise KeyError(field)
