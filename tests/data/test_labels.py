"""A large label file is unpickled once: its columns are kept, and read again while the file is as it was."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import pytest

from uni_sign.data import labels
from uni_sign.data.corpora import Corpus
from uni_sign.data.labels import read_labels
from uni_sign.errors import InputError

ENTRIES: dict[str, Any] = {
    "a": {"name": "a", "video_path": "x/a.mp4", "text": "say 手", "gloss": ["SAY", "手"]},
    "b\udcff": {"name": "b\udcff", "text": "two\nlines", "language": "German"},
    "c": {"text": ""},
    "d": "no entry",
}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(labels, "_KEPT_FROM", 1)
    write(tmp_path / "labels.train", ENTRIES)
    files = dict.fromkeys(("train", "dev", "test"), tmp_path / "labels.train")
    return Corpus("Mine", "English", files, tmp_path, cache_dir=tmp_path / "cache")


def write(path: Path, entries: Any) -> None:
    path.write_bytes(gzip.compress(pickle.dumps(entries)))


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("the label file was read again")


def test_columns_and_what_is_wrong(corpus: Corpus) -> None:
    columns, problems = read_labels(corpus, "SLT", "train")
    assert columns.keys == ["a", "b\udcff", "c", "d"]
    assert columns.names == ["a", "b\udcff", "", ""]
    assert columns.stems == ["a", "b\udcff", "", ""]
    assert columns.targets == ["say 手", "two\nlines", "", ""]
    assert columns.languages == ["English", "German", "", ""]
    assert columns.videos == ["x/a.mp4", "", "", ""]
    assert [problem.partition(": ")[2] for problem in columns.problems] == [
        *("", ""),
        "clip c: its target for SLT is empty.",
        "clip d: its entry is str, not a dict.",
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("entry", "stem", "video"),
    [
        ({}, "key.v", ""),
        ({"pose": "p/a.b.pkl", "video_path": "v/c.mp4", "video": "d.mp4"}, "a.b", "v/c.mp4"),
        ({"pose": "", "video_path": None, "video": "v/d.mp4/"}, "d", "v/d.mp4/"),
        ({"pose": None, "video_path": "", "video": ""}, "key.v", ""),
        ({"pose": "/"}, "", ""),
        ({"pose": ["a.pkl"]}, None, None),
        ({"video_path": 0}, None, None),
        ({"video": False}, None, None),
    ],
)
def test_files_that_an_entry_names(corpus: Corpus, entry: dict[str, Any], stem: str | None, video: str | None) -> None:
    write(corpus.labels["train"], {"key.v": {"text": "t", **entry}})
    columns, _ = read_labels(corpus, "SLT", "train")
    assert (columns.stems, columns.videos) == ([stem or ""], [video or ""])
    assert ("must be strings" in columns.problems[0]) == (stem is None)


def test_what_is_kept_is_what_was_read(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_labels(corpus, "SLT", "train")
    glosses = read_labels(corpus, "CSLR", "train")
    monkeypatch.setattr(labels, "load_pickle", refuse)
    assert read_labels(corpus, "SLT", "train") == first
    assert read_labels(corpus, "CSLR", "train") == glosses
    assert glosses[0].targets[0] == "SAY 手"


def test_a_changed_file_is_read_anew(corpus: Corpus) -> None:
    read_labels(corpus, "SLT", "train")
    write(corpus.labels["train"], {"z": {"text": "new"}})
    assert read_labels(corpus, "SLT", "train")[0].keys == ["z"]
    assert len(list(corpus.cache_dir.iterdir())) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "folder"])
def test_damaged_columns_are_made_anew(corpus: Corpus, damage: str) -> None:
    first = read_labels(corpus, "SLT", "train")
    [kept] = corpus.cache_dir.iterdir()  # type: ignore[union-attr]
    content = kept.read_bytes()
    kept.unlink()
    if damage == "folder":
        kept.mkdir()
    else:
        kept.write_bytes({"cut": content[:-9], "empty": b"", "other": content[:8] + content[8:][::-1]}[damage])
    assert read_labels(corpus, "SLT", "train") == first
    assert not list(corpus.cache_dir.glob(".*"))  # type: ignore[union-attr]
    if damage != "folder":
        assert kept.read_bytes() == content


def test_a_folder_that_takes_no_files_is_done_without(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert read_labels(corpus, "SLT", "train")[0].keys[0] == "a"


def test_few_entries_are_not_kept(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_KEPT_FROM", 5)
    read_labels(corpus, "SLT", "train")
    assert not corpus.cache_dir.exists()  # type: ignore[union-attr]


def test_a_missing_file_is_said_although_its_columns_are_kept(corpus: Corpus) -> None:
    read_labels(corpus, "SLT", "train")
    corpus.labels["train"].unlink()
    with pytest.raises(InputError, match="No label file"):
        read_labels(corpus, "SLT", "train")
