"""Sign recognition: word error rate of gloss sequences (CSLR), top-1 accuracy of single signs (ISLR)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uni_sign.errors import InputError
from uni_sign.metrics.lines import check_lines

# The costs of the alignment, as in NIST sclite; an error counts as one error whatever it costs.
DELETION_COST = 3
INSERTION_COST = 3
SUBSTITUTION_COST = 4

_PAIR_COST = {"C": 0, "S": SUBSTITUTION_COST}

# What one step of an alignment consumes: (reference words, hypothesis words).
_CONSUMES = {"C": (1, 1), "S": (1, 1), "D": (1, 0), "I": (0, 1)}


@dataclass(frozen=True)
class EditOperations:
    """How a hypothesis was aligned with its reference.

    `alignment` has one letter per step, first word first: C correct, S substituted, D deleted (the reference
    word is missing), I inserted. Every count is read off it, so the counts always add up.
    """

    alignment: str

    @property
    def correct(self) -> int:
        """Reference words found."""
        return self.alignment.count("C")

    @property
    def deletions(self) -> int:
        """Reference words that are missing."""
        return self.alignment.count("D")

    @property
    def insertions(self) -> int:
        """Hypothesis words too many."""
        return self.alignment.count("I")

    @property
    def substitutions(self) -> int:
        """Reference words replaced by another word."""
        return self.alignment.count("S")

    @property
    def errors(self) -> int:
        """Deletions, insertions and substitutions together."""
        return len(self.alignment) - self.correct

    @property
    def reference_words(self) -> int:
        """Words of the reference."""
        return len(self.alignment) - self.insertions


def edit_operations(reference: Sequence[str], hypothesis: Sequence[str]) -> EditOperations:
    """Align two word sequences of lengths R and H at the least cost, in O(R * H).

    Of several cheapest alignments, the one that published results use: traced back from the end, a pair of
    words (correct or substituted) goes before an insertion, and an insertion before a deletion.
    """
    table = _cost_table(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    steps: list[str] = []
    while i or j:
        pair = "C" if i and j and reference[i - 1] == hypothesis[j - 1] else "S"
        if i and j and table[i, j] == table[i - 1, j - 1] + _PAIR_COST[pair]:
            step = pair
        elif j and table[i, j] == table[i, j - 1] + INSERTION_COST:
            step = "I"
        else:
            step = "D"
        steps.append(step)
        i, j = i - _CONSUMES[step][0], j - _CONSUMES[step][1]
    return EditOperations("".join(reversed(steps)))


def _cost_table(reference: Sequence[str], hypothesis: Sequence[str]) -> NDArray[np.int64]:
    """Cost (R + 1, H + 1) of turning the first i reference words into the first j hypothesis words."""
    number = {word: k for k, word in enumerate({*reference, *hypothesis})}
    rows = np.array([number[word] for word in reference], dtype=np.int64)
    columns = np.array([number[word] for word in hypothesis], dtype=np.int64)
    substitution = np.where(rows[:, None] == columns[None, :], 0, SUBSTITUTION_COST)

    insertions = INSERTION_COST * np.arange(len(columns) + 1, dtype=np.int64)
    table = np.empty((len(rows) + 1, len(columns) + 1), dtype=np.int64)
    table[0] = insertions
    for i in range(len(rows)):
        best = table[i] + DELETION_COST
        best[1:] = np.minimum(best[1:], table[i, :-1] + substitution[i])
        # A run of insertions may follow any column: with their cost taken out, that is a running minimum.
        table[i + 1] = np.minimum.accumulate(best - insertions) + insertions
    return table


def recognition_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus WER and its parts (`wer`, `deletion`, `insertion`, `substitution`), percent of reference words.

    Lines are gloss sentences, split at whitespace; an empty prediction is all deletions. The sum of errors is
    divided by the sum of words, so long lines weigh more, and `wer` may exceed 100.
    Raises `InputError` for unequal or zero numbers of lines, or references without a single word.
    """
    check_lines(predictions=predictions, references=references)
    edits = [edit_operations(ref.split(), hyp.split()) for hyp, ref in zip(predictions, references, strict=True)]
    words = sum(edit.reference_words for edit in edits)
    if words == 0:
        raise InputError(
            f"none of the {len(references)} references has a gloss, so there is no word error rate: "
            "choose a corpus with glosses or the translation task"
        )
    totals = {
        "wer": sum(edit.errors for edit in edits),
        "deletion": sum(edit.deletions for edit in edits),
        "insertion": sum(edit.insertions for edit in edits),
        "substitution": sum(edit.substitutions for edit in edits),
    }
    return {name: total / words * 100 for name, total in totals.items()}


def classification_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Top-1 accuracy in percent: `top1_instance` over samples, `top1_class` the mean over reference classes.

    A prediction is right when it equals the reference, whitespace at either end aside.
    Raises `InputError` for unequal or zero numbers of lines.
    """
    check_lines(predictions=predictions, references=references)
    labels = [reference.strip() for reference in references]
    hits = Counter(label for label, guess in zip(labels, predictions, strict=True) if guess.strip() == label)
    per_class = [hits[label] / count for label, count in Counter(labels).items()]
    return {
        "top1_instance": hits.total() / len(labels) * 100,
        "top1_class": float(np.mean(per_class)) * 100,
    }
