"""Rectified-flow motion: a training step with cached features against extracting them each step, and sampling's pace.

The step is that of the stage `rectified_flow` on drawn faces, at the sizes of configs/rectified_flow_small.json, 16
windows a batch, with an autoencoder and a wav2vec2 of the demo's sizes and random weights. The slow side does what
training without a cache does: it decodes each window's video, encodes its 60 frames and runs the speech model on its
sound, every step; ours reads 12 numbers and the features of sound a frame from the cache. Both run the same step
after that. With the published models extraction takes longer still: their autoencoder alone does 500 times the work.
Sampling is of the published velocity network (157 M parameters, random weights), one clip of 50 frames, guided as by
default, which asks for three velocities at once.
Run: `python benchmarks/flow.py`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from uni_sign.config import parse_flags
from uni_sign.data.demo.talking_faces import generate_talking_faces
from uni_sign.data.demo.wav2vec2 import write_wav2vec2
from uni_sign.data.motion_clips import read_faces
from uni_sign.data.signs import Key
from uni_sign.models.flow_transformer import FlowSizes, FlowTransformer
from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder
from uni_sign.models.rectified_flow import Method, Solver, float_guidance, item_noise, sample_clip
from uni_sign.stages._speech_features import SpeechFeatures, coordinates_of_pictures, sound_of
from uni_sign.stages.rectified_flow import RectifiedFlow, RectifiedFlowConfig

BATCH, REPEATS = 16, 5
EVALUATIONS = (5, 10, 20, 50)
METHODS: tuple[Method, ...] = ("euler", "midpoint")
CPU = torch.device("cpu")
ALONE = SimpleNamespace(
    process_index=0, num_processes=1, is_main_process=True, device=CPU, wait_for_everyone=lambda: None
)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        print_steps(Path(folder))
    print_sampling()


def seconds(call: Callable[[], Any], repeats: int = REPEATS, warm: bool = False) -> float:
    """Median time of a call, after one that is not counted, unless what is timed is ``warm`` already."""
    if not warm:
        call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def print_steps(folder: Path) -> None:
    stage, autoencoder = prepared_stage(folder)
    model = stage.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    train = stage.splits["train"]
    keys = [Key(0, index % len(train)) for index in range(BATCH)]
    speech = SpeechFeatures(stage.hearing, CPU)

    def step() -> None:
        batch = stage.collate([train[key] for key in keys])
        loss, _ = stage.compute_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def extract() -> None:
        for key in keys:
            clip, start = train.places[key.index]
            own, frames = stage.clips["train"][clip], stage.sizes.positions
            first = start - stage.sizes.num_prev_frames
            pictures = read_faces(own.video, autoencoder.sizes.input_size, stage.config.fps)
            coordinates_of_pictures(autoencoder, pictures[first : first + frames])
            speech(sound_of(own.audio, frames, stage.config.fps), frames)

    cached, extraction = seconds(step), seconds(extract, 2)
    print(f"{BATCH} windows of {stage.sizes.positions} frames, {torch.get_num_threads()} threads\n")
    print("| training step | ms | ratio |\n|---|---|---|")
    print(f"| features extracted each step | {1e3 * (cached + extraction):.0f} | |")
    print(f"| features from the cache | {1e3 * cached:.0f} | {(cached + extraction) / cached:.1f}x |\n")


def prepared_stage(folder: Path) -> tuple[Any, MotionAutoencoder]:
    """The stage with its cache filled, and the autoencoder that filled it."""
    faces = generate_talking_faces(folder, clips=36, progress=False)
    write_wav2vec2(folder / "wav2vec2", 0)
    autoencoder = MotionAutoencoder(AutoencoderSizes(32, 64, 12, 48)).eval()
    content = {"stage": "motion_autoencoder", "model_config": asdict(autoencoder.sizes)}
    state = {f"motion_autoencoder.{name}": value for name, value in autoencoder.state_dict().items()}
    torch.save({**content, "model": state}, folder / "autoencoder.pth")
    flags = {
        "data_root": faces,
        "autoencoder_path": folder / "autoencoder.pth",
        "wav2vec_model_path": folder / "wav2vec2",
    }
    sizes = {"dim_a": 64, "dim_h": 128, "fmt_depth": 2, "num_heads": 4}
    words = [f"--{name}={value}" for name, value in (flags | sizes).items()]
    (config,) = parse_flags(words, RectifiedFlowConfig)
    stage = RectifiedFlow(config, 0)
    stage.check()
    stage.prepare(ALONE)
    return stage, autoencoder


def print_sampling() -> None:
    sizes = FlowSizes()
    network = FlowTransformer(sizes).eval()
    told = {
        "wa": torch.randn(1, sizes.frames, sizes.dim_a),
        "wr": torch.randn(1, 1, sizes.dim_r),
        "we": torch.rand(1, 1, sizes.dim_e),
        "prev_x": torch.randn(1, sizes.num_prev_frames, sizes.dim_w),
        "prev_wa": torch.randn(1, sizes.num_prev_frames, sizes.dim_a),
    }
    noise = item_noise([0], 1, sizes.frames, sizes.dim_w)[:, 0]
    sample_clip(network, noise, told, float_guidance(), Solver("euler", 1))  # one evaluation warms all of them
    print("| sampling, evaluations | euler, frames/s | midpoint, frames/s |\n|---|---|---|")
    for count in EVALUATIONS:
        paces = []
        for method in METHODS:
            sampled = partial(sample_clip, network, noise, told, float_guidance(), Solver(method, count))
            taken = seconds(sampled, 1, warm=True)
            paces.append(sizes.frames / taken)
        print(f"| {count} | {paces[0]:.1f} | {paces[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
