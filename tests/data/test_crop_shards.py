"""Kept hand crops: the same as from the videos, noticed when stale, and harmless when damaged."""

import contextlib
import os
import pickle
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.arrow_shards import ABSENT, OUTDATED, UNREADABLE
from uni_sign.data.crop_shards import SCHEMA, CropShards, crop_row_of, open_crop_shards, told_crops
from uni_sign.data.crops import HandCrops
from uni_sign.data.hands import HANDS
from uni_sign.data.samples import Sample
from uni_sign.data.shard_writer import ShardWriter
from uni_sign.data.signs import Clip, ClipSettings, Key, SignDataset, Unusable
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.errors import InputError

TOKENIZER = Tokenizer(Path(__file__).parents[1] / "golden" / "02_tokenizer")
SETTINGS = ClipSettings(max_length=20, max_target_length=6, seed=3, training=True, rgb_support=True)


def write_video(path: Path, count: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"threads": "1", "g": "6"}
        for number in range(count):
            coarse = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
            picture = coarse.repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_clip(folder: Path, name: str, frames: int) -> Sample:
    """Hands that wander over the border of the picture, in some frames unseen; poses of the video from frame 2 on."""
    rng = np.random.default_rng(frames)
    count = frames + 2
    points = rng.uniform(0.3, 0.7, (count, 133, 2))
    for first, way in ((91, 1.0), (112, -1.0)):
        place = 0.5 + way * np.linspace(-0.6, 0.6, count)[:, None]
        width = rng.uniform(0.1, 0.3, (count, 1))
        points[:, first : first + 21, 0] = place + width * rng.random((count, 21))
    scores = np.where(rng.random((frames, 1)) < 0.2, 0.1, rng.uniform(0.5, 1, (frames, 133)))
    pose = {"keypoints": points[2:, None], "scores": scores[:, None], "start": 2, "end": count}
    path, video = folder / f"{name}.pkl", folder / f"{name}.mp4"
    path.write_bytes(pickle.dumps(pose))
    write_video(video, count)
    state = path.stat()
    return Sample(name, path, None, "a b", "English", state.st_size, state.st_mtime_ns, video)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder, name, frames) for name, frames in (("short", 9), ("long", 40), ("one", 1))]


def kept(folder: Path, samples: list[Sample], quality: int = 0) -> CropShards:
    with ShardWriter(folder, "0-of-1", 1 << 20, SCHEMA) as writer:
        for sample in samples:
            writer.append(crop_row_of(sample, quality))
    shards = open_crop_shards(folder)
    assert shards is not None
    return shards


def crops(data: SignDataset, epoch: int, index: int) -> dict[str, HandCrops]:
    clip = data[Key(epoch, index)]
    assert isinstance(clip, Clip)
    assert clip.crops is not None
    return clip.crops


@pytest.mark.parametrize("training", [True, False])
def test_crops_kept_as_they_are_are_those_of_the_videos(samples: list[Sample], tmp_path: Path, training: bool) -> None:
    settings = replace(SETTINGS, training=training)
    from_videos = SignDataset(samples, TOKENIZER, settings)
    from_shards = SignDataset(samples, TOKENIZER, settings, crop_shards=kept(tmp_path, samples))
    assert from_shards.crop_rows.tolist() == [0, 1, 2]
    drawn = set()
    for epoch in range(6):
        for index in range(len(samples)):
            ours, theirs = crops(from_shards, epoch, index), crops(from_videos, epoch, index)
            for hand in ours:
                for field in ("images", "points", "places"):
                    np.testing.assert_array_equal(getattr(ours[hand], field), getattr(theirs[hand], field))
            drawn.add((index, *ours["left"].places.tolist()))
    assert (len(drawn) > len(samples)) == training


def test_jpeg_crops_are_nearly_those(samples: list[Sample], tmp_path: Path) -> None:
    data = SignDataset(samples, TOKENIZER, SETTINGS, crop_shards=kept(tmp_path, samples, 95))
    ours, theirs = crops(data, 0, 1), crops(SignDataset(samples, TOKENIZER, SETTINGS), 0, 1)
    difference = np.abs(ours["left"].images.astype(int) - theirs["left"].images.astype(int))
    assert 0 < difference.mean() < 3


def test_what_has_changed_is_noticed(samples: list[Sample], tmp_path: Path) -> None:
    shards = kept(tmp_path, samples[:2])
    assert shards.locate(samples).tolist() == [0, 1, ABSENT]
    changed = replace(samples[0], mtime_ns=5)
    assert shards.locate([changed]).tolist() == [OUTDATED]
    video = samples[1].video_path
    assert video is not None
    before = video.stat()
    os.utime(video, ns=(1, 1))
    found = shards.locate(samples[:2])
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found.tolist() == [0, OUTDATED]
    assert "1 of 2 train clips; 1 have changed since" in told_crops(tmp_path, {"train": found})


def test_an_unreadable_video_is_recorded_and_said(samples: list[Sample], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    short = replace(samples[1], video_path=samples[0].video_path)  # a video of another, shorter clip
    wrong = [replace(samples[0], video_path=broken), short]
    shards = kept(tmp_path / "kept", wrong)
    assert shards.locate(wrong).tolist() == [UNREADABLE, UNREADABLE]
    first, second = shards.problems(wrong)
    assert "broken.mp4 is no video that can be read" in first
    assert "short.mp4 has 11 frames, but its poses go up to frame" in second
    for epoch in range(8):  # whatever is drawn
        assert isinstance(SignDataset(wrong, TOKENIZER, SETTINGS)[Key(epoch, 1)], Unusable)
    unusable = SignDataset(wrong, TOKENIZER, SETTINGS)[Key(0, 0)]
    assert isinstance(unusable, Unusable)
    assert "broken.mp4" in unusable.problem


def test_hands_without_extent_have_no_crops(samples: list[Sample], tmp_path: Path) -> None:
    pose = pickle.loads(samples[1].pose_path.read_bytes())
    pose["keypoints"][:, :, 91:] = 0.5 + 0.001 * (np.arange(42) % 2)[:, None]  # a tenth of a pixel
    path = tmp_path / "dots.pkl"
    path.write_bytes(pickle.dumps(pose))
    state = path.stat()
    dots = [replace(samples[1], pose_path=path, size=state.st_size, mtime_ns=state.st_mtime_ns)]
    shards = kept(tmp_path / "kept", dots)
    assert shards.locate(dots).tolist() == [0]
    for data in (SignDataset(dots, TOKENIZER, SETTINGS), SignDataset(dots, TOKENIZER, SETTINGS, crop_shards=shards)):
        assert [len(crops(data, 0, 0)[hand].images) for hand in HANDS] == [0, 0]


@given(st.data())
def test_damage_is_a_sentence(
    samples: list[Sample], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    [path] = kept(folder, samples[:1]).files
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 10))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    with contextlib.suppress(InputError):
        clip = SignDataset(samples[:1], TOKENIZER, SETTINGS, crop_shards=CropShards(folder))[Key(0, 0)]
        assert isinstance(clip, (Clip, Unusable))
