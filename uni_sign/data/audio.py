"""Sound: a file or a video's sound track as a waveform, what a file says of it, and how loud it is at each video frame.

Files come from strangers: only formats that name no other files are opened, and lengths are bounded.
"""

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from uni_sign.data.safe_pickle import check_file
from uni_sign.errors import InputError

RATE = 16_000
MAX_SECONDS = 4 * 3600
_CONTAINER = {
    "protocol_whitelist": "file",
    "format_whitelist": "wav,flac,ogg,mp3,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
}
_FAILURES = (av.error.FFmpegError, OSError, ValueError, MemoryError)
_RATES = range(1_000, 768_001)
_UNTOLD = 0x7FFF_0000  # sizes from here on are what programs write into a pipe, where they cannot know them


@dataclass(frozen=True)
class AudioFacts:
    """What a file says of its first sound track: samples a second, and how long it lasts; 0 s where it does not say."""

    sample_rate: int
    seconds: float


def read_audio(path: Path, rate: int = RATE) -> np.ndarray:
    """The first sound track of a file, as one channel of ``rate`` samples a second: (S,) float32 in [-1, 1].

    A video's begins with its first picture: silence stands before a later one. Raises InputError, naming the file,
    where it holds no sound, or such as cannot be decoded to its end.
    """
    with _opened(path) as container:
        stream = _track(path, container)
        # Not its own mono, which is louder than either of two channels; and packed: PyAV reads of a planar frame's
        # channels only the first eight where they are, and what lies behind them for all others.
        resampler = av.AudioResampler(format="flt", rate=rate)
        parts: list[np.ndarray] = []
        samples = late = 0
        try:
            for frame in itertools.chain(container.decode(stream), [None]):
                if frame is not None and not parts:
                    late = round(_late(container, frame) * rate)
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().reshape(part.samples, -1).mean(axis=1))
                    samples += len(parts[-1])
                if samples + max(0, late) > MAX_SECONDS * rate:
                    raise InputError(f"{path} holds more than {MAX_SECONDS // 3600} hours of sound: split it.")
        except _FAILURES as error:
            raise _unreadable(path, error) from None
    waveform = np.concatenate([np.zeros(max(0, late), np.float32), *parts], dtype=np.float32)[max(0, -late) :]
    if not len(waveform) or not np.isfinite(waveform).all():
        said = "not a number" if len(waveform) else "empty"
        raise InputError(f"{path} holds no sound that can be read ({said}): get it anew.")
    return waveform.clip(-1.0, 1.0, out=waveform)


def audio_facts(path: Path) -> AudioFacts:
    """What a file says of its first sound track, without decoding; raises InputError where there is none."""
    with _opened(path) as container:
        stream = _track(path, container)
        if stream.duration:
            return AudioFacts(int(stream.rate), float(stream.duration * stream.time_base))
        return AudioFacts(int(stream.rate), (container.duration or 0) / av.time_base)


def has_audio(path: Path) -> bool:
    """Whether a file holds a sound track; raises InputError where it is no file of sound or video at all."""
    with _opened(path) as container:
        return container.streams.best("audio") is not None


def loudness(waveform: np.ndarray, frames: int, fps: float, rate: int = RATE) -> np.ndarray:
    """Root mean square of a waveform (S,) around the middle of each video frame, 0 after its end: (frames,) float32."""
    edges = (np.arange(frames + 1) * rate / fps).round().astype(int).clip(max=len(waveform))
    energy = np.concatenate([[0.0], np.cumsum(waveform.astype(np.float64) ** 2)])
    sums, counts = np.diff(energy[edges]), np.diff(edges)
    mean: np.ndarray = np.sqrt(sums.clip(min=0) / counts.clip(min=1)).astype(np.float32)
    return mean


def _opened(path: Path) -> Any:
    size = check_file(path)
    if size < _size_told(path) < _UNTOLD:
        raise InputError(f"{path} is cut short, it has {size:,} bytes: get it anew.")
    try:
        # With its protocol: a name could be an address otherwise, or a pattern of many files.
        return av.open(f"file:{path}", options=_CONTAINER)
    except _FAILURES as error:
        raise _unreadable(path, error) from None


def _track(path: Path, container: Any) -> Any:
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:
        raise InputError(f"{path} holds no sound: give a file with some, or the sound beside the video.")
    if stream.rate not in _RATES:
        raise InputError(f"{path} holds sound of an impossible rate: get it anew.")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}  # an error is an error: no made-up sound
    return stream


def _size_told(path: Path) -> int:
    """Bytes that a WAV file says it has: FFmpeg plays what is left of a shorter one; 0 for all other files."""
    with path.open("rb") as file:
        head = file.read(12)
    whole = len(head) == 12 and head[:4] == b"RIFF" and head[8:] == b"WAVE"
    return 8 + int(struct.unpack("<I", head[4:8])[0]) if whole else 0


def _late(container: Any, frame: Any) -> float:
    """Seconds that the first sound comes after the first picture; 0 in a file without moving pictures."""
    pictures = container.streams.best("video")
    if pictures is None or pictures.start_time is None or frame.time is None:
        return 0.0
    if pictures.disposition & av.stream.Disposition.attached_pic:
        return 0.0
    return float(frame.time - pictures.start_time * pictures.time_base)


def _unreadable(path: Path, error: BaseException) -> InputError:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"{path} holds no sound that can be read ({said}): get it anew.")
