"""`uni-sign extract`: videos to pose files of 133 points, by ONNX models from local files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from uni_sign.commands._extraction import Extract, ExtractionConfig, by_name, run_extraction
from uni_sign.config import flag, parse_flags
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


@dataclass(frozen=True)
class ExtractConfig(ExtractionConfig):
    """The flags of extraction."""

    mode: Literal["performance", "balanced", "lightweight"] = flag("performance", "which of the published models")
    models: Path = flag(Path("pretrained_weight/rtmpose"), "folder that holds them, under their published names")
    detector: str = flag("", "another YOLOX model file; default: the mode's")
    pose_model: str = flag("", "another RTMPose or RTMW model file of 133 points; default: the mode's")
    device: Literal["cpu", "cuda"] = flag("cpu", "where the models run")

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
    extractor = load_models(config).extractor  # what is wrong with them is said once, before any process starts
    videos = by_name(find_videos(config.videos), lambda video: video.stem)
    return run_extraction(
        config, videos, lambda file: extractor_of(file) == extractor, partial(_load, config), "videos"
    )


def _load(config: ExtractConfig) -> Extract:
    models = load_models(config)

    def extracted(video: Path) -> Callable[[Any], None]:
        keypoints, scores = poses_of(video, models)
        return lambda file: write_npz(file, keypoints, scores, models.extractor)

    return extracted


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
    """The video, or all of a folder, sorted; raises InputError where there are none."""
    if place.is_file():
        return [place]
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise InputError(f"No video ({', '.join(VIDEO_SUFFIXES)}) at --videos {place}.")
    return found


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
