"""Trimmed vocabularies: the same pieces for every text that keeps its own, and what a corpus needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from uni_sign.data import vocabulary
from uni_sign.data.demo.describe import all_texts
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.vocabulary import Kept, kept_from, kept_tokenizer, needed_pieces, read_kept, tokenizer_digest
from uni_sign.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
FULL = Tokenizer(GOLDEN / "02_tokenizer")
PROTO = ModelProto.FromString(FULL.model_bytes)
SURFACES = [piece.piece.replace("▁", " ") for piece in PROTO.pieces if piece.type == piece.NORMAL]
CORPUS = ["窗户打开了！", "A cat sees milk.", "今天𠮷很好 😀", "", "Translate sign language video to Chinese: "]


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    processor = SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    return [str(piece) for piece in processor.encode(text, out_type=str)]


def trimmed(texts: Sequence[str], full: Tokenizer = FULL) -> tuple[tuple[int, ...], Tokenizer]:
    ids = needed_pieces(full, [texts])
    return ids, kept_tokenizer(full, ids)


def assert_same_pieces(texts: Sequence[str], full: Tokenizer, ids: Sequence[int], cut: Tokenizer) -> None:
    """Piece by piece, and number by number through the map back."""
    for text, before, after in zip(texts, full.encode_all(texts), cut.encode_all(texts), strict=True):
        assert [ids[i] for i in after] == before, text
        assert pieces_of(cut, text) == pieces_of(full, text)
        assert cut.decode(after) == full.decode(before)


# --- the same pieces ---------------------------------------------------------------------------------------


def test_a_corpus_keeps_its_pieces_and_loses_others() -> None:
    ids, cut = trimmed(CORPUS)
    assert len(ids) == len(cut) < len(FULL)
    assert_same_pieces(CORPUS, FULL, ids, cut)
    assert_same_pieces(all_texts(), FULL, *trimmed(all_texts()))


@given(st.lists(st.lists(st.sampled_from(SURFACES) | st.text(max_size=3), max_size=6).map("".join), max_size=4))
def test_every_corpus_keeps_its_pieces(texts: list[str]) -> None:
    assert_same_pieces(texts, FULL, *trimmed(texts))


@given(st.lists(st.sampled_from(SURFACES) | st.text(max_size=2), max_size=12).map("".join))
def test_other_texts_lose_nothing(text: str) -> None:
    """A text of other pieces is cut smaller; one whose pieces are all kept, not at all."""
    ids, cut = CUT
    assert cut.decode(cut.encode(text)) == FULL.decode(FULL.encode(text))
    if set(FULL.encode(text)) <= set(ids):
        assert_same_pieces([text], FULL, ids, cut)


CUT = trimmed(CORPUS)


def small_model(scores: Sequence[float], kinds: Sequence[int], byte_fallback: bool) -> Tokenizer:
    """All pieces of one to three of the letters a and b, with these scores and kinds; c is unknown."""
    model, kind = ModelProto(), ModelProto.SentencePiece
    texts = [x + y + z for x in "ab" for y in ("", "a", "b") for z in ("", "a", "b") if y or not z]
    named = [("<pad>", 0.0, kind.CONTROL), ("</s>", 0.0, kind.CONTROL), ("<unk>", 0.0, kind.UNKNOWN)]
    if byte_fallback:
        named += [(f"<0x{byte:02X}>", -1.0, kind.BYTE) for byte in range(256)]
    named += [("▁", -3.0, kind.NORMAL), *zip(texts, scores, kinds, strict=True)]
    for text, score, type_ in named:
        model.pieces.add(piece=text, score=score, type=type_)
    model.trainer_spec.byte_fallback = byte_fallback
    model.trainer_spec.pad_id, model.trainer_spec.eos_id, model.trainer_spec.unk_id = 0, 1, 2
    model.trainer_spec.bos_id = -1
    model.normalizer_spec.name = "identity"
    return FULL.with_model(model.SerializeToString())


NORMAL, USER_DEFINED, UNUSED = 1, 4, 5


@given(
    # Whole numbers, so that segmentations tie; two letters, so that they compete.
    st.lists(st.integers(-6, -1).map(float), min_size=14, max_size=14),
    st.lists(st.sampled_from([*[NORMAL] * 8, USER_DEFINED, UNUSED]), min_size=14, max_size=14),
    st.booleans(),
    st.lists(st.text("abc ", max_size=10), min_size=1, max_size=3),
)
def test_ties_unknowns_and_user_defined_pieces(
    scores: list[float], kinds: list[int], byte_fallback: bool, texts: list[str]
) -> None:
    full = small_model(scores, kinds, byte_fallback)
    used = {i for row in full.encode_all(texts) for i in row}
    # The least that the argument for exactness allows: no single characters, and no filling up to 64 pieces.
    kept_kinds = {i for i, kind in enumerate(types(full)) if kind not in (NORMAL, UNUSED)}
    by_score = sorted((score, i) for i, score in enumerate(scores_of(full)) if types(full)[i] == NORMAL)
    ids = sorted(used | kept_kinds | {0, 1, 2, by_score[0][1], by_score[-1][1]})
    cut = kept_tokenizer(full, ids)
    assume(len(ids) < len(full))
    assert_same_pieces(texts, full, ids, cut)


def types(tokenizer: Tokenizer) -> list[int]:
    return [piece.type for piece in ModelProto.FromString(tokenizer.model_bytes).pieces]


def scores_of(tokenizer: Tokenizer) -> list[float]:
    return [piece.score for piece in ModelProto.FromString(tokenizer.model_bytes).pieces]


def test_a_model_that_tests_itself_still_loads() -> None:
    """Field 4 of a model: a text and its pieces, which SentencePiece until 0.2.1 compares at loading."""
    text, pieces = "窗户 window", " ".join(pieces_of(FULL, "窗户 window")).encode()
    sample = b"\x0a" + bytes([len(text.encode())]) + text.encode() + b"\x12" + bytes([len(pieces)]) + pieces
    test = b"\x0a" + bytes([len(sample)]) + sample
    full = FULL.with_model(FULL.model_bytes + b"\x22" + bytes([len(test)]) + test)
    ids = needed_pieces(full, [["天"]])
    assert set(full.encode(text)) - set(ids)
    assert_same_pieces(["天"], full, ids, kept_tokenizer(full, ids))


# --- which pieces ------------------------------------------------------------------------------------------


def test_what_a_corpus_needs() -> None:
    ids = needed_pieces(FULL, [["cat"], ["dog"]])
    kept = {PROTO.pieces[i].piece for i in ids}
    assert ids == tuple(sorted(set(ids)))
    assert ids[:3] == (0, 1, 2)
    assert len(ids) % 64 == 0
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= kept
    latin = {p.piece for p in PROTO.pieces if len(p.piece) == 1 and p.piece.isascii()}
    assert latin
    assert latin <= kept


def test_the_pieces_that_other_scores_follow_from_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_MULTIPLE", 1)  # filling up would keep the highest anyway
    model = ModelProto.FromString(FULL.model_bytes)
    lost = sorted(set(range(len(FULL))) - set(needed_pieces(FULL, [["cat"]])))
    lowest, highest = lost[0], lost[-1]
    model.pieces[lowest].score, model.pieces[highest].score = -99.0, -0.01
    assert {lowest, highest} <= set(needed_pieces(FULL.with_model(model.SerializeToString()), [["cat"]]))


def test_single_characters_are_those_of_the_scripts_in_use() -> None:
    def single(ids: Sequence[int]) -> set[str]:
        found = {PROTO.pieces[i].piece.removeprefix("▁") for i in ids}
        return {text for text in found if len(text) == 1 and "\u4e00" <= text <= "\u9fff"}

    every = single(range(len(FULL)))
    assert len(every) > 40
    assert single(needed_pieces(FULL, [["天"]])) == every
    assert len(single(needed_pieces(FULL, [["a cat"]]))) < len(every)


def test_order_and_repetition_of_the_texts_do_not_matter() -> None:
    assert needed_pieces(FULL, [CORPUS]) == needed_pieces(FULL, [[text] for text in CORPUS[::-1] * 2])


def test_all_pieces_are_kept_where_all_are_needed() -> None:
    assert needed_pieces(FULL, [[surface.strip() for surface in SURFACES], SURFACES])[-1] == len(FULL) - 1


# --- the map back ------------------------------------------------------------------------------------------


def test_the_kept_pieces_go_through_json(tmp_path: Path) -> None:
    kept = Kept(CUT[0], 704, tokenizer_digest(FULL), True)
    assert read_kept(tmp_path) is None
    (tmp_path / "kept_pieces.json").write_text(json.dumps(kept.plain()))
    assert read_kept(tmp_path) == kept
    assert str(kept) == str(kept_from(kept.plain(), "x")) != str(Kept(CUT[0], 704, tokenizer_digest(FULL), False))


GOOD: dict[str, Any] = {"ids": [0, 1, 2, 9], "rows": 12, "tokenizer": "ab", "described": False}


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], "ids", {}, {**GOOD, "more": 1}, {**GOOD, "rows": None}, {**GOOD, "rows": 1 << 40}),
        *({**GOOD, "ids": ids} for ids in ([], [0, 1], [1, 2, 3], [0, 1, 2, 2], [0, 1, 2, 12], [0, 1, 2, 3.0], 5, "x")),
        *({**GOOD, "ids": [0, True, 2, 9]}, {**GOOD, "tokenizer": 1}, {**GOOD, "described": 1}),
    ],
)
def test_what_is_no_map(tmp_path: Path, value: Any) -> None:
    assert kept_from(GOOD, "x").ids == (0, 1, 2, 9)
    with pytest.raises(InputError, match=r"^it .* make it anew"):
        kept_from(value, "it")
    (tmp_path / "kept_pieces.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"kept_pieces\.json"):
        read_kept(tmp_path)


@pytest.mark.parametrize("content", ["", "[" * 100_000, "nonsense", "\ud800"])
def test_a_map_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "kept_pieces.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match=r"kept_pieces\.json"):
        read_kept(tmp_path)
