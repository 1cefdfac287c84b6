"""Clips of talking faces by folder and by manifest, their pictures at any rate, and where their sound lies."""

import csv
import json
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from uni_sign.data import motion_clips
from uni_sign.data.audio import RATE
from uni_sign.data.demo.talking_faces import generate_talking_faces
from uni_sign.data.motion_clips import (
    EMOTIONS,
    ClipFacts,
    MotionClip,
    clip_facts,
    clip_problems,
    read_faces,
    read_motion_clips,
    read_picture,
)
from uni_sign.data.video_writer import write_video_with_sound
from uni_sign.errors import InputError


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_talking_faces(tmp_path_factory.mktemp("faces"), clips=42, size=32, progress=False)


def test_a_folder_as_ravdess_lays_it_out(faces: Path) -> None:
    clips = read_motion_clips(faces)
    assert len(clips) == 42
    assert {clip.split for clip in clips} == {"train", "test"}
    assert all(clip.audio == clip.video.with_suffix(".wav") for clip in clips)
    told = {clip.video.stem.split("-")[2]: clip.emotion for clip in clips}
    known = {
        "01": "neutral",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fear",
        "07": "disgust",
        "08": "surprise",
    }
    assert told == {code: known[code] for code in told}
    assert len(told) > 4


def test_only_the_names_of_ravdess_tell_an_emotion(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "Actor_01"
    folder.mkdir(parents=True)
    names = ("01-01-05-02-01-01-12", "rec-2021-05-12", "01-01-05", "01-01-09-01-01-01-01")
    for name in names:
        (folder / f"{name}.mp4").write_bytes(b"")
    told = {clip.video.stem: clip.emotion for clip in read_motion_clips(tmp_path)}
    assert told == {name: "angry" if name == names[0] else None for name in names}


def test_other_names_and_no_sound_beside(tmp_path: Path) -> None:
    path = tmp_path / "train" / "Actor_9" / "hello.mp4"
    path.parent.mkdir(parents=True)
    path.touch()
    assert read_motion_clips(tmp_path) == [MotionClip("train/Actor_9/hello", path, None, None, "train")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_manifest(tmp_path: Path, kind: str) -> None:
    rows = [("b/two.mp4", "two.wav", "happy", "test"), ("one.mp4", "", "", "train")]
    titles = ("video", "audio", "emotion", "split")
    path = tmp_path / f"clips.{kind}"
    if kind == "csv":
        path.write_text("\n".join(",".join(row) for row in (titles, *rows)) + "\n\n")
    else:
        path.write_text("\n".join(json.dumps(dict(zip(titles, row, strict=True))) for row in rows))
    first, second = read_motion_clips(path)
    assert first == MotionClip("b/two.mp4", tmp_path / "b/two.mp4", tmp_path / "two.wav", "happy", "test")
    assert second == MotionClip("one.mp4", tmp_path / "one.mp4", None, None, "train")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "video,audio\na,b\n", "no columns video and split"),
        ("a.csv", "video,split\na,train,b\n", "row 2: 3 fields, not 2"),
        ("a.csv", "video,split\na,dev\n", "split is 'dev'"),
        ("a.csv", "video,split,emotion\na,train,bored\n", "emotion is 'bored'"),
        ("a.csv", "video,split\na,train\na,test\n", "names a twice"),
        ("a.csv", "video,split\n", "holds no clips"),
        ("a.csv", "video,split,video\na,train,b\n", "more than one column video"),
        ("a.jsonl", '{"video": "a", "split": "train", "emotion": false}', "row 1: emotion is no text"),
        ("a.jsonl", "[1]\n", "row 1: it is no JSON object"),
        ("a.jsonl", '{"video": "\\ud800", "split": "train"}', "row 1: video is no text"),
        ("a.jsonl", '{"video": "a", "split": "train"}\n{"video": 7, "split": "train"}\n', "row 2: video is no text"),
        ("a.jsonl", "[" * 100_000, "row 1: it is no JSON object"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        read_motion_clips(tmp_path / name)


_NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r\n"), min_size=1, max_size=9).map(
    lambda text: "v" + text.strip()
)
_ROWS = st.lists(
    st.tuples(_NAMES, st.just("") | _NAMES, st.sampled_from(["", *EMOTIONS]), st.sampled_from(["train", "test"])),
    min_size=1,
    unique_by=lambda row: row[0],
)


@given(rows=_ROWS, kind=st.sampled_from(["csv", "jsonl"]), order=st.permutations(range(4)))
def test_every_manifest_that_is_right_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], kind: str, order: list[int]
) -> None:
    folder, titles = tmp_path_factory.mktemp("manifest"), ("video", "audio", "emotion", "split")
    path = folder / f"a.{kind}"
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            csv.writer(file).writerows([row[place] for place in order] for row in (titles, *rows))
        else:
            file.writelines(json.dumps({titles[place]: row[place] or None for place in order}) + "\n" for row in rows)
    expected = [
        MotionClip(video, folder / video, folder / audio if audio else None, emotion or None, split)
        for video, audio, emotion, split in sorted(rows)
    ]
    assert read_motion_clips(path) == expected


