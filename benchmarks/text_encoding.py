"""How long the descriptions of a training batch take in the text encoder: one call a frame, and as we batch them.

The slow side is the usual one of research code: each frame's description is tokenised, padded to 256 tokens and sent
through the encoder by itself. Ours is what training does: identical texts of the batch once, in length-sorted groups
padded to their own longest, then laid along the frames; and with --text_encoder_freeze, looked up in the cache on
disk. Both use the same encoder, of mT5-base's shape with random weights and a small vocabulary, and must agree to
1e-4. All calls of the slow side would take a minute and more: some frames, evenly spaced, are encoded and compared,
and their mean time is multiplied.
Run: `python benchmarks/text_encoding.py`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import MT5Config

from uni_sign.data.demo.describe import all_texts
from uni_sign.data.descriptions import align
from uni_sign.data.samples import Sample
from uni_sign.data.signs import MAX_TEXT_TOKENS, Clip, Collate, FrameTexts, Key
from uni_sign.data.text_cache import TextFeatures
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.wholebody import PARTS
from uni_sign.models.text_fusion import TextEncoder, text_per_frame

CLIPS, FRAMES, D_MODEL = 4, 64, 768
TIMED_CALLS, REPEATS = 12, 2
TOLERANCE = 1e-4
TOKENIZER = Path(__file__).parents[1] / "tests" / "golden" / "02_tokenizer"

Texts = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Timing:
    """Seconds a batch takes on either side, and the largest difference between their features."""

    per_frame: float
    ours: float
    difference: float


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tokenizer, texts = Tokenizer(TOKENIZER), np.array(all_texts())
    encoder = mt5_base_encoder(len(tokenizer))
    few = [np.repeat(rng.choice(texts, 8, replace=False), FRAMES // 8).tolist() for _ in range(CLIPS)]
    all_different = rng.permutation(texts)[: CLIPS * FRAMES].reshape(CLIPS, FRAMES).tolist()
    tokens = np.mean([len(ids) for ids in tokenizer.encode_all(texts.tolist())])
    nearly = [[clip[i - i % 10 // 9] for i in range(FRAMES)] for clip in all_different]
    batches = {"8 different texts a clip": few, "9 of 10 texts different": nearly, "all texts different": all_different}
    timings = {name: compare(encoder, tokenizer, batch) for name, batch in batches.items()}
    with tempfile.TemporaryDirectory() as folder:
        cache = warm_cache(encoder, tokenizer, [text for clip in few for text in clip], Path(folder))
        timings["8 texts a clip, warm cache"] = compare(encoder, tokenizer, few, cache)
    print(
        f"Descriptions of {CLIPS} clips x {FRAMES} frames, {tokens:.0f} tokens each on average, "
        f"{torch.get_num_threads()} thread(s), fp32\n"
    )
    print(
        "|                            | one call a frame, s | ours, s | ratio   | features differ by |\n"
        "|---|---|---|---|---|"
    )
    for name, timing in timings.items():
        ratio = f"{timing.per_frame / timing.ours:.0f}x"
        print(
            f"| {name:<26} | {timing.per_frame:19.1f} | {timing.ours:7.3f} | {ratio:>7} | {timing.difference:18.1e} |"
        )
    print(
        f"\nOne call a frame: mean of {TIMED_CALLS} calls, times {CLIPS * FRAMES}. Ours: the whole batch, tokenizing "
        f"included, mean of {REPEATS}.\nWhere no text repeats, what is left to gain is the padding: "
        f"{MAX_TEXT_TOKENS} tokens a call against {tokens:.0f}."
    )


def mt5_base_encoder(pieces: int) -> TextEncoder:
    config = MT5Config(vocab_size=pieces, d_model=D_MODEL, d_kv=64, d_ff=2048, num_layers=12, num_heads=12)
    return TextEncoder(config).eval()


def compare(encoder: TextEncoder, tokenizer: Tokenizer, texts: Texts, cache: TextFeatures | None = None) -> Timing:
    """Time both sides on a batch, in turns, so that a busy machine is busy for both; with ``cache`` ours looks up.

    AssertionError where their features differ.
    """
    frames = [text for clip in texts for text in clip]
    clips = [described_clip(clip) for clip in texts]
    features = encode_batch(encoder, tokenizer, clips, cache)
    differences = [float((features[0] - encode_frame(encoder, tokenizer, frames[0])).abs().max())]
    slow, fast = [], []
    for frame in np.linspace(0, len(frames) - 1, TIMED_CALLS).astype(int).tolist():
        start = time.perf_counter()
        feature = encode_frame(encoder, tokenizer, frames[frame])
        slow.append(time.perf_counter() - start)
        differences.append(float((features[frame] - feature).abs().max()))
        if len(slow) % (TIMED_CALLS // REPEATS) == 0:
            start = time.perf_counter()
            encode_batch(encoder, tokenizer, clips, cache)
            fast.append(time.perf_counter() - start)
    if max(differences) > TOLERANCE:
        raise AssertionError(f"features differ by {max(differences):.1e}")
    return Timing(statistics.mean(slow) * len(frames), statistics.mean(fast), max(differences))


def encode_frame(encoder: TextEncoder, tokenizer: Tokenizer, text: str) -> Tensor:
    """The straightforward side: one text, padded to the limit, (d_model,)."""
    ids = tokenizer.encode(text, MAX_TEXT_TOKENS)
    padded = torch.tensor([ids + [0] * (MAX_TEXT_TOKENS - len(ids))])
    return encoder([padded])[0]


def warm_cache(encoder: TextEncoder, tokenizer: Tokenizer, texts: Sequence[str], folder: Path) -> TextFeatures:
    """The cache that --text_encoder_freeze fills once."""
    cache = TextFeatures(folder, D_MODEL)
    writer, different = cache.writer(), sorted(set(texts))
    for text in different:
        writer.append([text], encoder([torch.tensor([tokenizer.encode(text, MAX_TEXT_TOKENS)])]).numpy())
    writer.close()
    cache.refresh()
    return cache


def encode_batch(
    encoder: TextEncoder, tokenizer: Tokenizer, clips: Sequence[Clip], cache: TextFeatures | None
) -> Tensor:
    """Our side: the features of all frames of the batch, (frames, d_model); without ``cache`` nothing is remembered."""
    batch = Collate(tokenizer, descriptions=True, features=cache)(clips)
    features = encoder(batch["text_groups"]) if cache is None else batch["text_features"]
    table = torch.cat([features.new_zeros(1, features.shape[1]), features])
    return text_per_frame(table, batch["text_left"], batch["text_right"], batch["text_weight"])


def described_clip(texts: Sequence[str]) -> Clip:
    """A clip whose every frame has its description; its poses are all zero."""
    count = len(texts)
    aligned = align(dict(enumerate(texts)), np.arange(count), "nearest")
    assert aligned is not None
    return Clip(
        key=Key(0, 0),
        sample=Sample("clip", Path(), None, "", "English", 0),
        parts={part: np.zeros((count, len(points), 3), np.float32) for part, points in PARTS.items()},
        labels=[1],
        prefix=[1],
        described=FrameTexts(aligned.texts, aligned.left, aligned.right, aligned.weight, aligned.indicator),
    )


if __name__ == "__main__":
    main()
