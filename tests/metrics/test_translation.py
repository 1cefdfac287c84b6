"""BLEU, ROUGE-L and chrF, against golden/08_bleu_rouge_synthetic (tolerance 1e-9) and by hand.

In that file `sb26` is sacrebleu's BLEU, which ours is; `bleu`, of an older scorer, gives smoothed points to a
corpus without one matching word, where sacrebleu gives 0. `rouge_score_ws` is the standard ROUGE-L.
"""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.errors import InputError
from uni_sign.metrics.translation import (
    bleu,
    chrf,
    common_words,
    normalize,
    rouge_l_published,
    rouge_l_standard,
    signature,
    translation_scores,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "08_bleu_rouge_synthetic.json").read_text(encoding="utf-8"))
SCORED = [name for name, case in GOLDEN.items() if "error" not in case]
REFUSED_BY_NAIVE_SCORERS = [name for name, case in GOLDEN.items() if "error" in case]
KEYS = {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "rouge_l_standard", "chrf"}

words = st.lists(st.sampled_from("abcd"), max_size=12)
sentences = st.lists(st.sampled_from("abcd"), min_size=4, max_size=12).map(" ".join)
styles = st.sampled_from(["characters", "words", "words"])
wordless = st.text(alphabet=" \t.,!?。，？！…'\"()-，", max_size=6)


def traced_table(reference: list[str], hypothesis: list[str]) -> set[str]:
    """The recipe of the golden README, on a full table of lengths."""
    table = [[0] * (len(hypothesis) + 1) for _ in range(len(reference) + 1)]
    for i, r in enumerate(reference, 1):
        for j, h in enumerate(hypothesis, 1):
            longest = max(table[i - 1][j], table[i][j - 1])
            table[i][j] = table[i - 1][j - 1] + 1 if r == h else longest
    i, j, found = len(reference), len(hypothesis), set()
    while i and j:
        if reference[i - 1] == hypothesis[j - 1]:
            found.add(reference[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


@pytest.mark.parametrize("name", SCORED)
def test_golden_scores(name: str) -> None:
    case = GOLDEN[name]
    hyps, refs = case["hyps"], case["refs"]
    ours = {f"bleu{order}": bleu(hyps, refs, order) for order in (1, 2, 3, 4)}
    assert ours == pytest.approx(case["sb26"], abs=1e-9)
    assert rouge_l_published(hyps, refs) == pytest.approx(case["rougeL"], abs=1e-9)
    assert rouge_l_standard(hyps, refs) == pytest.approx(case["rouge_score_ws"], abs=1e-9)
    assert chrf(hyps, refs) == pytest.approx(case["chrf"], abs=1e-9)


def test_golden_scorers_differ_only_without_a_single_match() -> None:
    differing = {name for name in SCORED if GOLDEN[name]["bleu"] != GOLDEN[name]["sb26"]}
    assert differing == {"no_overlap", "zh_unsegmented"}
    assert all(set(GOLDEN[name]["sb26"].values()) == {0.0} for name in differing)


@pytest.mark.parametrize("name", REFUSED_BY_NAIVE_SCORERS)
def test_golden_lines_that_naive_scorers_refuse_score_0(name: str) -> None:
    hyps, refs = GOLDEN[name]["hyps"], GOLDEN[name]["refs"]
    assert rouge_l_published(hyps, refs) == rouge_l_standard(hyps, refs) == 0
    assert set(translation_scores(hyps, refs, ["words"]).values()) == {0.0}


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        ("今天 星期几？", "characters", "今 天 星 期 几 ?"),
        ("你好，\t我　是\nA。", "characters", "你 好 , 我 是 A 。"),
        ("", "characters", ""),
        ("  am  tag \n zwei ", "words", "am tag zwei"),
        ("Well，really？", "words", "Well，really？"),
    ],
)
def test_normalize(text: str, style: str, expected: str) -> None:
    assert normalize(text, style) == expected


@given(st.text(), styles)
def test_normalize_twice_is_normalize_once(text: str, style: str) -> None:
    once = normalize(text, style)
    assert normalize(once, style) == once


def test_scores_known_by_hand() -> None:
    assert bleu(["a b x y"], ["a b c d"], 1) == pytest.approx(50)
    assert bleu(["a b c x"], ["a b c d"], 2) == pytest.approx(100 * (3 / 4 * 2 / 3) ** 0.5)
    assert rouge_l_standard(["a c"], ["a b c d"]) == pytest.approx(100 * 2 * 2 / 6)
    assert rouge_l_published(["a c"], ["a b c d"]) == pytest.approx(100 * 2 * 2 / 6)
    assert rouge_l_standard(["今 天"], ["今 日"]) == pytest.approx(50)


