"""Preemption, dead peers and hung ones: the run ends by itself, says why, and goes on exactly."""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import BIN, ROOT, SMALL, Run, launcher
from processes import PATIENCE, Training, losses_by_step

LONG = ("--use_descriptions", "--epochs", "16", "--eval_epochs", "8", "--save_total_limit", "1")
# As many steps of half the clips, with half the checkpoints.
SMALL_STEPS = (*LONG, "--zero_stage", "2", "--batch_size", "1", "--epochs", "8")


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of two processes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(launcher("warm", 2), *SMALL_STEPS, output_dir=out)
    return out


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("deepspeed", signal.SIGTERM),
        ("accelerate", signal.SIGTERM),
        ("torchrun", signal.SIGTERM),
        ("deepspeed", signal.SIGKILL),
        ("accelerate", signal.SIGKILL),
    ],
)
def test_a_stopped_launcher_saves_and_goes_on_exactly(
    name: str, number: int, whole: Path, run: Run, corpus: Path, tmp_path: Path
) -> None:
    """However the launcher ends, its processes save at one step, end, and another run goes on from there."""
    out, flags = tmp_path / "run", SMALL_STEPS
    with Training(launcher(name, 2), *flags, output_dir=out, cwd=corpus) as training:
        training.wait_until(lambda: training.steps() >= 5)
        os.kill(training.process.pid, number)
        assert training.wait() != 0
        assert "go on with --resume auto" in training.said()
    stopped = training.steps()
    assert 5 <= stopped < 48
    last = (out / "checkpoints" / "last").resolve().name
    assert last == f"step_{stopped:08d}"
    run(launcher("warm", 2), *flags, "--resume", "auto", output_dir=out)
    assert losses_by_step(out) == losses_by_step(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_status_of_a_run_that_was_asked_to_stop(number: int, corpus: Path, tmp_path: Path) -> None:
    flags = (*LONG, "--zero_stage", "0", "--batch_size", "4", "--num_workers", "2")
    with Training(launcher("python"), *flags, output_dir=tmp_path / "run", cwd=corpus) as training:
        training.wait_until(lambda: training.steps() >= 3)
        os.kill(training.process.pid, number)
        assert training.wait() == 75
        assert f"by {signal.Signals(number).name}: go on with --resume auto" in training.said()
    assert "Traceback" not in training.said()


def test_a_stop_during_scoring_goes_on_with_scoring(corpus: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--epochs", "1", "--zero_stage", "0", "--batch_size", "1", "--max_new_tokens", "400", "--num_beams", "8")
    with Training(launcher("python"), *flags, output_dir=out, cwd=corpus) as training:
        training.wait_until(lambda: training.steps() >= 12)
        os.kill(training.process.pid, signal.SIGTERM)
        assert training.wait() == 75, training.said()
    run(launcher("warm"), *flags, "--resume", "auto", output_dir=out)
    assert (out / "results.json").is_file()
    assert len(losses_by_step(out)) == 12


@pytest.mark.skipif(shutil.which("pkill") is None, reason="pkill is not installed")
def test_slurm_s_warning_saves_and_puts_the_job_back(corpus: Path, tmp_path: Path) -> None:
    """With an `srun` and a `scontrol` that do on this machine what Slurm's do on a job's."""
    stamp = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()[:16]
    (tmp_path / f".uni_sign_{stamp}").touch()
    scripts = {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; SLURM_NODEID=0 exec "$@"',
        "scontrol": f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$*" >> {tmp_path}/scontrol.log; fi',
        # Only this test's run, not every one on the machine.
        "pkill": f'exec {shutil.which("pkill")} "$1" -f "fine_tuning.py.*{tmp_path}/run"',
    }
    for name, body in scripts.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"JOB_ID": "7", "JOB_NUM_NODES": "1", "JOB_NODELIST": "node0", "CPUS_PER_TASK": "2"}
    env = {f"SLURM_{name}": value for name, value in job.items()}
    path = f"{tmp_path}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **env, "PATH": path, "VIRTUAL_ENV": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    flags = [*SMALL, *LONG, "--data_root", str(corpus), "--output_dir", str(tmp_path / "run"), "--batch_size", "4"]
    words = ["bash", str(ROOT / "launch" / "slurm.sbatch"), *flags]
    with (tmp_path / "said.txt").open("w") as said:
        batch = subprocess.Popen(words, cwd=ROOT, env=env, stdout=said, stderr=said)
    log = tmp_path / "run" / "log.jsonl"
    try:
        while not log.exists() or log.read_text().count("train/loss") < 3:
            assert batch.poll() is None, (tmp_path / "said.txt").read_text()[-4000:]
            time.sleep(0.1)
        batch.send_signal(signal.SIGUSR1)
        assert batch.wait(PATIENCE) != 0
    finally:
        batch.kill()
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    steps = log.read_text().count("train/loss")
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == f"step_{steps:08d}"
    assert "by SIGUSR1: go on with --resume auto" in (tmp_path / "said.txt").read_text()


@pytest.mark.parametrize("name", ["deepspeed", "torchrun"])
def test_a_killed_rank_ends_the_run(name: str, corpus: Path, tmp_path: Path) -> None:
    flags = (*LONG, "--zero_stage", "2", "--batch_size", "2", "--ddp_timeout", "20", "--grace_seconds", "10")
    with Training(launcher(name, 2), *flags, output_dir=tmp_path / "run", cwd=corpus) as training:
        training.wait_until(lambda: training.steps() >= 3)
        training.ranks()[1].kill()
        assert training.wait() != 0
        said = training.said()
        assert "another process of the run has ended or is out of reach" in said or "--grace_seconds" in said


def test_a_hung_rank_ends_the_run(corpus: Path, tmp_path: Path) -> None:
    flags = (*LONG, "--zero_stage", "2", "--batch_size", "2", "--ddp_timeout", "8", "--grace_seconds", "5")
    with Training(launcher("deepspeed", 2), *flags, output_dir=tmp_path / "run", cwd=corpus) as training:
        training.wait_until(lambda: training.steps() >= 3)
        hung = training.ranks()[1]
        hung.suspend()
        try:
            training.wait_until(lambda: "nothing moved for 8 s" in training.said())
        finally:
            hung.resume()
        assert training.wait() != 0
        assert "--resume auto" in training.said()