@given(st.lists(st.text(alphabet='ab,"\n;{}[]: ', max_size=12), max_size=6), st.sampled_from(["csv", "jsonl"]))
def test_any_manifest_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[str], kind: str) -> None:
    path = tmp_path_factory.mktemp("manifest") / f"a.{kind}"
    path.write_text("video,split\n" + "\n".join(lines))
    said = ""
    try:
        found = read_motion_clips(path)
    except InputError as error:
        found, said = [], str(error)
    assert found or str(path) in said


@pytest.mark.parametrize(("rate", "expected"), [(25.0, 30), (12.5, 15), (50.0, 60)])
def test_pictures_at_another_rate(tmp_path: Path, rate: float, expected: int) -> None:
    frames = np.repeat(np.arange(30, dtype=np.uint8)[:, None, None, None] * 8, 32, 1).repeat(48, 2).repeat(3, 3)
    write_video_with_sound(tmp_path / "a.mp4", frames, 25.0)
    pictures = read_faces(tmp_path / "a.mp4", 16, rate)
    assert pictures.shape == (expected, 16, 16, 3)
    shown = (np.arange(expected) * 25.0 / rate).round().clip(max=29)
    assert np.abs(pictures.mean(axis=(1, 2, 3)) / 8 - shown).max() < 1.2


def test_pictures_of_an_uneven_rate_are_taken_by_their_time(tmp_path: Path) -> None:
    path, times = tmp_path / "a.mp4", [0, 1, 2, 3, 10, 11, 12, 20]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width = stream.height = 16
        for number, time in enumerate(times):
            picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 20 * number, np.uint8), format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    shown = (read_faces(path, 16).mean(axis=(1, 2, 3)) / 20).round().astype(int).tolist()
    assert shown == [0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7]
    facts = clip_facts(MotionClip("a", path, None, None, "train"))
    assert (facts.fps, facts.frames, facts.seconds) == (pytest.approx(25.0), 8, pytest.approx(21 / 25))


def test_a_clip_too_long_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video_with_sound(tmp_path / "a.mp4", np.zeros((30, 32, 32, 3), np.uint8), 25.0)
    with pytest.raises(InputError, match=r"a\.mp4 lasts for more than"):
        read_faces(tmp_path / "a.mp4", 16, 1e7)
    monkeypatch.setattr(motion_clips, "_MAX_CLIP", 20_000)
    with pytest.raises(InputError, match=r"a\.mp4 is too long"):
        read_faces(tmp_path / "a.mp4", 16)
    assert len(read_faces(tmp_path / "a.mp4", 8)) == 30


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    frames = np.zeros((3, 32, 64, 3), np.uint8)
    frames[:, :, 16:48] = 200
    write_video_with_sound(tmp_path / "a.mp4", frames, 25.0)
    assert read_faces(tmp_path / "a.mp4", 8)[:, 1:-1, 1:-1].min() > 180


