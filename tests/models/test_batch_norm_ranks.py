"""Two ranks with half a batch each give the gradients of one rank with the whole batch."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from uni_sign.models.batch_norm import BatchNormMode, set_batch_norm_mode
from uni_sign.models.pose_encoder import GRAPHS, PoseEncoder

LENGTHS = [11, 7, 9, 5]
FIRST_HALF = sum(LENGTHS[:2])


def _inputs() -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = sum(LENGTHS)
    parts = {part: torch.randn(frames, v, 3, generator=generator) for part, (v, _) in GRAPHS.items()}
    return parts, torch.randn(frames, 24, generator=generator)


def _gradients(
    part: slice, lengths: list[int], mode: BatchNormMode, counted: bool = True, recomputes: bool = False
) -> tuple[dict[str, Tensor], PoseEncoder]:
    torch.manual_seed(0)
    encoder = PoseEncoder(24, hidden_dim=16).train()
    set_batch_norm_mode(encoder, mode)
    encoder.gradient_checkpointing = recomputes
    parts, target = _inputs()
    features = encoder.pose_features({k: x[part] for k, x in parts.items()}, lengths, counted)
    (features * target[part] * counted).sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}, encoder


def _rank(rank: int, port: int, folder: str, mode: BatchNormMode, filler: bool) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if filler:
        part, lengths = (slice(None), LENGTHS) if rank == 0 else (slice(FIRST_HALF), LENGTHS[:2])
    else:
        part, lengths = (slice(FIRST_HALF), LENGTHS[:2]) if rank == 0 else (slice(FIRST_HALF, None), LENGTHS[2:])
    counted = not (filler and rank == 1)
    gradients, encoder = _gradients(part, lengths, mode, counted)
    _recomputation_is_the_same(gradients, encoder, _gradients(part, lengths, mode, counted, recomputes=True))
    for grad in gradients.values():
        dist.all_reduce(grad)
    if rank == 0:
        torch.save({"gradients": gradients, "state": encoder.state_dict()}, Path(folder) / "rank0.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Not by way of the interpreter's end, where a thread of gloo's that still lives now and then aborts the process.
    os._exit(0)


def _recomputation_is_the_same(
    gradients: dict[str, Tensor], encoder: PoseEncoder, again: tuple[dict[str, Tensor], PoseEncoder]
) -> None:
    """On every rank: with other exchanges, or in another order, the ranks would get other numbers or hang."""
    assert all(torch.equal(grad, again[0][name]) for name, grad in gradients.items())
    assert all(torch.equal(value, again[1].state_dict()[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(("mode", "filler"), [("sync", False), ("pooled", False), ("sync", True)])
def test_split_over_ranks_equals_one_rank(mode: BatchNormMode, filler: bool, tmp_path: Path) -> None:
    """A rank whose clips only fill a place changes nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (port, str(tmp_path), mode, filler), nprocs=2)
    split = torch.load(tmp_path / "rank0.pt", weights_only=True)
    whole, encoder = _gradients(slice(None), LENGTHS, mode)
    for name, grad in whole.items():
        torch.testing.assert_close(split["gradients"][name], grad, atol=1e-3, rtol=1e-3, msg=name)
    for name, value in encoder.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(split["state"][name], value, atol=1e-5, rtol=1e-5, msg=name)
