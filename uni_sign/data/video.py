"""Frames of a video by their number, with no more decoding than they need.

A frame's number is its rank among the presentation times of all frames, so that B-frames, a variable rate, edit lists
and a missing index change nothing. One pass over the packets, without decoding, finds these times; then decoding begins
at the last keyframe at or before a wanted frame, ends at the last wanted one of its group, and leaves out every frame
that is neither wanted nor a reference for others.

Videos come from strangers: only formats that name no other files are opened, and sizes are bounded before decoding.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from uni_sign.data.safe_pickle import check_file
from uni_sign.errors import InputError, SampleError

MAX_PACKETS = 2_000_000  # a day of video
MAX_PIXELS = 4096 * 4096
_CONTAINER = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}
_FAILURES = (av.error.FFmpegError, OSError, ValueError, MemoryError)
_DECODER = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}  # an error is an error: no made-up pictures


@dataclass(frozen=True, eq=False)
class _Packets:
    """The stream's packets in the order of decoding; ``shown``: those of the frames that count, by frame number."""

    times: np.ndarray
    decode_times: np.ndarray
    keys: np.ndarray
    shown: np.ndarray


@dataclass(frozen=True)
class _Group:
    """Packets ``first`` (a keyframe) to ``last``, and the wanted frames' numbers by presentation time."""

    first: int
    last: int
    wanted: dict[int, int]


