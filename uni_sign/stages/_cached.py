"""What frozen models make of clips or texts once, and keep on disk: its flags, and how it is filled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm import tqdm

from uni_sign.config import flag
from uni_sign.data.feature_cache import Cached, FeatureCache, digest_of, told
from uni_sign.errors import Done, InputError, is_out_of_memory

_UNSHARED = "--cache_dir must be the same folder for all processes: give one that all machines share."
_BETWEEN_MEETINGS = 4  # times that a rank extracts
Extractor = Callable[[Sequence[Any]], list[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class CacheConfig:
    """The flags of the cache."""

    cache_dir: str = flag("", "folder of what is made of each clip or text once; default: .cache under --data_root")
    force_preprocess: bool = flag(False, "make it anew for all of them")
    clear_cache_first: bool = flag(False, "delete first what other settings left in that folder, too")
    train_only: bool = flag(False, "make it for the training clips, and stop")
    test_only: bool = flag(False, "make it for the held-out clips, and stop")
    check_status: bool = flag(False, "say how much of it is there, and stop")

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.train_only and self.test_only:
            return "--train_only and --test_only exclude each other: give one of them"
        return None


def status(cache: FeatureCache, parts: Mapping[str, Sequence[Cached]]) -> Done:
    """What ``--check_status`` says."""
    return Done("\n".join(f"{name}: {cache.status(items)}" for name, items in parts.items()))


def fill_cache(
    stage: Any, parts: Mapping[str, Sequence[Cached]], accelerator: Any, what: str, at_once: int = 1
) -> list[str]:
    """Collective: what is kept of the items of ``train`` and ``val``, each rank a share of what is missing.

    A second run goes on. The stage's ``extractor`` makes the arrays of up to ``at_once`` items, and raises InputError
    where they cannot be read: the sentences come back. Raises Done after ``--train_only`` or ``--test_only``.
    """
    config, cache = stage.config, stage.cache
    if config.clear_cache_first and accelerator.is_main_process:
        cache.clear()
    accelerator.wait_for_everyone()
    wanted = [name for name, left_out in (("train", config.test_only), ("val", config.train_only)) if not left_out]
    items = list(dict.fromkeys(item for name in wanted for item in parts[name]))
    missing = items if config.force_preprocess else cache.missing(items)
    if torn := [] if config.force_preprocess else cache.torn(missing):
        stage.notes.append(f"{cache.folder}: {len(torn)} torn files are made anew, the first of {told(torn[0])}.")
    # Before any rank adds to the cache, so that all of them share out the same.
    _check_shared(missing, accelerator)
    problems = _make_together(stage, missing, accelerator, what, at_once)
    if config.train_only or config.test_only:
        raise Done("\n".join([*problems, f"{', '.join(wanted)}: {cache.status(items)}"]))
    if len(cache.missing(items)) > len(problems):
        raise InputError(_UNSHARED)
    return problems


def _check_shared(missing: Sequence[Cached], accelerator: Any) -> None:
    """Collective: raises InputError where another rank misses others."""
    if accelerator.num_processes > 1:
        digest = digest_of({"missing": [told(item) for item in missing]})
        if len(set(gather_object([digest]))) > 1:
            raise InputError(_UNSHARED)


def _make_together(stage: Any, missing: Sequence[Cached], accelerator: Any, what: str, at_once: int) -> list[str]:
    """Collective: make and keep what is missing; returns a sentence for each item that cannot be made.

    The ranks meet after every few items: one that waited until all others are through would give them up for lost.
    """
    ranks, problems, failures = accelerator.num_processes, list[str](), list[str]()
    maker = _Maker(stage, accelerator.device, at_once)
    with tqdm(total=len(missing), desc=what, disable=not accelerator.is_main_process) as bar:
        for first in range(0, len(missing), ranks * at_once * _BETWEEN_MEETINGS):
            now = missing[first : first + ranks * at_once * _BETWEEN_MEETINGS]
            try:
                problems += maker.make(now[accelerator.process_index :: ranks])
            except InputError as error:
                failures.append(str(error))
            # Gathered, not waited for: what another rank stored is there when this one goes on. And all stop together:
            # a rank that stopped alone would keep the others waiting.
            failures = gather_object(failures) if ranks > 1 else failures
            if failures:
                raise InputError(failures[0])
            bar.update(len(now))
    return sorted(gather_object(problems)) if ranks > 1 else problems


class _Maker:
    """One rank's frozen models at work, once there is something to do."""

    def __init__(self, stage: Any, device: torch.device, at_once: int) -> None:
        self._stage, self._device, self._at_once = stage, device, at_once
        self._extract: Extractor | None = None

    def make(self, items: Sequence[Cached]) -> list[str]:
        """Make and keep these; returns a sentence for each that cannot be made."""
        problems = []
        for first in range(0, len(items), self._at_once):
            chosen = items[first : first + self._at_once]
            self._extract = self._extract or self._stage.extractor(self._device)
            try:
                made = self._read(chosen)
            except InputError as error:
                # One that cannot be made must not take the others with it.
                problems += [str(error)] if len(chosen) == 1 else self._one_by_one(chosen)
                continue
            for item, arrays in zip(chosen, made, strict=True):
                self._stage.cache.store(item, arrays)
        return problems

    def _one_by_one(self, items: Sequence[Cached]) -> list[str]:
        return [problem for item in items for problem in self.make([item])]

    def _read(self, chosen: Sequence[Cached]) -> list[dict[str, np.ndarray]]:
        assert self._extract is not None
        try:
            made = self._extract(chosen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(f"{told(chosen[0])} does not fit into memory: make it shorter, or leave it out.") from None
        for item, arrays in zip(chosen, made, strict=True):
            self._stage.cache.path(item)  # whose files must be there to be known again
            if not all(np.isfinite(value).all() for value in arrays.values()):
                raise InputError(f"What is made of {told(item)} is not finite: look at it, and at the frozen models.")
        return made
