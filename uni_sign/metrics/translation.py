"""Sign language translation: BLEU-1..4, ROUGE-L in its two meanings, chrF. Every score is times 100.

`translation_scores` is the whole evaluation. The single scorers below it take lines as they are, normalised
or not, and as many predictions (`hyps`) as references (`refs`), at least one.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from uni_sign.metrics.lines import check_lines

_BLEU_ORDERS = (1, 2, 3, 4)
_ASCII_PUNCTUATION = str.maketrans({"，": ",", "？": "?"})


Style = Literal["characters", "words"]


def normalize(text: str, style: Style) -> str:
    """Bring one line into the form that published results are scored in.

    ``characters`` (Chinese): no spaces, full-width comma and question mark made ASCII, then single characters
    with a space between. ``words``: runs of whitespace become one space, none at the ends.
    """
    words = text.split()
    if style == "characters":
        return " ".join("".join(words).translate(_ASCII_PUNCTUATION))
    return " ".join(words)


def translation_scores(
    predictions: Sequence[str], references: Sequence[str], styles: Sequence[Style]
) -> dict[str, float]:
    """Score a corpus: `bleu1`..`bleu4`, `rouge_l` (as published), `rouge_l_standard`, `chrf`.

    One prediction, reference and style per sample; each line is normalised by its own style. A
    prediction without a letter or digit says nothing and counts as empty: it matches nothing in any score.
    Raises `InputError` for unequal or zero numbers of lines.
    """
    check_lines(predictions=predictions, references=references, styles=styles)
    hyps = [_spoken(normalize(*line)) for line in zip(predictions, styles, strict=True)]
    refs = [normalize(*line) for line in zip(references, styles, strict=True)]
    return {
        **{f"bleu{order}": bleu(hyps, refs, order) for order in _BLEU_ORDERS},
        "rouge_l": rouge_l_published(hyps, refs),
        "rouge_l_standard": rouge_l_standard(hyps, refs),
        "chrf": chrf(hyps, refs),
    }


def signature() -> str:
    """The sacrebleu signatures behind `bleu` and `chrf`, for the results file; they name its version."""
    metrics = {"BLEU-1..4": _bleu_metric(_BLEU_ORDERS[-1]), "chrF2": CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # a signature exists only after a first score
    return "; ".join(f"{name}|{metric.get_signature()}" for name, metric in metrics.items())


def bleu(hyps: Sequence[str], refs: Sequence[str], order: int) -> float:
    """Corpus BLEU of n-grams up to `order`, by sacrebleu: 13a tokens, smoothing "exp", 1 reference."""
    return float(_bleu_metric(order).corpus_score(hyps, [refs]).score)


def chrf(hyps: Sequence[str], refs: Sequence[str]) -> float:
    """Corpus chrF2, by sacrebleu: character 6-grams, recall weighted twice, whitespace ignored."""
    return float(CHRF().corpus_score(hyps, [refs]).score)


def rouge_l_standard(hyps: Sequence[str], refs: Sequence[str]) -> float:
    """ROUGE-L f over whitespace-separated words, by rouge-score (Lin 2004), the mean over lines."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Whitespace())
    scores = [scorer.score(ref, hyp)["rougeL"].fmeasure for hyp, ref in zip(hyps, refs, strict=True)]
    return float(np.mean(scores)) * 100


def rouge_l_published(hyps: Sequence[str], refs: Sequence[str]) -> float:
    """ROUGE-L f as published sign-translation results compute it, the mean over lines.

    It differs from the standard: each word counts once per line, however often it occurs, and a line is cut
    into sentences at ".". A line that is empty or of full stops alone, on either side, scores 0.
    """
    scores = [_published_f(_sentences(hyp), _sentences(ref)) for hyp, ref in zip(hyps, refs, strict=True)]
    return float(np.mean(scores)) * 100


def common_words(reference: Sequence[str], hypothesis: Sequence[str]) -> set[str]:
    """The words of one longest common subsequence of lengths R and H, in O(R * H / 64).

    Of several longest ones, the one traced back from the end by: diagonal where the words are equal, up (to
    one reference word less) where that keeps strictly more than left, else left.
    The rows of the table are bit sets (Hyyrö 2004): bit j is clear where column j + 1 is one longer than j.
    """
    places: defaultdict[str, int] = defaultdict(int)
    for j, word in enumerate(hypothesis):
        places[word] |= 1 << j
    row = all_columns = (1 << len(hypothesis)) - 1
    rows = [row]
    for word in reference:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & all_columns
        rows.append(row)

    common: set[str] = set()
    i, j = len(reference), len(hypothesis)
    while i and j:
        if reference[i - 1] == hypothesis[j - 1]:
            common.add(reference[i - 1])
            i, j = i - 1, j - 1
        elif rows[i] >> (j - 1) & 1:  # left is as long as here, so up is not longer than left
            j -= 1
        else:
            i -= 1
    return common


def _published_f(hyp: list[list[str]], ref: list[list[str]]) -> float:
    """F-measure, 0 to 1, between the sentences of one prediction and of its reference."""
    hyp_words, ref_words = set().union(*hyp), set().union(*ref)
    if not any(hyp_words) or not any(ref_words):
        return 0.0
    common = set().union(*(common_words(r, h) for r in ref for h in hyp))
    precision, recall = len(common) / len(hyp_words), len(common) / len(ref_words)
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[list[str]]:
    """Words per sentence. Blanks between two full stops are one empty word, as in published figures."""
    return [piece.split() or [""] for piece in text.split(".") if piece]


def _spoken(text: str) -> str:
    """The text, or nothing where it has no letter or digit."""
    return text if any(character.isalnum() for character in text) else ""


def _bleu_metric(order: int) -> BLEU:
    # `force` drops a warning about lines that end in " .": several corpora are written that way.
    return BLEU(max_ngram_order=order, force=True)


class _Whitespace:
    """The tokenizer that keeps every script: the default of rouge-score drops all but ASCII letters."""

    def tokenize(self, text: str) -> list[str]:
        """Words between whitespace."""
        return text.split()
