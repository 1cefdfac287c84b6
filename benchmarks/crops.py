"""Hand crops of a clip: the whole video decoded, only what is needed, and from `uni-sign prepare --crops`.

Videos of noise that moves, 512 x 512 at 25 frames a second, with a key frame every 12, 50 or 250 frames, of 256 frames;
and a clip of 256 frames in a longer video. Before anything is timed, all exact ways must give the same crops.

Run: `python benchmarks/crops.py` (three minutes).
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import av
import numpy as np

from uni_sign.data.crop_shards import SCHEMA, CropShards, crop_row_of
from uni_sign.data.crops import Patch, Patches, Source, clip_crops, from_video
from uni_sign.data.hands import HANDS, hand_planes
from uni_sign.data.samples import Sample
from uni_sign.data.shard_writer import ShardWriter
from uni_sign.data.wholebody import read_pose, used_planes

SIZE, FRAMES, REPEATS = 512, 256, 8
CASES = (
    ("256 frames, a key frame every 12", 256, 12, 0),
    ("256 frames, a key frame every 50", 256, 50, 0),
    ("256 frames, a key frame every 250", 256, 250, 0),
    ("256 of 1,500 frames, a key frame every 50", 1500, 50, 900),
)


def main() -> None:
    print("| ms a clip, one core | whole video decoded | by seeking | | kept, JPEG | | kept as they are | |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, total, keys, start in CASES:
            row(name, write(Path(folder) / str(total) / str(keys), total, keys, start))


def row(name: str, sample: Sample) -> None:
    assert sample.video_path is not None
    pose = read_pose(sample.pose_path)
    hands = hand_planes(used_planes(pose.keypoints, pose.scores))
    numbers = np.arange(FRAMES) + pose.start
    sources = {"whole": decoded_whole(sample.video_path), "seeking": from_video(sample.video_path)}
    for quality in (95, 0):
        with ShardWriter(sample.pose_path.parent / str(quality), "0-of-1", 1 << 30, SCHEMA) as writer:
            writer.append(crop_row_of(sample, quality))
        sources[str(quality)] = CropShards(sample.pose_path.parent / str(quality)).source(0)

    def crops(source: Source, seed: int) -> dict[str, np.ndarray]:
        made = clip_crops(hands, numbers, source, np.random.default_rng(seed))
        return {hand: made[hand].images for hand in HANDS}

    for other in ("seeking", "0"):
        for hand, images in crops(sources["whole"], 0).items():
            np.testing.assert_array_equal(crops(sources[other], 0)[hand], images)
    seconds = {way: timed(partial(crops, source)) for way, source in sources.items()}
    whole = seconds["whole"]
    cells = [f"{1000 * seconds[way]:.1f} | {whole / seconds[way]:.1f}x" for way in ("seeking", "95", "0")]
    print(f"| {name} | {1000 * whole:.0f} | {' | '.join(cells)} |", flush=True)


def timed(run: Callable[[int], object]) -> float:
    """Seconds of the median run; other frames are drawn each time."""
    taken = []
    for seed in range(REPEATS):
        start = time.perf_counter()
        run(seed)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def decoded_whole(path: Path) -> Source:
    """The straightforward way: every frame to RGB, up to the last that is needed, then those that are wanted."""

    def read(numbers: Mapping[str, np.ndarray]) -> Patches:
        last = max(int(of_hand.max()) for of_hand in numbers.values() if len(of_hand))
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = []
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) > last:
                    break
        return Patches({hand: [Patch(frames[i]) for i in numbers[hand].tolist()] for hand in HANDS}, SIZE, SIZE)

    return read


def write(folder: Path, total: int, keys: int, start: int) -> Sample:
    """A video, and poses of ``FRAMES`` of its frames whose hands wander, each some 80 pixels wide."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    wall = draws.integers(0, 256, (2 * SIZE // 8, 2 * SIZE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"threads": "1", "g": str(keys), "preset": "veryfast", "crf": "23"}
        for number in range(total):
            x, y = (int(SIZE / 2 * (1 + np.sin(number / pace)) / 2) for pace in (31, 47))
            picture = np.ascontiguousarray(wall[y : y + SIZE, x : x + SIZE])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    points = draws.uniform(0.3, 0.7, (FRAMES, 133, 2))
    for first in (91, 112):
        centre = draws.uniform(0.2, 0.8, (FRAMES, 1, 2))
        points[:, first : first + 21] = centre + draws.uniform(-0.07, 0.07, (FRAMES, 21, 2))
    pose = {"keypoints": points[:, None], "scores": draws.uniform(0.5, 1, (FRAMES, 1, 133))}
    path = folder / "clip.pkl"
    path.write_bytes(pickle.dumps({**pose, "start": start, "end": start + FRAMES}))
    state = path.stat()
    return Sample("clip", path, None, "", "English", state.st_size, state.st_mtime_ns, folder / "clip.mp4")


if __name__ == "__main__":
    main()
