"""The usable clips of a split: its labels, joined with the files that are there."""

import os
import stat
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uni_sign.data.corpora import VIDEO_SUFFIXES, Corpus
from uni_sign.data.labels import label_file, read_labels
from uni_sign.data.samples import Samples
from uni_sign.data.wholebody import POSE_SUFFIXES
from uni_sign.errors import InputError, one_line

FileStates = Mapping[str, tuple[int, int]]  # by name: size in bytes and time of change
NO_POSE_FILE = "no pose file"  # in the sentence of such a clip
_FOR_COLON = ":%-_"  # not every file system takes the colons in OpenASL's names


@dataclass(frozen=True)
class Split:
    """The usable clips of a split, and a sentence for each that is not usable."""

    samples: Samples
    problems: list[str]


def read_split(corpus: Corpus, task: str, split: str, videos: bool = False, states: FileStates | None = None) -> Split:
    """The clips of a split whose label and pose file, and with ``videos`` also their video, are there.

    ``states``: of the pose files that count as being there, where these lie elsewhere. Raises InputError where the
    label file is missing, broken or holds no usable clip at all.
    """
    labels, problems = read_labels(corpus, task, split)
    path = label_file(corpus, task, split)
    video_names = _video_names(corpus) if videos else set()
    files = _file_names(corpus.pose_dir) if states is None else states
    pose_dir = str(corpus.pose_dir)
    described = corpus.description_dir(split)
    described_names = {entry.name for entry in os.scandir(described)} if described else set()
    pose_files = _pose_files(labels.stems, files)
    paths = [f"{pose_dir}/{file}" for file in pose_files]
    known = _states(paths) if states is None else map(states.get, pose_files)
    usable: list[int] = []
    found: list[tuple[str, str, str, int, int]] = []  # pose file, description, video; size and time of change
    rows = zip(labels.keys, labels.stems, labels.names, labels.problems, pose_files, known, strict=True)
    for row, (key, stem, name, problem, pose_file, state) in enumerate(rows):
        if problem or not state:
            said = f"{path}: clip {key}: {NO_POSE_FILE} {stem}.pkl in {corpus.pose_dir}, nor .npz or .pose."
            problems.append(problem or one_line(said))
            continue
        video = _video(labels.videos[row], pose_file.rsplit(".", 1)[0], corpus, video_names) if videos else ""
        if videos and not video:
            problems.append(one_line(f"{path}: clip {key}: no video of it in {corpus.video_dir}."))
            continue
        description = ""
        if described and (text := f"{name}.json") in described_names:
            description = os.path.join(described, text)
        usable.append(row)
        found.append((paths[row], description, video, *state))
    if not usable:
        first = problems[0] if problems else f"{path} is empty"
        raise InputError(f"No usable clip in split {split!r} of {corpus.name}: {first}")
    poses, descriptions, seen, sizes, times = zip(*found, strict=True)
    names, targets, languages = (
        [column[row] for row in usable] for column in (labels.names, labels.targets, labels.languages)
    )
    own = [corpus.name] * len(usable)
    return Split(Samples.of(names, poses, descriptions, targets, languages, sizes, times, seen, own), problems)


def _pose_files(stems: Sequence[str], files: Container[str]) -> list[str]:
    """The pose file of each clip, perhaps with other signs for the colons in its name; empty where there is none."""
    found = [""] * len(stems)
    signs = _FOR_COLON if any(":" in stem for stem in stems) else ":"
    for sign in signs:
        spelled = stems if sign == ":" else [stem.replace(":", sign) for stem in stems]
        for suffix in POSE_SUFFIXES:
            pairs = zip(found, spelled, strict=True)
            found = [file or (name if (name := stem + suffix) in files else "") for file, stem in pairs]
    return found


def _video_names(corpus: Corpus) -> set[str]:
    if corpus.video_dir is None:
        raise InputError(f"--rgb_support: the corpus file of {corpus.name} names no video_dir: add it.")
    try:
        return set(os.listdir(corpus.video_dir))
    except OSError as error:
        hint = "run `uni-sign demo-data --videos`" if corpus.name == "Demo" else "put the videos there"
        raise InputError(
            f"--rgb_support: the video folder {corpus.video_dir} cannot be read ({error.strerror}): {hint}."
        ) from error


def _video(named: str, stem: str, corpus: Corpus, names: set[str]) -> str:
    """A clip's video: named as its poses are, or by its label, in a folder below the corpus's, too; empty: none."""
    assert corpus.video_dir is not None
    found = next((f"{stem}{suffix}" for suffix in VIDEO_SUFFIXES if f"{stem}{suffix}" in names), None)
    if found is not None:
        return os.path.join(corpus.video_dir, found)
    # A label must not lead out of the folder.
    if Path(named).suffix not in VIDEO_SUFFIXES or Path(named).is_absolute() or ".." in Path(named).parts:
        return ""
    path = corpus.video_dir / named
    return str(path) if path.is_file() else ""


def _file_names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise InputError(
            f"The pose folder {folder} cannot be read ({error.strerror}): put the pose files there, or set --data_root."
        ) from error


def _states(paths: Sequence[str]) -> Iterable[tuple[int, int] | None]:
    """`_state` of each, in one go where all are files."""
    try:
        found = [(s.st_size, s.st_mtime_ns, s.st_mode) for s in map(os.stat, paths)]
    except (OSError, ValueError):
        return map(_state, paths)
    return [(size, time) if stat.S_ISREG(mode) else None for size, time, mode in found]


def _state(path: str) -> tuple[int, int] | None:
    """Size in bytes and time of change of a file; None where it is no file, such as a link that leads nowhere."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return (state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None
