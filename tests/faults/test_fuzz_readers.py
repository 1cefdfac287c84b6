"""Hostile files: no reader runs code, hangs, crashes, fills the memory or raises what is not ours.

UNI_SIGN_FUZZ_CASES: cases for each reader, 300 unless set, 20000 nightly. UNI_SIGN_FUZZ_SEED: the seed, which is
random unless set, and printed. The bounds of time and memory are in guard.py.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import guard
import pytest
from campaign import campaign
from readers import READERS

from uni_sign.errors import InputError

CASES = int(os.environ.get("UNI_SIGN_FUZZ_CASES", "300"))
SEED = int(os.environ.get("UNI_SIGN_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
SECONDS_PER_CASE = 0.2  # on average, in real time on a loaded machine: what is slower than this counts as a hang

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bounds are measured through /proc")


@pytest.fixture(scope="module")
def server() -> Any:
    """Makes processes in which everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["campaign"])
    with pytest.MonkeyPatch.context() as patch:  # Python before 3.14 starts the server without our path
        for folder in Path(__file__).parents[:2]:
            patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        context.Process().start()
    return context


@pytest.mark.timeout(120 + CASES)
@pytest.mark.parametrize("name", READERS)
def test_hostile_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Any) -> None:
    process = server.Process(target=campaign, args=(name, CASES, SEED, tmp_path / "run"), daemon=True)
    process.start()
    process.join(60 + CASES * SECONDS_PER_CASE)
    hangs = process.is_alive()
    process.kill()
    process.join()
    report = tmp_path / "run" / "report"
    said = report.read_text() if report.exists() else "a case hangs" if hangs else "a case ended the process"
    again = f"UNI_SIGN_FUZZ_SEED={SEED} UNI_SIGN_FUZZ_CASES={CASES}"
    assert process.exitcode == 0, f"{name}: {said} ({process.exitcode}), see {report.parent}; again with {again}"
    with capsys.disabled():
        print(f"{name}: {said}, {again}")


# --- what the guard must notice ----------------------------------------------------------------------------


def _refuse(message: str) -> None:
    raise InputError(message)


def _turn() -> None:
    while True:
        pass


FAULTS: dict[str, Callable[[Path], Any]] = {
    "it ran": lambda path: os.system(f"touch {path}.ran"),
    'it ran ["open': lambda path: path.write_text("x"),
    "it ran code": lambda path: os.close(os.open(path.with_name("witness"), os.O_CREAT)),
    "it took": lambda _: bytearray(b"x") * (guard.MEMORY + (50 << 20)),
    "it asked for more": lambda path: _refuse(f"{path} does not fit into memory: split it."),
    "builtins.ZeroDivisionError": lambda _: 1 / 0,
    "builtins.KeyboardInterrupt": lambda _: signal.raise_signal(signal.SIGINT),
    "does not name the file": lambda _: _refuse("broken"),
    "ended": lambda _: _turn(),
    "ended by a crash": lambda _: signal.raise_signal(signal.SIGABRT),
    "None": lambda path: _refuse(f"{path} is broken"),
}


def _judge(fault: str, folder: Path) -> None:
    # Only what never ends by itself may meet its limit: filling memory takes its time on a busy machine.
    guard.SECONDS = 0.2 if fault == "ended" else guard.SECONDS
    (folder / "case").write_text("x")
    problem = guard.Guard(folder / "witness").case(FAULTS[fault], folder / "case", "case")
    (folder / "problem").write_text(str(problem))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_guard_notices(fault: str, tmp_path: Path, server: Any) -> None:
    process = server.Process(target=_judge, args=(fault, tmp_path))
    process.start()
    process.join(60)
    if fault.startswith("ended"):
        assert -process.exitcode in (signal.SIGPROF, signal.SIGABRT)
    else:
        assert fault in (tmp_path / "problem").read_text()
    assert not (tmp_path / "case.ran").exists()
