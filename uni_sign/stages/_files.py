"""Files that no label names: what `uni-sign infer` translates."""

from pathlib import Path
from typing import Any

from uni_sign.data.corpora import VIDEO_SUFFIXES
from uni_sign.data.samples import Sample
from uni_sign.data.wholebody import POSE_SUFFIXES
from uni_sign.errors import InputError

# The stage that imports this module: a stage that its helpers imported would be a circle.
Translation = Any


def samples_of_files(
    stage: Translation, poses: Path, descriptions: Path | None, videos: Path | None, language: str
) -> list[Sample]:
    """Pose files (one, or all of a folder), with descriptions and videos of the same names in these folders."""
    _check_folders(stage, descriptions, videos)
    files = [poses] if poses.is_file() else sorted(p for p in poses.glob("*") if p.suffix in POSE_SUFFIXES)
    if not files:
        raise InputError(f"No pose file (.pkl, .npz or .pose) at {poses}.")
    samples = []
    for file in files:
        text = descriptions / f"{file.stem}.json" if descriptions else None
        found = text if text is not None and text.is_file() else None
        state, spoken = file.stat(), language or stage.corpora[0].language
        video = _video_of(file, videos) if videos else None
        samples.append(Sample(file.stem, file, found, "", spoken, state.st_size, state.st_mtime_ns, video))
    return samples


def _check_folders(stage: Translation, descriptions: Path | None, videos: Path | None) -> None:
    config = stage.config
    if descriptions is not None and not config.use_descriptions:
        raise InputError("--descriptions: this model was trained without --use_descriptions, so leave it out.")
    if descriptions is not None and not descriptions.is_dir():
        raise InputError(f"--descriptions {descriptions} is no folder: give the one that holds <clip>.json files.")
    if videos is not None and not config.rgb_support:
        raise InputError("--videos: this model was trained without --rgb_support, so leave it out.")
    if config.rgb_support and (videos is None or not videos.is_dir()):
        given = f" {videos} is no folder" if videos else ": this model was trained with --rgb_support"
        raise InputError(f"--videos{given}: give the one that holds <clip>.mp4 files.")


def _video_of(pose_file: Path, videos: Path) -> Path:
    names = [videos / f"{pose_file.stem}{suffix}" for suffix in VIDEO_SUFFIXES]
    # A missing one is told of with the clip, as everything that is wrong with a video is.
    return next((path for path in names if path.is_file()), names[0])
