"""Predictions of a split to scores, by task, and to what is worth drawing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from uni_sign.data.corpora import Corpus
from uni_sign.data.samples import Sample
from uni_sign.errors import InputError
from uni_sign.metrics.recognition import classification_scores, recognition_scores
from uni_sign.stages.base import Evaluation

_DRAWN_CLIPS = 12
_OF_GROUPS = {
    "SLT": ("bleu4", "rouge_l", "chrf"),
    "CSLR": ("wer",),
    "ISLR": ("top1_instance", "top1_class"),
}


def scored(
    rows: list[dict[str, Any]], samples: Sequence[Sample], problems: list[str], task: str, corpora: Sequence[Corpus]
) -> Evaluation:
    """The scores of ``rows`` (index, name, prediction, gate), whose references are those of ``samples``.

    Where there are several languages or ``corpora``, each has scores of its own, too. Raises InputError where no clip
    could be read.
    """
    if not rows:
        raise InputError(f"No clip of the split could be read; the first: {problems[0]}")
    gates = [(row["name"], row.pop("gate")) for row in rows]
    for row in rows:
        sample = samples[row.pop("index")]
        row.update(reference=sample.target, language=sample.language, corpus=sample.corpus)
    drawn = [(name, gate) for name, gate in gates if gate is not None]
    return Evaluation(
        scores={**_scores(rows, task, corpora), "n": len(rows)},
        rows=rows,
        histograms={"gate": np.concatenate([gate for _, gate in drawn])} if drawn else {},
        heat_maps={"gate": drawn[:_DRAWN_CLIPS]} if drawn else {},
        problems=problems,
    )


def _scores(rows: Sequence[dict[str, Any]], task: str, corpora: Sequence[Corpus]) -> dict[str, float]:
    scores = _of_task(rows, task, corpora)
    for column in ("language", "corpus"):
        groups = sorted({row[column] for row in rows})
        for group in groups if len(groups) > 1 else []:
            chosen = [row for row in rows if row[column] == group]
            part = _of_task(chosen, task, corpora)
            scores |= {f"{name}_{group.lower()}": part[name] for name in _OF_GROUPS[task]}
            scores[f"n_{group.lower()}"] = len(chosen)
    return scores


def _of_task(rows: Sequence[dict[str, Any]], task: str, corpora: Sequence[Corpus]) -> dict[str, float]:
    predictions = [row["prediction"] for row in rows]
    references = [row["reference"] for row in rows]
    if task == "CSLR":
        return recognition_scores(predictions, references)
    if task == "ISLR":
        return classification_scores(predictions, references)
    # What it scores with takes a third of a second to import, which the first step need not wait for.
    from uni_sign.metrics.translation import translation_scores

    named = {corpus.name: corpus for corpus in corpora}
    styles = [named[row["corpus"]].scoring_style(row["language"]) for row in rows]
    return translation_scores(predictions, references, styles)
