"""Text to signing by its real commands, on a corpus so small that each run takes seconds."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL, launcher, logged, losses, shell
from processes import Training, losses_by_step

from uni_sign.cli import main
from uni_sign.data.wholebody import read_pose
from uni_sign.models.signing_flow import signing_motion

SIGNING = (
    "--motion signing --dataset Demo --dim_h 16 --fmt_depth 1 --num_heads 2 --epochs 2 --warmup_epochs 0 "
    "--batch_size 4 --lr 1e-3 --sched constant --dtype fp32 --num_workers 0 --log_steps 1"
)


def train(corpus: Path, flags: str, out: Path, processes: int = 1) -> None:
    words = [*launcher("warm", processes), "-m", "uni_sign", "train", "rectified_flow", *shlex.split(flags)]
    shell([*words, "--output_dir", str(out)], cwd=corpus)


def infer(flags: str, status: int = 0) -> None:
    """Within this process: nothing trains, and starting would take most of the time."""
    assert main(["infer", "rectified_flow", *shlex.split(flags)]) == status


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("signing") / "run"
    train(corpus, SIGNING, out)
    return out


def test_what_the_run_leaves_behind(trained: Path) -> None:
    best = torch.load(trained / "best_checkpoint.pth", weights_only=True)
    model = signing_motion(best["model_config"])
    model.load_state_dict(best["model"])
    assert best["model_config"]["languages"] == ["Chinese", "English"]
    assert best["pose_scale"].shape == (2, 207)
    assert losses(trained)[-1] < losses(trained)[0]
    for name in ("loss", "flow_loss", "bone", "length", "dtw_mje", "distance_ratio", "duration_ratio"):
        assert len(logged(trained, f"val/{name}")) == 2, name
    assert (trained / "pictures" / "val_signing.png").stat().st_size > 1000


@pytest.mark.parametrize("split", ["--zero_stage 2", "--batch_size 1 --gradient_accumulation_steps 2"])
def test_a_split_batch_gives_the_numbers_of_the_whole(corpus: Path, trained: Path, tmp_path: Path, split: str) -> None:
    train(corpus, f"{SIGNING} --batch_size 2 {split}", tmp_path / "split", 2)
    np.testing.assert_allclose(losses(tmp_path / "split"), losses(trained), rtol=1e-3)
    scores = (logged(run, "val/loss") for run in (tmp_path / "split", trained))
    np.testing.assert_allclose(next(scores), next(scores), rtol=1e-3)


def test_a_killed_run_goes_on_exactly(corpus: Path, trained: Path, tmp_path: Path) -> None:
    flags, killed = f"{SIGNING} --save_steps 1", tmp_path / "run"
    job = ("-m", "uni_sign", "train", "rectified_flow", *shlex.split(flags))
    with Training(launcher("warm"), output_dir=killed, cwd=corpus, job=job) as training:
        training.kill_at_checkpoint()
    train(corpus, f"{flags} --resume auto", killed)
    assert losses_by_step(killed) == losses_by_step(trained)
    assert logged(killed, "val/loss") == logged(trained, "val/loss")
    best = [torch.load(folder / "best_checkpoint.pth", weights_only=True) for folder in (killed, trained)]
    torch.testing.assert_close(best[0]["model"], best[1]["model"], rtol=0, atol=0)


def test_a_text_is_signed_the_same_each_time(
    corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    flags = f"--checkpoint {trained}/best_checkpoint.pth --nfe 2 --text 'Mother buys red apples.' --language English"
    for name, own in (("one", ""), ("two", "--no-videos"), ("other", "--seed 3"), ("short", "--frames 7 --no-videos")):
        infer(f"{flags} {own} --output_dir {tmp_path / name}")
    poses = {path.parent.name: read_pose(path) for path in tmp_path.glob("*/signing.npz")}
    np.testing.assert_array_equal(poses["one"].keypoints, poses["two"].keypoints)
    assert not np.array_equal(poses["one"].keypoints, poses["other"].keypoints)
    assert len(poses["short"].keypoints) == 7
    assert (tmp_path / "one" / "signing.gif").read_bytes()[:4] == b"GIF8"
    assert not (tmp_path / "short" / "signing.gif").exists()


def test_a_split_is_signed_and_translated_back(
    corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*launcher("warm"), "-m", "uni_sign", "train", "fine_tuning", *SMALL, "--max_steps", "1"]
    shell([*words, "--batch_size", "4", "--output_dir", str(tmp_path / "slt")], cwd=corpus)
    flags = f"--checkpoint {trained}/best_checkpoint.pth --split test --nfe 2 --no-videos"
    translator = f"--translator {tmp_path / 'slt' / 'best_checkpoint.pth'} --output_dir {tmp_path / 'a'}"
    words = [*launcher("warm"), "-m", "uni_sign", "infer", "rectified_flow", *shlex.split(f"{flags} {translator}")]
    assert "poses of 5 clips" in shell(words, cwd=corpus).stdout
    scores = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert {"dtw_mje", "distance_ratio", "duration_ratio", "bleu4_signed", "bleu4_true", "n"} <= set(scores)
    monkeypatch.chdir(corpus)
    infer(f"{flags} --batch_size 2 --output_dir {tmp_path / 'b'}")
    paths = sorted((tmp_path / "a" / "poses").glob("*.npz"))
    assert len(paths) == 5
    for path in paths:
        other = read_pose(tmp_path / "b" / "poses" / path.name)
        np.testing.assert_allclose(read_pose(path).keypoints, other.keypoints, atol=1e-4)


def test_wrong_flags_and_files_are_named(
    corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(corpus)
    best = trained / "best_checkpoint.pth"
    for flags, said in (
        ("--text hello --language German", "does not sign in German"),
        ("--text hello --frames 900", "--frames 900 are more than the 64"),
        ("--audio a.wav --reference b.png", "The checkpoint signs texts"),
        ("--text a --split dev", "or --text, or --split"),
        ("--split dev --language English", "need --text"),
        ("--text a --translator b.pth", "--translator needs --split"),
        (f"--split dev --nfe 1 --no-videos --translator {best}", "does not translate poses alone"),
    ):
        infer(f"--checkpoint {best} --output_dir {tmp_path / 'x'} {flags}", status=2)
        assert said in capsys.readouterr().err
    assert main(["export", str(best), str(tmp_path / "float.pth")]) == 2
    assert "signs texts, for which FLOAT's form has no place" in capsys.readouterr().err
    for flags, said in (
        ("--mt5 nowhere", "nowhere"),
        ("--finetune nowhere.pth", "nowhere.pth"),
        ("--dataset CSL_Daily", "mt5-base"),
        ("--dataset CSL_Daily --mt5 pretrained_weight/mt5-demo", "labels.train"),
    ):
        words = shlex.split(f"{SIGNING} --output_dir {tmp_path / 'o'} {flags}")
        assert main(["train", "rectified_flow", *words]) == 2
        assert said in capsys.readouterr().err
