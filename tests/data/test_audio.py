"""Sound as it was written comes back, whatever holds it; what holds none is named."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from uni_sign.data import audio
from uni_sign.data.audio import RATE, AudioFacts, audio_facts, has_audio, loudness, read_audio
from uni_sign.errors import InputError


def tone(seconds: float = 1.0, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def write_wav(path: Path, waveform: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.repeat(waveform, channels) * 32767).round().astype("<i2").tobytes())
    return path


def test_a_wav_file_comes_back(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone())
    np.testing.assert_allclose(read_audio(path), tone(), atol=1e-4)
    assert audio_facts(path) == AudioFacts(RATE, 1.0)
    assert has_audio(path)


@pytest.mark.parametrize("channels", [1, 2])
def test_other_rates_and_channels_are_converted(tmp_path: Path, channels: int) -> None:
    path = write_wav(tmp_path / "a.wav", tone(rate=44_100), 44_100, channels)
    heard = read_audio(path)
    assert abs(len(heard) - RATE) <= 32
    np.testing.assert_allclose(heard[500:-500], tone()[500 : len(heard) - 500], atol=0.01)
    assert audio_facts(path) == AudioFacts(44_100, 1.0)


@pytest.mark.parametrize("channels", [9, 16, 64])
def test_many_channels_are_all_heard(tmp_path: Path, channels: int) -> None:
    """The one that sounds is the last, beyond the eight whose places a planar frame keeps in itself."""
    waveform = np.zeros((RATE, channels))
    waveform[:, -1] = tone()
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, RATE, RATE, "NONE", ""))
        file.writeframes((waveform * 32767).round().astype("<i2").tobytes())
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), tone() / channels, atol=1e-4)


def write_video(path: Path, waveform: np.ndarray | None = None, *, late: float = 0.0, first: float = 0.0) -> Path:
    """A second of pictures from ``first`` s on, and sound that begins ``late`` s after them."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 32
        audio = container.add_stream("aac", rate=RATE, layout="mono") if waveform is not None else None
        for number in range(25):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts, picture.time_base = round(first * 25) + number, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if audio is not None and waveform is not None:
            frame = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), round((first + late) * RATE)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize(("late", "first"), [(0.0, 0.0), (0.4, 0.0), (0.4, 2.0), (-0.4, 2.0)])
def test_the_sound_of_a_video_begins_with_its_first_picture(
    tmp_path: Path, kind: str, late: float, first: float
) -> None:
    path = write_video(tmp_path / f"a.{kind}", tone(), late=late, first=first)
    heard = read_audio(path)
    place = round(late * RATE) + np.arange(3000, 13_000)
    place, expected = place[place >= 500], tone()[3000:13_000][place >= 500]
    # A Matroska file tells times in milliseconds, a third of the tone's period.
    lags = np.arange(-18, 19) if kind == "mkv" else [0]
    assert min(np.abs(heard[place + lag] - expected).max() for lag in lags) < 0.05
    assert not late > 0 or np.abs(heard[: round(late * RATE) - 1100]).max() < 1e-3
    assert has_audio(path)
    assert audio_facts(path).sample_rate == RATE


def test_loudness_of_each_frame() -> None:
    waveform = np.concatenate([np.zeros(RATE // 2), tone(0.5), np.zeros(10)])
    found = loudness(waveform, 30, 25.0)
    assert not found[:12].any()
    np.testing.assert_allclose(found[13:25], 0.5 / np.sqrt(2), rtol=0.02)
    assert not found[26:].any()


@pytest.mark.parametrize("kept", [0, 10, 44, 44 + 4096, 20_001, -1])
def test_files_that_are_cut_short_are_named(tmp_path: Path, kept: int) -> None:
    path = write_wav(tmp_path / "a.wav", tone())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.wav"):
        read_audio(path)
    with pytest.raises(InputError, match="nowhere"):
        read_audio(tmp_path / "nowhere.wav")


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_file_out_of_a_pipe_does_not_know_its_size(tmp_path: Path, size: int) -> None:
    path = write_wav(tmp_path / "a.wav", tone())
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)
    np.testing.assert_allclose(read_audio(path), tone(), atol=1e-4)


@pytest.mark.parametrize("kind", ["mp4", "flac"])
def test_damaged_sound_is_refused_and_not_made_up(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "mp4":
        write_video(path, tone())
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("flac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray((tone() * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(InputError, match="holds no sound that can be read"):
        read_audio(path)


def test_sound_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 1000), np.nan, np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="not a number"):
        read_audio(path)


def test_sound_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 2)
    assert len(read_audio(write_wav(tmp_path / "a.wav", tone(2.0)))) == 2 * RATE
    with pytest.raises(InputError, match="hours of sound"):
        read_audio(write_wav(tmp_path / "a.wav", tone(2.1)))


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    assert not has_audio(path)
    with pytest.raises(InputError, match="holds no sound"):
        read_audio(path)
    with pytest.raises(InputError, match="holds no sound"):
        audio_facts(path)
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(InputError, match=r"text\.wav"):
        has_audio(tmp_path / "text.wav")
