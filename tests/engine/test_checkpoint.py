"""Which checkpoints are complete, which one a run resumes from, and random states that come back exactly."""

from __future__ import annotations

import json
import os
import random
import zlib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from uni_sign.engine import checkpoint
from uni_sign.engine.checkpoint import RunState, find_resume, load_best, problem_of, read_state
from uni_sign.errors import InputError
from uni_sign.stages.base import BestFile

FILES = {"state.json": b"{}", "rng_0.pt": b"12345", "deepspeed/shard.pt": b"1234567"}


def write_partial(output_dir: Path, step: int) -> Path:
    """A checkpoint as it is before it is published."""
    folder = output_dir / "checkpoints" / f".step_{step:08d}.partial"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def publish(output_dir: Path, step: int) -> Path:
    folder = output_dir / "checkpoints" / f"step_{step:08d}"
    checkpoint._publish(write_partial(output_dir, step), folder)
    return folder


# --- complete or not ---------------------------------------------------------------------------------------


def test_a_published_checkpoint_is_complete(tmp_path: Path) -> None:
    folder = publish(tmp_path, 5)
    assert problem_of(folder) is None
    expected = {name: [len(content), zlib.crc32(content)] for name, content in FILES.items()}
    assert json.loads((folder / "manifest.json").read_text()) == expected
    assert (tmp_path / "checkpoints" / "last").resolve() == folder.resolve()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last", "step_00000005"]


def test_publishing_again_replaces(tmp_path: Path) -> None:
    folder = publish(tmp_path, 5)
    (folder / "old").write_text("old")
    assert publish(tmp_path, 5) == folder
    assert not (folder / "old").exists()
    assert problem_of(folder) is None


@pytest.mark.parametrize("name", FILES)
def test_missing_and_cut_files(tmp_path: Path, name: str) -> None:
    folder = publish(tmp_path, 5)
    (folder / name).write_bytes(FILES[name][:-1])
    assert problem_of(folder) == f"{name} is missing or cut"
    (folder / name).unlink()
    assert problem_of(folder) == f"{name} is missing or cut"
    (folder / name).mkdir()
    assert problem_of(folder) == f"{name} is missing or cut"


def test_a_torn_manifest_is_not_finished(tmp_path: Path) -> None:
    manifest = publish(tmp_path, 5) / "manifest.json"
    content = manifest.read_bytes()
    for size in range(len(content)):
        manifest.write_bytes(content[:size])
        assert problem_of(manifest.parent) == "it was not finished"


def test_a_damaged_file_of_the_right_size_shows_in_its_checksum(tmp_path: Path) -> None:
    folder = publish(tmp_path, 5)
    (folder / "deepspeed/shard.pt").write_bytes(b"1234568")
    assert problem_of(folder) is None
    assert problem_of(folder, checksums=True) == "deepspeed/shard.pt is damaged"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "null", "3", "\x00"])
def test_without_a_manifest_it_was_not_finished(tmp_path: Path, content: str | None) -> None:
    manifest = publish(tmp_path, 5) / "manifest.json"
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(content)
    assert problem_of(manifest.parent) == "it was not finished"
    assert problem_of(tmp_path / "nowhere") == "there is no such folder"


# --- what to resume from -----------------------------------------------------------------------------------


def test_auto_takes_the_newest(tmp_path: Path) -> None:
    assert find_resume(tmp_path, "auto") == (None, [])
    for step in (20, 900, 1000):
        publish(tmp_path, step)
    assert find_resume(tmp_path, "auto") == (tmp_path / "checkpoints" / "step_00001000", [])


