"""Clips and token ids in few arrays come back as they went in."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.samples import Blobs, Ids, Sample, Samples, fingerprint

NAME = st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(lambda text: text not in (".", ".."))
SAMPLE = st.builds(
    Sample,
    st.text(st.characters(codec=None)),  # a label's name can hold anything, lone surrogates too
    NAME.map(Path),
    st.none() | NAME.map(Path),
    st.text(),
    st.sampled_from(["Chinese", "English"]),
    st.integers(0, (1 << 63) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


@given(st.lists(SAMPLE, max_size=5))
def test_samples_are_what_was_put_in(listed: list[Sample]) -> None:
    samples = Samples(listed)
    assert list(samples) == samples[:] == listed
    assert samples == pickle.loads(pickle.dumps(samples)) == Samples(samples)
    assert samples.sizes == [sample.size for sample in listed]
    assert samples[::-1] == listed[::-1]
    if listed:
        assert samples[-1] == listed[-1]
        assert samples != Samples(listed[1:])
    with pytest.raises(IndexError):
        samples[len(listed)]


@given(st.lists(st.lists(st.integers(0, 250_000), max_size=4), max_size=5))
def test_ids_are_what_was_put_in(rows: list[list[int]]) -> None:
    ids = Ids(rows)
    assert list(ids) == ids[:] == rows
    assert ids.lengths.tolist() == [len(row) for row in rows]
    assert [type(i) for row in ids for i in row] == [int] * sum(map(len, rows))


@given(st.lists(st.binary(max_size=4), max_size=5))
def test_blobs_are_what_was_put_in(listed: list[bytes]) -> None:
    blobs = Blobs(listed)
    assert list(blobs) == blobs[:] == listed
    assert blobs[1:] == listed[1:]


@given(st.lists(st.text(st.characters(codec=None), max_size=4) | st.text("abc"), max_size=5))
def test_texts_are_what_was_put_in(listed: list[str]) -> None:
    blobs = Blobs.of_texts(listed)
    assert blobs.decoded() == listed
    assert list(blobs) == [text.encode("utf-8", "surrogatepass") for text in listed]


def test_many_clips_are_few_objects() -> None:
    """What a fork shares is not copied by counting references: pickled, too, there is little but the text itself."""
    clips = Samples(Sample(f"clip{i}", Path(f"poses/clip{i}.pkl"), None, "a b c", "English", i, i) for i in range(1000))
    assert len(pickle.dumps(clips)) < 1000 * (8 + 20 + 0 + 5 + 7 + 6 * 8 + 16) + 2000


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    sample = Sample("a", tmp_path / "a.pkl", None, "", "English", 3, 4)
    assert fingerprint(sample) == (b"a.pkl", 3, 4)
