"""Drawn faces whose mouths follow their sound, and small speech models that hear how loud it is."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from uni_sign.data.audio import RATE, loudness, read_audio
from uni_sign.data.demo.talking_faces import FPS, generate_talking_faces, mouth_opening
from uni_sign.data.demo.wav2vec2 import write_emotion_classifier, write_wav2vec2
from uni_sign.data.video import Video
from uni_sign.data.video_writer import write_video_with_sound
from uni_sign.errors import InputError
from uni_sign.models.audio_encoder import EMOTIONS, load_audio_backbone, load_emotion_encoder
from uni_sign.models.wav2vec2 import layer_features, normalized


def frames_of(path: Path) -> np.ndarray:
    with Video(path) as video:
        return np.stack([image for _, image in video.images(np.arange(len(video)))])


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_talking_faces(tmp_path_factory.mktemp("faces"), clips=12, size=32, progress=False)


def test_mouths_follow_the_sound(faces: Path) -> None:
    clips = sorted(faces.glob("*/Actor_*/*.mp4"))
    assert len(clips) == 12
    for path in clips:
        frames = frames_of(path)
        assert frames.shape[1:] == (32, 32, 3)
        assert 65 <= len(frames) <= 100
        waveform = read_audio(path.with_suffix(".wav"))
        assert len(waveform) == len(frames) * RATE // FPS
        heard = loudness(waveform, len(frames), FPS)
        assert np.corrcoef(mouth_opening(frames), heard)[0, 1] > 0.95
        assert heard.max() > 0.1


def test_the_same_seed_gives_the_same_clips_and_another_one_others(faces: Path, tmp_path: Path) -> None:
    again = generate_talking_faces(tmp_path, clips=12, size=32, progress=False)
    for path in sorted(faces.rglob("*.wav")):
        other = again / path.relative_to(faces)
        assert other.read_bytes() == path.read_bytes()
        assert np.array_equal(frames_of(other.with_suffix(".mp4")), frames_of(path.with_suffix(".mp4")))
    first = next(again.glob("*/Actor_01/*.wav"))
    before, changed = first.read_bytes(), first.stat().st_mtime_ns
    generate_talking_faces(tmp_path, clips=12, size=32, progress=False)
    assert first.stat().st_mtime_ns == changed
    generate_talking_faces(tmp_path, clips=1, size=32, seed=1, progress=False)
    [only] = tmp_path.glob("talking_faces/*/*/*.wav")
    assert only.read_bytes() != before


def test_what_was_not_finished_is_made_anew(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "talking_faces")
    (tmp_path / "talking_faces" / "COMPLETE.json").unlink()
    broken = next((tmp_path / "talking_faces").rglob("*.mp4"))
    broken.write_bytes(b"")
    generate_talking_faces(tmp_path, clips=12, size=32, progress=False)
    assert broken.stat().st_size > 1000


def test_killed_while_clearing_leaves_nothing_that_counts_as_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_talking_faces(tmp_path, clips=2, size=32, progress=False)
    clear = shutil.rmtree

    def killed(folder: Path) -> None:
        clear(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr("uni_sign.data.demo.talking_faces.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_talking_faces(tmp_path, clips=1, size=32, progress=False)
    monkeypatch.undo()
    folder = generate_talking_faces(tmp_path, clips=2, size=32, progress=False)
    assert len(list(folder.rglob("*.mp4"))) == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        generate_talking_faces(tmp_path / "file", clips=1, progress=False)
    with pytest.raises(InputError, match=r"a\.mp4 cannot be written"):
        write_video_with_sound(tmp_path / "none" / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), 25)
    with pytest.raises(InputError, match="it has no pictures"):
        write_video_with_sound(tmp_path / "a.mp4", iter(()), 25)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_written_video_holds_pictures_and_sound(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {codec, "aac"})
    rng = np.random.default_rng(0)
    picture = np.repeat(np.repeat(rng.integers(0, 255, (4, 5, 3)), 8, 0), 8, 1)[:31, :39].astype(np.uint8)
    frames = np.stack([np.roll(picture, shift, axis=1) for shift in range(30)])
    sound = 0.5 * np.sin(np.arange(RATE) / 20)
    write_video_with_sound(tmp_path / "a.mp4", frames, 30.0, sound)
    read = frames_of(tmp_path / "a.mp4")
    assert read.shape == (30, 32, 40, 3)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == {"libx264": "h264"}.get(codec, codec)
    assert np.abs(read[:, :31, :39].astype(int) - frames).mean() < 12
    heard = read_audio(tmp_path / "a.mp4")
    assert np.corrcoef(heard[:RATE], sound[: len(heard[:RATE])])[0, 1] > 0.95
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("there", [{"aac"}, {"libx264", "mpeg4"}])
def test_encoders_that_are_not_there_are_named(
    tmp_path: Path, there: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", there)
    with pytest.raises(InputError, match="FFmpeg lacks aac and one of libx264, mpeg4"):
        write_video_with_sound(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), 25)


def test_small_speech_models_hear_how_loud_it_is(faces: Path, tmp_path: Path) -> None:
    write_wav2vec2(tmp_path / "speech", 0)
    write_emotion_classifier(tmp_path / "emotion", 0, EMOTIONS)
    model, classifier = load_audio_backbone(tmp_path / "speech"), load_emotion_encoder(tmp_path / "emotion")
    features, loud = [], []
    for path in sorted(faces.rglob("*.wav")):
        waveform = read_audio(path)
        frames = len(waveform) * FPS // RATE
        given = normalized(torch.from_numpy(waveform)[None])
        features.append(layer_features(model, given, frames, only_last=False)[0].numpy())
        loud.append(loudness(waveform, frames, FPS))
        assert classifier(given).sum().item() == pytest.approx(1.0)
    known, asked = (np.concatenate(part) for part in (features[:10], features[10:]))
    scale = known.std(axis=0)
    truth = np.concatenate(loud[:10])
    ridge = known / scale
    weights = np.linalg.solve(ridge.T @ ridge + 30 * np.eye(ridge.shape[1]), ridge.T @ truth)
    assert np.corrcoef(asked / scale @ weights, np.concatenate(loud[10:]))[0, 1] > 0.8
