"""Several corpora as one: `--dataset CSL_News:0.7,CSL_Daily:0.3`, by weight, or `CSL_News,CSL_Daily`, clip by clip."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uni_sign.data.corpora import Corpus, load_corpus
from uni_sign.data.samples import Samples
from uni_sign.data.splits import Split, read_split
from uni_sign.errors import InputError


def load_corpora(given: str, data_root: Path) -> tuple[list[Corpus], tuple[float, ...]]:
    """The corpora of a ``--dataset``, and their weights: none where every clip counts once.

    Raises InputError where a corpus is unknown, named twice, or has a weight that is not a number above 0, or where
    only some have one.
    """
    names, weights = zip(*(_named(piece.strip()) for piece in given.split(",")), strict=True)
    corpora = [load_corpus(name, data_root) for name in names]
    own = [corpus.name for corpus in corpora]
    if len(set(own)) < len(own):
        twice = next(name for name in own if own.count(name) > 1)
        raise InputError(f"--dataset {given}: {twice} is there twice; name each corpus once.")
    told = [weight for weight in weights if weight is not None]
    if told and len(told) < len(weights):
        raise InputError(f"--dataset {given}: give each corpus a weight, as in A:0.7,B:0.3, or none of them.")
    return corpora, tuple(told) if len(corpora) > 1 else ()


def _named(piece: str) -> tuple[str, float | None]:
    name, colon, number = piece.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return piece, None
    if not colon:  # a corpus whose name is a number
        return piece, None
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f"--dataset {piece}: a weight must be a number above 0.")
    return name, weight


def read_mixed_split(corpora: Sequence[Corpus], task: str, split: str, videos: bool) -> Split:
    """The clips of a split, corpus by corpus; see `read_split`."""
    if len(corpora) == 1:
        return read_split(corpora[0], task, split, videos)
    parts = [read_split(corpus, task, split, videos) for corpus in corpora]
    return Split(
        Samples.joined([part.samples for part in parts]), [problem for part in parts for problem in part.problems]
    )


def corpus_numbers(corpora: Sequence[Corpus], samples: Samples) -> np.ndarray:
    """Which of the corpora each clip is of, (n,)."""
    numbers = {corpus.name: number for number, corpus in enumerate(corpora)}
    of_codes = np.array([numbers[name] for name in samples.corpora.distinct], np.int64)
    return of_codes[samples.corpora.codes]
