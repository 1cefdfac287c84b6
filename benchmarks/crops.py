"""Hand crops of a clip: the whole video decoded, only what is needed, and from `uni-sign prepare --crops`.

Videos of two moving hands, 512 x 512 at 25 frames a second, with a key frame every 12, 50 or 250 frames, of 256 frames;
and a clip of 256 frames in a longer video. The whole video is decoded in two ways, both up to the last frame that is
needed: as one writes it, `frame.to_ndarray(format="rgb24")` of each frame; and with everything that is faster about
ours but the choice of frames: one thread, one converter. Before anything is timed, all exact ways must give the same
crops; then they take turns, so that a busy machine is busy for all.

Run: `python benchmarks/crops.py` (three minutes; `--repeats 2` to try it).
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from uni_sign.data.crop_shards import SCHEMA, CropShards, crop_row_of
from uni_sign.data.crops import Locate, Patches, Source, clip_crops, from_video, region_in
from uni_sign.data.hands import HANDS, hand_planes
from uni_sign.data.samples import Sample
from uni_sign.data.shard_writer import ShardWriter
from uni_sign.data.wholebody import read_pose, used_planes

SIZE, FRAMES, REPEATS = 512, 256, 8
WAYS = ("whole, as written", "whole, one converter", "seeking", "kept, JPEG", "kept as they are")
Picture = Callable[[av.VideoFrame], np.ndarray]
CASES = (
    ("256 frames, a key frame every 12", 256, 12, 0),
    ("256 frames, a key frame every 50", 256, 50, 0),
    ("256 frames, a key frame every 250", 256, 250, 0),
    ("256 of 1,500 frames, a key frame every 50", 1500, 50, 900),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="draws of frames, each by every way")
    repeats = parser.parse_args().repeats
    print("ms a clip; in brackets: times as fast as the whole video as written, and with one converter\n")
    print(f"| | {' | '.join(WAYS)} |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, total, keys, start in CASES:
            row(name, repeats, write(Path(folder) / str(total) / str(keys), total, keys, start))


def row(name: str, repeats: int, sample: Sample) -> None:
    assert sample.video_path is not None
    pose = read_pose(sample.pose_path)
    hands = hand_planes(used_planes(pose.keypoints, pose.scores))
    numbers = np.arange(FRAMES) + pose.start
    sources = [
        decoded_whole(sample.video_path, as_written),
        decoded_whole(sample.video_path, one_converter()),
        from_video(sample.video_path, pose.start + FRAMES),
    ]
    for quality in (95, 0):
        with ShardWriter(sample.pose_path.parent / str(quality), "0-of-1", 1 << 30, SCHEMA) as writer:
            writer.append(crop_row_of(sample, quality))
        sources.append(CropShards(sample.pose_path.parent / str(quality)).source(0))

    def crops(source: Source, seed: int) -> dict[str, np.ndarray]:
        made = clip_crops(hands, numbers, source, np.random.default_rng(seed))
        return {hand: made[hand].images for hand in HANDS}

    for source in (sources[1], sources[2], sources[4]):  # all but JPEG
        for hand, images in crops(sources[0], 0).items():
            np.testing.assert_array_equal(crops(source, 0)[hand], images)
    times: list[list[float]] = [[] for _ in sources]
    for seed in range(repeats):
        for source, taken in zip(sources, times, strict=True):
            start = time.perf_counter()
            crops(source, seed)
            taken.append(1000 * (time.perf_counter() - start))
    written, converted, *ours = (float(np.median(taken)) for taken in times)
    cells = [f"{way:.1f} ({written / way:.1f}x, {converted / way:.1f}x)" for way in ours]
    print(f"| {name} | {written:.0f} | {converted:.0f} | {' | '.join(cells)} |", flush=True)


def as_written(frame: av.VideoFrame) -> np.ndarray:
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    return image


def one_converter() -> Picture:
    converter = VideoReformatter()
    return lambda frame: converter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def decoded_whole(path: Path, picture: Picture) -> Source:
    """The straightforward way: every frame to RGB, up to the last that is needed, then those that are wanted."""

    def read(numbers: Mapping[str, np.ndarray], locate: Locate) -> Patches:
        last = max(int(of_hand.max()) for of_hand in numbers.values() if len(of_hand))
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = []
            for frame in container.decode(video=0):
                frames.append(picture(frame))
                if len(frames) > last:
                    break
        at = locate(SIZE, SIZE)
        pairs = {hand: zip(numbers[hand].tolist(), at.corners[hand].tolist(), strict=True) for hand in HANDS}
        cut = {hand: [region_in(frames[i], corner, at.side, 0) for i, corner in pairs[hand]] for hand in HANDS}
        return Patches(cut, SIZE, SIZE)

    return read


def write(folder: Path, total: int, keys: int, start: int) -> Sample:
    """A video of two hands that wander before a wall, as FFmpeg encodes it unless told otherwise; and its poses.

    The hands, of patterns that change from frame to frame, are some 70 pixels wide; the camera adds noise.
    """
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    wall = draws.integers(60, 190, (SIZE // 8, SIZE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    paces = {"left": (31, 47), "right": (43, 29)}
    times = np.arange(total)[:, None]
    centres = {hand: 0.5 + 0.3 * np.sin(times / np.array(pace)) for hand, pace in paces.items()}
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"threads": "1", "g": str(keys)}
        for number in range(total):
            picture = wall + draws.integers(-3, 4, wall.shape)
            for centre in centres.values():
                x, y = (centre[number] * SIZE).astype(int) - 35
                picture[y : y + 70, x : x + 70] = np.roll(wall[:70, :70], 3 * number, axis=0) // 2 + 60
            image = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    points = draws.uniform(0.3, 0.7, (FRAMES, 133, 2))
    for hand, first in (("left", 91), ("right", 112)):
        centre = centres[hand][start : start + FRAMES, None]
        points[:, first : first + 21] = centre + draws.uniform(-0.07, 0.07, (FRAMES, 21, 2))
    pose = {"keypoints": points[:, None], "scores": draws.uniform(0.5, 1, (FRAMES, 1, 133))}
    path = folder / "clip.pkl"
    path.write_bytes(pickle.dumps({**pose, "start": start, "end": start + FRAMES}))
    state = path.stat()
    return Sample("clip", path, None, "", "English", state.st_size, state.st_mtime_ns, folder / "clip.mp4")


if __name__ == "__main__":
    main()
