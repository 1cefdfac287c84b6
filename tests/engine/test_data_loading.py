"""Data-loading processes ignore the signal that ends children at exit; a run must end all the same."""

import multiprocessing
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from uni_sign.engine.data_loading import _settle_in, end_data_loading


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        return index


def loader_in_use() -> DataLoader[int]:
    loader = DataLoader(Numbers(), num_workers=2, persistent_workers=True, worker_init_fn=_settle_in)
    next(iter(loader))
    return loader


def test_the_processes_end_in_the_middle_of_an_epoch() -> None:
    loader = loader_in_use()
    assert len(multiprocessing.active_children()) == 2
    end_data_loading(loader)
    assert not multiprocessing.active_children()
    assert len(list(loader)) == 100
    end_data_loading(loader)
    end_data_loading(DataLoader(Numbers(), num_workers=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)"])
def test_the_interpreter_ends_with_a_loader_still_there(ending: str) -> None:
    """As after an error whose traceback still holds it."""
    words = f"import gc; gc.disable(); from test_data_loading import *; a = [loader_in_use()]; a.append(a); {ending}"
    status = subprocess.run([sys.executable, "-c", words], cwd=__file__.rsplit("/", 1)[0], timeout=100).returncode
    assert status == (3 if ending else 0)
