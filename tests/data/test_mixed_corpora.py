"""Several corpora in one ``--dataset``: by weight or clip by clip, and what is refused."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.corpora import SPLITS
from uni_sign.data.mixed_corpora import corpus_numbers, load_corpora, read_mixed_split
from uni_sign.errors import InputError


@pytest.mark.parametrize(
    ("given_text", "names", "weights"),
    [
        ("Demo", ["Demo"], ()),
        ("Demo:0.5", ["Demo"], ()),
        ("CSL_News:0.7,CSL_Daily:0.3", ["CSL_News", "CSL_Daily"], (0.7, 0.3)),
        (" CSL_News:7 , CSL_Daily:3e0,Demo:1", ["CSL_News", "CSL_Daily", "Demo"], (7, 3, 1)),
        ("CSL_News,Demo", ["CSL_News", "Demo"], ()),
    ],
)
def test_corpora_and_weights(given_text: str, names: list[str], weights: tuple[float, ...]) -> None:
    corpora, found = load_corpora(given_text, Path("root"))
    assert [corpus.name for corpus in corpora] == names
    assert found == weights


@pytest.mark.parametrize(
    ("given_text", "said"),
    [
        ("Demo:0,CSL_News:1", "--dataset Demo:0: a weight must be a number above 0."),
        ("Demo:-1,CSL_News:1", "a weight must be a number above 0"),
        ("Demo:nan,CSL_News:1", "a weight must be a number above 0"),
        ("Demo:inf,CSL_News:1", "a weight must be a number above 0"),
        ("Demo:0.5,CSL_News", "give each corpus a weight, as in A:0.7,B:0.3, or none"),
        ("Demo,Demo", "Demo is there twice"),
        ("Demo,", "--dataset  is unknown"),
        ("Demo,Nowhere", "--dataset Nowhere is unknown"),
    ],
)
def test_what_cannot_be_mixed_is_said(given_text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        load_corpora(given_text, Path())
    assert said in str(error.value)


@given(st.text(alphabet="Demo:,.0123456789 \0/-_ä", max_size=20))
def test_any_text_gives_corpora_or_a_sentence(text: str) -> None:
    said = ""
    try:
        corpora, weights = load_corpora(text, Path())
    except InputError as error:
        said = str(error)
    assert said.startswith("--dataset") or len(weights) in (0, len(corpora))


def test_the_clips_of_a_split_know_their_corpus(demo_root: Path, tmp_path: Path) -> None:
    labels = {split: str(demo_root / "data" / "Demo" / f"labels.{split}") for split in SPLITS}
    content = {"name": "Second", "language": "English", "labels": labels, "pose_dir": "dataset/Demo/pose_format"}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    corpora, _ = load_corpora(f"{tmp_path / 'second.yaml'},Demo", demo_root)
    split = read_mixed_split(corpora, "SLT", "train", False)
    assert [sample.corpus for sample in split.samples] == ["Second"] * 12 + ["Demo"] * 12
    assert corpus_numbers(corpora, split.samples).tolist() == [0] * 12 + [1] * 12