def test_facts_of_a_clip_and_where_its_sound_lies(faces: Path, tmp_path: Path) -> None:
    clips = read_motion_clips(faces)[:8]
    offsets = []
    for clip in clips:
        facts = clip_facts(clip)
        assert facts.fps == pytest.approx(25.0)
        assert facts.sample_rate == RATE
        assert clip_problems(facts) == []
        offsets.append(facts.sync_offset)
    assert offsets == [0] * 8
    own = [clip_facts(MotionClip("own", clip.video, None, None, "train")) for clip in clips]
    assert [facts.sync_offset for facts in own] == [0] * 8
    late = MotionClip("late", clips[0].video, _later(clips[0], 6, tmp_path), None, "train")
    assert clip_facts(late).sync_offset == 6
    assert clip_problems(clip_facts(late)) == ["Its sound comes 6 frames after its picture."]
    silent = MotionClip("silent", clips[0].video, tmp_path / "none.wav", None, "train")
    assert clip_problems(clip_facts(silent)) == [f"{tmp_path / 'none.wav'} does not exist: check the path."]


def test_what_is_odd_about_a_clip() -> None:
    assert clip_problems(ClipFacts(25.0, 60, 2.4, 16_000, 2.4, 0)) == []
    assert clip_problems(ClipFacts(50.0, 120, 2.4, 48_000, 2.6, 2)) == [
        "It has 50.00 frames a second, not 25: they are resampled."
    ]
    assert clip_problems(ClipFacts(25.0, 20, 0.8, 8000, 1.5, -3)) == [
        "It lasts 0.80 s, less than the 2.40 s that are needed.",
        "Its sound has 8000 samples a second, fewer than 16000: it is dull.",
        "Its sound lasts 1.50 s, its pictures 0.80 s.",
        "Its sound comes 3 frames before its picture.",
    ]
    assert clip_problems(ClipFacts(25.0, 60, 2.4, 16_000, 2.4, None), min_frames=61)


def test_a_clip_that_does_not_move_tells_no_offset(tmp_path: Path) -> None:
    write_video_with_sound(tmp_path / "a.mp4", np.zeros((70, 32, 32, 3), np.uint8), 25.0, np.sin(np.arange(44_800)))
    facts = clip_facts(MotionClip("a", tmp_path / "a.mp4", None, None, "train"))
    assert (facts.frames, facts.sync_offset) == (70, None)
    write_video_with_sound(tmp_path / "b.mp4", np.zeros((1, 32, 32, 3), np.uint8), 25.0)
    facts = clip_facts(MotionClip("b", tmp_path / "b.mp4", None, None, "train"))
    assert (facts.frames, facts.seconds, facts.sync_offset) == (1, 0.0, None)
    assert "holds no sound" in clip_problems(facts)[-1]


def test_a_picture_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = (200, 100, 50)
    Image.fromarray(pixels).save(path)
    assert np.array_equal(read_picture(path, 10), np.broadcast_to(np.uint8([200, 100, 50]), (10, 10, 3)))
    Image.fromarray(pixels).save(path, "GIF")
    with pytest.raises(InputError, match=r"a\.png is no PNG"):
        read_picture(path, 10)
    # An empty profile after the pixels, of which Pillow raises an IndexError.
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes().replace(b"IEND", b"iCCP"))
    with pytest.raises(InputError, match=r"a\.png is no PNG"):
        read_picture(path, 10)


def _later(clip: MotionClip, frames: int, folder: Path) -> Path:
    assert clip.audio is not None
    with wave.open(str(clip.audio), "rb") as read, wave.open(str(folder / "late.wav"), "wb") as written:
        written.setparams(read.getparams())
        written.writeframes(bytes(2 * frames * RATE // 25) + read.readframes(read.getnframes()))
    return folder / "late.wav"
