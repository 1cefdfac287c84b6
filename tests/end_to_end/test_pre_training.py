"""Pre-training on poses, pre-training with hand crops, fine-tuning: what one hands to the next, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from commands import BIN, ROOT, SMALL, free_port, launcher, logged, shell

from uni_sign.config import TrainConfig, parse_flags
from uni_sign.stages.base import load_stage

STEP = ("--zero_stage", "2", "--epochs", "1", "--max_steps", "1", "--global_batch_size", "4", "--batch_size", "1")


def test_the_chain(videos: Path, tmp_path: Path) -> None:
    """Stage 1 under deepspeed with two processes, the others alone; all of four clips a step."""
    root = ("--data_root", str(videos))
    train = ("-m", "uni_sign", "train")
    two = [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", str(free_port()), "--module", "uni_sign"]
    one, second, last = (tmp_path / name for name in ("stage1", "stage2", "fine_tuning"))
    done = shell([*two, "train", "pre_training", *SMALL, *STEP, *root, "--output_dir", str(one)], cwd=ROOT)
    assert "Global batch 4 = 1 clips x 2 accumulation x 2 processes" in done.stdout + done.stderr
    rgb = (*SMALL, *STEP, *root, "--rgb_support", "--finetune", str(one / "best_checkpoint.pth"))
    done = shell([*launcher("warm"), *train, "pre_training", *rgb, "--output_dir", str(second)], cwd=ROOT)
    assert "so at their start: fusion_gate, fusion_pose_rgb_DA, fusion_pose_rgb_linear, rgb_proj" in done.stdout
    given = ("--finetune", str(second / "best_checkpoint.pth"))
    assert "hand crops: add --rgb_support" in refused([*given, "--output_dir", str(last)], root)
    done = shell(
        [
            *launcher("warm"),
            *train,
            "fine_tuning",
            *SMALL,
            *STEP,
            *root,
            *given,
            "--rgb_support",
            "--output_dir",
            str(last),
        ],
        cwd=ROOT,
    )
    assert "at their start" not in done.stdout
    assert len(logged(last, "train/loss")) == 1
    part = torch.load(second / "best_checkpoint.pth", weights_only=False)
    part["model"] = {name: value for name, value in part["model"].items() if "fusion_gate" not in name}
    torch.save(part, tmp_path / "part.pth")
    wrong = ("--rgb_support", "--finetune", str(tmp_path / "part.pth"), "--output_dir", str(tmp_path / "none"))
    assert "4 tensors are missing (first fusion_gate.0.bias)" in refused(wrong, root)


def refused(flags: Sequence[str], root: Sequence[str]) -> str:
    """What fine-tuning says of what it must not start from."""
    words = [*launcher("warm"), "-m", "uni_sign", "train", "fine_tuning", *SMALL, "--zero_stage", "0", *root, *flags]
    return shell(words, cwd=ROOT, status=2).stderr


@pytest.mark.parametrize(("stage", "clips", "epochs"), [("stage1", 512, 20), ("stage2", 128, 5)])
def test_the_published_recipes(stage: str, clips: int, epochs: int) -> None:
    path = ROOT / "configs" / "pre_training" / f"{stage}.yaml"
    config, own = parse_flags(["--config", str(path)], TrainConfig, load_stage("pre_training").Config)
    assert (config.global_batch_size, config.epochs, config.lr, config.sched) == (clips, epochs, 3e-4, "cosine")
    assert config.global_batch_size % (4 * config.batch_size) == 0
    assert (own.label_smoothing, own.max_length, own.rgb_support) == (0.2, 256, stage == "stage2")
    given = yaml.safe_load(path.read_text()).get("finetune", "")
    assert given == ("out/pre_training/stage1/best_checkpoint.pth" if stage == "stage2" else "")
