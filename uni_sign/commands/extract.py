"""`uni-sign extract`: videos to pose files of 133 points, by ONNX models from local files."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from uni_sign.commands.prepare import convert, share_of
from uni_sign.config import at_least, between, flag, parse_flags
from uni_sign.data.corpora import VIDEO_SUFFIXES
from uni_sign.data.rtmpose import OnnxModel, detected, estimated, signer_track
from uni_sign.data.video import Video
from uni_sign.data.wholebody import POINTS, extractor_of, write_npz
from uni_sign.errors import InputError, SampleError

# The models of each mode, by the names under which they are published.
MODES = {
    "performance": (
        "yolox_x_8xb8-300e_humanart-a39d44ed.onnx",
        "rtmw-x_simcc-cocktail13_pt-ucoco_270e-384x288-0949e3a9_20230925.onnx",
    ),
    "balanced": (
        "yolox_m_8xb8-300e_humanart-c2c7a14a.onnx",
        "rtmw-x_simcc-cocktail13_pt-ucoco_270e-256x192-fbef0d61_20230925.onnx",
    ),
    "lightweight": (
        "yolox_s_8xb8-300e_humanart-3ef259a7.onnx",
        "rtmw-x_simcc-cocktail13_pt-ucoco_270e-256x192-fbef0d61_20230925.onnx",
    ),
}
_AT_ONCE = 16  # frames in memory
_SHOWN = 10


@dataclass(frozen=True)
class ExtractConfig:
    """The flags of extraction."""

    videos: Path = flag(Path("."), "a video, or a folder of them, searched to its depths")
    output_dir: Path = flag(Path("pose_format"), "folder for a <clip>.npz of each video")
    mode: Literal["performance", "balanced", "lightweight"] = flag("performance", "which of the published models")
    models: Path = flag(Path("pretrained_weight/rtmpose"), "folder that holds them, under their published names")
    detector: str = flag("", "another YOLOX model file; default: the mode's")
    pose_model: str = flag("", "another RTMPose or RTMW model file of 133 points; default: the mode's")
    device: Literal["cpu", "cuda"] = flag("cpu", "where the models run")
    num_workers: int = flag(1, "processes on this machine", check=between(1, 256))
    shard_index: int = flag(
        -1,
        "which share of the videos is this process's, from 0; -1: as launcher or Slurm array say",
        aliases=("shard",),
    )
    shard_count: int = flag(
        0, "shares in all; 0: as launcher or Slurm array say", check=at_least(0), aliases=("num_shards",)
    )

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if (self.shard_index >= 0) != (self.shard_count > 0):
            return "--shard_index and --shard_count go together"
        if self.shard_index >= max(1, self.shard_count):
            return f"--shard_index {self.shard_index} is not below --shard_count {self.shard_count}: count from 0"
        return None

    @property
    def files(self) -> tuple[Path, Path]:
        """The detector's and the pose model's file."""
        detector, pose_model = MODES[self.mode]
        return (
            Path(self.detector) if self.detector else self.models / detector,
            Path(self.pose_model) if self.pose_model else self.models / pose_model,
        )


class Models(NamedTuple):
    """The two models, and what is written of them into each file."""

    detector: OnnxModel
    pose_model: OnnxModel
    extractor: dict[str, str]


def extract(argv: Sequence[str]) -> int:
    """Run the command; status 0, or 1 where a video of this process's share gave no poses."""
    [config] = parse_flags(argv, ExtractConfig, program="uni-sign extract")
    index, count = share_of(config, os.environ)
    extractor = load_models(config).extractor  # what is wrong with them is said once, before any process starts
    videos = find_videos(config.videos)
    mine = range(index, len(videos), count)
    todo = [place for place in mine if extractor_of(_target(config, videos[place])) != extractor]
    print(
        f"{len(videos)} videos in {config.videos}; share {index + 1} of {count} has {len(mine)}, {len(todo)} of them "
        "to do."
    )
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {config.output_dir} cannot be written ({error.strerror}).") from error
    if todo:
        convert(partial(_extracted, config, videos), todo, index, count, config.num_workers, "extracting")
    problems = [path for place in mine if (path := _problem(config, videos[place])).is_file()]
    for path in problems[:_SHOWN]:
        print(path.read_text(encoding="utf-8"))
    print(f"{len(mine) - len(problems)} of {len(mine)} videos have their poses in {config.output_dir}.")
    return 1 if problems else 0


