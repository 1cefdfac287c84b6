"""`uni-sign prepare`: shares, resuming, a real kill, the summary, and what other commands say of the shards."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from pose_files import pose_file

from uni_sign.cli import main
from uni_sign.commands.prepare import PrepareConfig, prepare, read_splits, share_of, summarize
from uni_sign.config import parse_flags
from uni_sign.data.corpora import SPLITS, load_corpus
from uni_sign.data.samples import fingerprint
from uni_sign.data.shards import Shards
from uni_sign.data.signs import Clip, Key
from uni_sign.errors import InputError
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig


def make_corpus(root: Path, clips: int, frames: int, **more: object) -> str:
    """A corpus of ``clips`` clips: two of dev, two of test, one of them unreadable, one missing; the rest to train."""
    (root / "poses").mkdir(parents=True)
    names = [f"clip{number:04}" for number in range(clips)]
    rng = np.random.default_rng(0)
    pose = {"keypoints": rng.random((frames, 1, 133, 2), np.float32), "scores": rng.random((frames, 133), np.float32)}
    for name in names:
        (root / "poses" / f"{name}.pkl").write_bytes(pickle.dumps({**pose, "start": 0, "name": name}))
    (root / "poses" / f"{names[0]}.pkl").write_bytes(b"nothing")
    splits = {"train": names[4:], "dev": names[2:4], "test": [*names[:2], "missing"]}
    for split, members in splits.items():
        labels = {name: {"name": name, "video_path": f"{name}.mp4", "text": f"say {name}"} for name in members}
        (root / f"labels.{split}").write_bytes(pickle.dumps(labels))
    content = {
        **{"name": "Mine", "language": "English", "pose_dir": "poses"},
        **{"labels": {split: f"labels.{split}" for split in SPLITS}, **more},
    }
    (root / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(root / "mine.yaml")


def flags(root: Path, *more: str) -> list[str]:
    return ["--dataset", str(root / "mine.yaml"), "--data_root", str(root), *more]


def contents(folder: Path) -> list[tuple[object, ...]]:
    """All rows, as they count: clip, frames, parts and points."""
    shards = Shards(folder)
    rows: list[tuple[object, ...]] = []
    for row, key in enumerate(shards._keys()):
        count = int(shards.frames[row])
        data = [part.tobytes() for part in shards.parts(row).values()] if count else []
        rows.append((key, count, *data, shards.points(row, np.arange(count)).tobytes() if count else b""))
    return sorted(rows, key=repr)


# --- shares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        ((), {}, (0, 1)),
        (("--shard_index", "2", "--shard_count", "5"), {"RANK": "7", "WORLD_SIZE": "8"}, (2, 5)),
        ((), {"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ((), {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "8"}, (5, 8)),
        (
            (),
            {
                **{"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2"},
                **{"SLURM_ARRAY_TASK_COUNT": "3", "RANK": "1", "WORLD_SIZE": "4"},
            },
            (9, 12),
        ),
    ],
)
def test_shares(words: tuple[str, ...], environment: Mapping[str, str], expected: tuple[int, int]) -> None:
    [config] = parse_flags(words, PrepareConfig)
    assert share_of(config, environment) == expected


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}, "without gaps"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "name no share"),
        ({"RANK": "first"}, "hold no number"),
    ],
)
def test_shares_that_are_none(environment: Mapping[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        share_of(PrepareConfig(), environment)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--shard_index", "2", "--shard_count", "2"), "count from 0"),
        (("--shard_index", "2"), "go together"),
        (("--shard_count", "2"), "go together"),
        (("--num_workers", "0"), "--num_workers 0 must lie"),
        (("--dataset", "nowhere"), "--dataset nowhere is unknown"),
        (("--shards", "2"), "Unknown flag --shards"),
    ],
)
def test_flags_that_are_refused(words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *words]) == 2
    assert says in capsys.readouterr().err


def test_shares_take_every_clip_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_corpus(tmp_path, 12, 3)
    for index in (2, 0, 1, 1):
        prepare(flags(tmp_path, "--shard_index", str(index), "--shard_count", "3"))
    said = capsys.readouterr().out
    assert "share 3 of 3 has 4 to do" in said
    # Asked again, the second share tries its unreadable clip anew, and writes nothing.
    assert "11 of them prepared; share 2 of 3 has 1 to do" in said
    shards = Shards(tmp_path / "prepared")
    assert (len(shards), len(shards.files)) == (12, 7)  # dev and test have two clips each, of two shares
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "poses", whole / "poses")  # keeps times, so that the clips are the same
    for split in SPLITS:
        shutil.copy(tmp_path / f"labels.{split}", whole)
    shutil.copy(tmp_path / "mine.yaml", whole)
    assert main(["prepare", *flags(whole, "--num_workers", "3")]) == 0
    assert len(Shards(whole / "prepared").files) == 7
    assert contents(whole / "prepared") == contents(tmp_path / "prepared")


# --- stopping and going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_goes_on(tmp_path: Path, workers: str) -> None:
    make_corpus(tmp_path, 200, 100)
    words = flags(tmp_path, "--shard_mb", "4", "--num_workers", workers)
    folder = tmp_path / "prepared"
    command = [sys.executable, "-c", f"from uni_sign.commands.prepare import prepare; prepare({words})"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not list(folder.glob("*.arrow")):
        assert process.poll() is None, "through before it was killed"
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)  # until no worker holds the other end: none may go on without its parent
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    assert len(Shards(folder)) < 200
    (folder / ".5-of-9.partial").write_bytes(b"left by another")
    prepare(words)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(Shards(folder)) == 200
    assert not list(folder.glob(".*"))
    resumed = contents(folder)
    shutil.rmtree(folder)
    prepare(flags(tmp_path))
    assert contents(folder) == resumed


def test_a_worker_that_fails_or_is_killed_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path, 8, 3)
    (tmp_path / "file").write_bytes(b"")
    make_corpus(tmp_path / "full", 8, 3, prepared_dir="../file/shards")
    assert main(["prepare", *flags(tmp_path / "full", "--num_workers", "2")]) == 2
    assert "file/shards cannot be written" in capsys.readouterr().err
    monkeypatch.setattr("uni_sign.commands.prepare.row_of", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert main(["prepare", *flags(tmp_path, "--num_workers", "2")]) == 1
    assert "A converting process was ended" in capsys.readouterr().err


# --- what is said ------------------------------------------------------------------------------------------


def test_the_summary_counts_every_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_corpus(tmp_path, 9, 3)
    assert main(["prepare", *flags(tmp_path, "--shard_index", "1", "--shard_count", "2")]) == 0
    assert main(["prepare", *flags(tmp_path, "--shard_index", "0", "--shard_count", "2")]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith(SPLITS)]
    assert [row[1:] for row in rows[3:]] == [
        ["5", "0", "0", "0", "15", "5"],
        ["2", "0", "0", "0", "6", "2"],
        ["1", "1", "1", "0", "3", "1"],
    ]
    assert sum(int(row[4]) for row in rows[:3]) == 5  # still to do after the first share
    assert "unreadable: " in said
    assert "clip0000.pkl is not a pickle" in said
    assert "no pose file missing.pkl" in said
    corpus = load_corpus(str(tmp_path / "mine.yaml"), tmp_path)
    split = read_splits(corpus)["test"]
    assert summarize(split, Shards(corpus.shard_dir)).unreadable == 1
    (tmp_path / "poses" / "clip0005.pkl").write_bytes(b"new, and broken")
    assert summarize(read_splits(corpus)["train"], Shards(corpus.shard_dir)).pending == 1


def test_the_corpus_file_names_the_folder(tmp_path: Path) -> None:
    make_corpus(tmp_path, 6, 3, prepared_dir="elsewhere/shards", tasks=["SLT", "CSLR"])
    prepare(flags(tmp_path))  # no clip has glosses, which is nothing of its poses
    assert len(Shards(tmp_path / "elsewhere" / "shards")) == 6


def test_useless_shards_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_corpus(tmp_path, 6, 3)
    prepare(flags(tmp_path))
    old = Shards(tmp_path / "prepared").files
    for path in (tmp_path / "poses").iterdir():
        os.utime(path, ns=(0, 1))
    capsys.readouterr()
    prepare(flags(tmp_path))
    assert f"if no other corpus uses them: {', '.join(path.name for path in old)}." in capsys.readouterr().out


def test_training_evaluation_and_doctor_use_the_shards(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("data", "description", "pretrained_weight"):
        (tmp_path / name).symlink_to(demo_root / name)
    shutil.copytree(demo_root / "dataset" / "Demo" / "pose_format", tmp_path / "dataset" / "Demo" / "pose_format")
    words = ["--dataset", "Demo", "--data_root", str(tmp_path)]
    assert main(["prepare", *words]) == 0
    stage = FineTuning(FineTuningConfig(dataset="Demo", data_root=tmp_path), seed=0)
    splits = stage.build_datasets().splits
    assert all((data.rows >= 0).all() for data in splits.values())
    [said] = [note for note in stage.notes if "prepared shards" in note]
    assert said.endswith("dataset/Demo/prepared: 12 of 12 train, 4 of 4 dev, 5 of 5 test clips.")
    clip = stage.splits["train"].samples[0]
    os.utime(clip.pose_path, ns=(0, 1))
    again = FineTuning(FineTuningConfig(dataset="Demo", data_root=tmp_path), seed=0)
    files = again.files_dataset(clip.pose_path.parent, None, None, "", None)
    assert (files.rows < 0).sum() == 1
    assert len(files.rows) > 21
    one = again.files_dataset(clip.pose_path, None, None, "", None)
    assert one.rows.tolist() == [-2]
    (tmp_path / "posed").mkdir()
    (tmp_path / "posed" / "a.pose").write_bytes(pose_file(7))
    posed = again.files_dataset(tmp_path / "posed", None, None, "", None)
    item = posed[Key(0, 0)]
    assert isinstance(item, Clip)
    assert len(item.parts["body"]) == 7
    capsys.readouterr()
    main(["doctor", *words, "--output_dir", str(tmp_path / "out")])
    assert "WARN  prepared shards" in capsys.readouterr().out
    shard, *others = (tmp_path / "dataset" / "Demo" / "prepared").glob("*.arrow")
    assert len(others) == 2  # one for each split
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=shard.name):
        FineTuning(FineTuningConfig(dataset="Demo", data_root=tmp_path), seed=0).check()
    assert main(["doctor", *words, "--output_dir", str(tmp_path / "out")]) == 1
    assert "FAIL  prepared shards" in capsys.readouterr().out


def test_fingerprints_are_those_of_the_files(tmp_path: Path) -> None:
    make_corpus(tmp_path, 6, 3)
    [sample, *_] = read_splits(load_corpus(str(tmp_path / "mine.yaml"), tmp_path))["train"].samples
    state = sample.pose_path.stat()
    assert fingerprint(sample) == (b"clip0004.pkl", state.st_size, state.st_mtime_ns)
