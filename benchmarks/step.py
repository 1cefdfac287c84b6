"""Training step, frozen step and evaluation: ours beside the straightforward way, at mT5-base's size.

The straightforward way (`straightforward.py`) pads every clip to the batch's longest, takes clips as they come, keeps
all logits, makes the cross-entropy inside the model and once more outside, scores with a loss pass before each
search, and has no frozen features. Both sides do the same arithmetic on the same clips: before anything is timed,
they must agree on the loss of one batch. Every case is a process of its own, which tells its peak memory.

Run: `python benchmarks/step.py` (half an hour; `--tiny` in a minute; on CUDA in bf16, with TFLOP/s).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import straightforward
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import MT5Config

from uni_sign.config import TrainConfig
from uni_sign.data.wholebody import PARTS
from uni_sign.engine.optim import make_optimizer
from uni_sign.models.uni_sign import UniSign
from uni_sign.stages.base import to_device
from uni_sign.stages.fine_tuning import freeze_all_but_fusion

PIECES, KEPT_PIECES = 250_112, 20_480
PREFIX, TEXTS_PER_CLIP, TEXT_TOKENS = 9, 8, 24
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
    new_tokens: int = 40


TINY = Size(64, 128, 2, 4, 32, 2000, 200, 4, 3, 8)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip: parts (T, V, 3), target ids, and rows of its descriptions' features."""

    parts: dict[str, Tensor]
    labels: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model of toy size: does everything run?")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--mix", default="equal", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="cases whose names hold this word")
    known = parser.parse_args()
    if known.case:
        print(json.dumps(CASES[known.case](TINY if known.tiny else Size(), known.mix)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device().type}, {dtype()}\n")
    check_agreement(dataclasses.replace(TINY, batches=1), "equal")
    for title, mix, names in TABLES:
        if known.only in f"{title} {mix}":
            table(title, mix, names, known.tiny)


def table(title: str, mix: str, names: Sequence[str], tiny: bool) -> None:
    """One table: each case's time per real frame against the first one's."""
    lengths = "every clip 128 frames" if mix == "equal" else "log-normal lengths, median 120, 40 to 256"
    print(f"{title}, {lengths}\n\n| | s a batch | ms a frame | times faster | peak GB | of the memory |")
    print("|---|---|---|---|---|---|")
    first: dict[str, float] = {}
    for name in names:
        command = [sys.executable, __file__, "--case", name, "--mix", mix, *(["--tiny"] if tiny else [])]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        first = first or row
        flops = f" ({row['tflops']:.0f} TFLOP/s, {row['share']:.0%} of peak)" if "tflops" in row else ""
        print(
            f"| {name} | {row['seconds']:.2f} | {row['per_frame'] * 1e3:.2f} | "
            f"{first['per_frame'] / row['per_frame']:.2f}{flops} | {row['gb']:.1f} | {row['gb'] / first['gb']:.0%} |",
            flush=True,
        )
    print()


# --- clips ---------------------------------------------------------------------------------------------------


def draw_clips(size: Size, mix: str, pieces: int) -> list[Clip]:
    """The same clips for every case; a target has a piece for every five frames."""
    rng = np.random.default_rng(0)
    count = size.batch * size.batches
    frames = np.full(count, 128)
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


def packed_batch(clips: Sequence[Clip], d_model: int, texts: str = "") -> dict[str, Any]:
    """Our batch, as `uni_sign.data.signs.Collate` makes it; ``texts``: none, ``ids`` or ``features``."""
    lengths = np.array([len(clip.parts["body"]) for clip in clips])
    total = lengths + PREFIX
    width = int(total.max())
    starts = np.arange(len(clips)) * width
    batch: dict[str, Any] = {
        **{f"parts.{part}": torch.cat([clip.parts[part] for clip in clips]) for part in PARTS},
        "lengths": torch.from_numpy(lengths),
        "prefix_ids": torch.arange(3, 3 + PREFIX).repeat(len(clips)),
        "prefix_position": torch.from_numpy((starts[:, None] + np.arange(PREFIX)).ravel()),
        "frame_position": torch.from_numpy(
            np.concatenate([start + PREFIX + np.arange(n) for start, n in zip(starts, lengths, strict=True)])
        ),
        "attention_mask": torch.from_numpy((np.arange(width) < total[:, None]).astype(np.int64)),
        "labels": padded([clip.labels for clip in clips], -100),
    }
    if texts:
        rows = np.concatenate(
            [1 + i * TEXTS_PER_CLIP + np.arange(n) * TEXTS_PER_CLIP // n for i, n in enumerate(lengths)]
        )
        count = TEXTS_PER_CLIP * len(clips)
        batch |= {name: torch.from_numpy(rows) for name in ("text_left", "text_right")}
        batch |= {"text_weight": torch.zeros(len(rows)), "text_indicator": torch.ones(len(rows))}
        if texts == "ids":
            batch["text_groups"] = list(torch.randint(3, 200, (count, TEXT_TOKENS)).chunk(4))
        else:
            batch["text_features"] = torch.randn(count, d_model)
    return batch


def batches(clips: Sequence[Clip], size: Size, by_length: bool) -> list[list[Clip]]:
    """As they come, or alike in length; the longest first, so that memory peaks at once."""
    order = sorted(range(len(clips)), key=lambda i: -len(clips[i].parts["body"])) if by_length else range(len(clips))
    chosen = [clips[i] for i in order]
    return [chosen[i : i + size.batch] for i in range(0, len(chosen), size.batch)]


# --- cases ---------------------------------------------------------------------------------------------------


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


def plain_training(size: Size, mix: str) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, size.pieces)
    model = straightforward.UniSign(mt5_config(size, size.pieces), size.hidden_dim).to(device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(batch: dict[str, Tensor]) -> None:
        with torch.autocast(device().type, dtype(), enabled=dtype() != torch.float32):
            loss = model.loss(batch, 0.2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    given = [to_device(padded_batch(batch), device()) for batch in batches(clips, size, by_length=False)]
    return measured(step, given, real_frames(clips))


def our_training(size: Size, mix: str, pieces: int, texts: str = "", fusion_only: bool = False) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, pieces)
    config = mt5_config(size, pieces)
    model = UniSign(config, size.hidden_dim, bool(texts), config if texts == "ids" else None)
    freeze_all_but_fusion(model.to(device()).train(), fusion_only)
    optimizer = make_optimizer(model, TrainConfig(lr=1e-5))

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast(device().type, dtype(), enabled=dtype() != torch.float32):
            summed = model.summed_loss(model(batch), batch["labels"], 0.2)
        (summed / int((batch["labels"] != -100).sum())).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()

    given = [to_device(packed_batch(b, size.d_model, texts), device()) for b in batches(clips, size, by_length=True)]
    return measured(step, given, real_frames(clips))


def plain_evaluation(size: Size, mix: str) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, size.pieces)
    model = straightforward.UniSign(mt5_config(size, size.pieces), size.hidden_dim).to(device()).eval()

    def score(batch: dict[str, Tensor]) -> None:
        with torch.no_grad(), torch.autocast(device().type, dtype(), enabled=dtype() != torch.float32):
            model.loss(batch, 0.2)
            model.generate(batch, 4, size.new_tokens)

    given = [to_device(padded_batch(batch), device()) for batch in batches(clips, size, by_length=False)]
    return measured(score, given, real_frames(clips))


def our_evaluation(size: Size, mix: str, pieces: int) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, pieces)
    model = UniSign(mt5_config(size, pieces), size.hidden_dim).to(device()).eval()

    def score(batch: dict[str, Any]) -> None:
        with torch.no_grad(), torch.autocast(device().type, dtype(), enabled=dtype() != torch.float32):
            model.generate(model(batch), 4, size.new_tokens)

    given = [to_device(packed_batch(b, size.d_model), device()) for b in batches(clips, size, by_length=True)]
    return measured(score, given, real_frames(clips))


