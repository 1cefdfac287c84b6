"""Pictures and a waveform to an MP4 that any player plays."""

import itertools
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from uni_sign.errors import InputError

_AUDIO = "aac"
# The best encoder that this machine's FFmpeg has. x264's result depends on the number of threads, and with mbtree, in
# small pictures, changes from run to run. Short groups for random access.
_VIDEO = {
    "libx264": {"crf": "16", "preset": "veryfast", "threads": "1", "g": "12", "x264-params": "mbtree=0"},
    "mpeg4": {"qmin": "2", "qmax": "3", "threads": "1", "g": "12"},
}
_FAILURES = (av.error.FFmpegError, OSError, ValueError)


def write_video_with_sound(
    path: Path, frames: Iterable[np.ndarray], fps: float, waveform: np.ndarray | None = None, rate: int = 16_000
) -> None:
    """Encode frames, each (H, W, 3) uint8, ``fps`` a second, and a waveform (S,) in [-1, 1], where there is one.

    Frames are taken one by one: an iterator's need not be in memory together.

    In H.264 and AAC, or MPEG-4 where FFmpeg was built without x264. H and W that are odd grow by a row or column, as
    both want it. Raises InputError where the file cannot be written, or FFmpeg lacks the encoders.
    """
    codec = next((name for name in _VIDEO if name in av.codecs_available), None)
    if codec is None or _AUDIO not in av.codecs_available:
        wanted = f"{_AUDIO} and one of {', '.join(_VIDEO)}"
        raise InputError(f"{path} cannot be written, FFmpeg lacks {wanted}: install the av of PyPI, which has them.")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            rest = iter(frames)
            first = next(rest, None)
            if first is None:
                raise ValueError("it has no pictures")
            odd = [side % 2 for side in first.shape[:2]]
            video = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            video.height, video.width = (side + more for side, more in zip(first.shape[:2], odd, strict=True))
            video.pix_fmt = "yuv420p"
            video.options = dict(_VIDEO[codec])
            audio = None if waveform is None else container.add_stream(_AUDIO, rate=rate, layout="mono")
            for frame in itertools.chain([first], rest):
                even = np.pad(frame, ((0, odd[0]), (0, odd[1]), (0, 0)), "edge")
                container.mux(video.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            container.mux(video.encode())
            if audio is not None and waveform is not None:
                sound = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
                sound.sample_rate, sound.time_base, sound.pts = rate, Fraction(1, rate), 0
                container.mux(audio.encode(sound))
                container.mux(audio.encode())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, _FAILURES):
            raise
        raise InputError(f"{path} cannot be written as a video ({error}): choose another folder.") from None
