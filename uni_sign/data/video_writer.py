"""Pictures and a waveform to an MP4 that any player plays."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from uni_sign.errors import InputError

_VIDEO, _AUDIO = "libx264", "aac"
_FAILURES = (av.error.FFmpegError, OSError, ValueError)


def write_video_with_sound(
    path: Path, frames: np.ndarray, fps: float, waveform: np.ndarray | None = None, rate: int = 16_000
) -> None:
    """Encode frames (T, H, W, 3) uint8, ``fps`` a second, and a waveform (S,) in [-1, 1], where there is one.

    H and W that are odd grow by a row or column, as H.264 wants it. Raises InputError where the file cannot be
    written, or this machine's FFmpeg lacks a codec.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge")
            video = container.add_stream(_VIDEO, rate=Fraction(fps).limit_denominator(1001))
            video.height, video.width = even.shape[1:3]
            video.pix_fmt = "yuv420p"
            # The result depends on the number of threads, and with mbtree, in small pictures, changes from run to run.
            # Short groups for random access.
            video.options = {"crf": "16", "preset": "veryfast", "threads": "1", "g": "12", "x264-params": "mbtree=0"}
            audio = None if waveform is None else container.add_stream(_AUDIO, rate=rate, layout="mono")
            for frame in even:
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(video.encode())
            if audio is not None and waveform is not None:
                sound = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
                sound.sample_rate, sound.time_base, sound.pts = rate, Fraction(1, rate), 0
                container.mux(audio.encode(sound))
                container.mux(audio.encode())
        partial.replace(path)
    except (*_FAILURES, av.codec.codec.UnknownCodecError) as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written as a video ({error}): choose another folder.") from None
