"""Single frames of a video: only what they need is decoded."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from uni_sign.errors import SampleError

_MOST_PIXELS = 1 << 26  # 8192 x 8192
_MOST_FRAMES = 1 << 20


class Video:
    """A video file, open for reading; frames count from 0 in the order in which they are shown.
    Raises SampleError, naming the file, for what cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: Any = None
        try:
            # Not by its name: that could be an address, or a pattern of many files.
            self._file = path.open("rb")
        except OSError as error:
            raise SampleError(f"{path} cannot be read ({error.strerror}): put the video there.") from None
        try:
            self._container = av.open(self._file)
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise ValueError("no decoder for it")
            self._stream.thread_type, self._stream.codec_context.thread_count = "NONE", 1
            self._times, self._keys = _index(self._container, self._stream)
        except (av.error.FFmpegError, OSError, IndexError, ValueError, MemoryError) as error:
            self.close()
            raise self._unreadable(error) from None

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._file.close()

    def __len__(self) -> int:
        return len(self._times)

    def frames(self, numbers: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
        """The frames of these numbers, RGB (H, W, 3) uint8."""
        wanted = sorted({int(number) for number in numbers})
        if wanted and wanted[-1] >= len(self):
            raise SampleError(
                f"{self._path} has {len(self)} frames, but its poses go up to frame {wanted[-1]}: they belong to "
                "another video, or it is cut short."
            )
        found: dict[int, np.ndarray] = {}
        try:
            for run in self._runs(wanted):
                found |= self._read(run)
        except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
            raise self._unreadable(error) from None
        if len(found) < len(wanted):
            raise SampleError(f"{self._path}: frame {min(set(wanted) - set(found))} cannot be decoded: get it anew.")
        return found

    def _runs(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """Frames that are decoded in one go: from one key frame to the next that is not needed."""
        keys = self._keys.searchsorted(self._times[list(wanted)], side="right")
        # Going on into the next group is cheaper than seeking its key frame.
        for run in np.split(np.array(wanted, np.int64), np.flatnonzero(np.diff(keys) > 1) + 1):
            if len(run):
                yield run.tolist()

    def _read(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        """Decode from the key frame before the first of them to the last."""
        times = self._times
        number_at = {int(times[number]): number for number in wanted}
        last = int(times[wanted[-1]])
        before = self._keys[: self._keys.searchsorted(times[wanted[0]], side="right")]
        self._container.seek(int(before[-1] if len(before) else times[0]), stream=self._stream, backward=True)
        context = self._stream.codec_context
        found: dict[int, np.ndarray] = {}
        for packet in self._container.demux(self._stream):
            # What no other frame refers to, and nobody wants, is not decoded.
            context.skip_frame = "NONREF" if packet.pts is not None and packet.pts not in number_at else "DEFAULT"
            for frame in packet.decode():
                number = number_at.get(frame.pts)
                if number is not None and number not in found:
                    found[number] = _image(frame)
                if len(found) == len(number_at) or (frame.pts is not None and frame.pts > last):
                    return found
        return found

    def _unreadable(self, error: Exception) -> SampleError:
        said = str(error) or type(error).__name__
        return SampleError(f"{self._path} is no video that can be read ({said}): get it anew.")


def frames_in_order(path: Path, at_once: int) -> Iterator[list[np.ndarray]]:
    """All frames of a video, RGB (H, W, 3) uint8, ``at_once`` at a time; raises SampleError, naming the file."""
    shown: list[np.ndarray] = []
    try:
        with path.open("rb") as file, av.open(file) as container:
            for frame in container.decode(video=0):
                shown.append(_image(frame))
                if len(shown) == at_once:
                    yield shown
                    shown = []
    except (av.error.FFmpegError, OSError, IndexError, ValueError, MemoryError) as error:
        said = str(error) or type(error).__name__
        raise SampleError(f"{path} is no video that can be read ({said}): get it anew.") from None
    if shown:
        yield shown


def _index(container: Any, stream: Any) -> tuple[np.ndarray, np.ndarray]:
    """Times of all frames in the order in which they are shown, and those of the key frames: nothing is decoded."""
    if stream.codec_context.width * stream.codec_context.height > _MOST_PIXELS:
        raise ValueError("larger than 8192 x 8192")
    times: list[int] = []
    keys: list[int] = []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if packet.pts is None or len(times) > _MOST_FRAMES:
            raise ValueError("its frames have no times" if packet.pts is None else "more frames than any clip")
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    if not times:
        raise ValueError("no frames")
    distinct = np.unique(np.array(times, np.int64))
    if len(distinct) < len(times):
        raise ValueError("two frames at one time")
    return distinct, np.unique(np.array(keys, np.int64))


def _image(frame: Any) -> np.ndarray:
    """RGB (H, W, 3) as it is to be shown."""
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.rot90(image, turns) if turns else image
