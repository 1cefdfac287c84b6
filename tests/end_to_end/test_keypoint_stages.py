"""The keypoint pipeline by its real commands, on clips so few and models so small that each run takes seconds."""

import json
import pickle
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import launcher, logged, losses, shell
from PIL import Image

from uni_sign.cli import main
from uni_sign.data.demo.holistic import generate_holistic
from uni_sign.models.keypoint_models import keypoint_model

TINY = (
    "--d_global 16 --d_region 8 --nhead 4 --num_region_layers 1 --num_interaction_layers 1 --dim_feedforward 16 "
    "--epochs 2 --num_workers 0 --log_steps 1 --lr 1e-3"
)
TEMPORAL = (
    "--d_temporal 16 --d_final 16 --temporal_nhead 2 --num_temporal_layers 1 --num_decoder_layers 1 "
    "--temporal_dim_feedforward 16 --seq_len 8 --freeze_frame_encoder --batch_size 16"
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_holistic(tmp_path_factory.mktemp("keypoints"), clips_per_sign=1)


def image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def train(clips: Path, stage: str, flags: str, out: Path, name: str = "warm", processes: int = 1) -> None:
    words = {
        "deepspeed": ["--module", "uni_sign"],
        "accelerate": ["-m", "uni_sign"],
    }.get(name, ["-m", "uni_sign"])
    shell(
        [*launcher(name, processes), *words, "train", stage, *shlex.split(flags), "--output_dir", str(out)], cwd=clips
    )


def rebuilt(path: Path) -> dict[str, Any]:
    """The content of a best file, of which nothing else is needed to rebuild its model."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    keypoint_model(content["model_config"]).load_state_dict(content["model_state_dict"], strict=True)
    return content


SKELETON = f"{TINY} --data_path sign_language_keypoints.pkl --image_size 32 --batch_size 64"
FACES = f"{TINY} --data_path keypoints_data.pkl --batch_size 64"
ALIGNMENT = "--mbart_model_path mbart-demo --epochs 2 --batch_size 16 --num_workers 0 --max_length 8 --lr 1e-3"


@pytest.fixture(scope="module")
def trained(clips: Path) -> Path:
    """Skeleton, temporal, vectors and alignment, one after the other."""
    train(clips, "skeleton", SKELETON, clips / "skeleton")
    encoder = f"--frame_encoder_checkpoint {clips / 'skeleton' / 'best_model.pth'}"
    train(clips, "temporal", f"{TINY} {TEMPORAL} {encoder}", clips / "temporal")
    words = [*launcher("warm"), "-m", "uni_sign", "infer", "temporal"]
    shell([*words, "--checkpoint", str(clips / "temporal" / "best_model_stage1.pth")], cwd=clips)
    train(clips, "alignment", f"{ALIGNMENT} --use_temporal_tokens", clips / "alignment")
    return clips


def test_what_the_chain_leaves_behind(trained: Path) -> None:
    for stage, name in (
        ("skeleton", "best_model.pth"),
        ("temporal", "best_model_stage1.pth"),
        ("alignment", "best_model.pth"),
    ):
        content = rebuilt(trained / stage / name)
        told = {"model_state_dict", "optimizer_state_dict", "epoch", "val_loss", "model_config", "normalization"}
        assert told <= set(content)
        assert content["val_loss"] == min(logged(trained / stage, "val/loss"))
        assert losses(trained / stage)[-1] < losses(trained / stage)[0]
    vectors = np.load(trained / "temporal_representations_all" / "all_representations.npz")
    clips = len(vectors["names"])
    assert vectors["global_reprs"].shape == (clips, 16)
    assert vectors["local_reprs"].shape == (clips, 2, 16)
    for name in ("similarity", "distance"):
        assert np.load(trained / "temporal_representations_all" / f"{name}_matrix.npy").shape == (clips, clips)
        assert (trained / "temporal_representations_all" / f"{name}_matrix.png").stat().st_size > 1000
    assert (trained / "skeleton" / "pictures" / "val_pictures.png").stat().st_size > 1000
    assert (trained / "temporal" / "pictures" / "val_similarity.png").stat().st_size > 1000


def test_text_is_generated_and_scored(trained: Path, tmp_path: Path) -> None:
    words = [*launcher("warm"), "-m", "uni_sign", "infer", "alignment", "--output_dir", str(tmp_path)]
    words += ["--checkpoint", str(trained / "alignment" / "best_model.pth")]
    done = shell(words, cwd=trained)
    results = json.loads((tmp_path / "generation_results.json").read_text(encoding="utf-8"))
    texts = json.loads((trained / "text_data.json").read_text(encoding="utf-8"))["texts"]
    assert [row["ground_truth"] for row in results] == texts[-len(results) :]
    assert all(set(row) == {"sample_id", "generated_text", "ground_truth"} for row in results)
    assert "bleu1" in done.stdout
    shuffled = shell([*words, "--shuffle_representations"], cwd=trained)
    assert "bleu1" in shuffled.stdout


def test_pictures_of_a_trained_model(trained: Path, tmp_path: Path) -> None:
    words = [*launcher("warm"), "-m", "uni_sign", "infer", "skeleton", "--output_dir", str(tmp_path), "--samples", "3"]
    done = shell([*words, "--checkpoint", str(trained / "skeleton" / "best_model.pth")], cwd=trained)
    assert "below_mean_picture" in done.stdout
    drawn, of_training = tmp_path / "skeleton_pictures.png", trained / "skeleton" / "pictures" / "val_pictures.png"
    assert image_size(drawn)[0] < image_size(of_training)[0]


def test_a_split_batch_gives_the_numbers_of_the_whole(trained: Path, tmp_path: Path) -> None:
    flags = f"{SKELETON} --use_weighted_loss --dropout 0 --max_steps 3 --sched constant"
    train(trained, "skeleton", flags, tmp_path / "whole")
    for zero_stage in (0, 2, 3):
        split = tmp_path / f"zero_{zero_stage}"
        train(trained, "skeleton", f"{flags} --batch_size 32 --zero_stage {zero_stage}", split, "warm", 2)
        np.testing.assert_allclose(losses(split), losses(tmp_path / "whole"), rtol=1e-4)
        np.testing.assert_allclose(logged(split, "val/loss"), logged(tmp_path / "whole", "val/loss"), rtol=1e-4)


OTHERS = [
    ("temporal", f"{TINY} {TEMPORAL} --frame_encoder_checkpoint skeleton/best_model.pth --temporal_dropout 0"),
    ("alignment", f"{ALIGNMENT} --dropout 0 --freeze_mbart"),
    ("hierarchical_keypoint", f"{FACES} --dropout 0 --num_decoder_layers 1"),
    ("hierarchical_image", f"{FACES} --dropout 0 --image_size 16"),
]


@pytest.mark.parametrize(("stage", "flags"), OTHERS)
def test_two_processes_give_the_numbers_of_one(trained: Path, tmp_path: Path, stage: str, flags: str) -> None:
    flags += " --max_steps 3 --sched constant"
    train(trained, stage, f"{flags} --batch_size 16", tmp_path / "one")
    train(trained, stage, f"{flags} --batch_size 8", tmp_path / "two", "warm", 2)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    for score in ("val/loss", "val/n"):
        np.testing.assert_allclose(logged(tmp_path / "two", score), logged(tmp_path / "one", score), rtol=1e-4)
    [best] = (tmp_path / "one").glob("best_model*.pth")
    rebuilt(best)


@pytest.mark.parametrize(("stage", "flags"), [("skeleton", SKELETON), *OTHERS])
def test_the_checklist_and_half_precision(trained: Path, tmp_path: Path, stage: str, flags: str) -> None:
    words = [*launcher("warm"), "-m", "uni_sign", "doctor", stage, *shlex.split(flags)]
    report = shell([*words, "--output_dir", str(tmp_path / "none")], cwd=trained).stdout
    assert ", 0 fail" in report
    assert "GB per process" in report
    train(trained, stage, f"{flags} --max_steps 2 --dtype bf16 --zero_stage 2", tmp_path)
    assert np.isfinite([*losses(tmp_path), *logged(tmp_path, "val/loss")]).all()


def test_finetuning_takes_the_sizes_of_its_file(trained: Path, tmp_path: Path) -> None:
    words = [*launcher("warm"), "-m", "uni_sign", "train", "skeleton", *shlex.split(SKELETON), "--max_steps", "1"]
    words += ["--finetune", "skeleton/best_model.pth", "--d_global", "32", "--output_dir", str(tmp_path)]
    assert "d_global 16 (told 32)" in shell(words, cwd=trained).stdout
    assert rebuilt(tmp_path / "best_model.pth")["model_config"]["d_global"] == 16


@pytest.mark.parametrize("name", ["accelerate", "deepspeed"])
def test_users_launchers(trained: Path, tmp_path: Path, name: str) -> None:
    flags = f"{SKELETON} --max_steps 2 --batch_size 32 --zero_stage 2"
    train(trained, "skeleton", flags, tmp_path, name, 2)
    content = torch.load(tmp_path / "best_model.pth", weights_only=True)
    assert "optimizer_state_dict" not in content
    assert len(losses(tmp_path)) == 2


def test_a_plateau_lowers_the_rate_and_a_stopped_run_goes_on_exactly(trained: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    flags = f"{SKELETON} --lr 1e-7 --min_lr 1e-9 --epochs 4 --plateau_patience 0"
    train(trained, "skeleton", flags, whole)
    rates = sorted(set(logged(whole, "train/lr")), reverse=True)
    assert rates[0] == 1e-7
    assert rates[1] == pytest.approx(5e-8)
    shutil.copytree(whole, stopped, symlinks=True)
    steps = sorted((stopped / "checkpoints").glob("step_*"))
    shutil.rmtree(steps[-1])
    train(trained, "skeleton", f"{flags} --resume auto", stopped)
    assert losses(stopped) == losses(whole)
    assert logged(stopped, "train/lr") == logged(whole, "train/lr")


def test_wrong_files_are_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    (tmp_path / "text.json").write_text(json.dumps({"texts": ["one"]}))
    frames = pickle.loads((trained / "sign_language_keypoints.pkl").read_bytes())["keypoints"][:40]
    pixels = [{region: np.multiply(points, 512) for region, points in f.items() if points is not None} for f in frames]
    (tmp_path / "pixels.pkl").write_bytes(pickle.dumps({"keypoints": pixels}))
    wrong = [
        ("skeleton", f"--data_path {tmp_path / 'pixels.pkl'}", "must be shares of its width and height, not pixels"),
        ("skeleton", "--data_path nowhere.pkl", "nowhere.pkl"),
        ("skeleton", "--data_path video_sequences.pkl", "holds no list of frames under 'keypoints'"),
        ("temporal", "--frame_encoder_checkpoint alignment/best_model.pth", "is of the stage alignment, not skeleton"),
        ("temporal", "--freeze_frame_encoder", "needs --frame_encoder_checkpoint"),
        ("alignment", f"--mbart_model_path mbart-demo --text_data_path {tmp_path / 'text.json'}", "holds 1 texts"),
        ("alignment", "--mbart_model_path nowhere", "No mBART model in nowhere"),
    ]
    for stage, flags, said in wrong:
        assert main(["train", stage, *flags.split(), "--output_dir", str(tmp_path / "o")]) == 2
        assert said in capsys.readouterr().err
