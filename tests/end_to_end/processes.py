"""Runs that are watched, signalled and killed while they train."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from commands import BIN, ROOT, SMALL

PATIENCE = 240
FINE_TUNING = (str(ROOT / "fine_tuning.py"), *SMALL)


class Training:
    """A launcher at work in the background; its output lies in two files beside the run's folder."""

    def __init__(
        self, command: list[str], *flags: str, output_dir: Path, cwd: Path, job: Sequence[str] = FINE_TUNING
    ) -> None:
        self.output_dir = output_dir
        self.stdout, self.stderr = output_dir.with_suffix(".stdout"), output_dir.with_suffix(".stderr")
        words = [*command, *job, "--output_dir", str(output_dir), *flags]
        env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        with self.stdout.open("a") as out, self.stderr.open("a") as err:
            self.process = subprocess.Popen(words, cwd=cwd, env=env, stdout=out, stderr=err)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.process.wait()

    def kill(self) -> None:
        """Kill whatever is left of the run."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # another's end can be its own
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Every living process of the run, orphans too: their words name its folder, or its file is their output."""
        found = []
        for process in psutil.process_iter():
            try:
                named = str(self.output_dir) in process.cmdline() or self._writes(process)
                if named and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _writes(self, process: psutil.Process) -> bool:
        try:
            return os.readlink(f"/proc/{process.pid}/fd/1") == str(self.stdout)
        except OSError:
            return False

    def ranks(self) -> list[psutil.Process]:
        """The training processes by rank, without launchers and data-loading processes."""
        by_rank: dict[int, list[psutil.Process]] = {}
        for process in self.processes():
            try:
                environment, words = process.environ(), process.cmdline()
            except psutil.Error:
                continue
            if "RANK" in environment and str(ROOT / "fine_tuning.py") in words and "-m" not in words:
                by_rank.setdefault(int(environment["RANK"]), []).append(process)
        return [min(group, key=lambda p: p.create_time()) for _, group in sorted(by_rank.items())]

    def steps(self) -> int:
        """Steps logged so far."""
        path = self.output_dir / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return sum("train/loss" in line for line in lines)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is so; fails where the run ends before or nothing comes of it."""
        end = time.monotonic() + PATIENCE
        while not ready():
            assert time.monotonic() < end, f"nothing came of it\n{self.said()}"
            assert self.process.poll() is None, f"ended before\n{self.said()}"
            time.sleep(0.05)

    def wait(self) -> int:
        """The launcher's exit status, once nothing of the run is left."""
        status = self.process.wait(PATIENCE)
        end = time.monotonic() + PATIENCE
        while self.processes():
            assert time.monotonic() < end, f"processes are left\n{self.said()}"
            time.sleep(0.1)
        return status

    def kill_at_checkpoint(self) -> None:
        """Kill the run, launcher and all, as soon as its first checkpoint is complete."""
        self.wait_until(lambda: any((self.output_dir / "checkpoints").glob("step_*")))
        self.process.kill()
        self.kill()

    def said(self) -> str:
        return self.stdout.read_text()[-3000:] + self.stderr.read_text()[-5000:]


def losses_by_step(output_dir: Path) -> dict[int, float]:
    """Training loss of every logged step, each step once."""
    records = [json.loads(line) for line in (output_dir / "log.jsonl").read_text().splitlines()]
    rows = [(record["step"], record["train/loss"]) for record in records if "train/loss" in record]
    assert len(dict(rows)) == len(rows)
    return dict(rows)