class Video:
    """An open video, to be closed as by ``with``; its frames count from 0 in the order in which they are shown.

    Raises SampleError, naming the file, where it is no video, damaged or of absurd size, or has fewer frames than
    ``least``, which are those of its poses.
    """

    def __init__(self, path: Path, least: int = 1) -> None:
        self._path, self._converter = path, VideoReformatter()
        try:
            check_file(path)
        except InputError as error:
            raise SampleError(f"{path} cannot be read as a video: {error}") from None
        try:
            # With its protocol: a name could be an address otherwise, or a pattern of many files.
            self._container = av.open(f"file:{path}", options=_CONTAINER)
        except _FAILURES as error:
            raise self._unreadable(error) from None
        try:
            self._stream = self._video_stream()
            self._packets = self._scan()
        except BaseException:
            self._container.close()
            raise
        if len(self) < least:
            self.close()
            raise SampleError(
                f"{path} has {len(self)} frames, but its poses go up to frame {least - 1}: they belong to another "
                "video, or it is cut short."
            )

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __len__(self) -> int:
        return len(self._packets.shown)

    def numbers_at(self, fps: float) -> np.ndarray:
        """The frame shown nearest to each tick of ``fps`` a second, from the first one to the last one's end: (T,).

        Raises SampleError for a video that says it lasts for days.
        """
        count = self.seconds * fps
        if count > MAX_PACKETS:
            raise SampleError(f"{self._path} lasts for more than {MAX_PACKETS:,} frames of {fps:g} a second: split it.")
        seconds = self._seconds()
        return np.searchsorted((seconds[1:] + seconds[:-1]) / 2, np.arange(max(1, round(count))) / fps, "right")

    @property
    def fps(self) -> float:
        """Frames a second, of most frames; 0 where there is but one."""
        lasts = self._lasts()
        return 1 / lasts if lasts else 0.0

    @property
    def seconds(self) -> float:
        """From the first frame to the last one's end; 0 where there is but one."""
        return float(self._seconds()[-1]) + self._lasts()

    def _seconds(self) -> np.ndarray:
        """When each frame is shown, from the first one on: (N,)."""
        times = self._packets.times[self._packets.shown].astype(float)
        return (times - times[0]) * float(self._stream.time_base)

    def _lasts(self) -> float:
        """Seconds that most frames are shown; 0 where there is but one."""
        seconds = self._seconds()
        return float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0

    def images(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The frames of these numbers (sorted, each once), one by one: upright RGB (H, W, 3) uint8.

        Raises SampleError for a frame that cannot be decoded whole.
        """
        shape = None
        for group in self._groups(numbers):
            for number, image in self._decoded(group):
                if image.shape != (shape := shape or image.shape):
                    raise SampleError(f"{self._path} changes its size at frame {number}: convert it to one size.")
                yield number, image

    def runs(self, length: int) -> Iterator[list[np.ndarray]]:
        """All frames, as `images` gives them, in lists of ``length`` and a shorter last one."""
        images = (image for _, image in self.images(np.arange(len(self))))
        while run := list(itertools.islice(images, length)):
            yield run

    def _unreadable(self, error: BaseException) -> SampleError:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return SampleError(f"{self._path} is no video that can be read ({said}): get it anew.")

    def _video_stream(self) -> Any:
        stream = self._container.streams.best("video")
        if stream is None:
            raise SampleError(f"{self._path} is no video that can be read (no pictures in it): get it anew.")
        decoder = stream.codec_context
        if decoder is None or decoder.width * decoder.height > MAX_PIXELS:
            raise SampleError(f"{self._path} holds no video of up to {MAX_PIXELS:,} pixels: convert it.")
        decoder.thread_count = 1  # clips are read side by side, in processes
        decoder.options = _DECODER
        return stream

    def _scan(self) -> _Packets:
        """All packets, without decoding."""
        found = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    found.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
                if len(found) > MAX_PACKETS:
                    raise SampleError(f"{self._path} holds more than {MAX_PACKETS:,} frames: split it.")
        except _FAILURES as error:
            raise self._unreadable(error) from None
        times = [pts for pts, *_ in found]
        if None in times or len(set(times)) < len(times):
            raise SampleError(f"{self._path} holds frames without a time of their own: convert it to MP4.")
        if not found:
            raise SampleError(f"{self._path} is no video that can be read (no frames in it): get it anew.")
        pts = np.array(times, np.int64)
        order = np.argsort(pts)
        discarded = np.array([discard for *_, discard in found], bool)
        return _Packets(
            times=pts,
            decode_times=np.array([time if dts is None else min(dts, time) for time, dts, *_ in found], np.int64),
            keys=np.flatnonzero([key for _, _, key, _ in found]),
            shown=order[~discarded[order]],
        )

    def _groups(self, numbers: np.ndarray) -> Iterator[_Group]:
        """Runs of packets to decode: from a keyframe to the last frame wanted before the next that can be sought."""
        packets = self._packets
        wanted = packets.shown[numbers]
        before = np.searchsorted(packets.times[packets.keys], packets.times[wanted], "right") - 1
        firsts = np.where(before >= 0, packets.keys[np.maximum(before, 0)], 0) if len(packets.keys) else 0 * wanted
        group = _Group(0, -1, {})
        for number, place, first in zip(numbers.tolist(), wanted.tolist(), firsts.tolist(), strict=True):
            if first > group.last:
                if group.wanted:
                    yield group
                group = _Group(first, place, {})
            group = _Group(group.first, max(group.last, place), group.wanted)
            group.wanted[int(packets.times[place])] = number
        if group.wanted:
            yield group

    def _decoded(self, group: _Group) -> Iterator[tuple[int, np.ndarray]]:
        left = dict(group.wanted)
        try:
            yield from self._shown(group, left)
        except _FAILURES as error:
            if not group.first:
                raise self._unreadable(error) from None
            # What a keyframe of an open group lets follow can refer to frames before it.
            yield from self._decoded(_Group(0, group.last, left))
            return
        if left:
            raise SampleError(f"{self._path}: frame {min(left.values())} cannot be decoded: get it anew.")

    def _shown(self, group: _Group, left: dict[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames as they come out of the decoder; what is shown is ``left`` no more."""
        for packet in self._fed(group):
            for frame in self._stream.codec_context.decode(packet):
                if frame.pts in left and not frame.is_corrupt:
                    yield left.pop(frame.pts), self._upright(frame)

    def _fed(self, group: _Group) -> Iterator[Any]:
        """The group's packets, then None; the decoder is told to leave out those that nobody needs."""
        decoder = self._stream.codec_context
        packets = self._from(group.first)
        for packet, _ in zip(packets, range(group.first, group.last + 1), strict=False):
            wanted = packet.pts in group.wanted
            # Shown before the first keyframe, though decoded after it: it refers to frames that were not decoded.
            if wanted or packet.pts >= self._packets.times[group.first]:
                decoder.skip_frame = "DEFAULT" if wanted else "NONREF"
                yield packet
        yield None

    def _from(self, first: int) -> Iterator[Any]:
        """Packets from number ``first`` on. A demuxer may land before it, or, without an index, behind it."""
        start = int(self._packets.times[first])
        for target in (int(self._packets.decode_times[first]), int(self._packets.decode_times.min())):
            self._container.seek(target, stream=self._stream)
            packets = (packet for packet in self._container.demux(self._stream) if packet.size)
            for packet in packets:
                if packet.pts == start:
                    yield packet
                    yield from packets
                    return
                if packet.is_keyframe and packet.pts is not None and packet.pts > start:
                    break

    def _upright(self, frame: Any) -> np.ndarray:
        if frame.width * frame.height > MAX_PIXELS:
            raise SampleError(f"{self._path} holds frames of more than {MAX_PIXELS:,} pixels: convert it.")
        image = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image
