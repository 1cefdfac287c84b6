"""Real commands as subprocesses, on a Demo corpus so small that a run takes seconds."""

import atexit
import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WARM = Path(__file__).parent / "warm.py"
SMALL = shlex.split(
    "--dataset Demo --dtype fp32 --hidden_dim 16 --epochs 2 --lr 3e-4 --log_steps 1 --num_workers 0 "
    "--num_beams 2 --max_new_tokens 8"
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> int:
    """A port nobody listens on now, and none of those that the system gives to whoever asks for any.

    Another run, whose connections have such ports, could take one of these before rank 0 listens on it: rank 0 would
    end, and rank 1 wait for it.
    """
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def launcher(name: str, processes: int = 1) -> list[str]:
    """The command line up to the script, as a user types it.

    ``warm``: so many ranks of an interpreter that has imported everything already, where the launcher is not what is
    tested.
    """
    port = str(free_port())
    if name == "python":
        return [sys.executable]
    if name == "warm":
        return [sys.executable, "-I", "-S", str(WARM), "run", warm_server(), str(processes), port]
    if name == "torchrun":
        return [str(BIN / "torchrun"), "--nproc_per_node", str(processes), "--master_port", port]
    if name == "deepspeed":
        return [str(BIN / "deepspeed"), "--num_gpus", str(processes), "--master_port", port]
    config = ["--deepspeed_config_file", str(ROOT / "configs" / "ds_zero2.json")]
    return [
        *(str(BIN / "accelerate"), "launch", "--use_deepspeed", "--num_processes", str(processes)),
        *("--num_machines", "1", "--main_process_port", port, *config),
    ]


@cache
def warm_server() -> str:
    """Where it listens; it ends with this process, whose pipe it reads."""
    address = Path(tempfile.mkdtemp(prefix="warm")) / "socket"
    words = [sys.executable, str(WARM), "serve", str(address)]
    server = subprocess.Popen(words, stdin=subprocess.PIPE)
    while not address.exists():
        assert server.poll() is None, "warm.py cannot import"
        time.sleep(0.05)
    atexit.register(shutil.rmtree, address.parent)
    return str(address)


def losses(output_dir: Path) -> list[float]:
    """Training loss of every logged step."""
    return logged(output_dir, "train/loss")


def logged(output_dir: Path, name: str) -> list[float]:
    """A figure of every logged step."""
    records = [json.loads(line) for line in (output_dir / "log.jsonl").read_text().splitlines()]
    return [record[name] for record in records if name in record]


@pytest.fixture(scope="session")
def corpus(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Demo with most descriptions gone, so that whole micro-batches have none on one rank."""
    root = tmp_path_factory.mktemp("corpus") / "root"
    shutil.copytree(demo_root, root)
    files = sorted((root / "description" / "Demo" / "split_data" / "train").glob("train-*.json"))
    for file in files[3:]:
        file.unlink()
    return root


@pytest.fixture(scope="session")
def videos(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Demo with its videos, but for one that is missing, and one that is cut short."""
    from uni_sign.data.demo.video import write_video
    from uni_sign.data.wholebody import read_pose

    root = tmp_path_factory.mktemp("rgb") / "root"
    shutil.copytree(corpus, root)
    folder = root / "dataset" / "Demo" / "rgb_format"
    folder.mkdir()
    for path in sorted((root / "dataset" / "Demo" / "pose_format").glob("*[0-9].pkl")):
        if path.name.startswith(("train", "dev", "test")):
            pose = read_pose(path)
            assert pose.start == 0
            write_video(folder / f"{path.stem}.mp4", pose.keypoints)
    (folder / "train-00003.mp4").unlink()
    broken = folder / "train-00005.mp4"
    broken.write_bytes(broken.read_bytes()[:2000])
    return root


@pytest.fixture(scope="session")
def run(corpus: Path) -> Run:
    """Run a launcher on fine_tuning.py in the corpus folder; extra environment by keyword."""

    def start(
        command: list[str], *flags: str, output_dir: Path, status: int | None = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        words = [*command, str(ROOT / "fine_tuning.py"), *SMALL, "--output_dir", str(output_dir), *flags]
        return shell(words, cwd=corpus, status=status, **env)

    return start


def shell(words: list[str], cwd: Path, status: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and check its exit status (None: any but 0)."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, "PATH": path, **env}, capture_output=True, text=True, timeout=500
    )
    good = done.returncode != 0 if status is None else done.returncode == status
    assert good, f"status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done
