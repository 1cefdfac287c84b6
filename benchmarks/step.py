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
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import straightforward
import torch
from torch import Tensor
from workload import (
    TINY,
    Loss,
    Size,
    autocast,
    batches,
    device,
    draw_clips,
    dtype,
    measured,
    mt5_config,
    packed_batch,
    padded_batch,
    real_frames,
    training_step,
)

from uni_sign.models.batch_norm import set_batch_norm_mode
from uni_sign.models.uni_sign import UniSign
from uni_sign.stages._translation import freeze_all_but_fusion
from uni_sign.stages.base import to_device


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


# --- cases ---------------------------------------------------------------------------------------------------


def plain_training(size: Size, mix: str) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, size.pieces)
    model = straightforward.UniSign(mt5_config(size, size.pieces), size.hidden_dim).to(device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(batch: dict[str, Tensor]) -> None:
        with autocast():
            loss = model.loss(batch, 0.2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    given = [to_device(padded_batch(batch), device()) for batch in batches(clips, size, by_length=False)]
    return measured(step, given, real_frames(clips))


def our_training(
    size: Size, mix: str, pieces: int, texts: str = "", fusion_only: bool = False, frames: int = 0
) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, pieces)
    config = mt5_config(size, pieces)
    model = UniSign(config, size.hidden_dim, bool(texts), config if texts == "ids" else None)
    freeze_all_but_fusion(model.to(device()).train(), fusion_only)
    set_batch_norm_mode(model, "frozen" if fusion_only else "sync")
    drawn = batches(clips, size, by_length=True, frames=frames)
    given = [to_device(packed_batch(batch, size, texts), device()) for batch in drawn]
    return measured(training_step(Loss(model)), given, real_frames(clips))


def plain_evaluation(size: Size, mix: str) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, size.pieces)
    model = straightforward.UniSign(mt5_config(size, size.pieces), size.hidden_dim).to(device()).eval()

    def score(batch: dict[str, Tensor]) -> None:
        with torch.no_grad(), autocast():
            model.loss(batch, 0.2)
            model.generate(batch, 4, size.new_tokens)

    given = [to_device(padded_batch(batch), device()) for batch in batches(clips, size, by_length=False)]
    return measured(score, given, real_frames(clips))


def our_evaluation(size: Size, mix: str, pieces: int) -> dict[str, float]:
    torch.manual_seed(0)
    clips = draw_clips(size, mix, pieces)
    model = UniSign(mt5_config(size, pieces), size.hidden_dim).to(device()).eval()

    def score(batch: dict[str, Any]) -> None:
        with torch.no_grad(), autocast():
            model.generate(model(batch), 4, size.new_tokens)

    given = [to_device(packed_batch(b, size), device()) for b in batches(clips, size, by_length=True)]
    return measured(score, given, real_frames(clips))


def check_agreement(size: Size, mix: str) -> None:
    """Both sides hold the same weights: the same loss on the same clips, where neither pads."""
    config = mt5_config(size, size.pieces)
    config.dropout_rate = 0.0
    model, plain = UniSign(config, size.hidden_dim).train(), straightforward.UniSign(config, size.hidden_dim).train()
    plain.load_state_dict(model.state_dict())
    clips = draw_clips(size, mix, size.pieces)[: size.batch]
    batch = packed_batch(clips, size)
    ours = model.summed_loss(model(batch), batch, 0.2) / len(batch["target_position"])
    difference = abs(float(ours.detach()) - float(plain.loss(padded_batch(clips), 0.2).detach()))
    assert difference < 1e-4, f"the two sides differ by {difference}"


def of_eight(size: Size) -> Size:
    """The published recipe's batch; the same clips."""
    return dataclasses.replace(size, batch=8, batches=size.batches * size.batch // 8)


CASES: dict[str, Callable[[Size, str], dict[str, float]]] = {
    "straightforward": plain_training,
    "ours": lambda size, mix: our_training(size, mix, size.pieces),
    "ours, --trim_vocab": lambda size, mix: our_training(size, mix, size.kept),
    "ours, --trim_vocab --frames_per_batch 512": lambda size, mix: our_training(size, mix, size.kept, frames=512),
    "full step with descriptions": lambda size, mix: our_training(size, mix, size.pieces, "ids"),
    "frozen, warm cache": lambda size, mix: our_training(size, mix, size.pieces, "features", fusion_only=True),
    "frozen, warm cache, --trim_vocab": lambda size, mix: our_training(size, mix, size.kept, "features", True),
    "straightforward scoring": plain_evaluation,
    "our scoring": lambda size, mix: our_evaluation(size, mix, size.pieces),
    "our scoring, --trim_vocab": lambda size, mix: our_evaluation(size, mix, size.kept),
    "straightforward scoring, 8 clips": lambda size, mix: plain_evaluation(of_eight(size), mix),
    "our scoring, 8 clips": lambda size, mix: our_evaluation(of_eight(size), mix, size.pieces),
    "our scoring, 8 clips, --trim_vocab": lambda size, mix: our_evaluation(of_eight(size), mix, size.kept),
}
_TRAINING = ("straightforward", "ours", "ours, --trim_vocab")
_FROZEN = ("full step with descriptions", "frozen, warm cache", "frozen, warm cache, --trim_vocab")
_SCORING = ("straightforward scoring", "our scoring", "our scoring, --trim_vocab")
_SCORING_EIGHT = ("straightforward scoring, 8 clips", "our scoring, 8 clips", "our scoring, 8 clips, --trim_vocab")
TABLES = (
    ("Training step", "equal", _TRAINING),
    ("Training step", "mixed", (*_TRAINING, "ours, --trim_vocab --frames_per_batch 512")),
    ("Frozen step (--text_encoder_freeze --fusion_only)", "equal", _FROZEN),
    ("Scoring, 4 beams", "mixed", _SCORING),
    ("Scoring, 4 beams, 8 clips a batch", "mixed", _SCORING_EIGHT),
)


if __name__ == "__main__":
    main()
