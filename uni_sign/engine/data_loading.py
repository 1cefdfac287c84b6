"""The processes that read batches: how they begin, and how they end."""

import atexit
import gc
import multiprocessing
import signal
from typing import Any

import torch
from torch.utils.data import DataLoader

from uni_sign.config import TrainConfig
from uni_sign.engine.transfer import InOnePiece
from uni_sign.stages.base import Datasets


def make_loader(
    config: TrainConfig, dataset: Any, datasets: Datasets, sampler: Any, persistent: bool
) -> DataLoader[Any]:
    """Batches of a split, read by ``--num_workers`` processes."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=InOnePiece(datasets.collate),
        num_workers=config.num_workers,
        pin_memory=config.pin_mem and torch.cuda.is_available(),
        persistent_workers=persistent and config.num_workers > 0,
        worker_init_fn=_settle_in,
        # Its own generator: starting to iterate must not advance the random state that dropout draws from.
        generator=torch.Generator().manual_seed(config.seed),
    )


def _settle_in(_: int) -> None:
    """What a data-loading process does first."""
    # The collector would write to every object of the run, and so copy the memory that is shared since the fork.
    gc.freeze()
    # A signal to the whole process group must not take the batches away that the last step still needs.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def end_data_loading(loader: DataLoader[Any]) -> None:
    """End the processes of a loader with persistent ones, which stand ready for the rest of the epoch, too."""
    iterator, loader._iterator = loader._iterator, None
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


@atexit.register
def _kill_what_is_left() -> None:
    """Python ends its children at exit by the very signal that they ignore, and then waits for them."""
    for process in multiprocessing.active_children():
        process.kill()
