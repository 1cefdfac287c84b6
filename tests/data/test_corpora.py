"""Corpus files and label files: what is found, what is left out and named, and what is refused."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from uni_sign.data.corpora import SPLITS, Corpus, default_corpus, known_corpora, load_corpus
from uni_sign.data.splits import read_split
from uni_sign.errors import InputError

CORPUS = {
    "name": "Mine",
    "language": "English",
    "tasks": ["SLT", "CSLR"],
    "labels": {split: f"labels.{split}" for split in SPLITS},
    "pose_dir": "poses",
    "description_dirs": ["told/{split}"],
}


_OWN_TABLES = {
    "PHOENIX14T": "PHOENIX-2014-T.dev.corpus.csv",
    "How2Sign": "how2sign_realigned_val.csv",
    "OpenASL": "openasl-v1.0.tsv",
}


def write_corpus(root: Path, **changes: Any) -> str:
    """A corpus file in ``root``; a change to None takes the key away."""
    content = {key: value for key, value in {**CORPUS, **changes}.items() if value is not None}
    path = root / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def write_labels(path: Path, labels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(pickle.dumps(labels)))


def write_poses(root: Path, names: Iterable[str], folder: str = "poses") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / name).write_bytes(b"x" * len(name))


def entry(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "video_path": f"{name}.mp4", "text": f"say {name}", "gloss": ["SAY", name], **changes}


def corpus_of(root: Path, labels: Any, poses: Iterable[str] = ("a.pkl", "b.pkl"), **changes: Any) -> Corpus:
    write_labels(root / "labels.train", labels)
    write_poses(root, poses)
    return load_corpus(write_corpus(root, **changes), root)


def refusal(root: Path, **changes: Any) -> str:
    path = write_corpus(root, **changes)
    with pytest.raises(InputError) as caught:
        load_corpus(path, root)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- corpus files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_corpora())
def test_shipped_corpora_load(tmp_path: Path, name: str) -> None:
    corpus = load_corpus(name, tmp_path)
    assert corpus.name == name
    assert corpus.pose_dir == tmp_path / "dataset" / name / "pose_format"
    assert corpus.description_dirs[0] == tmp_path / "description" / name / "split_data" / "{split}"
    needed = ("train",) if name == "CSL_News" else SPLITS
    assert tuple(corpus.labels) == needed
    if name != "CSL_News":
        assert corpus.labels["dev"] == tmp_path / "data" / name / _OWN_TABLES.get(name, "labels.dev")
    assert corpus.max_target_length == (128 if name in ("How2Sign", "OpenASL") else 50)
    assert corpus.max_length in (64, 256)
    assert corpus.language in ("Chinese", "English", "German")


def test_the_shipped_corpora_are_those_of_the_spec() -> None:
    expected = {"CSL_Daily", "CSL_News", "WLASL", "How2Sign", "OpenASL", "PHOENIX14T", "Demo"}
    assert set(known_corpora()) == expected


def test_unknown_corpora_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--dataset CSL is unknown: use CSL_Daily, .*WLASL"):
        load_corpus("CSL", tmp_path)


@pytest.mark.parametrize("spelling", ["CSL_Daily", "CSL-Daily"])
def test_default_is_csl_daily_in_either_spelling(tmp_path: Path, spelling: str) -> None:
    write_labels(tmp_path / "data" / spelling / "labels.train", {})
    write_poses(tmp_path, [], f"dataset/{spelling}/pose_format")
    (tmp_path / "description" / spelling / "split_data" / "dev").mkdir(parents=True)
    corpus, said = default_corpus(tmp_path)
    assert corpus.name == "CSL_Daily"
    assert str(tmp_path / "data" / spelling / "labels.train") in said
    assert corpus.pose_dir == tmp_path / "dataset" / spelling / "pose_format"
    assert corpus.description_dir("dev") == tmp_path / "description" / spelling / "split_data" / "dev"
    assert corpus.description_dir("test") is None


def test_default_is_the_demo_without_csl_daily(tmp_path: Path) -> None:
    corpus, said = default_corpus(tmp_path)
    assert corpus.name == "Demo"
    assert "Demo" in said
    assert "CSL_Daily" in said


def test_a_corpus_of_ones_own_by_path(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, {"a": entry("a")}, video_dir=["none", "videos"], description_dirs="told/{split}")
    assert (corpus.name, corpus.pose_dir, corpus.video_dir) == ("Mine", tmp_path / "poses", tmp_path / "none")
    assert (corpus.max_length, corpus.max_target_length, corpus.label_format) == (256, 50, "pickle")
    assert [sample.target for sample in read_split(corpus, "SLT", "train").samples] == ["say a"]


def test_braces_in_the_data_root_are_no_placeholder(tmp_path: Path) -> None:
    root = tmp_path / "{x}"
    (root / "told" / "train").mkdir(parents=True)
    (root / "told" / "train" / "a.json").write_text("{}")
    [sample] = read_split(corpus_of(root, {"a": entry("a")}), "SLT", "train").samples
    assert sample.description_path == root / "told" / "train" / "a.json"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pose_folder": "x"}, "unknown key 'pose_folder'"),
        ({"language": None}, "missing key 'language'"),
        ({"labels": None}, "missing key 'labels'"),
        ({"tasks": ["SLT", "XYZ"]}, "task 'XYZ' is unknown"),
        ({"tasks": "slt"}, "task 'slt' is unknown"),
        ({"label_format": "csv"}, "label_format 'csv' is unknown"),
        ({"text_normalization": "letters"}, "text_normalization must be"),
        ({"max_length": 0}, "max_length"),
        ({"max_target_length": "long"}, "max_target_length"),
        ({"labels": {"train": "labels.train", "dev": "labels.dev"}}, "labels has no 'test'"),
        ({"labels": "labels.train"}, "wrong form"),
        ({"labels": {**CORPUS["labels"], "dev": []}}, "wrong form"),  # type: ignore[dict-item]
        ({"pose_dir": []}, "wrong form"),
        ({"description_dirs": [1]}, "wrong form"),
        ({"pose_dir": "x" * 5000}, "wrong form"),
        ({"name": ["Mine"]}, "name and language must be text"),
    ],
)
def test_corpus_files_that_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    assert says in refusal(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("- 1", "must hold names and values"),
        ("", "must hold names and values"),
        ("name: [", "not valid YAML"),
        ("name: 2020-13-45", "not valid YAML"),
        ("1: a\nb: c", "unknown key"),
    ],
)
def test_broken_corpus_files(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"mine\.yaml.*{says}"):
        load_corpus(str(path), tmp_path)
    with pytest.raises(InputError, match=r"nowhere\.yml cannot be read"):
        load_corpus(str(tmp_path / "nowhere.yml"), tmp_path)


@pytest.mark.parametrize(
    ("normalization", "language", "style"),
    [
        ("auto", "Chinese", "characters"),
        ("auto", "Japanese", "characters"),
        ("auto", "German", "words"),
        ("words", "Chinese", "words"),
        ("characters", "English", "characters"),
    ],
)
def test_scoring_style(tmp_path: Path, normalization: str, language: str, style: str) -> None:
    corpus = load_corpus(write_corpus(tmp_path, text_normalization=normalization), tmp_path)
    assert corpus.scoring_style(language) == style


# --- label files -------------------------------------------------------------------------------------------


def test_samples_of_a_split(tmp_path: Path) -> None:
    (tmp_path / "told" / "train").mkdir(parents=True)
    (tmp_path / "told" / "train" / "b.json").write_text("{}")
    labels = {"a": entry("a"), "b": entry("b", language="German"), "c": {"text": "by its key alone"}}
    split = read_split(corpus_of(tmp_path, labels, ["a.pkl", "b.pkl", "c.pkl"]), "SLT", "train")
    assert not split.problems
    a, b, c = split.samples
    assert (a.name, a.pose_path, a.target, a.language) == ("a", tmp_path / "poses" / "a.pkl", "say a", "English")
    assert (a.description_path, a.size) == (None, len("a.pkl"))
    assert (b.description_path, b.language) == (tmp_path / "told" / "train" / "b.json", "German")
    assert (c.name, c.target) == ("c", "by its key alone")


def test_npz_is_preferred_over_pkl(tmp_path: Path) -> None:
    split = read_split(corpus_of(tmp_path, {"a": entry("a")}, ["a.pkl", "a.npz"]), "SLT", "train")
    assert split.samples[0].pose_path == tmp_path / "poses" / "a.npz"


@pytest.mark.parametrize(("gloss", "target"), [(["NOW", "GO"], "NOW GO"), (("NOW",), "NOW"), ("NOW GO", "NOW GO")])
def test_glosses_as_list_or_text(tmp_path: Path, gloss: Any, target: str) -> None:
    split = read_split(corpus_of(tmp_path, {"a": entry("a", gloss=gloss)}), "CSLR", "train")
    assert split.samples[0].target == target


@pytest.mark.parametrize(
    ("bad", "task", "says"),
    [
        ("a text", "SLT", "its entry is str, not a dict"),
        (None, "SLT", "its entry is NoneType, not a dict"),
        (entry("b", text=""), "SLT", "target for SLT is empty"),
        (entry("b", text=" \n"), "SLT", "target for SLT is empty"),
        (entry("b", text=None), "SLT", "must be strings"),
        (entry("b", text="\ud800"), "SLT", "Unicode"),
        (entry("b", gloss=""), "CSLR", "target for CSLR is empty"),
        (entry("b", gloss=[]), "CSLR", "target for CSLR is empty"),
        (entry("b", gloss=[1]), "CSLR", "gloss a list of strings"),
        (entry("b", video_path=7), "SLT", "video_path"),
        (entry("b", video_path="z.mp4"), "SLT", "no pose file z.pkl in "),
        (entry("b", language="?"), "SLT", "its language '?'"),
        (entry("b", language=3), "SLT", "its language of type int"),
        ({**entry("b"), "name": 3}, "SLT", "name, video_path and text must be strings"),
        (entry("b", pose=np.ones(3)), "SLT", "must be strings"),
        (entry("b", gloss=["x" * 1000] * 1000), "CSLR", "100,000 letters in all"),
    ],
)
def test_unusable_clips_are_left_out_and_named(tmp_path: Path, bad: Any, task: str, says: str) -> None:
    split = read_split(corpus_of(tmp_path, {"a": entry("a"), "b": bad}), task, "train")
    assert [sample.name for sample in split.samples] == ["a"]
    [problem] = split.problems
    assert says in problem
    assert "clip b" in problem
    assert str(tmp_path / "labels.train") in problem


def test_values_that_stand_for_more_than_memory_holds_are_not_spelled_out(tmp_path: Path) -> None:
    bomb: Any = "x"
    for _ in range(60):
        bomb = [bomb, bomb]
    values = {"name": bomb, "language": bomb, "text": bomb, "pose": bomb}, {"name": 1 << 50_000}
    bad = [{**entry("b"), name: value} for some in values for name, value in some.items()]
    labels = {"a": entry("a"), **{f"b{number}": one for number, one in enumerate(bad)}, 1 << 50_000: entry("b")}
    split = read_split(corpus_of(tmp_path, labels), "SLT", "train")
    assert [sample.name for sample in split.samples] == ["a"]
    assert all(len(problem) < 1000 for problem in split.problems)
    [problem] = read_split(corpus_of(tmp_path, {"a": entry("a"), "b\n\x1b[31m": None}), "SLT", "train").problems
    assert problem.isprintable()


def test_no_usable_clip_at_all(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, {"a": entry("a", text=""), "b": 1})
    with pytest.raises(InputError, match=r"No usable clip in split 'train' of Mine: .*clip a: its target"):
        read_split(corpus, "SLT", "train")
    write_labels(tmp_path / "labels.train", {})
    with pytest.raises(InputError, match=r"labels\.train is empty"):
        read_split(corpus, "SLT", "train")
    write_labels(tmp_path / "labels.train", ["a"])
    with pytest.raises(InputError, match=r"labels\.train: clip 1 is no dict with a name"):
        read_split(corpus, "SLT", "train")


def test_missing_label_file_and_pose_folder(tmp_path: Path) -> None:
    corpus = load_corpus(write_corpus(tmp_path), tmp_path)
    with pytest.raises(InputError, match=r"No label file .*labels\.dev for split 'dev' of Mine: .*--data_root"):
        read_split(corpus, "SLT", "dev")
    write_labels(tmp_path / "labels.dev", {"a": entry("a")})
    with pytest.raises(InputError, match=r"pose folder .*poses cannot be read"):
        read_split(corpus, "SLT", "dev")
    with pytest.raises(InputError, match="run `uni-sign demo-data`"):
        read_split(load_corpus("Demo", tmp_path), "SLT", "train")


@pytest.mark.parametrize("labels", ["a", 3, None])
def test_labels_that_are_no_dict(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(InputError, match=r"labels\.train must hold a dict or a list of clips"):
        read_split(corpus_of(tmp_path, labels), "SLT", "train")


def test_labels_that_are_no_pickle(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, {})
    (tmp_path / "labels.train").write_bytes(b"no pickle")
    with pytest.raises(InputError, match=r"labels\.train"):
        read_split(corpus, "SLT", "train")


def test_a_dangling_link_among_the_poses_costs_its_clip_alone(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, {"a": entry("a"), "b": entry("b")}, ["a.pkl"])
    (tmp_path / "poses" / "b.pkl").symlink_to(tmp_path / "nowhere")
    split = read_split(corpus, "SLT", "train")
    assert [sample.name for sample in split.samples] == ["a"]
    assert "b.pkl" in split.problems[0]


def test_single_signs_have_label_files_of_their_own(tmp_path: Path) -> None:
    corpus = load_corpus("Demo", tmp_path)
    assert corpus.label_files("ISLR")["dev"].name == "labels.isolated.dev"
    assert corpus.label_files("SLT")["dev"].name == "labels.dev"
    assert load_corpus("WLASL", tmp_path).label_files("ISLR")["dev"].name == "labels.dev"


# --- CSL-News ----------------------------------------------------------------------------------------------


def news(root: Path, content: bytes, poses: int) -> Corpus:
    write_poses(root, [f"{i}.pkl" for i in range(poses)], "dataset/CSL_News/pose_format")
    path = root / "data" / "CSL_News" / "CSL_News_Labels.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return load_corpus("CSL_News", root)


def news_entries(count: int) -> list[dict[str, str]]:
    return [{"video": f"v/{i}.mp4", "pose": f"p/{i}.pkl", "text": f"新闻{i}"} for i in range(count)]


@pytest.mark.parametrize(("count", "held_out"), [(250, 2), (99, 1), (2, 1)])
def test_csl_news_holds_out_its_last_percent(tmp_path: Path, count: int, held_out: int) -> None:
    corpus = news(tmp_path, json.dumps(news_entries(count), ensure_ascii=False).encode(), count)
    train, dev, test = (read_split(corpus, "SLT", split).samples for split in SPLITS)
    assert [sample.target for sample in train] == [f"新闻{i}" for i in range(count - held_out)]
    assert [sample.target for sample in dev] == [f"新闻{i}" for i in range(count - held_out, count)]
    assert dev == test
    assert dev[-1].pose_path.name == f"{count - 1}.pkl"
    assert dev[-1].language == "Chinese"


def test_csl_news_with_files_of_its_own_for_held_out_clips_holds_out_none(tmp_path: Path) -> None:
    write_poses(tmp_path, [f"{i}.pkl" for i in range(30)])
    files = {}
    for split, (first, last) in {"train": (0, 20), "dev": (20, 24), "test": (24, 30)}.items():
        files[split] = f"{split}.json"
        (tmp_path / files[split]).write_text(json.dumps(news_entries(30)[first:last]), encoding="utf-8")
    corpus = load_corpus(write_corpus(tmp_path, labels=files, label_format="csl_news"), tmp_path)
    assert [len(read_split(corpus, "SLT", split).samples) for split in SPLITS] == [20, 4, 6]


def test_single_signs_need_a_file_for_every_split(tmp_path: Path) -> None:
    for given in ("train", "dev"):
        with pytest.raises(InputError, match="isolated_labels has no"):
            load_corpus(write_corpus(tmp_path, isolated_labels={given: "labels.x"}), tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(news_entries(3), ensure_ascii=False).encode("gb18030"), "not valid JSON in UTF-8"),
        (b"[{", "not valid JSON"),
        (b"[" * 10**5, "not valid JSON"),
        (b'{"a": 1}', "must hold a list of clips"),
        (b"[1, 2]", "must hold a list of clips"),
        (b"[]", "is empty"),
    ],
)
def test_broken_csl_news(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=rf"CSL_News_Labels\.json.*{says}") as caught:
        read_split(news(tmp_path, content, 3), "SLT", "train")
    assert "\n" not in str(caught.value)
