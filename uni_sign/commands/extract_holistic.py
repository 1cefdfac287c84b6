"""`uni-sign extract --holistic`: videos or folders of frames to clips of 143 points, by MediaPipe from a local file."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from uni_sign.commands.prepare import convert, share_of
from uni_sign.config import at_least, between, flag, parse_flags
from uni_sign.data.corpora import VIDEO_SUFFIXES
from uni_sign.data.holistic_clips import clip_extractor, write_clip
from uni_sign.data.mediapipe_holistic import FACE_68, Holistic, check_task, read_face_table
from uni_sign.data.video import Video
from uni_sign.errors import InputError, SampleError

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FRAME_MILLISECONDS = 40  # of a frame folder, and where frames have no other time
_AT_ONCE = 16
_SHOWN = 10


@dataclass(frozen=True)
class ExtractHolisticConfig:
    """The flags of extraction by MediaPipe."""

    videos: Path = flag(Path("."), "a video, a folder of frames, or a folder of either, searched to its depths")
    output_dir: Path = flag(Path("holistic"), "folder for a <clip>.npz of each")
    task: Path = flag(Path("pretrained_weight/mediapipe/holistic_landmarker.task"), "MediaPipe's model file")
    face_table: str = flag("", "JSON list of the 68 face points to keep, of MediaPipe's 478; default: FACE_68")
    num_workers: int = flag(1, "processes on this machine", check=between(1, 256))
    shard_index: int = flag(
        -1,
        "which share of the clips is this process's, from 0; -1: as launcher or Slurm array say",
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


def extract_holistic(argv: Sequence[str]) -> int:
    """Run the command; status 0, or 1 where a clip of this process's share gave no points."""
    [config] = parse_flags(argv, ExtractHolisticConfig, program="uni-sign extract --holistic")
    index, count = share_of(config, os.environ)
    table = read_face_table(Path(config.face_table)) if config.face_table else FACE_68
    extractor = check_task(config.task)
    if table != FACE_68:
        extractor["mode"] += f", face table {Path(config.face_table).name}"
    clips = find_clips(config.videos)
    mine = range(index, len(clips), count)
    todo = [place for place in mine if clip_extractor(_target(config, clips[place])) != extractor]
    print(f"{len(clips)} clips in {config.videos}; share {index + 1} of {count} has {len(mine)}, {len(todo)} to do.")
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {config.output_dir} cannot be written ({error.strerror}).") from error
    if todo:
        work = partial(_extracted, config, clips, extractor, table)
        convert(work, todo, index, count, config.num_workers, "extracting")
    problems = [path for place in mine if (path := _problem(config, clips[place])).is_file()]
    for path in problems[:_SHOWN]:
        print(path.read_text(encoding="utf-8"))
    print(f"{len(mine) - len(problems)} of {len(mine)} clips have their points in {config.output_dir}.")
    return 1 if problems else 0


def find_clips(place: Path) -> list[Path]:
    """Videos and folders of frames, sorted; raises InputError where there are none, or two would give one file."""
    if place.is_file():
        return [place]
    inside = sorted(place.rglob("*"))
    found = {path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES}
    found |= {path.parent for path in inside if path.suffix.lower() in _PICTURES}
    if not found:
        raise InputError(f"No video ({', '.join(VIDEO_SUFFIXES)}) and no folder of frames at --videos {place}.")
    by_name: dict[str, Path] = {}
    for path in sorted(found):
        other = by_name.setdefault(_name(path), path)
        if other != path:
            raise InputError(f"{path} and {other} would both become {_name(path)}.npz: rename one of them.")
    return sorted(found)


def _name(clip: Path) -> str:
    return clip.resolve().name if clip.is_dir() else clip.stem


def _target(config: ExtractHolisticConfig, clip: Path) -> Path:
    return config.output_dir / f"{_name(clip)}.npz"


def _problem(config: ExtractHolisticConfig, clip: Path) -> Path:
    return config.output_dir / f"{_name(clip)}.problem.txt"


def _extracted(
    config: ExtractHolisticConfig,
    clips: Sequence[Path],
    extractor: dict[str, str],
    table: Sequence[int],
    places: Sequence[int],
    _: str,
) -> Iterator[None]:
    """Clips to files, whole or not at all; a sentence in place of what cannot be."""
    landmarker = Holistic(str(config.task), table)
    for place in places:
        clip = clips[place]
        problem = _problem(config, clip)
        try:
            points, present = points_of(clip, landmarker)
            _write(_target(config, clip), points, present, extractor)
            problem.unlink(missing_ok=True)
        except SampleError as error:
            problem.write_text(str(error), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--output_dir {config.output_dir} cannot be written ({error.strerror}).") from error
        yield
    landmarker.close()


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


def _write(path: Path, points: np.ndarray, present: np.ndarray, extractor: dict[str, str]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            write_clip(file, points, present, extractor)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
