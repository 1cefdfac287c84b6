"""Token ids of targets: kept where they are many, and made anew where what is kept is another's or damaged."""

from pathlib import Path

import numpy as np
import pytest

from uni_sign.data import target_ids as module
from uni_sign.data.samples import Sample, Samples
from uni_sign.data.target_ids import target_ids
from uni_sign.data.tokenizer import Tokenizer

TOKENIZER = Tokenizer(Path(__file__).parents[1] / "golden" / "02_tokenizer")
TEXTS = ["Good morning.", "早上好。", "One more", "x"]


class Counting(Tokenizer):
    """Counts how often it is asked."""

    asked = 0

    def encode_all(self, texts, max_length=None):  # type: ignore[no-untyped-def]
        Counting.asked += 1
        return super().encode_all(texts, max_length)


def samples_of(texts: list[str]) -> Samples:
    return Samples(
        [Sample(str(i), Path(f"{i}.pkl"), None, text, "English", 1, 1, None, "x") for i, text in enumerate(texts)]
    )


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(module, "_KEPT_FROM", 3)
    Counting.asked = 0
    return Counting(TOKENIZER.path.parent)


def test_many_are_kept_and_the_same(counting: Counting, tmp_path: Path) -> None:
    expected = TOKENIZER.encode_all(TEXTS)
    for _ in range(2):
        assert list(target_ids(samples_of(TEXTS), counting, tmp_path / "kept")) == expected
    assert Counting.asked == 1
    assert list(target_ids(samples_of([*TEXTS[:3], "y"]), counting, tmp_path / "kept"))[3] != expected[3]
    assert Counting.asked == 2
    # The same letters, cut elsewhere.
    moved = ["Good morning.早", "上好。", *TEXTS[2:]]
    assert list(target_ids(samples_of(moved), counting, tmp_path / "kept")) == TOKENIZER.encode_all(moved)


def test_few_are_not_kept(counting: Counting, tmp_path: Path) -> None:
    assert list(target_ids(samples_of(TEXTS[:2]), counting, tmp_path)) == TOKENIZER.encode_all(TEXTS[:2])
    assert not list(tmp_path.iterdir())
    assert list(target_ids(samples_of(TEXTS), counting, None)) == TOKENIZER.encode_all(TEXTS)


def test_damage_costs_no_more_than_making_them(counting: Counting, tmp_path: Path) -> None:
    expected = list(target_ids(samples_of(TEXTS), counting, tmp_path))
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (whole[:100], whole[:200] + b"\xff" + whole[201:], b"", b"none"):
        path.write_bytes(content)
        assert list(target_ids(samples_of(TEXTS), counting, tmp_path)) == expected
    for ids, lengths in (
        (np.full(9, 1 << 30, np.int32), np.array([3, 2, 2, 2])),
        (np.zeros(8, np.int32), np.array([3, 2, 2, 2])),
        (np.zeros(9, np.int32), np.array([3, 2, 4])),
    ):
        np.savez(path, ids=ids, lengths=lengths)
        assert list(target_ids(samples_of(TEXTS), counting, tmp_path)) == expected


@pytest.mark.parametrize("at_once", [1, 3, 4, 5])
def test_they_are_made_some_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    for texts in (TEXTS, TEXTS[:1], []):
        assert list(target_ids(samples_of(texts), TOKENIZER, None)) == TOKENIZER.encode_all(texts)


def test_where_nothing_can_be_written(counting: Counting, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(target_ids(samples_of(TEXTS), counting, tmp_path / "file")) == 4
