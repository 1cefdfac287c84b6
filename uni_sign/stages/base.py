"""What a stage is: everything the loop does not know."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from uni_sign.errors import InputError

Batch = dict[str, Any]


class SplitDataset(Protocol):
    """Items by key, and how long they are."""

    @property
    def sizes(self) -> Sequence[int]:
        """A number per item that grows with its length and costs no reading, such as the bytes of its file.

        It only orders items: alike in size, they share a batch. A budget of frames needs `Stage.frame_counts`.
        """
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any: ...


class ReadAhead(Protocol):
    """Told what is read next, it has that at hand in time."""

    def follow(self, steps: Sequence[np.ndarray], first: int) -> None:
        """An epoch begins at its step ``first``: the items that this process reads in each step still to come."""
        ...

    def reach(self, step: int) -> None:
        """All steps before this one are done."""
        ...


@dataclass(frozen=True)
class Nearby:
    """Training items that come in files, not all of which can be at hand: items of few files are read together.

    ``file_of``: the file of each item (n,); ``mixed``: how many files are shuffled with one another.
    """

    file_of: np.ndarray
    mixed: int
    read_ahead: ReadAhead


@dataclass(frozen=True)
class Mixture:
    """Training items of several corpora, shown by weight.

    ``corpus_of``: the corpus of each item (n,), from 0; ``weights``: of each corpus, above 0.
    """

    corpus_of: np.ndarray
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Datasets:
    """Splits by name (``train`` and the held-out ones), collate, and the sampler's (epoch, index, counted) -> key.

    ``problems`` name what was left out before training; ``notes`` are said at start; ``nearby``: where training items
    are not all at hand; ``mixture``: where an epoch shows some of them more often than others.
    """

    splits: dict[str, SplitDataset]
    collate: Callable[[Sequence[Any]], Batch]
    make_key: Callable[[int, int, bool], Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nearby: Nearby | None = None
    mixture: Mixture | None = None


@dataclass(frozen=True)
class BestFile:
    """How the best weights lie in the output folder: the file's name, and the keys in it.

    ``optimizer``: the key of the optimizer's state, which ZeRO's shards never join; empty: it is left out. ``part``:
    weights are those of this child of the model alone; empty: all.
    """

    name: str = "best_checkpoint.pth"
    weights: str = "model"
    optimizer: str = ""
    part: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of the pre-training checklist; ``remedy`` says what to do unless it passes."""

    level: Literal["pass", "warn", "fail"]
    subject: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What a held-out split gave: scores by name, a row per clip, and what is worth drawing.

    By name, ``grids`` are rows of grey pictures, (label, (N, H, W) uint8), and ``matrices`` what clips are to one
    another, (labels, (N, N) in [-1, 1]).
    """

    scores: dict[str, float]
    rows: list[dict[str, Any]]
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    heat_maps: dict[str, list[tuple[str, np.ndarray]]] = field(default_factory=dict)
    grids: dict[str, list[tuple[str, np.ndarray]]] = field(default_factory=dict)
    matrices: dict[str, tuple[list[str], np.ndarray]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Stage(Protocol):
    """One kind of training. The loop calls these, in this order, on every rank alike.

    A batch is a dict of tensors and lists; ``problems`` in it are sentences about items that could not be read.
    """

    Config: ClassVar[type]
    name: ClassVar[str]
    best_file: ClassVar[BestFile]
    defaults: ClassVar[Mapping[str, Any]]
    """Flags of the loop whose defaults are this stage's own."""

    def __init__(self, config: Any, seed: int) -> None: ...

    @property
    def monitor(self) -> str:
        """The score that picks the best checkpoint, e.g. ``dev/bleu4``."""
        ...

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def vocabulary(self) -> str:
        """What a trimmed vocabulary keeps, in a few words; a run resumes only where it is the same. Empty: all."""
        ...

    @property
    def frozen_inputs(self) -> str:
        """A digest of what frozen models make of the items, where they do; a run resumes only where it is the same."""
        ...

    def check(self) -> None:
        """Read every input that can be known to be wrong, before any process group starts; raises InputError."""
        ...

    def examine(self) -> list[Finding]:
        """What `uni-sign doctor` says of this stage's files: every fault, not the first alone."""
        ...

    def meta_model(self) -> nn.Module:
        """What `build_model` gives, on the meta device; raises InputError where its configuration is missing."""
        ...

    def largest_batch(self, items: int, frames: int) -> Batch:
        """A batch of the training split that takes the most memory, of so many items and frames (0: any number).

        Raises InputError where files are missing.
        """
        ...

    def prepare(self, accelerator: Any) -> None:
        """Collective work before anything is built, e.g. features of a frozen encoder."""
        ...

    def frame_counts(self, accelerator: Any) -> Mapping[str, Sequence[int]]:
        """Collective, with ``--frames_per_batch`` alone: by split, the frames that each item has in a batch.

        Frames are what the model's cost grows with: the steps of an item's sequence, counted after cutting.
        """
        ...

    def build_datasets(self) -> Datasets: ...

    def build_model(self) -> nn.Module:
        """With its starting weights; ``gradient_checkpointing_enable()`` of it is for ``--gradient_checkpointing``."""
        ...

    def hot_modules(self, model: Any) -> list[nn.Module]:
        """Modules of the model that gain by ``--compile``."""
        ...

    def count_targets(self, batch: Batch) -> int:
        """How many targets the batch's summed loss is over."""
        ...

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss *summed* over the batch's targets (the loop divides by those of the global batch), and logs."""
        ...

    def evaluate(self, model: Any, loader: Iterable[Batch], accelerator: Any) -> Evaluation:
        """Collective: every rank calls it with its share, every rank gets the same scores."""
        ...

    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]: ...

    def checkpoint_extras(self) -> dict[str, Any]:
        """What lies beside the weights in the best checkpoint, plain values and tensors only."""
        ...


def stage_names() -> list[str]:
    """The stages there are: one module each beside this one; those with an underscore are shared helpers."""
    package = importlib.import_module("uni_sign.stages")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in names if name != "base" and not name.startswith("_"))


def load_stage(name: str) -> Any:
    """The class of a stage by name; only its own module is imported."""
    plain = name.replace("-", "_")
    if plain not in stage_names():
        raise InputError(f"Unknown stage {name}: use one of {', '.join(stage_names())}.")
    return importlib.import_module(f"uni_sign.stages.{plain}").STAGE


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors of a batch, at any depth of dicts and lists, on ``device``; dtypes stay as they are."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return [to_device(item, device) for item in value]
    return value
