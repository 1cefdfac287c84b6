"""Corpora mixed by weight: the same epochs for any number of processes, and scores of each corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from commands import ROOT, SMALL, launcher, losses, shell

from uni_sign.commands.prepare import prepare
from uni_sign.data.corpora import SPLITS
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig


@pytest.fixture(scope="module")
def root(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Demo, and its dev split as another corpus's training clips."""
    root = tmp_path_factory.mktemp("mixed") / "root"
    shutil.copytree(demo_root, root)
    files = {split: "data/Demo/labels.test" if split == "test" else "data/Demo/labels.dev" for split in SPLITS}
    corpus = {"name": "Small", "language": "English", "labels": files, "pose_dir": "dataset/Demo/pose_format"}
    (root / "small.yaml").write_text(yaml.safe_dump(corpus), encoding="utf-8")
    return root


def test_corpora_that_share_a_folder_of_shards_read_it_once(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "root"
    shutil.copytree(root, data)
    assert prepare(["--dataset", "Demo", "--data_root", str(data)]) == 0
    config = FineTuningConfig(dataset=f"Demo,{data / 'small.yaml'}", data_root=data)
    shards = FineTuning(config, seed=0).shards
    assert shards is not None
    assert len(set(shards.files)) == len(shards.files) > 0


def test_any_number_of_processes_trains_on_the_same_mixture(root: Path, tmp_path: Path) -> None:
    flags = ["--dataset", "Demo:0.25,small.yaml:0.75", "--mt5", "pretrained_weight/mt5-demo", "--zero_stage", "0"]
    said = []
    for processes in (1, 2):
        out = ["--batch_size", str(4 // processes), "--output_dir", str(tmp_path / str(processes))]
        words = [*launcher("warm", processes), str(ROOT / "fine_tuning.py"), *SMALL, *flags, *out]
        said.append(shell(words, cwd=root).stdout)
    assert "Training clips by corpus: Demo 25.0% (12 clips), Small 75.0% (4 clips)." in said[0]
    assert "4 steps an epoch" in said[0], "sixteen clips, four of the larger corpus and three times the smaller"
    one, two = tmp_path / "1", tmp_path / "2"
    assert losses(two) == pytest.approx(losses(one), abs=1e-3)
    for run in (one, two):
        rows = (run / "predictions_test.jsonl").read_text().splitlines()
        assert [json.loads(row)["corpus"] for row in rows] == ["Demo"] * 5 + ["Small"] * 5
    results = json.loads((one / "results.json").read_text())
    assert results["test/n_demo"] == results["test/n_small"] == 5
    assert {"test/bleu4", "test/bleu4_demo", "test/bleu4_small"} <= set(results)
