"""The tokenizer against golden ids, and what a missing or broken model says."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.tokenizer import EOS, Tokenizer
from uni_sign.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "02_tokenizer_cases.json").read_text())
TOKENIZER = Tokenizer(GOLDEN / "02_tokenizer")


def is_plain(case: dict[str, Any]) -> bool:
    return not any(special in case["text"] for special in ("</s>", "<pad>"))


@pytest.mark.parametrize(
    "case", [case for case in CASES["cases"] if is_plain(case)], ids=lambda case: ascii(case["text"][:20])
)
def test_golden_ids_and_texts(case: dict[str, Any]) -> None:
    assert TOKENIZER.encode(case["text"]) == case["ids"]
    assert TOKENIZER.encode(case["text"], 50) == case["ids_max50"]
    assert TOKENIZER.decode(case["ids"]) == case["decode_skip"]


def test_special_words_in_a_text_are_text() -> None:
    """The one stated difference to golden: a clip's text cannot end its own sentence."""
    special = [case for case in CASES["cases"] if not is_plain(case)]
    assert special
    for case in special:
        ids = TOKENIZER.encode(case["text"])
        assert ids != case["ids"]
        assert ids.count(EOS) == 1
        assert 0 not in ids


def test_size_and_ids_of_specials() -> None:
    assert (CASES["pad"], CASES["eos"], CASES["unk"]) == (0, EOS, 2)
    assert len(TOKENIZER) == CASES["len"]


def test_golden_holds_a_text_that_is_cut() -> None:
    cut = [case for case in CASES["cases"] if len(case["ids"]) > 50]
    assert cut
    assert all(len(TOKENIZER.encode(case["text"], 50)) == 50 for case in cut if is_plain(case))


@given(st.lists(st.text(max_size=12), max_size=4), st.integers(1, 8))
def test_many_texts_at_once_and_cutting(texts: list[str], longest: int) -> None:
    whole = TOKENIZER.encode_all(texts)
    assert whole == [TOKENIZER.encode(text) for text in texts]
    assert all(ids[-1] == EOS and EOS not in ids[:-1] for ids in whole)
    cut = TOKENIZER.encode_all(texts, longest)
    assert cut == [[*ids[:-1][: longest - 1], EOS] for ids in whole]


def test_byte_fallback_keeps_rare_characters() -> None:
    text = "𠮷 😀 龘"
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_decoding_leaves_out_ids_beyond_the_vocabulary() -> None:
    ids = TOKENIZER.encode("window")
    assert TOKENIZER.decode([0, *ids, 0, 1, 2, len(TOKENIZER), 10**6]) == "window"


def test_pickling_needs_no_file(tmp_path: Path) -> None:
    model = tmp_path / "spiece.model"
    model.write_bytes((GOLDEN / "02_tokenizer" / "spiece.model").read_bytes())
    stored = pickle.dumps(Tokenizer(tmp_path))
    model.unlink()
    loaded = pickle.loads(stored)
    assert loaded.path == model
    assert loaded.model_bytes == TOKENIZER.model_bytes
    text = "Translate sign language video to Chinese: 窗户打开了！"
    assert loaded.encode(text) == TOKENIZER.encode(text)


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x00" * 500])
def test_missing_and_broken_models(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(InputError, match=r"spiece\.model.*google/mt5-base") as caught:
        Tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cut_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(TOKENIZER.model_bytes[:1000])
    with pytest.raises(InputError, match="SentencePiece"):
        Tokenizer(tmp_path)


def test_pieces_that_are_no_text_are_refused(tmp_path: Path) -> None:
    model = TOKENIZER.model_bytes
    (tmp_path / "spiece.model").write_bytes(model.replace("的".encode(), b"\xff\xfe\xff", 1))
    with pytest.raises(InputError, match="SentencePiece"):
        Tokenizer(tmp_path)
