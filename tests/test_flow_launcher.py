"""What launch/train_rectified_flow.sh runs, by its flags and its config file: the commands are recorded, not run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_RECORD = """#!/bin/sh
echo "$(basename "$0") $*" >> record
case "$*" in *"train rectified_flow"*) mkdir -p "$OUT"; touch "$OUT/best_checkpoint.pth";; esac
"""


def run(folder: Path, *flags: str, out: str = "out/rectified_flow", status: int = 0) -> list[str]:
    """The recorded commands, one a line."""
    (folder / "launch").mkdir(exist_ok=True)
    shutil.copy(ROOT / "launch" / "train_rectified_flow.sh", folder / "launch")
    (folder / "launch" / "install.sh").write_text("set -euo pipefail\nCORES=2 PROCESSES=2\n")
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("deepspeed", "uni-sign"):
        (folder / "bin" / name).write_text(_RECORD)
        (folder / "bin" / name).chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    words = ["bash", "launch/train_rectified_flow.sh", *flags]
    ended = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path, "OUT": out}, capture_output=True, text=True
    )
    assert ended.returncode == status, ended.stderr
    return (folder / "record").read_text().splitlines() if (folder / "record").exists() else [ended.stderr]


def test_the_demo(tmp_path: Path) -> None:
    for flags in ((), ("--config", "small")):
        demo, faces, speech, videos = run(tmp_path, *flags)
        assert demo == "uni-sign demo-data --talking_faces"
        assert "train motion_autoencoder --config small --batch_size 4 --output_dir" in faces
        assert "train rectified_flow --config small --batch_size 8 --resume auto" in speech
        assert speech.endswith("motion_autoencoder/best_checkpoint.pth --output_dir out/rectified_flow")
        assert "infer rectified_flow --checkpoint out/rectified_flow/best_checkpoint.pth --split test" in videos
        (tmp_path / "record").unlink()


def test_a_small_model_of_own_data_hears_with_the_demo_s(tmp_path: Path) -> None:
    demo, faces, speech, _ = run(tmp_path, "--config", "small", "--data_root", "clips")
    assert demo == "uni-sign demo-data --talking_faces"
    assert "--config small --batch_size 4 --data_root clips" in faces
    assert "--config small --batch_size 8 --resume auto --config small --data_root clips" in speech


def test_own_data_by_flags(tmp_path: Path) -> None:
    faces, speech, _ = run(
        tmp_path, "--data-root=clips", "--cache-dir", "fast", "--batch-size", "3", "--force-preprocess"
    )
    assert faces.endswith(
        "train motion_autoencoder --data_root clips --cache_dir fast --force_preprocess "
        "--output_dir out/rectified_flow/motion_autoencoder --resume auto"
    )
    assert "train rectified_flow --resume auto --data-root=clips --cache-dir fast --batch-size 3" in speech


@pytest.mark.parametrize("sectioned", [True, False])
def test_own_data_by_a_config_file(tmp_path: Path, sectioned: bool) -> None:
    flags = {"data-root": "ravdess", "output_dir": "there", "autoencoder_path": "faces.pth", "batch_size": 3}
    (tmp_path / "my.json").write_text(json.dumps({"rectified_flow": {"training": flags}} if sectioned else flags))
    speech, videos = run(tmp_path, "--config-file", "my.json", out="there")
    assert speech.endswith(
        "train rectified_flow --resume auto --config-file my.json --autoencoder_path faces.pth --output_dir there"
    )
    assert "there/best_checkpoint.pth" in videos


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "my.json").write_text(json.dumps({"data_root": "ravdess", "output_dir": "there"}))
    faces, speech, _ = run(tmp_path, "--config", "my.json", "--data_root", "clips", "--output-dir", "here", out="here")
    assert "--data_root clips --output_dir here/motion_autoencoder" in faces
    assert speech.endswith("--output_dir here")


def test_a_config_file_that_is_none_ends_it_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "my.json").write_text("{")
    [said] = run(tmp_path, "--config", "my.json", status=2)
    assert "uni-sign: error: my.json" in said
    assert "Traceback" not in said
