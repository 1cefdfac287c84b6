"""`uni-sign prepare --report`: every fault is counted, shares merge, and the page holds all it shows."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pose_files import pose_file

from uni_sign.cli import main
from uni_sign.commands.report import FAULTS
from uni_sign.data.corpora import SPLITS
from uni_sign.data.pose_facts import known_facts
from uni_sign.data.shards import Shards

Poses = dict[str, dict[str, Any] | bytes | None]


def pose(frames: int = 20, **more: Any) -> dict[str, Any]:
    points = np.random.default_rng(0).random((frames, 1, 133, 2))
    return {"keypoints": list(points), "scores": list(np.full((frames, 1, 133), 0.9)), **more}


def changed(change: Any, frames: int = 20) -> dict[str, Any]:
    content = pose(frames)
    change(content["keypoints"], content["scores"])
    return content


def _nan(points: list[np.ndarray], _: Any) -> None:
    points[3][0, 40, 1] = np.nan


def _crowd(points: list[np.ndarray], scores: list[np.ndarray]) -> None:
    points[2], scores[2] = np.concatenate([points[2], points[2] + 0.1]), np.concatenate([scores[2]] * 2)


def _empty(points: list[np.ndarray], scores: list[np.ndarray]) -> None:
    for frame in range(5):
        points[frame], scores[frame] = points[frame][:0], scores[frame][:0]


FAULTY: Poses = {
    "unreadable": b"junk",
    "not_finite": changed(_nan),
    "blank": changed(lambda _, scores: [score.fill(0.1) for score in scores]),
    "short": pose(15),
    "low_confidence": changed(lambda _, scores: [score[:, 23:112].fill(0.2) for score in scores]),
    "no_hands": changed(lambda _, scores: [score[:, 91:].fill(0.2) for score in scores]),
    "outside": changed(lambda points, _: [point.__iadd__(0.9) for point in points]),
    "several": changed(_crowd),
    "nobody": changed(_empty),
}
# What comes along: hands are over half of the points.
ALSO = {"blank": {"blank", "low_confidence", "no_hands"}, "no_hands": {"low_confidence", "no_hands"}}


def make_corpus(root: Path, splits: dict[str, dict[str, str]], poses: Poses, **more: Any) -> list[str]:
    """A corpus of texts by split and clip; the words of the command."""
    (root / "poses").mkdir(parents=True)
    for name, content in poses.items():
        if content is not None:
            data = content if isinstance(content, bytes) else pickle.dumps(content)
            (root / "poses" / (name if "." in name else f"{name}.pkl")).write_bytes(data)
    for split in SPLITS:
        labels = {
            name: {"name": name, "video_path": f"{name}.mp4", "text": text} for name, text in splits[split].items()
        }
        (root / f"labels.{split}").write_bytes(pickle.dumps(labels))
    told = {"name": "Mine", "language": "English", "pose_dir": "poses", "labels": {s: f"labels.{s}" for s in SPLITS}}
    (root / "mine.yaml").write_text(yaml.safe_dump({**told, **more}))
    return ["prepare", "--dataset", str(root / "mine.yaml"), "--data_root", str(root), "--report"]


def report_of(root: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((root / "prepared" / "report" / "report.json").read_text())
    return told


class _Page(HTMLParser):
    """What a page shows, links to and closes."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "style", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        """Opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_every_fault_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = make_corpus(
        tmp_path,
        {
            "train": {**{name: f"say {name}" for name in FAULTY}, "gone": "say it", "good": "a text", "silent": ""},
            "dev": {"other": "a text", "fine": "new"},
            "test": {"good": "newer", "posed": "newest"},
        },
        {**FAULTY, "good": pose(extractor={"name": "rtmw", "version": "1"}), "other": pose(300), "fine": pose(),
         "silent": pose(), "posed.pose": pose_file(20)},
    )  # fmt: skip
    assert main(words) == 0
    assert "report.html and report.json." in capsys.readouterr().out
    report = report_of(tmp_path)
    assert set(FAULTY) == set(FAULTS)
    for kind in FAULTS:
        expected = sorted(name for name in FAULTY if kind in ALSO.get(name, {name}))
        assert report["faults"][kind]["names"] == expected, kind
        assert report["splits"]["train"][kind] == report["faults"][kind]["clips"] == len(expected)
        assert report["splits"]["dev"][kind] == 0
    train, dev, test = (report["splits"][split] for split in SPLITS)
    assert (train["clips"], train["missing"], train["unusable"], train["pending"]) == (10, 1, 1, 0)
    assert dev["frames"] == {"total": 320, "shortest": 20, "median": 160, "longest": 300, "over_max_length": 1}
    assert report["lengths"]["dev"] == [0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert sum(report["lengths"]["train"]) == 8
    assert dev["seen"] == {"body": 1, "left": 1, "right": 1, "face_all": 1}
    assert report["leaks"]["files_in_several_splits"] == ["good.pkl"]
    told = report["leaks"]["held_out_texts"]
    assert told["dev"] == {"clips": 2, "clips_with_text_of_train": 1, "texts": ["a text"]}
    assert (told["test"]["clips"], told["test"]["clips_with_text_of_train"]) == (2, 0)
    assert report["extractors"][0]["extractor"] == ""
    assert report["extractors"][1] == {"extractor": "rtmw 1", "clips": 1}
    assert sorted(report["usual"]) == ["fine", "good", "other", "posed"]
    assert any("no pose file gone.pkl" in sentence for sentence in report["sentences"])
    assert test["frames"]["longest"] == 20


def test_the_page_stands_alone(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\u202e&\n'\""
    words = make_corpus(
        tmp_path,
        {"train": {**dict.fromkeys(FAULTY, "x"), "good": evil}, "dev": {"fine": evil}, "test": {"fine": evil}},
        {**FAULTY, "good": pose(extractor={"name": evil}), "fine": pose()},
        name=evil,
    )
    assert main([*words, "--report_dir", str(tmp_path / "elsewhere")]) == 0
    content = (tmp_path / "elsewhere" / "report.html").read_text()
    report = json.loads((tmp_path / "elsewhere" / "report.json").read_text())
    page = _Page(content)
    assert page.open == []
    assert all(link.startswith(("#", "data:image/png;base64,", "width:")) for link in page.links)
    assert not re.search(r"https?://|<script|url\(|@import", content)
    pictures = [link for link in page.links if link.startswith("data:")]
    kinds = [fault["names"] for kind, fault in report["faults"].items() if kind != "unreadable"]
    assert len(pictures) == sum(map(len, kinds)) + len(report["usual"]) == 11 + 2
    for link in page.links:
        assert not link.startswith("#") or f"id='{link[1:]}'" in content
    for fault in FAULTS.values():
        assert fault.title in page.words
    assert "<script>alert(1)</script>" in page.words  # as text
    assert "is not a pickle" in page.words
    assert not list((tmp_path / "elsewhere").glob(".*"))


def test_what_is_known_is_not_examined_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"train": {f"c{i}": "x" for i in range(6)}, "dev": {"d": "y"}, "test": {"e": "z"}}
    words = make_corpus(tmp_path, texts, {name: pose(4) for split in texts.values() for name in split})
    assert main(words[:-1]) == 0  # shards alone
    assert main(words) == 0  # and the report of clips that are prepared already
    assert "8 of them prepared; share 1 of 1 has 8 to do" in capsys.readouterr().out
    assert len(Shards(tmp_path / "prepared")) == 8
    assert main(words) == 0
    assert "share 1 of 1 has 0 to do" in capsys.readouterr().out
    (tmp_path / "poses" / "c3.pkl").write_bytes(pickle.dumps(pose(17)))
    assert main(words) == 0
    assert "share 1 of 1 has 1 to do" in capsys.readouterr().out
    assert report_of(tmp_path)["splits"]["train"]["frames"]["longest"] == 17
    assert main([*words[:-1], "--report_dir", "x"]) == 2
    assert "--report_dir needs --report" in capsys.readouterr().err


def test_shares_that_run_at_once_and_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two tasks of a Slurm array, of two processes each; one is killed at work, and both are started again."""
    names = [f"c{i:03}" for i in range(150)]
    texts = {"train": dict.fromkeys(names[20:], "x"), "dev": dict.fromkeys(names[:10], "y"),
             "test": dict.fromkeys(names[10:20], "z")}  # fmt: skip
    content = pickle.dumps(pose(60))
    words = make_corpus(tmp_path, texts, {**dict.fromkeys(names, content), "c077": b"junk"})
    words = [*words[1:], "--num_workers", "2", "--shard_mb", "1"]
    command = [sys.executable, "-c", f"from uni_sign.commands.prepare import prepare; prepare({words})"]

    def start() -> list[subprocess.Popen[bytes]]:
        array = [{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"} for task in range(2)]
        pipe = subprocess.PIPE
        return [subprocess.Popen(command, env={**os.environ, **task}, stdout=pipe, stderr=pipe) for task in array]

    folder = tmp_path / "prepared"
    processes = start()
    end = time.monotonic() + 60
    while not list(folder.glob("*.arrow")):
        assert time.monotonic() < end
        time.sleep(0.001)
    processes[1].send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL]
    for process in start():
        assert process.wait(120) == 0, b"".join(process.communicate())
    shards = Shards(folder)
    assert sorted(os.fsdecode(name) for name in shards._names) == [f"{name}.pkl" for name in names]
    assert len(known_facts(folder / "report" / "facts")) == 150
    report = report_of(tmp_path)
    assert [report["splits"][split]["clips"] for split in SPLITS] == [130, 10, 10]
    assert [report["splits"][split]["pending"] for split in SPLITS] == [0, 0, 0]
    assert report["faults"]["unreadable"]["names"] == ["c077"]
    assert sum(report["splits"][split]["frames"]["total"] for split in SPLITS) == 149 * 60
    assert not list(folder.glob(".*"))


def test_a_share_says_what_the_others_have_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"train": {f"c{i}": "x" for i in range(6)}, "dev": {"d": "y"}, "test": {"e": "z"}}
    words = make_corpus(tmp_path, texts, {name: pose(4) for split in texts.values() for name in split})
    assert main([*words, "--shard_index", "0", "--shard_count", "2"]) == 0
    assert "report.json; 4 clips are still to be examined." in capsys.readouterr().out
    assert sum(report_of(tmp_path)["splits"][split]["pending"] for split in SPLITS) == 4
    assert main([*words, "--shard_index", "1", "--shard_count", "2"]) == 0
    assert "still to be" not in capsys.readouterr().out


def test_a_corpus_of_single_signs_has_no_leaking_texts(tmp_path: Path) -> None:
    texts = {"train": {"a": "word"}, "dev": {"b": "word"}, "test": {"c": "word"}}
    words = make_corpus(tmp_path, texts, {name: pose(4) for name in "abc"}, tasks=["ISLR"])
    assert main(words) == 0
    assert report_of(tmp_path)["leaks"] == {"task": None, "files_in_several_splits": [], "held_out_texts": {}}
    assert "the words of ISLR" in (tmp_path / "prepared" / "report" / "report.html").read_text()
