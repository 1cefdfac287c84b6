"""How the process of a run ends."""

import atexit
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

_groups: list[Any] = []


def keep_group(group: Any) -> None:
    """Keep a group of processes, with its threads, until this process ends."""
    _groups.append(group)


def end_process(status: int) -> NoReturn:
    """End this process with a status; one that keeps a group without Python taking itself down.

    A thread of gloo's may still want the interpreter, to free a tensor that was gathered last. One that is being taken
    down ends such a thread, in the midst of C++, and that ends the process with SIGABRT, with all done.
    """
    if not _groups:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(status)
