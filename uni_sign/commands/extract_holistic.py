"""`uni-sign extract --holistic`: videos or folders of frames to clips of 143 points, by MediaPipe from a local file."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uni_sign.commands._extraction import Extract, ExtractionConfig, by_name, run_extraction
from uni_sign.config import flag, parse_flags
from uni_sign.data.corpora import VIDEO_SUFFIXES
from uni_sign.data.holistic_clips import clip_extractor, write_clip
from uni_sign.data.mediapipe_holistic import FACE_68, Holistic, check_task, read_face_table
from uni_sign.data.video import Video
from uni_sign.errors import InputError, SampleError

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FRAME_MILLISECONDS = 40  # of a frame folder, and where frames have no other time
_AT_ONCE = 16


@dataclass(frozen=True)
class ExtractHolisticConfig(ExtractionConfig):
    """The flags of extraction by MediaPipe."""

    videos: Path = flag(Path("."), "a video, a folder of frames, or a folder of either, searched to its depths")
    output_dir: Path = flag(Path("holistic"), "folder for a <clip>.npz of each")
    task: Path = flag(Path("pretrained_weight/mediapipe/holistic_landmarker.task"), "MediaPipe's model file")
    face_table: str = flag("", "JSON list of the 68 face points to keep, of MediaPipe's 478; default: FACE_68")


def extract_holistic(argv: Sequence[str]) -> int:
    """Run the command; status 0, or 1 where a clip of this process's share gave no points."""
    [config] = parse_flags(argv, ExtractHolisticConfig, program="uni-sign extract --holistic")
    table = read_face_table(Path(config.face_table)) if config.face_table else FACE_68
    extractor = check_task(config.task, table)
    clips = by_name(find_clips(config.videos), _name)
    load = partial(_load, config.task, table, extractor)
    return run_extraction(config, clips, lambda file: clip_extractor(file) == extractor, load, "clips")


def _load(task: Path, table: Sequence[int], extractor: dict[str, str]) -> Extract:
    landmarker = Holistic(str(task), table)

    def extracted(clip: Path) -> Callable[[Any], None]:
        points, present = points_of(clip, landmarker)
        return lambda file: write_clip(file, points, present, extractor)

    return extracted


def find_clips(place: Path) -> list[Path]:
    """Videos and folders of frames, sorted; raises InputError where there are none."""
    if place.is_file():
        return [place]
    inside = sorted(place.rglob("*"))
    found = {path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES}
    found |= {path.parent for path in inside if path.suffix.lower() in _PICTURES}
    if not found:
        raise InputError(f"No video ({', '.join(VIDEO_SUFFIXES)}) and no folder of frames at --videos {place}.")
    return sorted(found)


def _name(clip: Path) -> str:
    return clip.resolve().name if clip.is_dir() else clip.stem


def points_of(clip: Path, landmarker: Holistic) -> tuple[np.ndarray, np.ndarray]:
    """Points (T, 143, 3) and regions (T, 4) of a clip.

    Raises SampleError, naming it, where it cannot be read or shows nobody at all.
    """
    landmarker.start_clip()
    found = [landmarker.frame(one, number * _FRAME_MILLISECONDS) for number, one in enumerate(_frames(clip))]
    points, present = (np.stack(parts) for parts in zip(*found, strict=True))
    if not present.any():
        raise SampleError(f"{clip} shows nobody that MediaPipe finds: leave it out.")
    return points, present


def _frames(clip: Path) -> Iterator[np.ndarray]:
    if clip.is_file():
        with Video(clip) as video:
            for run in video.runs(_AT_ONCE):
                yield from run
        return
    pictures = sorted((path for path in clip.iterdir() if path.suffix.lower() in _PICTURES), key=_by_number)
    for path in pictures:
        try:
            with Image.open(path) as image:
                yield np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise SampleError(f"{path} is no picture that can be read ({type(error).__name__}): get it anew.") from None


def _by_number(path: Path) -> tuple[list[int], str]:
    """Frame 2 before frame 10."""
    return [int(digits) for digits in re.findall(r"\d{1,18}", path.stem)], path.name