def test_auto_passes_over_incomplete_ones_and_names_them(tmp_path: Path) -> None:
    folders = [publish(tmp_path, step) for step in (1, 2, 3)]
    write_partial(tmp_path, 4)
    (folders[2] / "manifest.json").unlink()
    (folders[1] / "rng_0.pt").write_bytes(b"1")
    found, passed = find_resume(tmp_path, "auto")
    assert found == folders[0]
    assert passed == [
        f"Checkpoint {folders[2]} is passed over: it was not finished.",
        f"Checkpoint {folders[1]} is passed over: rng_0.pt is missing or cut.",
    ]
    (folders[0] / "state.json").unlink()
    found, passed = find_resume(tmp_path, "auto")
    assert found is None
    assert len(passed) == 3


def test_a_named_checkpoint(tmp_path: Path) -> None:
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    elsewhere = tmp_path / "other"
    assert find_resume(elsewhere, str(older)) == (older.resolve(), [])
    assert find_resume(elsewhere, str(tmp_path / "checkpoints" / "last")) == (newer.resolve(), [])


@pytest.mark.parametrize("fault", ["manifest.json", "rng_0.pt", ""])
def test_a_named_checkpoint_that_is_incomplete_is_refused(tmp_path: Path, fault: str) -> None:
    folder = publish(tmp_path, 1)
    if fault:
        (folder / fault).unlink()
    else:
        folder = tmp_path / "nowhere"
    with pytest.raises(InputError, match=f"--resume {folder} is no complete checkpoint: ") as caught:
        find_resume(tmp_path, str(folder))
    assert "\n" not in str(caught.value)


def test_old_ones_are_pruned_and_incomplete_ones_left(tmp_path: Path) -> None:
    folders = [publish(tmp_path, step) for step in range(5)]
    (folders[1] / "manifest.json").unlink()
    checkpoint._prune(tmp_path / "checkpoints", 2)
    assert [folder.exists() for folder in folders] == [False, True, False, True, True]
    checkpoint._prune(tmp_path / "checkpoints", 9)
    assert folders[3].exists()


# --- the loop's counters -----------------------------------------------------------------------------------


def test_state_round_trip(tmp_path: Path) -> None:
    set_up = {
        "world_size": 2,
        "zero_stage": 1,
        "global_batch": 16,
        "clips": 100,
        "seed": 7,
        "global_frames": 512,
        "order": 9,
        "ema_decay": 0.5,
    }
    state = RunState(2, 3, 40, 12.5, 30, "abc", **set_up)
    (tmp_path / "state.json").write_text(json.dumps(asdict(state)))
    assert read_state(tmp_path, RunState(**set_up)) == state
    assert read_state(tmp_path, RunState(**{**set_up, "world_size": 1})) == state
    set_up.pop("world_size")
    for name, value in set_up.items():
        with pytest.raises(InputError, match=f"cannot be resumed: .* was {value} there and is {value + 1} here"):
            read_state(tmp_path, RunState(**{**set_up, name: value + 1}))
    with pytest.raises(InputError, match=r"--trim_vocab.* was none there and is 640 pieces here"):
        read_state(tmp_path, RunState(**set_up, vocabulary="640 pieces"))
    assert read_state(tmp_path, RunState(**set_up, frozen_inputs="ab")) == state
    (tmp_path / "state.json").write_text(json.dumps(asdict(state) | {"frozen_inputs": "cd"}))
    with pytest.raises(InputError, match=r"--autoencoder_path.* was cd there and is ab here"):
        read_state(tmp_path, RunState(**set_up, frozen_inputs="ab"))


def test_the_checkpoint_written_last_is_the_newest(tmp_path: Path) -> None:
    for order, step in enumerate((500, 900, 600)):
        manifest = publish(tmp_path, step) / "manifest.json"
        os.utime(manifest, (order + 1, order + 1))
    checkpoint._prune(tmp_path / "checkpoints", 2)
    assert {path.name for path in (tmp_path / "checkpoints").glob("step_*")} == {"step_00000900", "step_00000600"}
    assert find_resume(tmp_path, "auto")[0] == tmp_path / "checkpoints" / "step_00000600"