def check_agreement(size: Size, mix: str) -> None:
    """Both sides hold the same weights: the same loss on the same clips, where neither pads."""
    config = mt5_config(size, size.pieces)
    config.dropout_rate = 0.0
    model, plain = UniSign(config, size.hidden_dim).train(), straightforward.UniSign(config, size.hidden_dim).train()
    plain.load_state_dict(model.state_dict())
    clips = draw_clips(size, mix, size.pieces)[: size.batch]
    batch = packed_batch(clips, size.d_model)
    ours = model.summed_loss(model(batch), batch["labels"], 0.2) / int((batch["labels"] != -100).sum())
    difference = abs(float(ours.detach()) - float(plain.loss(padded_batch(clips), 0.2).detach()))
    assert difference < 1e-4, f"the two sides differ by {difference}"


CASES: dict[str, Callable[[Size, str], dict[str, float]]] = {
    "straightforward": plain_training,
    "ours": lambda size, mix: our_training(size, mix, size.pieces),
    "ours, --trim_vocab": lambda size, mix: our_training(size, mix, size.kept),
    "full step with descriptions": lambda size, mix: our_training(size, mix, size.pieces, "ids"),
    "frozen, warm cache": lambda size, mix: our_training(size, mix, size.pieces, "features", fusion_only=True),
    "frozen, warm cache, --trim_vocab": lambda size, mix: our_training(size, mix, size.kept, "features", True),
    "straightforward scoring": plain_evaluation,
    "our scoring": lambda size, mix: our_evaluation(size, mix, size.pieces),
    "our scoring, --trim_vocab": lambda size, mix: our_evaluation(size, mix, size.kept),
}
_TRAINING = ("straightforward", "ours", "ours, --trim_vocab")
_FROZEN = ("full step with descriptions", "frozen, warm cache", "frozen, warm cache, --trim_vocab")
_SCORING = ("straightforward scoring", "our scoring", "our scoring, --trim_vocab")
TABLES = (
    ("Training step", "equal", _TRAINING),
    ("Training step", "mixed", _TRAINING),
    ("Frozen step (--text_encoder_freeze --fusion_only)", "equal", _FROZEN),
    ("Scoring, 4 beams", "equal", _SCORING),
    ("Scoring, 4 beams", "mixed", _SCORING),
)


if __name__ == "__main__":
    main()
