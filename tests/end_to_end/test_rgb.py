"""Hand crops from the Demo's own videos: any number of processes, a stop in the middle, evaluation, inference."""

import json
import shutil
from pathlib import Path

import pytest
from commands import ROOT, Run, launcher, logged, losses, shell

from uni_sign.cli import main

# In evaluation mode in all but name: with its own statistics a batch hangs on how it is split.
FLAGS = ("--rgb_support", "--use_descriptions", "--epochs", "1", "--batch_norm", "frozen")


def test_one_and_two_processes_and_a_stop_between(
    run: Run, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--data_root", str(videos))
    whole, halves, two = (tmp_path / name for name in ("whole", "halves", "two"))
    save = ("--save_steps", "1")
    done = run(launcher("warm"), *FLAGS, *root, "--zero_stage", "0", "--batch_size", "4", *save, output_dir=whole)
    assert "train-00003: no video of it" in done.stdout + done.stderr
    assert "train-00005.mp4 is no video that can be read" in done.stdout + done.stderr
    run(launcher("warm", 2), *FLAGS, *root, "--zero_stage", "2", "--batch_size", "2", output_dir=two)
    assert len(losses(whole)) == 3
    assert losses(two) == pytest.approx(losses(whole), abs=1e-4)
    assert logged(two, "train/grad_norm") == pytest.approx(logged(whole, "train/grad_norm"), rel=1e-2)
    shutil.copytree(whole, halves, symlinks=True)
    resumed = ("--resume", str(halves / "checkpoints" / "step_00000002"))
    run(
        *(launcher("warm"), *FLAGS, *root, "--zero_stage", "0", "--batch_size", "4", *save, *resumed),
        output_dir=halves,
    )
    assert losses(halves)[-1] == losses(whole)[-1]
    command = [*launcher("warm"), "-m", "uni_sign"]
    checkpoint = ("--checkpoint", str(whole / "best_checkpoint.pth"))
    of_run = (whole / "predictions_test.jsonl").read_text()
    poses, texts = videos / "dataset/Demo/pose_format/test-00000.pkl", videos / "description/Demo/split_data/test"
    files = ("--poses", str(poses), "--descriptions", str(texts))
    seen = ("--videos", str(videos / "dataset" / "Demo" / "rgb_format"))
    told = shell([*command, "infer", *checkpoint, *files, *seen], cwd=ROOT)
    first = json.loads(of_run.splitlines()[0])
    assert json.loads(told.stdout) == {"name": "test-00000", "prediction": first["prediction"]}
    assert main(["infer", *checkpoint, *files]) == 2
    assert "--videos: this model was trained with --rgb_support" in capsys.readouterr().err