def load_models(config: ExtractConfig) -> Models:
    """Raises InputError where a file is missing, saying which and where it goes, or is no such model."""
    missing = [path for path in config.files if not path.is_file()]
    if missing:
        named = " and ".join(path.name for path in missing)
        raise InputError(
            f"No model file {named} in {missing[0].parent}: put the published ONNX models of RTMPose there, or name "
            "others with --detector and --pose_model."
        )
    detector = OnnxModel(config.files[0], "detector", config.device)
    pose_model = OnnxModel(config.files[1], "pose_model", config.device)
    version = f"{detector.digest}-{pose_model.digest}"
    return Models(detector, pose_model, {"name": "rtmpose", "version": version, "mode": config.mode})


def find_videos(place: Path) -> list[Path]:
    """The video, or all of a folder, sorted; raises InputError where there are none, or two would give one file."""
    if place.is_file():
        return [place]
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise InputError(f"No video ({', '.join(VIDEO_SUFFIXES)}) at --videos {place}.")
    by_stem: dict[str, Path] = {}
    for path in found:
        if path.stem in by_stem:
            raise InputError(f"{path} and {by_stem[path.stem]} would both become {path.stem}.npz: rename one of them.")
        by_stem[path.stem] = path
    return found


def _target(config: ExtractConfig, video: Path) -> Path:
    return config.output_dir / f"{video.stem}.npz"


def _problem(config: ExtractConfig, video: Path) -> Path:
    return config.output_dir / f"{video.stem}.problem.txt"


def _extracted(config: ExtractConfig, videos: Sequence[Path], places: Sequence[int], _: str) -> Iterator[None]:
    """Videos to files, whole or not at all; a sentence in place of what cannot be."""
    models = load_models(config)
    for place in places:
        video = videos[place]
        problem = _problem(config, video)
        try:
            keypoints, scores = poses_of(video, models)
            _write(_target(config, video), keypoints, scores, models.extractor)
            problem.unlink(missing_ok=True)
        except SampleError as error:
            problem.write_text(str(error), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--output_dir {config.output_dir} cannot be written ({error.strerror}).") from error
        yield


def _write(path: Path, keypoints: np.ndarray, scores: np.ndarray, extractor: dict[str, str]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            write_npz(file, keypoints, scores, extractor)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def poses_of(video: Path, models: Models) -> tuple[np.ndarray, np.ndarray]:
    """The signer's points (T, 133, 2) in shares of the image, and scores (T, 133), float32; zeros where nobody is.

    Raises SampleError, naming the video, where it cannot be read or shows nobody at all.
    """
    with Video(video) as opened:
        return _poses(opened, video, models)


def _poses(opened: Video, video: Path, models: Models) -> tuple[np.ndarray, np.ndarray]:
    boxes: list[np.ndarray] = []
    size = np.ones(2)
    for frames in opened.runs(_AT_ONCE):
        size = np.array(frames[0].shape[1::-1], np.float64)
        boxes += detected(models.detector, frames)
    track = signer_track(boxes, *size.astype(int).tolist())
    if not any(place >= 0 for place in track):
        raise SampleError(f"{video} shows nobody that the detector finds: leave it out, or try another --detector.")
    keypoints = np.zeros((len(boxes), POINTS, 2), np.float32)
    scores = np.zeros((len(boxes), POINTS), np.float32)
    for number, frames in enumerate(opened.runs(_AT_ONCE)):
        first = number * _AT_ONCE
        shown = [i for i in range(len(frames)) if track[first + i] >= 0]
        if shown:
            chosen = np.stack([boxes[first + i][track[first + i]] for i in shown])
            points, found = estimated(models.pose_model, [frames[i] for i in shown], chosen)
            rows = np.array(shown) + first
            keypoints[rows], scores[rows] = points / size, found
    return keypoints, scores
