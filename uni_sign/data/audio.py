"""Sound: a file or a video's sound track as a waveform, and how loud it is at each video frame.

Files come from strangers: only formats that name no other files are opened, and lengths are bounded.
"""

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
_LARGEST_RATE = 768_000


def read_audio(path: Path, rate: int = RATE) -> np.ndarray:
    """The first sound track of a file, as one channel of ``rate`` samples a second: (S,) float32 in [-1, 1].

    Raises InputError, naming the file, where it holds no sound, or such as cannot be decoded to its end.
    """
    with _opened(path) as container:
        stream = _track(path, container)
        # Not its own mono, which is louder than either of two channels.
        resampler = av.AudioResampler(format="fltp", rate=rate)
        parts, samples = [], 0
        try:
            for frame in container.decode(stream):
                parts += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
                samples += len(parts[-1]) if parts else 0
                if samples > MAX_SECONDS * rate:
                    raise InputError(f"{path} holds more than {MAX_SECONDS // 3600} hours of sound: split it.")
            parts += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
        except _FAILURES as error:
            raise _unreadable(path, error) from None
    waveform = np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)
    if not len(waveform) or not np.isfinite(waveform).all():
        raise InputError(
            f"{path} holds no sound that can be read ({'not a number' if parts else 'empty'}): get it anew."
        )
    return waveform.clip(-1.0, 1.0)


def sample_rate(path: Path) -> int:
    """Samples a second of the first sound track, as the file says; raises InputError where there is none."""
    with _opened(path) as container:
        return int(_track(path, container).rate)


def loudness(waveform: np.ndarray, frames: int, fps: float, rate: int = RATE) -> np.ndarray:
    """Root mean square of a waveform (S,) around the middle of each video frame, 0 after its end: (frames,) float32."""
    edges = (np.arange(frames + 1) * rate / fps).round().astype(int).clip(max=len(waveform))
    energy = np.concatenate([[0.0], np.cumsum(waveform.astype(np.float64) ** 2)])
    sums, counts = np.diff(energy[edges]), np.diff(edges)
    mean: np.ndarray = np.sqrt(sums.clip(min=0) / counts.clip(min=1)).astype(np.float32)
    return mean


def _opened(path: Path) -> Any:
    check_file(path)
    try:
        # With its protocol: a name could be an address otherwise, or a pattern of many files.
        return av.open(f"file:{path}", options=_CONTAINER)
    except _FAILURES as error:
        raise _unreadable(path, error) from None


def _track(path: Path, container: Any) -> Any:
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:
        raise InputError(f"{path} holds no sound: give a file with some, or the sound beside the video.")
    if not 0 < (stream.rate or 0) <= _LARGEST_RATE:
        raise InputError(f"{path} holds sound of an impossible rate: get it anew.")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}  # an error is an error: no made-up sound
    return stream


def _unreadable(path: Path, error: BaseException) -> InputError:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"{path} holds no sound that can be read ({said}): get it anew.")
