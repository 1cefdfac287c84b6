"""What stages share that have a training part and a held-out one, whose loss picks the best checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from accelerate.utils import gather_object

from uni_sign.data.keypoint_items import stacked
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.stages.base import Batch, BestFile, Datasets, Evaluation, Finding, to_device


class HeldOutLoss(ABC):
    """See `uni_sign.stages.base.Stage` for when each method is called."""

    Config: ClassVar[type]
    name: ClassVar[str]
    best_file: ClassVar[BestFile]
    defaults: ClassVar[Mapping[str, Any]]

    def __init__(self, config: Any, seed: int) -> None:
        self.config, self.seed, self.notes = config, seed, list[str]()

    @property
    def monitor(self) -> str:
        """The loss of the held-out part."""
        return "val/loss"

    @property
    def higher_is_better(self) -> bool:
        """It is a loss."""
        return False

    @property
    def vocabulary(self) -> str:
        """None to trim."""
        return ""

    @property
    def frozen_inputs(self) -> str:
        """The items are what the model reads."""
        return ""

    @property
    @abstractmethod
    def splits(self) -> dict[str, Any]:
        """The parts ``train`` and ``val``."""

    @abstractmethod
    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""

    def examine(self) -> list[Finding]:
        """What `check` reads."""
        try:
            self.check()
        except InputError as error:
            return [Finding("fail", "files", str(error), "mend or replace what is named")]
        return [Finding("pass", "files", self.counted())]

    def counted(self) -> str:
        """The items of each part, for a person."""
        return ", ".join(f"{len(split)} {name}" for name, split in self.splits.items())

    def largest_batch(self, items: int, frames: int) -> Batch:  # noqa: ARG002 - they differ in little
        """The largest items of the training part."""
        train = self.splits["train"]
        largest = np.argsort(-np.array(train.sizes), kind="stable")[:items]
        return self.collate([train[Key(0, int(index))] for index in largest])

    def prepare(self, accelerator: Any) -> None:  # noqa: B027 - most have nothing to do
        """Nothing to be done."""

    def frame_counts(self, accelerator: Any) -> Mapping[str, Sequence[int]]:  # noqa: ARG002 - nothing to agree on
        """The sizes of the items."""
        return {name: split.sizes for name, split in self.splits.items()}

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """Items to a batch."""
        return stacked(items)

    def build_datasets(self) -> Datasets:
        """The training part and the held-out one."""
        return Datasets(splits=self.splits, collate=self.collate, make_key=Key, notes=self.notes)

    def count_targets(self, batch: Batch) -> int:
        """Items that count."""
        return sum(index >= 0 for index in batch["indices"])

    @abstractmethod
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """One row a counted item: index, name, and what `scored` needs."""

    def evaluate(self, model: Any, loader: Iterable[Batch], accelerator: Any) -> Evaluation:
        """Predict this rank's share, gather all ranks' rows, then score them alike everywhere."""
        mine = [row for batch in loader for row in self.predict(model, to_device(batch, accelerator.device))]
        everyone = {row["index"]: row for row in gather_object(mine)}
        return self.scored([everyone[index] for index in sorted(everyone)])

    @abstractmethod
    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Scores of all rows, which are in the order of the split."""

    def plain_flags(self) -> dict[str, Any]:
        """The stage's flags as they go into a best file."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self.config).items()}


def on_any_rank(mine: bool) -> bool:
    """Collective: whether it is true on any rank.

    A model is asked on all ranks or on none: under ZeRO-3 its weights come together from all of them, and one that
    asks alone waits for ever.
    """
    return any(gather_object([mine]))
