"""A checkpoint remembers what its poses were extracted by, and says where others differ."""

import shutil
from pathlib import Path

import numpy as np
import torch

from uni_sign.data.wholebody import read_pose, write_npz
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig

FIRST = {"name": "rtmpose", "version": "1", "mode": "performance"}
SECOND = {"name": "rtmpose", "version": "2", "mode": "lightweight"}


def stage_of(root: Path, finetune: str = "") -> FineTuning:
    return FineTuning(FineTuningConfig(dataset="Demo", data_root=root, hidden_dim=16, finetune=finetune), seed=0)


def extracted_again(root: Path, extractor: dict[str, str]) -> None:
    """All poses of the corpus, as if by this extractor."""
    for path in (root / "dataset" / "Demo" / "pose_format").glob("*.pkl"):
        pose = read_pose(path)
        with path.with_suffix(".npz").open("wb") as file:
            write_npz(file, pose.keypoints.astype(np.float32), pose.scores, extractor)


def test_another_extractor_is_told(demo_root: Path, tmp_path: Path) -> None:
    root, checkpoint = tmp_path / "root", tmp_path / "best.pth"
    shutil.copytree(demo_root, root)
    assert "extractor" not in stage_of(root).checkpoint_extras()
    extracted_again(root, FIRST)
    stage = stage_of(root)
    extras = stage.checkpoint_extras()
    assert extras["extractor"] == FIRST
    torch.save({"model": stage.build_model().state_dict(), **extras}, checkpoint)
    assert not [note for note in stage_of(root, str(checkpoint)).build_datasets().notes if "extracted" in note]
    extracted_again(root, SECOND)
    [note] = [note for note in stage_of(root, str(checkpoint)).build_datasets().notes if "extracted" in note]
    assert "rtmpose performance 1; those here are by rtmpose lightweight 2" in note
