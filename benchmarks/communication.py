"""What ZeRO-2 sends in a step, and how well it should scale: a model, from what one process's step is measured to do.

Measured, without weights, on tensors without data: parameters, and the floating-point operations of a step of mT5-base
with trainable text encoder (`--trim_vocab` to 20,480 pieces) on clips of 128 frames. Measured by counting calls: the
exchanges of batch statistics. Assumed, and printed: the share of a GPU's peak that is reached, link speeds, latencies.

Per GPU and step ZeRO-2 reduce-scatters the gradients and gathers the updated weights: 2 (N - 1) / N x 2 bytes a
parameter in bf16. DeepSpeed overlaps the reduction with the backward pass (`overlap_comm`), not the gathering.
Run: `python benchmarks/communication.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from workload import PEAK_TFLOPS, Loss, Size, draw_clips, mt5_config, packed_batch

from uni_sign.engine.memory import without_data
from uni_sign.models.uni_sign import UniSign

GPUS = (8, 64, 512)
PER_NODE = 8
NVLINK, NETWORK = 450e9, 50e9  # bytes a second and direction: NVLink 4 of a GPU; one 400 Gb/s adapter a GPU
# Seconds of one small exchange: within a node, and what each doubling of the nodes adds.
LATENCY, LATENCY_PER_DOUBLING = 25e-6, 15e-6
AGREEMENTS = 3  # small sums a step: targets and stop flags, loss, gradient norm
BACKWARD_SHARE = 2 / 3  # of a step's computation, during which gradients travel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16, help="clips a GPU and step (default: 16)")
    parser.add_argument("--frames", type=int, default=128, help="frames a clip (default: 128)")
    parser.add_argument("--reached", type=float, default=0.3, help="assumed share of the peak (default: 0.3)")
    known = parser.parse_args()
    parameters, flops, exchanges = measured(Size(batch=known.clips, batches=1, frames=known.frames))
    compute = flops / (known.reached * PEAK_TFLOPS["H100"] * 1e12)
    print(
        f"{parameters / 1e6:.0f} M parameters; {flops / 1e12:.1f} TFLOP a step of {known.clips} clips x {known.frames} "
        f"frames; {exchanges} exchanges of batch statistics.\nAssumed: {known.reached:.0%} of 989 TFLOP/s, so "
        f"{compute * 1e3:.0f} ms of computation; {NVLINK / 1e9:.0f} GB/s within a node of {PER_NODE}, "
        f"{NETWORK / 1e9:.0f} GB/s a GPU between nodes.\n"
    )
    print("| GPUs | GB sent a GPU and step | reduce, ms | gather, ms | small exchanges, ms | step, ms | efficiency |")
    print("|---|---|---|---|---|---|---|")
    for gpus in GPUS:
        print(row(gpus, parameters, compute, exchanges + AGREEMENTS))


def row(gpus: int, parameters: int, compute: float, exchanges: int) -> str:
    """One line of the table: efficiency is a GPU's own computation over the step."""
    sent = 2 * parameters * (gpus - 1) / gpus
    one_way = sent / (NVLINK if gpus <= PER_NODE else NETWORK)
    doublings = max(0, (gpus // PER_NODE).bit_length() - 1)
    small = exchanges * (LATENCY + LATENCY_PER_DOUBLING * doublings)
    exposed = max(0.0, one_way - BACKWARD_SHARE * compute) + one_way + small
    step = compute + exposed
    return (
        f"| {gpus} | {2 * sent / 1e9:.2f} | {one_way * 1e3:.1f} | {one_way * 1e3:.1f} | {small * 1e3:.1f} | "
        f"{step * 1e3:.0f} | {compute / step:.0%} |"
    )


def measured(size: Size) -> tuple[int, int, int]:
    """Parameters, operations and exchanges of batch statistics of one step, without weights or data."""
    config = mt5_config(size, size.kept)
    batch = packed_batch(draw_clips(size, "equal", size.kept), size, "ids")
    with torch.device("meta"):
        loss = Loss(UniSign(config, size.hidden_dim, fusion=True, text_encoder_config=config).train())
    parameters = sum(parameter.numel() for parameter in loss.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True):
        without_data(loss, "cpu")  # `meta` itself knows no autocast
        with FlopCounterMode(display=False) as counter, counted_exchanges() as calls:
            loss(batch).backward()
    return parameters, counter.get_total_flops(), len(calls)


@contextmanager
def counted_exchanges() -> Iterator[list[str]]:
    """What two ranks would exchange, said and not sent."""
    calls: list[str] = []
    with (
        patch.object(dist, "is_initialized", lambda: True),
        patch.object(dist, "get_world_size", lambda: 2),
        patch.object(dist, "all_gather", lambda *_: calls.append("all_gather")),
        patch.object(dist, "all_reduce", lambda *_: calls.append("all_reduce")),
    ):
        yield calls


if __name__ == "__main__":
    main()