def test_published_rouge_counts_a_word_once_and_cuts_at_full_stops() -> None:
    assert rouge_l_published(["a a a a"], ["a"]) == pytest.approx(100)
    assert rouge_l_standard(["a a a a"], ["a"]) == pytest.approx(40)
    assert rouge_l_published(["c d. a b"], ["a b. c d"]) == pytest.approx(100)
    assert rouge_l_published(["a. ."], ["b. ."]) == pytest.approx(50)  # blanks count as an empty word


def test_rouge_is_a_mean_over_lines() -> None:
    hyps, refs = ["a b", "x", ""], ["a b", "a", "a"]
    assert rouge_l_published(hyps, refs) == pytest.approx(100 / 3)
    assert rouge_l_standard(hyps, refs) == pytest.approx(100 / 3)


def test_which_longest_subsequence_is_recovered() -> None:
    assert common_words(["a", "b"], ["b", "a"]) == {"b"}  # on a tie the last hypothesis word is let go
    assert common_words(["b", "a"], ["a", "b"]) == {"a"}
    assert common_words([], ["a"]) == common_words(["a"], []) == set()


@given(words, words)
def test_common_words_follow_the_recipe(reference: list[str], hypothesis: list[str]) -> None:
    assert common_words(reference, hypothesis) == traced_table(reference, hypothesis)


def test_lines_wider_than_a_machine_word() -> None:
    reference = [f"w{k * k % 301}" for k in range(300)]
    hypothesis = [f"w{k * 7 % 301}" for k in range(300)]
    assert common_words(reference, hypothesis) == traced_table(reference, hypothesis)


def test_every_line_is_normalised_by_its_own_style() -> None:
    mixed = translation_scores(["今天 星期几？", "a  b c d "], ["今天星期几?", "a b c d"], ["characters", "words"])
    assert mixed == pytest.approx(dict.fromkeys(KEYS, 100.0), abs=1e-6)
    unsplit = translation_scores(["今天 星期几？"], ["今天星期几?"], ["words"])
    assert unsplit["bleu1"] == 0


@given(st.lists(st.tuples(sentences, styles), min_size=1, max_size=5))
def test_identity_is_100(lines: list[tuple[str, str]]) -> None:
    texts, styles_of_lines = [text for text, _ in lines], [style for _, style in lines]
    scores = translation_scores(texts, texts, styles_of_lines)
    assert scores == pytest.approx(dict.fromkeys(KEYS, 100.0), abs=1e-6)


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20), styles), min_size=1, max_size=4))
def test_any_text_scores_between_0_and_100(lines: list[tuple[str, str, str]]) -> None:
    predictions, references, styles_of_lines = zip(*lines, strict=True)
    scores = translation_scores(predictions, references, styles_of_lines)
    assert scores.keys() == KEYS
    assert all(0 <= score <= 100 + 1e-6 for score in scores.values())


@given(wordless, st.one_of(sentences, wordless), styles)
def test_predictions_without_a_word_score_0(prediction: str, reference: str, style: str) -> None:
    assert set(translation_scores([prediction], [reference], [style]).values()) == {0.0}


@given(wordless)
def test_a_wordless_line_scores_like_an_empty_one_in_a_corpus(prediction: str) -> None:
    refs, styles_of_lines = ["a b c d .", "e f g h ."], ["words", "words"]
    empty = translation_scores(["a b c d .", ""], refs, styles_of_lines)
    assert translation_scores(["a b c d .", prediction], refs, styles_of_lines) == empty
    assert 0 < empty["bleu4"] < 100


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=5))
def test_order_of_lines_does_not_matter_and_standard_rouge_is_symmetric(pairs: list[tuple[str, str]]) -> None:
    hyps, refs = [hyp for hyp, _ in pairs], [ref for _, ref in pairs]
    styles_of_lines = ["words"] * len(pairs)
    forward = translation_scores(hyps, refs, styles_of_lines)
    assert translation_scores(hyps[::-1], refs[::-1], styles_of_lines) == pytest.approx(forward)
    assert rouge_l_standard(refs, hyps) == pytest.approx(forward["rouge_l_standard"])


def test_the_usual_space_before_a_full_stop_raises_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    lines = ["am tag regnet es ."] * 120
    with caplog.at_level(logging.WARNING):
        translation_scores(lines, lines, ["words"] * 120)
    assert not caplog.records


def test_signature_names_both_metrics_and_their_settings() -> None:
    bleu_part, chrf_part = signature().split("; ")
    assert bleu_part.startswith("BLEU-1..4|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert chrf_part.startswith("chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_lines_that_do_not_pair_are_refused() -> None:
    with pytest.raises(InputError, match="1 predictions and 2 references and 1 styles"):
        translation_scores(["a"], ["a", "b"], ["words"])
    with pytest.raises(InputError, match="1 predictions and 1 references and 0 styles"):
        translation_scores(["a"], ["a"], [])
    with pytest.raises(InputError, match="nothing to score"):
        translation_scores([], [], [])
