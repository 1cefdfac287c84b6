"""A campaign against one reader, run in a process of its own because a case may end it."""

from __future__ import annotations

import random
import re
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from guard import Guard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from mutations import mutated, pickle_mutated
from reader import Reader, prepare
from readers import READERS


class _Case:
    """Writes, reads and judges one file after another, and stops at the first that is wrong."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self._reader, self._path = reader, folder / reader.file
        self._guard = Guard(folder / "witness")
        self.count = 0

    def __call__(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(content)
        problem = self._guard.case(self._reader.read, self._path, self._reader.named or re.escape(self._path.name))
        self.count += 1
        if problem:
            raise SystemExit(problem)


def campaign(name: str, cases: int, seed: int, folder: Path) -> None:
    """All attacks by hand, then a quarter files made up, which take longest, and mutations: `cases` in all at least.

    Fails at the first wrong case, whose file then lies in `folder`, beside `report`, which says what was wrong.
    """
    folder.mkdir()
    report = folder / "report"
    try:
        report.write_text(f"{_run(name, cases, seed, folder)} cases")
    except BaseException:
        report.write_text(traceback.format_exc())
        raise


def _run(name: str, cases: int, seed: int, folder: Path) -> int:
    warnings.simplefilter("ignore")  # thousands of them, about numbers that overflow
    prepare(folder)
    reader = READERS[name](folder)
    case = _Case(reader, folder)
    _read_valid(reader, folder)
    for attack in reader.attacks:
        case(attack)
    _made_up(reader, case, max(0, cases - case.count) // 4, seed)
    rng = random.Random(seed)
    while case.count < cases:
        seed_file = rng.choice(reader.seeds)
        content = pickle_mutated(seed_file.content, rng) if reader.pickled and rng.random() < 0.4 else seed_file.content
        if content == seed_file.content:
            content = mutated(content, [other.content for other in reader.seeds], reader.words, rng)
        case(seed_file.packed(content))
    return case.count


def _read_valid(reader: Reader, folder: Path) -> None:
    """What the mutations start from is valid; and what the readers import on demand is imported."""
    for valid in reader.seeds:
        (folder / reader.file).write_bytes(valid.packed(valid.content))
        reader.read(folder / reader.file)


def _made_up(reader: Reader, case: Callable[[bytes], None], examples: int, seed: int) -> None:
    if examples == 0:
        return

    @seeded(seed)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(reader.made_up)
    def run(content: bytes) -> None:
        case(content)

    run()
