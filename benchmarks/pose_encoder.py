"""How long the pose encoder takes, forward and backward: dense and padded, and ours.

The straightforward side (`straightforward.py`) is as research code writes it: clips padded to the longest, maps
(B, C, T, V), a 1x1 convolution to both hops, einsum with the adjacency, nn.BatchNorm2d, ReLU, a (5, 1) convolution.
Two batches: clips of equal length, where both sides must give the same features and gradients; and lengths as a
corpus has them (log-normal, median 120, 40 to 256), where the dense side also works on its padding. The floor is the
arithmetic of all convolutions at the speed of one large matrix product. On a GPU, bf16 and the peak memory as well.
Run: `python benchmarks/pose_encoder.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from straightforward import PoseEncoder as Dense
from torch import Tensor, nn

from uni_sign.models.pose_encoder import GRAPHS, PoseEncoder

D_MODEL = 768
Parts = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=4, help="clips of a batch")
    parser.add_argument("--frames", type=int, default=128, help="frames of each clip of equal length")
    parser.add_argument("--hidden_dim", type=int, default=256, help="width of the encoder")
    parser.add_argument("--rounds", type=int, default=7, help="how often each side runs, in turns; medians count")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours = PoseEncoder(D_MODEL, arguments.hidden_dim).to(device).train()
    dense = Dense(D_MODEL, arguments.hidden_dim).to(device).train()
    dense.load_state_dict(ours.state_dict())
    drawn = np.random.default_rng(0).lognormal(np.log(120), 0.5, arguments.clips)
    mix = np.clip(drawn, 40, 256).astype(int).tolist()
    peak = matmul_speed(device)
    machine = f"fp32, {torch.get_num_threads()} CPU thread(s)"
    if device.type == "cuda":
        machine = f"bf16, {torch.cuda.get_device_name()}"
    print(
        f"Pose encoder, forward + backward, {arguments.clips} clips, hidden_dim {arguments.hidden_dim}, {machine}"
        f"; one large matrix product: {peak / 1e9:,.0f} GFLOP/s\n"
    )
    print(
        "| clips                   | dense, ms   | ours, ms    | ratio | ours, share of the floor | evaluation, ratio |"
    )
    print("|---|---|---|---|---|---|")
    for name, lengths in (
        (f"all of {arguments.frames} frames", [arguments.frames] * arguments.clips),
        ("the mix", mix),
    ):
        parts = {part: torch.randn(sum(lengths), v, 3, device=device) for part, (v, _) in GRAPHS.items()}
        if len(set(lengths)) == 1 and device.type == "cpu":
            check_equal(ours, dense, parts, lengths)
        training = medians(ours, dense, parts, lengths, arguments.rounds)
        evaluation = medians(ours.eval(), dense.eval(), parts, lengths, arguments.rounds)
        floor = 3 * forward_flops(arguments.hidden_dim) * sum(lengths) / peak
        (slow, dense_memory), (fast, our_memory) = training
        print(
            f"| {name:<23} | {slow * 1e3:11.1f} | {fast * 1e3:11.1f} | {slow / fast:4.2f}x | {floor / fast:24.0%} | "
            f"{evaluation[0][0] / evaluation[1][0]:16.2f}x |"
        )
        if device.type == "cuda":
            print(f"\npeak memory {dense_memory:.2f} and {our_memory:.2f} GB\n")
        ours.train()
        dense.train()
    shown, padding = ", ".join(map(str, mix)), len(mix) * max(mix) / sum(mix)
    print(f"\nThe mix: {shown} frames, {sum(mix)} in all; padded {padding:.2f} times as many.")


def forward_flops(width: int) -> int:
    """Operations a frame of all convolutions of a forward pass; a backward pass takes twice that."""
    widths = [(width // 4, width // 4), (width // 4, width // 2), (width // 2, width)]
    spatial = sum(2 * a * 2 * b + 2 * a * b * (a != b) for a, b in widths)
    temporal = 3 * (2 * width * 2 * width + 5 * 2 * width * width)
    return sum(points for points, _ in GRAPHS.values()) * (spatial + temporal)


def matmul_speed(device: torch.device) -> float:
    """Operations a second of one large matrix product, the best of ten."""
    x = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    return 2 * 2048**3 / min(seconds(lambda: x @ x) for _ in range(10))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(
    ours: PoseEncoder, dense: Dense, parts: Parts, lengths: list[int], rounds: int
) -> list[tuple[float, float]]:
    """Median seconds and peak gigabytes (0 on a CPU) of dense and ours, in turns, so that both meet a busy machine."""
    padded = {part: nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True) for part, x in parts.items()}
    sides: tuple[Callable[[], Tensor], ...] = (
        lambda: dense.pose_features(padded),
        lambda: ours.pose_features(parts, lengths),
    )
    times: list[list[float]] = [[], []]
    memory = [0.0, 0.0]
    for turn in range(rounds + 1):
        for side, features in enumerate(sides):
            if parts["body"].is_cuda:
                torch.cuda.reset_peak_memory_stats()
            taken = seconds(lambda: one_step(features, ours.training))  # noqa: B023 - called at once
            if turn:
                times[side].append(taken)
            memory[side] = torch.cuda.max_memory_allocated() / 1e9 if parts["body"].is_cuda else 0.0
    return [(statistics.median(taken), most) for taken, most in zip(times, memory, strict=True)]


def one_step(features: Callable[[], Tensor], training: bool) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.set_grad_enabled(training):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            result = features()
        if training:
            result.float().sum().backward()


def check_equal(ours: PoseEncoder, dense: Dense, parts: Parts, lengths: list[int]) -> None:
    """AssertionError where features or gradients of one step differ by more than rounding, and ReLU's answer to it."""
    target = torch.randn(sum(lengths), D_MODEL)
    features = ours.pose_features(parts, lengths)
    (features * target).sum().backward()
    same = dense.pose_features({part: torch.stack(x.split(lengths)) for part, x in parts.items()}).flatten(0, 1)
    (same * target).sum().backward()
    torch.testing.assert_close(features, same, atol=1e-4, rtol=1e-4)
    pairs = zip(ours.parameters(), dense.parameters(), strict=True)
    gradients = [(mine.grad, theirs.grad) for mine, theirs in pairs]
    mine, theirs = (torch.cat([g.flatten() for g in side if g is not None]) for side in zip(*gradients, strict=True))
    assert float((mine - theirs).norm()) < 0.01 * float(theirs.norm())
    ours.zero_grad()
    dense.zero_grad()


if __name__ == "__main__":
    main()
