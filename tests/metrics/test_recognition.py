"""Word error rate and top-1 accuracy, against golden/08_wer_synthetic and golden/08_islr, and by hand."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.errors import InputError
from uni_sign.metrics.recognition import (
    DELETION_COST,
    INSERTION_COST,
    SUBSTITUTION_COST,
    EditOperations,
    classification_scores,
    edit_operations,
    recognition_scores,
)

GOLDEN = Path(__file__).parents[1] / "golden"
WER = json.loads((GOLDEN / "08_wer_synthetic.json").read_text(encoding="utf-8"))
ISLR = json.loads((GOLDEN / "08_islr.json").read_text(encoding="utf-8"))

glosses = st.lists(st.sampled_from("abcd"), max_size=10)
corpora = st.lists(st.tuples(glosses, glosses), min_size=1, max_size=6)


def cost(edit: EditOperations) -> int:
    return edit.deletions * DELETION_COST + edit.insertions * INSERTION_COST + edit.substitutions * SUBSTITUTION_COST


def least_cost(reference: list[str], hypothesis: list[str]) -> int:
    """The textbook recursion, to compare with."""

    @cache
    def turn(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i * DELETION_COST + j * INSERTION_COST
        swap = 0 if reference[i - 1] == hypothesis[j - 1] else SUBSTITUTION_COST
        return min(turn(i - 1, j - 1) + swap, turn(i - 1, j) + DELETION_COST, turn(i, j - 1) + INSERTION_COST)

    return turn(len(reference), len(hypothesis))


def replay(edit: EditOperations, reference: list[str], hypothesis: list[str]) -> bool:
    """Whether the alignment walks both sequences to their ends, calling equal only what is equal."""
    i = j = 0
    for step in edit.alignment:
        if step in "CS" and (reference[i] == hypothesis[j]) != (step == "C"):
            return False
        i += step in "CSD"
        j += step in "CSI"
    return (i, j) == (len(reference), len(hypothesis))


@pytest.mark.parametrize("index", range(len(WER["pairs"])))
def test_golden_alignment(index: int) -> None:
    reference, hypothesis = WER["pairs"][index]
    edit = edit_operations(reference.split(), hypothesis.split())
    assert WER["per_pair"][index] == {
        "num_cor": edit.correct,
        "num_del": edit.deletions,
        "num_ins": edit.insertions,
        "num_sub": edit.substitutions,
        "num_err": edit.errors,
        "num_ref": edit.reference_words,
        "alignment": edit.alignment,
    }


def test_golden_corpus() -> None:
    references, predictions = zip(*WER["pairs"], strict=True)
    assert recognition_scores(predictions, references) == {
        "wer": WER["aggregate"]["wer"],
        "deletion": WER["aggregate"]["del_rate"],
        "insertion": WER["aggregate"]["ins_rate"],
        "substitution": WER["aggregate"]["sub_rate"],
    }


@pytest.mark.parametrize(
    ("reference", "hypothesis", "alignment"),
    [
        ("", "", ""),
        ("", "a b", "II"),
        ("a b", "", "DD"),
        ("a b", "a c", "CS"),
        ("a b", "b a", "DCI"),  # 6 by moving one word, 8 by two substitutions
        ("a b c d", "e f a b", "IICCDD"),  # 12 either way, 16 by substitutions
    ],
)
def test_hand_known_alignments(reference: str, hypothesis: str, alignment: str) -> None:
    assert edit_operations(reference.split(), hypothesis.split()).alignment == alignment


def test_costs_far_above_a_byte_do_not_wrap() -> None:
    reference = [f"w{k}" for k in range(400)]
    assert edit_operations(reference, []).deletions == 400
    assert edit_operations([], reference).insertions == 400
    assert edit_operations(reference, ["x"] * 400).substitutions == 400
    assert edit_operations(reference, reference).alignment == "C" * 400


def test_corpus_is_weighted_by_words_and_may_exceed_100_percent() -> None:
    assert recognition_scores(["a b c d", ""], ["a b c d", "x"])["wer"] == 20
    assert recognition_scores(["x y z"], ["a"])["wer"] == 300
    assert recognition_scores(["x", "a"], ["", "a"])["insertion"] == 100


@given(glosses, glosses)
def test_alignment_is_valid_and_cheapest(reference: list[str], hypothesis: list[str]) -> None:
    edit = edit_operations(reference, hypothesis)
    assert replay(edit, reference, hypothesis)
    assert cost(edit) == least_cost(reference, hypothesis)
    assert edit.reference_words == len(reference) == edit.correct + edit.deletions + edit.substitutions
    assert len(hypothesis) == edit.correct + edit.insertions + edit.substitutions
    assert edit.errors == edit.deletions + edit.insertions + edit.substitutions


@given(glosses, glosses)
def test_cost_is_symmetric_and_length_difference_is_fixed(left: list[str], right: list[str]) -> None:
    there, back = edit_operations(left, right), edit_operations(right, left)
    assert cost(there) == cost(back)
    assert there.deletions - there.insertions == back.insertions - back.deletions == len(left) - len(right)


@given(corpora)
def test_corpus_scores_add_up_and_ignore_order(corpus: list[tuple[list[str], list[str]]]) -> None:
    references = [" ".join(["x", *ref]) for ref, _ in corpus]
    predictions = [" ".join(hyp) for _, hyp in corpus]
    scores = recognition_scores(predictions, references)
    assert scores["wer"] == pytest.approx(scores["deletion"] + scores["insertion"] + scores["substitution"])
    assert scores["wer"] >= 0
    assert scores == recognition_scores(predictions[::-1], references[::-1])
    assert set(recognition_scores(references, references).values()) == {0.0}


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_any_text_scores(lines: list[tuple[str, str]]) -> None:
    predictions = [prediction for prediction, _ in lines]
    references = ["a " + reference for _, reference in lines]
    assert recognition_scores(predictions, references)["wer"] >= 0
    assert 0 <= classification_scores(predictions, references)["top1_class"] <= 100


def test_golden_classification() -> None:
    assert classification_scores(ISLR["hyps"], ISLR["refs"]) == {
        "top1_instance": ISLR["top1_acc_pi"],
        "top1_class": ISLR["top1_acc_pc"],
    }


def test_classes_weigh_the_same_however_rare() -> None:
    scores = classification_scores(["a", "a", "a", "a"], ["a", "a", "a", "b"])
    assert scores == {"top1_instance": 75, "top1_class": 50}


def test_classification_ignores_whitespace_at_the_ends_and_nothing_else() -> None:
    assert classification_scores([" thank you\n"], ["thank you"])["top1_instance"] == 100
    assert classification_scores(["Thank you"], ["thank you"])["top1_instance"] == 0
    assert classification_scores(["", "."], ["a", "b"]) == {"top1_instance": 0, "top1_class": 0}


@given(st.lists(st.sampled_from(["book", "who", "go"]), min_size=1))
def test_perfect_classification(labels: list[str]) -> None:
    scores = classification_scores(labels, labels)
    assert scores == {"top1_instance": 100, "top1_class": 100}
    assert set(classification_scores(["zebra"] * len(labels), labels).values()) == {0}


@pytest.mark.parametrize("score", [recognition_scores, classification_scores])
def test_lines_that_do_not_pair_are_refused(
    score: Callable[[list[str], list[str]], dict[str, float]],
) -> None:
    with pytest.raises(InputError, match="1 predictions and 2 references"):
        score(["a"], ["a", "b"])
    with pytest.raises(InputError, match="nothing to score"):
        score([], [])


def test_references_without_a_word_are_refused() -> None:
    with pytest.raises(InputError, match="none of the 2 references has a gloss"):
        recognition_scores(["a", "b"], ["", "  "])
