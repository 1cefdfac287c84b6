"""What the benchmarks of whole steps share: the model's size, clips of one or mixed lengths, time and memory."""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import MT5Config

from uni_sign.config import TrainConfig
from uni_sign.data.wholebody import PARTS
from uni_sign.engine.optim import make_optimizer
from uni_sign.models.uni_sign import UniSign

PIECES, KEPT_PIECES = 250_112, 20_480
PREFIX, TEXT_TOKENS = 9, 24
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bf16, as the makers state


@dataclasses.dataclass(frozen=True)
class Size:
    """The model, and how many clips a batch and a case have."""

    d_model: int = 768
    d_ff: int = 2048
    layers: int = 12
    heads: int = 12
    hidden_dim: int = 256
    pieces: int = PIECES
    kept: int = KEPT_PIECES
    batch: int = 4
    batches: int = 6
    frames: int = 128
    texts_per_clip: int = 8
    new_tokens: int = 40


TINY = Size(d_model=64, d_ff=128, layers=2, heads=4, hidden_dim=32, pieces=2000, kept=200, batches=3, new_tokens=8)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip: parts (T, V, 3), target ids, and rows of its descriptions' features."""

    parts: dict[str, Tensor]
    labels: Tensor


def draw_clips(size: Size, mix: str, pieces: int) -> list[Clip]:
    """The same clips for every case; a target has a piece for every five frames."""
    rng = np.random.default_rng(0)
    count = size.batch * size.batches
    frames = np.full(count, size.frames)
    if mix != "equal":
        frames = np.clip(np.exp(rng.normal(np.log(120), 0.5, count)), 40, 256).astype(int)
    torch.manual_seed(0)
    return [
        Clip(
            {part: torch.rand(int(n), len(points), 3) * 2 - 1 for part, points in PARTS.items()},
            torch.cat([torch.randint(3, min(pieces, size.kept), (int(n) // 5,)), torch.tensor([1])]),
        )
        for n in frames
    ]


def padded(rows: Sequence[Tensor], fill: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def padded_batch(clips: Sequence[Clip]) -> dict[str, Tensor]:
    """The straightforward batch."""
    return {
        **{part: padded([clip.parts[part] for clip in clips], 0.0) for part in PARTS},
        "frame_mask": padded([torch.ones(len(clip.parts["body"]), dtype=torch.long) for clip in clips], 0),
        "prefix_ids": torch.arange(3, 3 + PREFIX).repeat(len(clips), 1),
        "labels": padded([clip.labels for clip in clips], -100),
    }


def packed_batch(clips: Sequence[Clip], size: Size, texts: str = "") -> dict[str, Any]:
    """Our batch, as `uni_sign.data.signs.Collate` makes it; ``texts``: none, ``ids`` or ``features``."""
    lengths = np.array([len(clip.parts["body"]) for clip in clips])
    total = lengths + PREFIX
    width = int(total.max())
    starts = np.arange(len(clips)) * width
    batch: dict[str, Any] = {
        **{f"parts.{part}": torch.cat([clip.parts[part] for clip in clips]) for part in PARTS},
        "lengths": lengths.tolist(),
        "prefix_ids": torch.arange(3, 3 + PREFIX).repeat(len(clips)),
        "prefix_position": torch.from_numpy((starts[:, None] + np.arange(PREFIX)).ravel()),
        "frame_position": torch.from_numpy(
            np.concatenate([start + PREFIX + np.arange(n) for start, n in zip(starts, lengths, strict=True)])
        ),
        "attention_mask": torch.from_numpy((np.arange(width) < total[:, None]).astype(np.int64)),
        "labels": (labels := padded([clip.labels for clip in clips], -100)),
        "target_position": (labels.flatten() != -100).nonzero()[:, 0],
    }
    if texts:
        rows = np.concatenate(
            [1 + i * size.texts_per_clip + np.arange(n) * size.texts_per_clip // n for i, n in enumerate(lengths)]
        )
        count = size.texts_per_clip * len(clips)
        batch |= {name: torch.from_numpy(rows) for name in ("text_left", "text_right")}
        batch |= {"text_weight": torch.zeros(len(rows)), "text_indicator": torch.ones(len(rows))}
        if texts == "ids":
            batch["text_groups"] = list(torch.randint(3, 200, (count, TEXT_TOKENS)).chunk(4))
        else:
            batch["text_features"] = torch.randn(count, size.d_model)
    return batch


def batches(clips: Sequence[Clip], size: Size, by_length: bool, frames: int = 0) -> list[list[Clip]]:
    """As they come, or alike in length, the longest first; of ``size.batch`` clips, or of at most so many frames."""
    order = sorted(range(len(clips)), key=lambda i: -len(clips[i].parts["body"])) if by_length else range(len(clips))
    filled: list[list[Clip]] = [[]]
    for clip in (clips[i] for i in order):
        full = real_frames([*filled[-1], clip]) > frames if frames else len(filled[-1]) == size.batch
        if full:
            filled.append([])
        filled[-1].append(clip)
    return filled


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype() -> torch.dtype:
    return torch.bfloat16 if device().type == "cuda" else torch.float32


def mt5_config(size: Size, pieces: int) -> MT5Config:
    return MT5Config(
        vocab_size=pieces,
        d_model=size.d_model,
        d_ff=size.d_ff,
        d_kv=64 if size.d_model == 768 else 16,
        num_heads=size.heads,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        feed_forward_proj="gated-gelu",
    )


def measured(work: Callable[[Any], Any], given: Sequence[Any], frames: int) -> dict[str, float]:
    """Seconds over all of ``given`` (the first one more to warm up), per batch and frame; peak memory."""
    work(given[0])
    wait()
    start = time.perf_counter()
    for batch in given:
        work(batch)
    wait()
    seconds = time.perf_counter() - start
    row = {"seconds": seconds / len(given), "per_frame": seconds / frames, "gb": peak_gb()}
    if device().type == "cuda":
        with FlopCounterMode(display=False) as counter:
            for batch in given:
                work(batch)
        row["tflops"] = counter.get_total_flops() / seconds / 1e12
        name = torch.cuda.get_device_name()
        row["share"] = row["tflops"] / next((v for k, v in PEAK_TFLOPS.items() if k in name), float("nan"))
    return row


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def peak_gb() -> float:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def real_frames(clips: Sequence[Clip]) -> int:
    return sum(len(clip.parts["body"]) for clip in clips)


def autocast() -> torch.autocast:
    return torch.autocast(device().type, dtype(), enabled=dtype() != torch.float32)


class Loss(nn.Module):
    """A model's summed loss, as what data parallel wraps."""

    def __init__(self, model: UniSign) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self.model.summed_loss(self.model(batch), batch, 0.2)


def training_step(loss: nn.Module) -> Callable[[dict[str, Any]], None]:
    """Forward, backward, clipping and AdamW for a `Loss`, bare or wrapped."""
    optimizer = make_optimizer(loss, TrainConfig(lr=1e-5))

    def step(batch: dict[str, Any]) -> None:
        with autocast():
            summed = loss(batch)
        (summed / len(batch["target_position"])).backward()
        torch.nn.utils.clip_grad_norm_([p for p in loss.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
