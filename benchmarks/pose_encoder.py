"""How long the pose encoder takes, forward and backward: dense and padded, and ours.

The straightforward side is written below as research code writes it: clips padded to the longest, maps (B, C, T, V),
a 1x1 convolution to both hops, einsum with the adjacency, nn.BatchNorm2d, ReLU, a (5, 1) convolution, each in turn.
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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uni_sign.models.pose_encoder import ANCHORS, GRAPHS, PoseEncoder, adjacency

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
    dense = Dense(ours).to(device).train()
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
    frames = torch.tensor(lengths, device=parts["body"].device)
    sides: tuple[Callable[[], Tensor], ...] = (lambda: dense(padded), lambda: ours.pose_features(parts, frames))
    times: list[list[float]] = [[], []]
    memory = [0.0, 0.0]
    for turn in range(rounds + 1):
        for side, features in enumerate(sides):
            if frames.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            taken = seconds(lambda: one_step(features, ours.training))  # noqa: B023 - called at once
            if turn:
                times[side].append(taken)
            memory[side] = torch.cuda.max_memory_allocated() / 1e9 if frames.is_cuda else 0.0
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
    features = ours.pose_features(parts, torch.tensor(lengths))
    (features * target).sum().backward()
    same = dense({part: torch.stack(x.split(lengths)) for part, x in parts.items()}).flatten(0, 1)
    (same * target).sum().backward()
    torch.testing.assert_close(features, same, atol=1e-4, rtol=1e-4)
    gradients = [(mine.grad, theirs.grad) for mine, theirs in dense.pairs]
    mine, theirs = (torch.cat([g.flatten() for g in side if g is not None]) for side in zip(*gradients, strict=True))
    assert float((mine - theirs).norm()) < 0.01 * float(theirs.norm())
    ours.zero_grad()
    dense.zero_grad()


# --- dense and padded --------------------------------------------------------------------------------------


class DenseLayer(nn.Module):
    """One layer of one part, on (B, C, T, V)."""

    def __init__(self, a: int, b: int, graph: Tensor, temporal: bool) -> None:
        super().__init__()
        self.A = nn.Parameter(graph.clone())
        self.conv, self.bn = nn.Conv2d(a, 2 * b, 1), nn.BatchNorm2d(b)
        self.tcn = nn.Sequential(nn.Conv2d(b, b, (5, 1), padding=(2, 0)), nn.BatchNorm2d(b)) if temporal else None
        self.residual = nn.Identity() if a == b else nn.Sequential(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        hops = self.conv(x)
        maps = hops.view(len(x), 2, -1, *hops.shape[2:])
        hidden = torch.relu(self.bn(torch.einsum("nkctv,kvw->nctw", maps, self.A).contiguous()))
        if self.tcn is not None:
            hidden = self.tcn(hidden)
        return torch.relu(hidden + self.residual(x))


class Dense(nn.Module):
    """The encoder part by part, with the weights of ``ours``; ``pairs``: the parameters of both."""

    def __init__(self, ours: PoseEncoder) -> None:
        super().__init__()
        width = len(ours.part_para) // 4
        spatial = [(width // 4, width // 4), (width // 4, width // 2), (width // 2, width)]
        self.linear, self.spatial, self.temporal = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for part in ("body", "right", "face_all"):
            graph = adjacency(part)
            self.linear[part] = nn.Linear(3, width // 4)
            self.spatial[part] = nn.Sequential(*(DenseLayer(a, b, graph, False) for a, b in spatial))
            self.temporal[part] = nn.Sequential(*(DenseLayer(width, width, graph, True) for _ in range(3)))
        self.part_para = nn.Parameter(torch.zeros(4 * width))
        self.projection = nn.Linear(4 * width, D_MODEL)
        self.pairs = self._taken_over(ours)

    def _taken_over(self, ours: PoseEncoder) -> list[tuple[Tensor, Tensor]]:
        modules: list[tuple[Any, Any]] = [(ours.pose_proj, self.projection)]
        pairs: list[tuple[Tensor, Tensor]] = [(ours.part_para, self.part_para)]
        for part in self.linear:
            modules.append((ours.proj_linear[part], self.linear[part]))
            sides: list[tuple[Any, Any]] = [(ours.gcn_modules, self.spatial), (ours.fusion_gcn_modules, self.temporal)]
            for mine, theirs in sides:
                for block, layer in zip(mine[part].values(), theirs[part], strict=True):
                    pairs.append((block.gcn.A, layer.A))
                    modules += [(block.gcn.conv, layer.conv), (block.gcn.bn, layer.bn)]
                    modules += [(block.tcn, layer.tcn)] if block.temporal else []
                    modules += [(block.residual, layer.residual)] if block.projected else []
        for source, copy in modules:
            copy.load_state_dict(source.state_dict())
            pairs += zip(source.parameters(), copy.parameters(), strict=True)
        return pairs

    def forward(self, parts: Parts) -> Tensor:
        """(B, T, V, 3) of each part -> (B, T, d_model)."""
        pooled = []
        for part in GRAPHS:
            own = "right" if part == "left" else part
            x = self.spatial[own](self.linear[own](parts[part]).permute(0, 3, 1, 2))
            if part == "body":
                body = x
            else:
                x = x + body[..., ANCHORS[part], None].detach()
            pooled.append(self.temporal[own](x).mean(-1).transpose(1, 2))
        return self.projection(torch.cat(pooled, -1) + self.part_para)


if __name__ == "__main__":
    main()
