"""Frames of a video by number: the ones that decoding all of it gives; and files that are no video."""

import contextlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data import video as video_module
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
        found = video.frames(sorted(wanted, reverse=True))
    assert set(found) == wanted
    for number, frame in found.items():
        np.testing.assert_array_equal(frame, whole[number])


def test_only_what_is_needed_is_decoded(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    monkeypatch.setattr(video_module, "_image", lambda frame: shown.append(frame.pts) or np.zeros((1, 1, 3), np.uint8))
    with Video(videos["plain"][0]) as video:
        runs = list(video._runs([1, 3, 30, 47]))
        video.frames([1, 3, 30, 47])
    assert runs == [[1, 3], [30], [47]]
    assert len(shown) == 4


def test_too_few_frames_are_said(videos: Videos) -> None:
    with Video(videos["plain"][0]) as video, pytest.raises(SampleError, match=r"plain\.mp4 has 60 frames, but .* 60"):
        video.frames([2, 60])


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00" * 5000, b"#EXTM3U\nhttp://127.0.0.1/a.ts\n"])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(SampleError, match=r"x\.mp4 is no video that can be read"):
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
        found = video.frames([0, 30, 59])
        assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in found.values())
