"""A pipeline that is killed in any of its stages, and given again, leaves what one leaves that nobody killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import shell

from uni_sign.data.demo.holistic import generate_holistic

SMALL = {"epochs": 3, "num_workers": 0, "lr": 1e-3, "batch_size": 64, "log_steps": 1}
ENCODER = {"d_global": 16, "d_region": 8, "nhead": 4, "num_region_layers": 1, "num_interaction_layers": 1}
STAGES = {
    "skeleton": {
        "model": {**ENCODER, "dim_feedforward": 16, "image_size": 16},
        "training": {**SMALL, "data_path": "sign_language_keypoints.pkl", "output_dir": "s"},
        "inference": {"output_dir": "pictures"},
    },
    "temporal": {
        "model": {
            **{"d_temporal": 16, "d_final": 16, "temporal_nhead": 2, "num_temporal_layers": 1, "num_decoder_layers": 1},
            "temporal_dim_feedforward": 16,
        },
        "training": {
            **{**SMALL, "batch_size": 16, "seq_len": 8, "frame_encoder_checkpoint": "s/best_model.pth"},
            "output_dir": "t",
        },
        "inference": {"output_dir": "v"},
    },
    "alignment": {
        "model": {"mbart_model_path": "mbart-demo", "max_length": 8},
        "training": {
            **{**SMALL, "batch_size": 8, "video_reprs_path": "v/all_representations.npz", "output_dir": "a"},
        },
        "inference": {"output_dir": "."},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pipeline leaves that nobody killed."""
    folder = generate_holistic(tmp_path_factory.mktemp("whole"), clips_per_sign=1)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(STAGES))
    shell(words(), cwd=folder)
    return folder


def before(stage: str, whole: Path, root: Path) -> Path:
    """The pipeline's folder as it was when ``stage`` began."""
    later = {"s": ("s", "t", "v", "a"), "t": ("t", "v", "a"), "a": ("a",)}[stage]
    return Path(shutil.copytree(whole, root / "demo", symlinks=True, ignore=shutil.ignore_patterns(*later)))


def words() -> list[str]:
    return [
        sys.executable,
        "-m",
        "uni_sign",
        "pipeline",
        "--config",
        "pipeline.yaml",
        "--skip-trained",
        "--no-inference",
    ]


def contents(folder: Path) -> dict[str, Any]:
    """What training and extraction leave, without what tells the time."""
    vectors = np.load(folder / "v" / "all_representations.npz")
    weights = torch.load(folder / "a" / "best_model.pth", weights_only=True)["model_state_dict"]
    return {
        **{name: vectors[name].tolist() for name in vectors.files},
        **{name: value.tolist() for name, value in weights.items()},
    }


@pytest.mark.parametrize("stage", ["s", "t", "a"])
def test_killed_in_a_stage(whole: Path, tmp_path: Path, stage: str) -> None:
    folder = before(stage, whole, tmp_path)
    with subprocess.Popen(
        words(), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        log = folder / stage / "log.jsonl"
        while process.poll() is None and not (log.is_file() and "val/loss" in log.read_text()):
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
    shell(words(), cwd=folder)
    assert contents(folder) == contents(whole)
