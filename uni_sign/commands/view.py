"""`uni-sign view`: a clip's skeleton as a picture or a film, as it was extracted and as the model sees it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uni_sign.canvas import png_bytes, write_gif
from uni_sign.config import at_least, between, flag, parse_flags
from uni_sign.data.corpora import SPLITS, Corpus, default_corpus, load_corpus
from uni_sign.data.samples import Sample
from uni_sign.data.splits import read_split
from uni_sign.data.wholebody import POSE_SUFFIXES, read_content
from uni_sign.errors import InputError, SampleError
from uni_sign.skeletons import Clip, clip_of, contact_sheet, film

_USUAL_FPS = 25.0
_SAMPLED = 8  # frames of a film whose colours are those of all


@dataclass(frozen=True)
class ViewConfig:
    """The flags of viewing a clip."""

    dataset: str = flag(
        "", "corpus of the clip, by name or YAML file; default: CSL_Daily where its files are, else Demo"
    )
    data_root: Path = flag(Path("."), "folder that holds data/ and dataset/")
    poses: str = flag("", "the clip's pose file, or a folder that holds it, instead of a corpus")
    output: Path = flag(
        Path("view.png"), "the picture to make: .png, some frames side by side; .gif, all of them moving"
    )
    frames: int = flag(8, "frames in a .png", check=between(1, 64))
    size: int = flag(0, "pixels of a frame's panel; 0: 150 in a .png, 336 in a .gif", check=between(0, 1024))
    fps: float = flag(0.0, "frames a second of a .gif; 0: as the pose file says, else 25", check=between(0, 50))
    aspect: float = flag(0.0, "width of the video divided by its height; 0: as the pose file says, else 1",
                         check=at_least(0))  # fmt: skip

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.poses and self.dataset:
            return "--poses and --dataset do not go together: a clip is in one or the other"
        if self.output.suffix not in (".png", ".gif"):
            return f"--output {self.output} must end with .png or .gif"
        return None


def view(name: str, argv: Sequence[str]) -> int:
    """Draw clip ``name`` (where empty, the file of --poses); status 0. Raises InputError where there is none."""
    [config] = parse_flags(argv, ViewConfig, program="uni-sign view CLIP")
    path, target = _find(name, config)
    content = read_content(path)
    try:
        clip = clip_of(name or path.stem, content, config.aspect)
    except SampleError as error:
        raise InputError(f"{path} {error}: there is nothing to draw.") from None
    print("\n".join([f"{clip.name}: {len(clip)} frames of {path}", *([f"text: {target}"] if target else [])]))
    if clip.problem:
        print(f"left out of training: {clip.problem}")
    try:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        _write(clip, config, _frames_a_second(content, config.fps))
    except OSError as error:
        raise InputError(f"--output {config.output} cannot be written ({error.strerror or error}).") from error
    print(f"drawn: {config.output}")
    return 0


def _write(clip: Clip, config: ViewConfig, fps: float) -> None:
    if config.output.suffix == ".png":
        config.output.write_bytes(png_bytes(contact_sheet(clip, config.frames, config.size or 150)))
        return
    frames = film(clip, max(config.size or 336, 120))
    sample = list(itertools.islice(frames, _SAMPLED))
    write_gif(config.output, itertools.chain(sample, frames), sample, 1 / fps)


def _frames_a_second(content: dict[str, Any], wanted: float) -> float:
    own = content.get("fps")
    return wanted or (float(own) if isinstance(own, int | float) and 1 <= own <= 1000 else _USUAL_FPS)


# --- which file --------------------------------------------------------------------------------------------


def _find(name: str, config: ViewConfig) -> tuple[Path, str]:
    """The clip's pose file, and its text where a corpus has one."""
    if config.poses:
        poses = Path(config.poses)
        return (_in_folder(name, poses) if poses.is_dir() else poses), ""
    if not name:
        raise InputError("Name the clip to draw first, or its file by --poses: uni-sign view CLIP [flags].")
    if Path(name).suffix in POSE_SUFFIXES and Path(name).is_file():
        return Path(name), ""
    corpus, said = (
        (load_corpus(config.dataset, config.data_root), "") if config.dataset else default_corpus(config.data_root)
    )
    print(said, end="\n" if said else "")
    sample = _in_corpus(name, corpus)
    return sample.pose_path, sample.target


def _in_folder(name: str, folder: Path) -> Path:
    files = [folder / f"{name}{suffix}" for suffix in POSE_SUFFIXES]
    found = next((file for file in files if name and file.is_file()), None)
    if found is None:
        raise InputError(
            f"--poses {folder} holds no {name or '<clip>'}.pkl, .npz or .pose: give a file, or its name first."
        )
    return found


def _in_corpus(name: str, corpus: Corpus) -> Sample:
    """The clip of any split and task, by its own name or its file's."""
    failures: list[InputError] = []
    for task, split in itertools.product(corpus.tasks, SPLITS):
        try:
            samples = read_split(corpus, task, split).samples
        except InputError as error:
            failures.append(error)
            continue
        for sample in samples:
            if name in (sample.name, sample.pose_path.stem):
                return sample
    if len(failures) == len(corpus.tasks) * len(SPLITS):
        raise failures[0]
    raise InputError(f"{corpus.name} has no clip {name} with a pose file: look into {corpus.pose_dir}.")
