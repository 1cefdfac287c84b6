"""One step of the published sizes by the real stages, on blank items: the velocity network and the autoencoder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from uni_sign.config import parse_flags
from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder
from uni_sign.models.wav2vec2 import wav2vec2_config
from uni_sign.stages.base import load_stage


def stage_of(name: str, **flags: object) -> Any:
    stage = load_stage(name)
    (config,) = parse_flags([f"--{flag}={value}" for flag, value in flags.items()], stage.Config)
    return stage(config, 0)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A manifest whose files nobody opens."""
    rows = [{"video": f"{split}.mp4", "split": split} for split in ("train", "test")]
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stepped(stage: Any) -> tuple[Any, list[float]]:
    """The model, and its loss before and after one step; all that trains has got a gradient that is finite."""
    torch.manual_seed(0)
    model = stage.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    batch = stage.largest_batch(1, 0)
    losses = []
    for _ in range(2):
        loss, _ = stage.compute_loss(model, batch)
        losses.append(loss.item())
        if len(losses) == 1:
            loss.backward()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
            optimizer.step()
    return model, losses


def test_a_step_of_the_published_velocity_network(clips: Path) -> None:
    folder = clips.parent
    wav2vec2_config({}).save_pretrained(folder / "wav2vec2")  # of its shape alone is built on
    autoencoder = MotionAutoencoder(AutoencoderSizes(input_size=16, channels=4))
    state = {f"motion_autoencoder.{name}": value for name, value in autoencoder.state_dict().items()}
    content = {"stage": "motion_autoencoder", "model_config": asdict(autoencoder.sizes), "model": state}
    torch.save(content, folder / "autoencoder.pth")
    paths = {"autoencoder_path": folder / "autoencoder.pth", "wav2vec_model_path": folder / "wav2vec2"}
    model, (before, after) = stepped(stage_of("rectified_flow", data_root=clips, **paths))
    assert sum(parameter.numel() for parameter in model.fmt.parameters()) == pytest.approx(157e6, rel=0.005)
    assert model.audio_encoder.audio_projection[0].weight.shape == (512, 12 * 768)
    assert after < before


def test_a_step_of_the_published_autoencoder(clips: Path) -> None:
    model, (before, after) = stepped(stage_of("motion_autoencoder", data_root=clips, gan_weight=0))
    assert model.motion_autoencoder.sizes == AutoencoderSizes()
    assert after < before
