"""Memory and files that run out in the middle: one sentence, a status other than 0, and no broken checkpoint."""

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Run, launcher
from processes import Training

from uni_sign.config import TrainConfig
from uni_sign.engine.checkpoint import problem_of
from uni_sign.engine.failures import named_failures
from uni_sign.errors import PeerLostError, RunError

LONG = ("--epochs", "200", "--eval_epochs", "100", "--zero_stage", "0", "--batch_size", "4")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_change(error: Exception, tmp_path: Path) -> None:
    config = TrainConfig(batch_size=8, gradient_accumulation_steps=2)
    flags = {"use_descriptions": True, "text_encoder_freeze": False}
    with pytest.raises(RunError, match="Out of memory") as caught, named_failures(config, flags, tmp_path):
        raise error
    said = str(caught.value)
    assert "--batch_size 4 with --gradient_accumulation_steps 4" in said
    assert said.index("--batch_size") < said.index("--gradient_checkpointing") < said.index("--text_encoder_freeze")
    assert "--zero_stage 3" in said
    assert "\n" not in said
    flags["text_encoder_freeze"] = True
    config = replace(config, gradient_checkpointing=True)
    with pytest.raises(RunError) as caught, named_failures(config, flags, tmp_path):
        raise error
    assert "--text_encoder_freeze" not in str(caught.value)
    assert "--gradient_checkpointing" not in str(caught.value)
    with pytest.raises(RunError) as caught, named_failures(replace(config, frames_per_batch=2048), flags, tmp_path):
        raise error
    assert "--frames_per_batch 1024 with --gradient_accumulation_steps 4" in str(caught.value)


def test_a_lost_peer_is_told_from_other_errors(tmp_path: Path) -> None:
    with (
        pytest.raises(PeerLostError, match="has ended or is out of reach"),
        named_failures(TrainConfig(), {}, tmp_path),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:4711\nmore")
    with pytest.raises(RuntimeError, match="shapes"), named_failures(TrainConfig(), {}, tmp_path):
        raise RuntimeError("shapes cannot be multiplied")


@pytest.fixture
def root(corpus: Path, tmp_path: Path) -> Path:
    """A corpus of one's own to damage."""
    shutil.copytree(corpus, tmp_path / "root")
    return tmp_path / "root"


def test_a_process_out_of_memory(run: Run, tmp_path: Path) -> None:
    """A model of which one matrix alone takes 21 GB, in an address space of 8 GB."""
    command = ["bash", "-c", 'ulimit -v 8000000; exec "$@"', "limited", *launcher("python")]
    flags = ("--zero_stage", "0", "--batch_size", "12", "--hidden_dim", "32768")
    done = run(command, *flags, output_dir=tmp_path / "run", status=1)
    assert "Out of memory" in done.stderr
    assert "--batch_size 6 with --gradient_accumulation_steps 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_folder_that_vanishes_stops_the_run(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Training(launcher("python"), *LONG, "--data_root", str(root), output_dir=out, cwd=root) as training:
        training.wait_until(lambda: training.steps() >= 4)
        (root / "dataset").rename(root / "gone")
        assert training.wait() == 2
        assert "can be read, so training stops" in training.said()
        assert "Traceback" not in training.said()
    assert {problem_of(path, checksums=True) for path in (out / "checkpoints").glob("step_*")} == {None}


def test_an_output_folder_that_turns_read_only(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Training(launcher("python"), *LONG, "--data_root", str(root), output_dir=out, cwd=root) as training:
        training.wait_until(lambda: training.steps() >= 4)
        checkpoints = out / "checkpoints"
        # A file in its place stands in for a folder that takes no files: root would write into a read-only one.
        checkpoints.rename(out / "kept")
        checkpoints.write_text("")
        checkpoints.chmod(stat.S_IRUSR)
        assert training.wait() == 2
        assert "cannot be written" in training.said()
        assert "Traceback" not in training.said()
    assert {problem_of(path, checksums=True) for path in (out / "kept").glob("step_*")} == {None}
