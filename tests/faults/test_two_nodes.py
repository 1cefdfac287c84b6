"""Two machines, one process each: train, evaluate, save, resume; then one is cut off in the middle of an epoch."""

import hashlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import BIN, ROOT, SMALL, Run, launcher, losses, shell
from namespaces import Node, two_nodes

# 6 steps an epoch for 2 processes.
FLAGS = ("--use_descriptions", "--batch_size", "1", "--epochs", "4", "--eval_epochs", "4", "--save_steps", "4")
TIMEOUT = 15
Commands = Callable[[int, Node], list[str]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    """Two machines, the second of which can be cut off."""
    with two_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def reference(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes on one machine."""
    out = tmp_path_factory.mktemp("reference") / "run"
    run(launcher("warm", 2), *FLAGS, output_dir=out)
    return out


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose packages are installed; no network interface is named."""
    # install.sh installs nothing where it finds its stamp.
    stamp = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()[:16]
    (tmp_path / f".uni_sign_{stamp}").touch()
    path = f"{tmp_path}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
    unnamed = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
    return {**unnamed, "PATH": path, "VIRTUAL_ENV": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def flags(corpus: Path, tmp_path: Path) -> list[str]:
    """The flags of a run into tmp_path / "run"."""
    return [*SMALL, *FLAGS, "--data_root", str(corpus), "--output_dir", str(tmp_path / "run")]


def start(nodes: list[Node], command: Commands, env: dict[str, str], folder: Path) -> list[subprocess.Popen[bytes]]:
    """Start a command on each machine; what it prints goes to node_<rank>.txt."""
    started = []
    for rank, node in enumerate(nodes):
        with (folder / f"node_{rank}.txt").open("wb") as printed:
            words = node.inside(*command(rank, node))
            started.append(subprocess.Popen(words, cwd=ROOT, env=env, stdout=printed, stderr=subprocess.STDOUT))
    return started


def finish(started: list[subprocess.Popen[bytes]], folder: Path, timeout: float = 200) -> list[int]:
    """Exit statuses of both machines, which must come by themselves; what they printed is shown where a test fails."""
    try:
        return [process.wait(timeout) for process in started]
    finally:
        for process in started:
            process.kill()
        for path in sorted(folder.glob("node_*.txt")):
            print(f"--- {path.name}\n{path.read_text()[-4000:]}")


def multi_node(nodes: list[Node], *flags: str) -> Commands:
    """launch/multi_node.sh as a user types it."""
    settings = ("NODES=2", f"MAIN_ADDRESS={nodes[0].address}", "GPUS=1")
    script = str(ROOT / "launch" / "multi_node.sh")
    return lambda rank, _: ["env", *settings, f"NODE_RANK={rank}", "bash", script, *flags]


def hostfile(nodes: list[Node], folder: Path, *flags: str) -> Commands:
    """The `deepspeed` launcher with a hostfile and without ssh."""
    path = folder / "hostfile"
    path.write_text("".join(f"{node.address} slots=1\n" for node in nodes))
    common = ("--hostfile", str(path), "--no_ssh", "--master_addr", nodes[0].address)
    script = str(ROOT / "fine_tuning.py")
    return lambda rank, _: [str(BIN / "deepspeed"), *common, "--node_rank", str(rank), script, *flags]


# The launcher shows each process GPU 0 again, and NCCL refuses two processes on one GPU.
@pytest.mark.skipif(torch.cuda.is_available(), reason="both machines would have the same GPU")
def test_trains_and_resumes_like_one_machine(
    nodes: list[Node], reference: Path, flags: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    """Stopped in the middle of an epoch under one launcher, and gone on with under the other."""
    out = tmp_path / "run"
    first = start(nodes, multi_node(nodes, *flags, "--max_steps", "9"), env, tmp_path)
    assert finish(first, tmp_path) == [0, 0]
    assert losses(out) == pytest.approx(losses(reference)[:9], abs=1e-4)
    second = start(nodes, hostfile(nodes, tmp_path, *flags, "--resume", "auto"), env, tmp_path)
    assert finish(second, tmp_path) == [0, 0]
    assert "step_00000009" in (tmp_path / "node_0.txt").read_text()
    assert_equal_runs(out, reference)


def test_a_cut_link_ends_both_sides_and_the_run_recovers(
    nodes: list[Node], reference: Path, flags: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    started = start(nodes, multi_node(nodes, *flags, "--ddp_timeout", str(TIMEOUT)), env, tmp_path)
    try:
        wait_for_steps(out, 8, started)
        nodes[1].set_link("down")
        assert 0 not in finish(started, tmp_path, TIMEOUT + 60)
        assert all("--ddp_timeout" in (tmp_path / f"node_{rank}.txt").read_text() for rank in range(2))
    finally:
        nodes[1].set_link("up")
    assert not (out / "results.json").exists()
    write_slurm(nodes, tmp_path)
    job = {"JOB_ID": "7", "JOB_NUM_NODES": "2", "JOB_NODELIST": "node[0-1]", "CPUS_PER_TASK": "3"}
    env |= {f"SLURM_{name}": value for name, value in job.items()}
    batch = ["bash", str(ROOT / "launch" / "slurm.sbatch"), *flags, "--save_steps", "4"]
    done = subprocess.run(batch, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Resuming from" in done.stdout
    assert_equal_runs(out, reference)


def wait_for_steps(out: Path, steps: int, started: list[subprocess.Popen[bytes]]) -> None:
    """Return when ``steps`` steps are logged, and the run still goes on."""
    log = out / "log.jsonl"
    while not log.exists() or log.read_text().count("train/loss") < steps:
        assert [process.poll() for process in started] == [None, None]
        time.sleep(0.02)


def write_slurm(nodes: list[Node], folder: Path) -> None:
    """`srun` and `scontrol` as a job of these two machines sees them."""
    tasks = "\n".join(f'SLURM_NODEID={i} {shlex.join(nodes[i].inside())} "$@" & pids+=($!)' for i in range(2))
    srun = f"""set -u
        [ "$1" = --kill-on-bad-exit=1 ] && [ "$SRUN_CPUS_PER_TASK" = 3 ] || exit 90
        shift
        {tasks}
        wait "${{pids[0]}}" && wait "${{pids[1]}}\""""
    names = " ".join(node.address for node in nodes)
    scontrol = f'[ "$*" = "show hostnames node[0-1]" ] && printf "%s\\n" {names}'
    for name, body in (("srun", srun), ("scontrol", scontrol)):
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)


def assert_equal_runs(out: Path, reference: Path) -> None:
    """The same losses, and scores of as many clips, from runs that saw their last step."""
    assert losses(out) == pytest.approx(losses(reference), abs=1e-4)
    results = [json.loads((folder / "results.json").read_text()) for folder in (out, reference)]
    assert results[0]["test/n"] == results[1]["test/n"] == 5
    assert (out / "checkpoints" / "last").resolve().name == "step_00000024"


@pytest.mark.parametrize(("rank", "address"), [("1", "localhost"), ("0", "nowhere.invalid")])
def test_an_address_that_leads_nowhere_is_said_before_anything_waits(rank: str, address: str) -> None:
    settings = {"NODES": "2", "NODE_RANK": rank, "MAIN_ADDRESS": address, "GPUS": "1"}
    done = shell(["bash", str(ROOT / "launch" / "multi_node.sh")], cwd=ROOT, status=2, **settings)
    assert f"MAIN_ADDRESS {address} is" in done.stderr
    assert "give the address of machine 0" in done.stderr
