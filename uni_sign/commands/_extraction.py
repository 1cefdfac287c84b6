"""What both ways of extraction share: a file a clip, whole or not at all, resumable, shared out."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uni_sign.commands.prepare import convert, share_of
from uni_sign.config import at_least, between, flag
from uni_sign.errors import InputError, SampleError

_SHOWN = 10
# Reads a clip; what it gives writes the clip's file.
Extract = Callable[[Path], Callable[[Any], None]]


@dataclass(frozen=True)
class ExtractionConfig:
    """The flags of extraction by whatever model."""

    videos: Path = flag(Path("."), "a video, or a folder of them, searched to its depths")
    output_dir: Path = flag(Path("pose_format"), "folder for a <clip>.npz of each video")
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


def by_name(clips: Sequence[Path], name_of: Callable[[Path], str]) -> dict[str, Path]:
    """Clips by the names of their files to be; raises InputError where two would give one file."""
    found: dict[str, Path] = {}
    for clip in clips:
        other = found.setdefault(name_of(clip), clip)
        if other != clip:
            raise InputError(f"{clip} and {other} would both become {name_of(clip)}.npz: rename one of them.")
    return found


def run_extraction(
    config: ExtractionConfig,
    clips: Mapping[str, Path],
    is_done: Callable[[Path], bool],
    load: Callable[[], Extract],
    what: str,
) -> int:
    """Each clip of this process's share that is not done, to its file; status 1 where a clip gave nothing.

    ``is_done`` is asked of a clip's file; ``load`` is called once in each process; ``what`` names the clips aloud.
    """
    index, count = share_of(config, os.environ)
    names = list(clips)
    mine = range(index, len(names), count)
    todo = [place for place in mine if not is_done(config.output_dir / f"{names[place]}.npz")]
    print(
        f"{len(names)} {what} in {config.videos}; share {index + 1} of {count} has {len(mine)}, {len(todo)} of them "
        "to do."
    )
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {config.output_dir} cannot be written ({error.strerror}).") from error

    def extracted(places: Sequence[int], _: str) -> Iterator[None]:
        extract = load()
        for place in places:
            _one(config.output_dir, names[place], clips[names[place]], extract)
            yield

    if todo:
        convert(extracted, todo, index, count, config.num_workers, "extracting")
    problems = [path for place in mine if (path := _problem(config.output_dir, names[place])).is_file()]
    for path in problems[:_SHOWN]:
        print(path.read_text(encoding="utf-8"))
    print(f"{len(mine) - len(problems)} of {len(mine)} {what} have their points in {config.output_dir}.")
    return 1 if problems else 0


def _problem(folder: Path, name: str) -> Path:
    return folder / f"{name}.problem.txt"


def _one(folder: Path, name: str, clip: Path, extract: Extract) -> None:
    """A clip's file; a sentence in its place where it gives none."""
    problem = _problem(folder, name)
    try:
        _write(folder / f"{name}.npz", extract(clip))
        problem.unlink(missing_ok=True)
    except SampleError as error:
        problem.write_text(str(error), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output_dir {folder} cannot be written ({error.strerror}).") from error


def _write(path: Path, write: Callable[[Any], None]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