@pytest.mark.parametrize("content", [None, "{", "[1]", "null", '{"epochs": 1}'])
def test_broken_states(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(InputError, match=r"state\.json cannot be read"):
        read_state(tmp_path, RunState())


# --- random states -----------------------------------------------------------------------------------------


def test_a_strange_manifest_is_no_complete_one(tmp_path: Path) -> None:
    manifest = publish(tmp_path, 5) / "manifest.json"
    manifest.write_text("[" * 100_000)
    assert problem_of(manifest.parent) == "it was not finished"
    for name in ("x" * 300, "/" * 5000, "\0", "\ud800", "a\nb"):
        manifest.write_text(json.dumps({name: 1}))
        problem = problem_of(manifest.parent)
        assert problem
        assert problem.isprintable()


@pytest.mark.parametrize("value", [None, -1, 1.0, True, "1", [], 1 << 63])
def test_counters_of_a_state_are_whole_numbers(tmp_path: Path, value: Any) -> None:
    for name in ("epoch", "window", "step", "best_step", "world_size"):
        (tmp_path / "state.json").write_text(json.dumps({**asdict(RunState()), name: value}))
        with pytest.raises(InputError, match=rf"state\.json cannot be read: {name} is no whole number"):
            read_state(tmp_path, RunState())


@pytest.mark.parametrize(
    "content",
    [
        *("[" * 100_000, '{"best_score": "high"}', '{"best_score": false}', '{"tracker_id": 1}'),
        *('{"ema_decay": "0.9"}', '{"score_to_beat": "1"}'),
    ],
)
def test_strange_states(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(InputError, match=r"state\.json cannot be read"):
        read_state(tmp_path, RunState())


def draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),  # noqa: NPY002 - the global state is what is tested
        np.random.randn(),  # noqa: NPY002
        torch.rand(()).item(),
        torch.randn(()).item(),
    ]


def test_random_states_come_back_through_a_safe_file(tmp_path: Path) -> None:
    kept = checkpoint._rng_state()
    try:
        draws()  # leaves half a pair of normals behind in each generator
        path = tmp_path / "rng_0.pt"
        torch.save(checkpoint._rng_state(), path)
        expected = [draws() for _ in range(3)]
        for _ in range(2):
            checkpoint._set_rng_state(torch.load(path, weights_only=True))
            assert [draws() for _ in range(3)] == expected
    finally:
        checkpoint._set_rng_state(kept)


# --- best weights ------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Two names for one matrix, beside a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.b.weight = self.a.weight


def test_best_weights_round_trip(tmp_path: Path) -> None:
    accelerator: Any = SimpleNamespace(
        distributed_type="NO",
        is_main_process=True,
        unwrap_model=lambda module: module,
        wait_for_everyone=lambda: None,
    )
    trained, fresh = Tied(), Tied()
    trained.norm(torch.randn(4, 3))
    path = tmp_path / "best_checkpoint.pth"
    best = BestFile("best_checkpoint.pth", "model", "optimizer")
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    checkpoint.save_best(accelerator, nn.ModuleDict({"model": trained}), optimizer, {"step": 3}, best, tmp_path)
    stored = torch.load(path, weights_only=True)
    assert stored["step"] == 3
    assert set(stored["model"]) == set(trained.state_dict())
    assert stored["model"]["a.weight"].data_ptr() == stored["model"]["b.weight"].data_ptr()
    assert [file.name for file in tmp_path.iterdir()] == ["best_checkpoint.pth"]
    assert stored["optimizer"] == optimizer.state_dict()
    load_best(fresh, path, "model")
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    assert fresh.b.weight is fresh.a.weight


TORN = "[enforce fail at inline_container.cc:672] . unexpected pos 20 vs 18"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError(TORN)])
def test_disk_trouble_is_one_sentence(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(InputError, match=r"cannot be written .*free space or choose another --output_dir"),
        checkpoint._disk_errors(tmp_path),
    ):
        raise error
    with pytest.raises(RuntimeError, match="shape"), checkpoint._disk_errors(tmp_path):
        raise RuntimeError("shape mismatch")
