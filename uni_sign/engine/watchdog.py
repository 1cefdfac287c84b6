"""Ends a run in good order: on a signal, when its launcher is gone, and when nothing moves any more."""

import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType

import psutil
import torch

# Of sysexits.h: a temporary failure, try again. Saved, to be started again with --resume auto.
STATUS_PREEMPTED = 75
_STATUS_FAILED = 1
_LOOK_SECONDS = 0.5
_LAUNCHERS = ("deepspeed", "accelerate", "torchrun", "torch.distributed")


class Watchdog:
    """Notes requests to stop, and ends this process where it can no longer end by itself.

    A request is SIGTERM, SIGUSR1 (Slurm's warning before the end), or the end of the launcher, which under some of
    them passes no signal on. The loop asks for it once a step, together with all other ranks. ``grace_seconds`` after
    a request, and after ``hang_seconds`` without a `beat` between `start` and `close`, the process is ended, its
    stacks on stderr. Use as a context manager, in the main thread.
    """

    def __init__(self, grace_seconds: float, hang_seconds: float, last_checkpoint: str) -> None:
        self._grace, self._hang, self._last = grace_seconds, hang_seconds, last_checkpoint
        self._launchers = _launchers()
        self._requested_at: float | None = None
        self._reason = ""
        self._beat: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="watchdog", daemon=True)
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "Watchdog":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._handlers[number] = signal.signal(number, self._on_signal)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._requested_at is not None

    @property
    def reason(self) -> str:
        """What asked for the stop, for a person to read."""
        return self._reason

    def beat(self) -> None:
        """Something moved: called once a step and batch, and from then on at the latest every ``hang_seconds``."""
        self._beat = time.monotonic()

    def rest(self) -> None:
        """What comes now may take any time, and no other rank waits for it in vain."""
        self._beat = None

    def request(self, reason: str) -> None:
        """Ask the run to stop at the next step."""
        if self._requested_at is None:
            self._reason, self._requested_at = reason, time.monotonic()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.request(signal.Signals(number).name)

    def _look_after(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if not all(_lives(launcher) for launcher in self._launchers):
                self.request("the end of the launcher")
            if self._requested_at is not None and now - self._requested_at > self._grace:
                self._end(f"{self._reason} came {self._grace:g} s ago (--grace_seconds), and the step did not end")
            if self._beat is not None and now - self._beat > self._hang:
                self._end(
                    f"nothing moved for {self._hang:g} s (--ddp_timeout): another process of the run hangs, died, "
                    "or is cut off"
                )

    def _end(self, what: str) -> None:
        rank = os.environ.get("RANK", "0")
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        line = f"uni-sign: error: rank {rank}: {what}; go on from {self._last} with --resume auto.\n"
        os.write(2, line.encode())
        os._exit(STATUS_PREEMPTED if self.requested else _STATUS_FAILED)


def _launchers() -> list[psutil.Process]:
    """The launchers above this process: the nearest ancestors, as far as they are such."""
    found = []
    for ancestor in psutil.Process().parents():
        try:
            words = " ".join(ancestor.cmdline()[:4])
        except psutil.Error:
            break
        if not any(name in words for name in _LAUNCHERS):
            break
        found.append(ancestor)
    return found


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def any_rank(mine: bool, device: torch.device) -> bool:
    """Collective: whether it is true on any rank."""
    if not torch.distributed.is_initialized():
        return mine
    flag = torch.tensor(float(mine), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
