"""The watchdog ends a process that cannot end by itself, and only then."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from uni_sign.engine.watchdog import Watchdog, _launchers

CODE = """
import os, signal, sys, time
from uni_sign.engine.watchdog import Watchdog
grace, hang, beats, asked = map(float, sys.argv[1:])
with Watchdog(grace, hang, "out/checkpoints/last") as watchdog:
    if asked:
        os.kill(os.getpid(), signal.SIGTERM)
    end = time.monotonic() + 4
    while time.monotonic() < end and not (watchdog.requested and grace > 10):
        if beats:
            watchdog.beat()
        elif not watchdog.requested and hang < 10:
            watchdog.beat()
            beats = 0
            time.sleep(4)
        time.sleep(0.05)
    print("ended by itself", watchdog.reason)
"""


def watched(grace: float, hang: float, *, beats: bool, asked: bool) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", CODE, str(grace), str(hang), str(int(beats)), str(int(asked))]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_grace_is_cut_off_with_the_documented_status() -> None:
    done = watched(0.5, 100, beats=True, asked=True)
    assert done.returncode == 75
    assert "SIGTERM came 0.5 s ago (--grace_seconds)" in done.stderr
    assert "go on from out/checkpoints/last with --resume auto" in done.stderr


def test_a_process_in_which_nothing_moves_is_ended() -> None:
    done = watched(100, 1, beats=False, asked=False)
    assert done.returncode == 1
    assert "nothing moved for 1 s (--ddp_timeout)" in done.stderr
    assert "time.sleep" in done.stderr or "most recent call first" in done.stderr


@pytest.mark.parametrize(("asked", "reason"), [(True, "SIGTERM"), (False, "")])
def test_a_process_that_ends_by_itself_is_left_alone(asked: bool, reason: str) -> None:
    done = watched(60, 2, beats=True, asked=asked)
    assert done.returncode == 0
    assert done.stdout.strip() == f"ended by itself {reason}".strip()


def test_the_launchers_above_a_process(tmp_path: os.PathLike[str]) -> None:
    """Those next to it, as far as they are such: the shell that started them may end."""
    script = os.path.join(tmp_path, "torchrun")
    with open(script, "w", encoding="utf-8") as file:
        file.write("import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])")
    code = "from uni_sign.engine.watchdog import _launchers; print(len(_launchers()))"
    done = subprocess.run([sys.executable, script, code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with Watchdog(100, 100, "last") as watchdog:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
        assert watchdog.reason == "SIGUSR1"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
    assert all(isinstance(process, psutil.Process) for process in _launchers())
