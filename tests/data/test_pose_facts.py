"""What is found out about a clip, and lines that outlive damage, versions and processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.pose_facts import SUFFIX, FactLog, Facts, facts_of, known_facts, read_clip
from uni_sign.data.samples import Sample, fingerprint
from uni_sign.data.wholebody import PARTS, read_pose, split_parts
from uni_sign.errors import InputError


def clip(frames: int = 10, score: float = 0.9) -> dict[str, Any]:
    points = np.random.default_rng(0).random((frames, 133, 2))
    return {"keypoints": list(points), "scores": list(np.full((frames, 133), score))}


def found(folder: Path, content: Any) -> Facts:
    (folder / "a.pkl").write_bytes(pickle.dumps(content))
    return facts_of(read_clip(folder / "a.pkl"))


def sample(folder: Path, name: str = "a") -> Sample:
    return Sample(name, folder / f"{name}.pkl", None, "text", "English", 5, 7)


def test_nothing_wrong(tmp_path: Path) -> None:
    told = found(tmp_path, {**clip(), "extractor": {"name": "rtmw", "version": "1.2", "mode": "balanced", "x": "y"}})
    assert told == Facts(frames=10, people=1, seen=dict.fromkeys(PARTS, 1.0), extractor="rtmw 1.2 balanced")
    assert told.seen_in_all == 1


def test_unreadable_files_and_values(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"junk")
    junk = facts_of(read_clip(tmp_path / "a.pkl"))
    assert "a.pkl is not a pickle" in junk.problem
    assert (junk.finite, junk.frames) == (True, 0)
    for value in (np.nan, np.inf, 1e7):
        content = clip()
        content["keypoints"][4][7, 1] = value
        told = found(tmp_path, content)
        assert "not finite" in told.problem
        assert (told.finite, told.frames) == (False, 10)
    other = found(tmp_path, {"keypoints": [[]], "scores": [[]]})
    assert "nobody" in other.problem
    assert other.finite
    assert "no dict" in found(tmp_path, [1]).problem


def test_people_are_counted(tmp_path: Path) -> None:
    content = clip(8)
    for frame in (0, 1, 2):
        content["keypoints"][frame] = np.stack([content["keypoints"][frame]] * 3)
        content["scores"][frame] = np.stack([content["scores"][frame]] * 3)
    content["keypoints"][5] = content["scores"][5] = []
    told = found(tmp_path, content)
    assert (told.frames, told.several, told.people, told.nobody) == (8, 3, 3, 1)


def test_shares_are_of_seen_points(tmp_path: Path) -> None:
    content = clip(4, 0.3)  # not above the threshold
    for frame in range(4):
        content["scores"][frame][:10] = 0.9
        content["keypoints"][frame][:5] = (0.5, 1.2)
        content["keypoints"][frame][20] = (-1, 0.5)  # unseen
    told = found(tmp_path, content)
    assert told.outside == 0.5
    assert told.seen == {"body": 8 / 9, "left": 0, "right": 0, "face_all": 0}
    assert told.seen_in_all == pytest.approx(8 / 69)


@pytest.mark.parametrize(("seen", "flat"), [(3, False), (4, False), (8, True), (0, False)])
def test_blank_is_what_the_model_sees_as_nothing(tmp_path: Path, seen: int, flat: bool) -> None:
    content = clip(1, 0.1)
    content["scores"][0][list(PARTS["body"])[:seen]] = 0.9
    content["scores"][0][91:] = 0.9
    if flat:
        content["keypoints"][0][:] = 0.5
    told = found(tmp_path, content)
    pose = read_pose(tmp_path / "a.pkl")
    parts = split_parts(pose.keypoints, pose.scores)
    assert told.blank == (not any(part.any() for part in parts.values()))


def test_an_extractor_that_is_none(tmp_path: Path) -> None:
    for odd in (None, "rtmw", 5, [], {}, {"name": ["x"]}, {"name": None}):
        assert found(tmp_path, {**clip(1), "extractor": odd}).extractor == ""
    assert found(tmp_path, {**clip(1), "extractor": {"name": "a\nb" * 900, "mode": 1.5}}).extractor.endswith(" 1.5")


# --- lines -------------------------------------------------------------------------------------------------


def test_lines_are_read_again(tmp_path: Path) -> None:
    told = Facts("a.pkl is \u4eca\u5929 damaged", False, 3, 1, 0, 2, 0.25, True, {"body": 0.5}, "rtmw")
    odd = Sample("b", tmp_path / "b\udcff\n.pkl", None, "", "", 1, 2)
    for one in (sample(tmp_path), odd):
        with FactLog(tmp_path / "facts") as log:
            log.append(one, told)
    assert known_facts(tmp_path / "facts") == {fingerprint(sample(tmp_path)): told, fingerprint(odd): told}
    assert len(list((tmp_path / "facts").glob(f"*{SUFFIX}"))) == 2
    assert known_facts(tmp_path / "nowhere") == {}


def test_nothing_to_say_makes_no_file(tmp_path: Path) -> None:
    with FactLog(tmp_path / "facts"):
        pass
    assert not (tmp_path / "facts").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "facts").write_bytes(b"")
    with pytest.raises(InputError, match="another --report_dir"), FactLog(tmp_path / "facts") as log:
        log.append(sample(tmp_path), Facts())


def _line(**changes: Any) -> str:
    key = {"version": 1, "name": "a.pkl", "size": 5, "mtime_ns": 7}
    return json.dumps({**key, "frames": 3, "seen": {"body": 0.5}, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        *({"version": 2}, {"size": "5"}, {"size": None}, {"frames": -1}, {"frames": 2.5}, {"frames": True}),
        *({"outside": 2.0}, {"outside": float("nan")}, {"seen": []}, {"seen": {"x": 0.5}}, {"seen": {"body": "a"}}),
        *({"problem": 1}, {"finite": 1}, {"more": 1}, {"name": 5}, {"extractor": None}),
    ],
)
def test_other_lines_count_for_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / f"x{SUFFIX}").write_text(f"{_line(**changes)}\n{_line(size=6)}\n{_line()[:-9]}")
    assert [key[1] for key in known_facts(tmp_path)] == [6]


@given(st.lists(st.binary(max_size=60) | st.sampled_from([_line().encode(), _line()[:30].encode(), b"[" * 90_000])))
def test_damage_is_never_a_crash(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("facts")
    (folder / f"x{SUFFIX}").write_bytes(b"\n".join(lines))
    assert len(known_facts(folder)) <= 1
