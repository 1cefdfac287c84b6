"""Descriptions: five forms of files, golden alignments, and what interpolation must sum to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data import descriptions as module
from uni_sign.data.descriptions import Alignment, Fill, align, read_descriptions
from uni_sign.errors import SampleError

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = json.loads((GOLDEN / "07_description_loader.json").read_text())
ALIGNMENTS = json.loads((GOLDEN / "07_temporal_aligner.json").read_text())


def read(folder: Path, content: Any, raw: bool = False) -> dict[int, str]:
    path = folder / "clip.json"
    path.write_text(content if raw else json.dumps(content), encoding="utf-8")
    return read_descriptions(path)


def refusal(folder: Path, content: Any, raw: bool = False) -> str:
    with pytest.raises(SampleError) as caught:
        read(folder, content, raw)
    assert "clip.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FILES, ids=lambda case: case["name"])
def test_golden_files(tmp_path: Path, case: dict[str, Any]) -> None:
    """As golden, but for three decisions of ours: a byte-order mark is read; what is not text, or at a negative
    frame, is no description; and a file without any is refused, where golden had an empty result.
    """
    golden = {int(frame): text for frame, text in case["descriptions"].items()}
    if case["name"] == "bom":
        golden = {0: "x"}
    expected = {frame: text for frame, text in golden.items() if isinstance(text, str) and frame >= 0}
    if case["name"] == "missing":
        with pytest.raises(SampleError, match="not exist"):
            read_descriptions(tmp_path / "missing.json")
    elif expected:
        found = read(tmp_path, case["content"], case["is_raw_text"])
        assert found == expected
        assert list(found) == [frame for frame in case["key_order"] or [0] if frame in expected]
    else:
        message = refusal(tmp_path, case["content"], case["is_raw_text"])
        assert ("holds no description" in message) == case["meta"]["success"]


@given(texts=st.dictionaries(st.integers(0, 500), st.text("手 ab\n", max_size=4), max_size=6))
def test_every_form_reads_the_same(tmp_path_factory: pytest.TempPathFactory, texts: dict[int, str]) -> None:
    folder = tmp_path_factory.getbasetemp()
    named = {str(frame): text for frame, text in texts.items()}
    listed = [{"filename": "x.jpg", "description": texts.get(frame)} for frame in range(501)]
    forms = [
        named,
        {**named, "metadata": "m", "info": "i", "total_frames": "9", "version": "1", "source": "s"},
        {"frames": named, "descriptions": {"0": "not this"}},
        {"descriptions": named, "version": "1"},
        {"data": named, "total_frames": 9},
        listed,
        [{"text": entry["description"]} for entry in listed],
        [{"description": "", "text": entry["description"]} for entry in listed],
    ]
    expected = {frame: text for frame, text in texts.items() if text.strip()}
    for form in forms:
        if expected:
            assert read(folder, form) == expected
        else:
            refusal(folder, form)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[" * 200_000, "nests too deeply"),
        ('{"a":' * 200_000, "nests too deeply"),
        ("[" + "9" * 5000 + "]", "digits"),
        ('{"frames": {"99999999999": "x"}}', "99999999999"),
        ('{"frames": {"' + "9" * 5000 + '": "x"}}', "no frame number"),
        ('{"frames": {"one\\n": "x"}}', "'one\\n'"),
        ('{"0": "\\ud800"}', "Unicode"),
        ("[NaN, Infinity]", "no description"),
        ('"text"', "no description"),
        ("null", "no description"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, content: str, named: str) -> None:
    assert named in refusal(tmp_path, content, raw=True)


def test_other_bytes_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin.json").write_bytes('{"0": "é"}'.encode("latin-1"))
    with pytest.raises(SampleError, match=r"latin\.json is not UTF-8"):
        read_descriptions(tmp_path / "latin.json")
    with pytest.raises(SampleError, match="not a file"):
        read_descriptions(tmp_path)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert "larger than 10 bytes" in refusal(tmp_path, {"0": "a text"})


# --- alignment ---------------------------------------------------------------------------------------------


def spelled(alignment: Alignment | None, frames: list[int]) -> list[str | None]:
    """As golden writes it: "left → right" for a mix."""
    if alignment is None:
        return [None] * len(frames)
    pairs = zip(alignment.left, alignment.right, strict=True)
    texts = [*alignment.texts, None]
    return [texts[left] if left == right else f"{texts[left]} → {texts[right]}" for left, right in pairs]


@pytest.mark.parametrize("case", ALIGNMENTS)
def test_golden_alignments(case: dict[str, Any]) -> None:
    """As golden, but that `interpolate` takes the nearest where only one side has a description, and golden none; and
    that what is no text (a null, in one case) never gets here, so that frames near it get the next text.
    """
    fill: Fill = "none"
    if case["use_nearest_neighbor"] or case["use_linear_interpolation"]:
        fill = "nearest" if case["use_nearest_neighbor"] else "interpolate"
    texts = {int(frame): text for frame, text in case["descriptions"].items() if text is not None}
    frames, golden, has = case["indices"], list(case["aligned"]), list(case["has_description"])
    if fill == "interpolate" and texts:
        golden = [
            texts[min(max(frame, min(texts)), max(texts))] if text is None else text
            for frame, text in zip(frames, golden, strict=True)
        ]
    if None in case["descriptions"].values():
        golden, has = ["" if text is None else text for text in golden], [1, 0, 0, 0, 0, 0]
    alignment = align(texts, np.array(frames, int), fill)
    assert spelled(alignment, frames) == golden
    if alignment is None:
        assert not texts
    else:
        assert alignment.indicator.tolist() == has


described = st.dictionaries(st.integers(0, 60), st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1)
frame_lists = st.lists(st.integers(0, 70), max_size=20)


def by_hand(texts: dict[int, str], frame: int, fill: Fill) -> dict[str, float]:
    """The share of each text at a frame, by looking at all of them."""
    if frame in texts:
        return {texts[frame]: 1.0}
    if fill == "none":
        return {}
    if fill == "nearest":
        return {texts[min(texts, key=lambda other: (abs(other - frame), other))]: 1.0}
    before = max((other for other in texts if other < frame), default=None)
    after = min((other for other in texts if other > frame), default=None)
    if before is None or after is None:
        return {texts[before if after is None else after]: 1.0}  # type: ignore[index]
    share = (frame - before) / (after - before)
    if texts[before] == texts[after]:
        return {texts[before]: 1.0}
    return {texts[before]: 1 - share, texts[after]: share}


@pytest.mark.parametrize("fill", get_args(Fill))
@given(texts=described, frames=frame_lists)
def test_alignment_is_what_looking_at_each_frame_gives(fill: Fill, texts: dict[int, str], frames: list[int]) -> None:
    found = align(texts, np.array(frames, np.int64), fill)
    assert found is not None
    for place, frame in enumerate(frames):
        shares: dict[str, float] = {}
        left, right, weight = found.left[place], found.right[place], float(found.weight[place])
        for index, share in ((left, 1 - weight), (right, weight)):
            if index >= 0 and share > 0:
                shares[found.texts[index]] = shares.get(found.texts[index], 0) + share
        assert shares == pytest.approx(by_hand(texts, frame, fill))
        assert found.indicator[place] == (frame in texts)
        assert (left < 0) == (right < 0)
        if left == right:
            assert weight == 0


@given(texts=described, frames=frame_lists, fill=st.sampled_from(get_args(Fill)))
def test_texts_are_distinct_used_and_in_the_order_of_use(texts: dict[int, str], frames: list[int], fill: Fill) -> None:
    found = align(texts, np.array(frames, np.int64), fill)
    assert found is not None
    uses = [index for pair in zip(found.left.tolist(), found.right.tolist(), strict=True) for index in pair]
    assert list(dict.fromkeys(index for index in uses if index >= 0)) == list(range(len(found.texts)))
    assert len(set(found.texts)) == len(found.texts)
    assert found.left.dtype == found.right.dtype == np.int64
    assert found.weight.dtype == found.indicator.dtype == np.float32


def test_nothing_to_align() -> None:
    assert align({}, np.arange(3), "nearest") is None
    with pytest.raises(ValueError, match="fill must be"):
        align({0: "a"}, np.arange(3), "other")  # type: ignore[arg-type]
