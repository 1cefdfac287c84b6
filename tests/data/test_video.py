"""Frames of a video by number: the ones that decoding all of it gives; and files that are no video."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.video import Video
from uni_sign.errors import SampleError

COUNT, SIZE = 60, 64


def write(path: Path, count: int = COUNT, codec: str = "libx264", **options: str) -> Path:
    """Frames whose brightness tells their number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"threads": "1", **options}
        for number in range(count):
            picture = np.full((SIZE, SIZE, 3), 4 * number, np.uint8)
            picture[number % SIZE] = 255 - 4 * number
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain.mp4", {"g": "12", "bf": "0"}),
    "b_frames": ("b.mp4", {"g": "12", "bf": "3"}),
    "open_groups": ("open.mp4", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "one_key": ("one.mp4", {"g": "1000", "bf": "2"}),
    "matroska": ("some.mkv", {"g": "10", "bf": "2"}),
    "mpeg4": ("old.mp4", {"codec": "mpeg4", "g": "15"}),
}


class Videos(dict[str, tuple[Path, list[np.ndarray]]]):
    """By form: the file, and all of its frames."""

    def __repr__(self) -> str:
        return "videos"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    folder = tmp_path_factory.mktemp("videos")
    written = {form: write(folder / name, **options) for form, (name, options) in FORMS.items()}
    return Videos({form: (path, decoded(path)) for form, path in written.items()})


@pytest.mark.parametrize("form", FORMS)
@given(st.sets(st.integers(0, COUNT - 1), max_size=10))
def test_frames_are_those_of_the_whole_video(videos: Videos, form: str, wanted: set[int]) -> None:
    path, whole = videos[form]
    with Video(path) as video:
        assert len(video) == len(whole) == COUNT
        found = dict(video.images(np.array(sorted(wanted), np.int64)))
    assert set(found) == wanted
    for number, frame in found.items():
        np.testing.assert_array_equal(frame, whole[number])


def test_only_what_is_needed_is_decoded(videos: Videos) -> None:
    """From a key frame to the wanted frame, and no further."""
    with Video(videos["plain"][0]) as video:
        fed: list[int] = []
        feed = video._fed

        def noted(group: Any) -> Iterator[Any]:
            for packet in feed(group):
                fed.extend([packet.pts] if packet else [])
                yield packet

        video._fed = noted  # type: ignore[method-assign]
        keys, times = video._packets.keys, video._packets.times
        wanted = [3, 18, 24]
        assert [number for number, _ in video.images(np.array(wanted))] == wanted
    expected = [range(keys[keys <= number].max(), number + 1) for number in wanted]
    assert fed == [times[packet] for packets in expected for packet in packets]
    assert len(fed) < 20


def test_frames_that_nobody_needs_are_left_out(videos: Videos) -> None:
    """Decoding half of a group of B-frames costs less than the whole; what comes out is still exact."""
    path, whole = videos["b_frames"]
    with Video(path) as video:
        seen = []
        decoder = video._stream.codec_context
        for group in video._groups(np.array([11])):
            for packet in video._fed(group):
                seen += [(frame.pts in group.wanted, frame) for frame in decoder.decode(packet)]
    assert 1 < len(seen) < 10
    [frame] = [frame for wanted, frame in seen if wanted]
    np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), whole[11])


def test_too_few_frames_are_said(videos: Videos) -> None:
    with pytest.raises(SampleError, match=r"plain\.mp4 has 60 frames, but .* 60"):
        Video(videos["plain"][0], least=61)
    with Video(videos["plain"][0], least=60) as video:
        assert len(video) == 60


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00" * 5000, b"#EXTM3U\nhttp://127.0.0.1/a.ts\n"])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(SampleError, match=r"x\.mp4 (is no|cannot be read as a) video.*: get it anew"):
        Video(path)


def test_a_missing_video(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"x\.mp4 cannot be read"):
        Video(tmp_path / "x.mp4")


@given(st.data())
def test_damage_is_a_sentence(videos: Videos, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.mp4"
    content = bytearray(videos["b_frames"][0].read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(SampleError), Video(path) as video:
        for number, frame in video.images(np.array([n for n in (0, 30, 59) if n < len(video)])):
            assert (number in (0, 30, 59), frame.dtype, frame.ndim) == (True, np.uint8, 3)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_a_turned_video_is_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    """As phones write it: the pictures lie, and the file says how to turn them, counterclockwise."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.options = {"threads": "1", "crf": "1"}
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(turned(path.read_bytes(), degrees))
    with Video(path) as video:
        [(_, image)] = video.images(np.array([1]))
    expected = np.rot90(picture, turns)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 20


def turned(content: bytes, degrees: int) -> bytes:
    """The file with another matrix in its track header (ISO/IEC 14496-12, tkhd): [cos, sin; -sin, cos] of the turn."""
    cosine, sine = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    matrix = [cosine << 16, -sine << 16, 0, sine << 16, cosine << 16, 0, 0, 0, 1 << 30]
    at = content.index(b"tkhd") + 4 + 40
    return content[:at] + b"".join(value.to_bytes(4, "big", signed=True) for value in matrix) + content[at + 36 :]


def test_times_that_jump_change_no_number(tmp_path: Path) -> None:
    path, times = tmp_path / "some.mp4", np.cumsum(np.random.default_rng(0).integers(1, 9, 40))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.options = {"threads": "1", "g": "10", "bf": "3"}
        for number, time in enumerate(times.tolist()):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 6 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with Video(path) as video:
        assert len(video) == 40
        found = {number: int(image.mean()) for number, image in video.images(np.array([0, 7, 21, 39]))}
    assert found == {number: pytest.approx(6 * number, abs=2) for number in (0, 7, 21, 39)}
    assert path.stat().st_size > 200


@pytest.mark.parametrize("form", ["plain", "b_frames", "matroska"])
def test_a_video_that_ends_too_early(videos: Videos, form: str, tmp_path: Path) -> None:
    path = tmp_path / videos[form][0].name
    content = videos[form][0].read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(SampleError, match=path.name):
        Video(path, least=COUNT)


def test_no_list_of_other_files_is_followed(tmp_path: Path) -> None:
    """A name says nothing of what is in a file: FFmpeg itself follows a script that names other files."""
    write(tmp_path / "other.mp4", 5)
    path = tmp_path / "script.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    assert len(decoded(path)) == 5
    with pytest.raises(SampleError, match=r"script\.mp4 is no video that can be read"):
        Video(path)
