"""What all tests share: golden data, a small Demo corpus, and hypothesis without a clock."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(GOLDEN))

settings.register_profile("no_clock", deadline=None)
settings.load_profile("no_clock")
# Tests neither phone home nor depend on the machine's own W&B set-up, and leave cores for each other.
os.environ["WANDB_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run where there is one; real runs come first.

    Files are dealt to workers in this order, and the short ones fill what is left at the end.
    """
    items.sort(key=lambda item: not {"faults", "end_to_end"} & set(item.path.parts))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """What a command run within this process sets for its launcher must not reach the runs of other tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Golden data by file name: JSON or npz."""

    def read(name: str) -> Any:
        path = GOLDEN / name
        return json.loads(path.read_text()) if path.suffix == ".json" else np.load(path)

    return read


@pytest.fixture(scope="session")
def golden_weights(golden: Callable[[str], Any]) -> Callable[[str, str | None], dict[str, torch.Tensor]]:
    """The state dict of a golden recipe."""
    import weights_recipe

    def build(recipe: str, small: str | None = None) -> dict[str, torch.Tensor]:
        arrays = weights_recipe.build(golden(recipe), golden(small) if small else None)
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}

    return build


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Demo corpus: 12 training sentences, 4 dev, 5 test, and a few single signs."""
    from uni_sign.data.demo import generate

    root = tmp_path_factory.mktemp("demo")
    generate(root, train=12, dev=4, test=5, isolated_per_sign=3, progress=False)
    return root
