"""Predictions of a split to scores, by task, and to what is worth drawing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from uni_sign.data.corpora import Corpus, Sample
from uni_sign.errors import InputError
from uni_sign.metrics.recognition import classification_scores, recognition_scores
from uni_sign.metrics.translation import translation_scores
from uni_sign.stages.base import Evaluation

_DRAWN_CLIPS = 12


def scored(
    rows: list[dict[str, Any]], samples: Sequence[Sample], problems: list[str], task: str, corpus: Corpus
) -> Evaluation:
    """The scores of ``rows`` (index, name, prediction, gate), whose references are those of ``samples``.

    Raises InputError where no clip could be read.
    """
    if not rows:
        raise InputError(f"No clip of the split could be read; the first: {problems[0]}")
    gates = [(row["name"], row.pop("gate")) for row in rows]
    for row in rows:
        sample = samples[row.pop("index")]
        row.update(reference=sample.target, language=sample.language)
    drawn = [(name, gate) for name, gate in gates if gate is not None]
    return Evaluation(
        scores={**_scores(rows, task, corpus), "n": len(rows)},
        rows=rows,
        histograms={"gate": np.concatenate([gate for _, gate in drawn])} if drawn else {},
        heat_maps={"gate": drawn[:_DRAWN_CLIPS]} if drawn else {},
        problems=problems,
    )


def _scores(rows: Sequence[dict[str, Any]], task: str, corpus: Corpus) -> dict[str, float]:
    predictions = [row["prediction"] for row in rows]
    references = [row["reference"] for row in rows]
    if task == "CSLR":
        return recognition_scores(predictions, references)
    if task == "ISLR":
        return classification_scores(predictions, references)
    styles = [corpus.scoring_style(row["language"]) for row in rows]
    scores = translation_scores(predictions, references, styles)
    languages = sorted({row["language"] for row in rows})
    for language in languages if len(languages) > 1 else []:
        chosen = [i for i, row in enumerate(rows) if row["language"] == language]
        part = translation_scores(*([column[i] for i in chosen] for column in (predictions, references, styles)))
        scores |= {f"{name}_{language.lower()}": part[name] for name in ("bleu4", "rouge_l", "chrf")}
        scores[f"n_{language.lower()}"] = len(chosen)
    return scores
