"""Sound as it was written comes back, whatever holds it; what holds none is named."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from uni_sign.data.audio import RATE, loudness, read_audio, sample_rate
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
    assert sample_rate(path) == RATE


@pytest.mark.parametrize("channels", [1, 2])
def test_other_rates_and_channels_are_converted(tmp_path: Path, channels: int) -> None:
    path = write_wav(tmp_path / "a.wav", tone(rate=44_100), 44_100, channels)
    heard = read_audio(path)
    assert abs(len(heard) - RATE) <= 32
    np.testing.assert_allclose(heard[500:-500], tone()[500 : len(heard) - 500], atol=0.01)
    assert sample_rate(path) == 44_100


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 32
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for _ in range(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(tone()[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode())
    heard = read_audio(path)
    assert abs(len(heard) - RATE) < 3000
    assert np.sqrt((heard[2000:14000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_loudness_of_each_frame() -> None:
    waveform = np.concatenate([np.zeros(RATE // 2), tone(0.5), np.zeros(10)])
    found = loudness(waveform, 30, 25.0)
    assert not found[:12].any()
    np.testing.assert_allclose(found[13:25], 0.5 / np.sqrt(2), rtol=0.02)
    assert not found[26:].any()


@pytest.mark.parametrize("kept", [0, 10, 44])
def test_files_without_sound_are_named(tmp_path: Path, kept: int) -> None:
    path = write_wav(tmp_path / "a.wav", tone())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.wav"):
        read_audio(path)
    with pytest.raises(InputError, match="nowhere"):
        read_audio(tmp_path / "nowhere.wav")


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 32
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
    with pytest.raises(InputError, match="holds no sound"):
        read_audio(path)
    with pytest.raises(InputError, match="holds no sound"):
        sample_rate(path)
