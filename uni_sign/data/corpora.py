"""A corpus is one YAML file: names, languages, folders; its clips are `Sample`s."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uni_sign.data.safe_pickle import MAX_BYTES, check_file, load_pickle
from uni_sign.data.samples import Sample, Samples
from uni_sign.data.tables import SUFFIXES, Labels, check_columns, read_list, read_table
from uni_sign.data.wholebody import POSE_SUFFIXES
from uni_sign.errors import InputError, one_line
from uni_sign.yaml_files import read_mapping

SPLITS = ("train", "dev", "test")
TASKS = ("SLT", "CSLR", "ISLR")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
_CORPORA = Path(__file__).resolve().parents[2] / "configs" / "corpora"
FileStates = Mapping[str, tuple[int, int]]  # by name: size in bytes and time of change
MAX_TARGET = 100_000  # letters of the glosses of one clip
NO_POSE_FILE = "no pose file"  # in the sentence of such a clip
_HELD_OUT_SHARE = 0.01
_FOR_COLON = ":%-_"  # not every file system takes the colons in OpenASL's names


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus, folders resolved; `{split}` in ``description_dirs`` stands for the split's name.

    ``text_normalization`` says how texts are scored: by ``characters``, by ``words``, or ``auto``: characters for
    Chinese and Japanese. ``separator`` and ``columns`` say how labels in tables are laid out.
    """

    name: str
    language: str
    labels: dict[str, Path]
    pose_dir: Path
    description_dirs: tuple[Path, ...] = ()
    prepared_dir: Path | None = None
    video_dir: Path | None = None
    isolated_labels: dict[str, Path] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("SLT",)
    text_normalization: str = "auto"
    label_format: str = "pickle"
    separator: str = "\t"
    columns: dict[str, str] = field(default_factory=dict)
    max_length: int = 256
    max_target_length: int = 50

    @property
    def shard_dir(self) -> Path:
        """Where `uni-sign prepare` keeps the poses' shards: beside their folder, unless ``prepared_dir`` says where."""
        return self.prepared_dir or shard_dir_beside(self.pose_dir)

    @property
    def crop_dir(self) -> Path:
        """Where `uni-sign prepare --crops` keeps the hands that it cuts out of the videos."""
        return self.shard_dir / "crops"

    def label_files(self, task: str) -> dict[str, Path]:
        """The label file per split for a task: single signs have files of their own where the corpus has both."""
        return self.isolated_labels if task == "ISLR" and self.isolated_labels else self.labels

    def scoring_style(self, language: str) -> Literal["characters", "words"]:
        """How texts of a language are split before they are scored."""
        by_characters = language in ("Chinese", "Japanese")
        if self.text_normalization != "auto":
            by_characters = self.text_normalization == "characters"
        return "characters" if by_characters else "words"

    def description_dir(self, split: str) -> Path | None:
        """The first description folder of the split that is there."""
        candidates = [Path(str(folder).replace("{split}", split)) for folder in self.description_dirs]
        return next((folder for folder in candidates if folder.is_dir()), None)


def shard_dir_beside(pose_dir: Path) -> Path:
    """Where the shards of a folder of poses lie that no corpus file names."""
    return pose_dir.parent / "prepared"


@dataclass(frozen=True)
class Split:
    """The usable clips of a split, and a sentence for each that is not usable."""

    samples: Samples
    problems: list[str]


def known_corpora() -> list[str]:
    """Names of the shipped corpora."""
    return sorted(path.stem for path in _CORPORA.glob("*.yaml"))


def load_corpus(name_or_path: str, data_root: Path) -> Corpus:
    """Read a corpus file by name (configs/corpora) or path; folders are relative to ``data_root``."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _CORPORA / f"{name_or_path}.yaml"
        if not path.is_file():
            raise InputError(
                f"--dataset {name_or_path} is unknown: use {', '.join(known_corpora())}, or the path of a YAML file."
            )
    return _corpus_from(read_mapping(path), path, data_root)


def default_corpus(data_root: Path, name: str = "CSL_Daily") -> tuple[Corpus, str]:
    """This corpus where its files are, else Demo; and the sentence that says so."""
    corpus = load_corpus(name, data_root)
    if corpus.labels["train"].is_file():
        return corpus, f"No --dataset given: using {name}, found at {corpus.labels['train']}."
    return load_corpus("Demo", data_root), (
        f"No --dataset given and no {name} at {corpus.labels['train']}: using the embedded Demo corpus."
    )


def _corpus_from(content: Mapping[str, Any], path: Path, root: Path) -> Corpus:
    known = set(Corpus.__dataclass_fields__)
    unknown, missing = set(content) - known, {"name", "language", "labels", "pose_dir"} - set(content)
    if unknown or missing:
        what = f"unknown key {min(unknown, key=str)!r}" if unknown else f"missing key {min(missing)!r}"
        raise InputError(f"{path}: {what}; the keys are {', '.join(sorted(known))}.")
    values = dict(content)
    try:
        for key in ("labels", "isolated_labels"):
            values[key] = {split: _present(root, file) for split, file in dict(values.get(key, {})).items()}
        values["pose_dir"] = _present(root, values["pose_dir"])
        values["description_dirs"] = tuple(root / folder for folder in _listed(values.get("description_dirs", [])))
        values["prepared_dir"] = _present(root, values["prepared_dir"]) if values.get("prepared_dir") else None
        values["video_dir"] = _present(root, values["video_dir"]) if values.get("video_dir") else None
        values["tasks"] = tuple(_listed(values.get("tasks", ["SLT"])))
        corpus = Corpus(**values)
        if corpus.label_format == "table" or corpus.columns:
            check_columns(corpus.columns, corpus.separator)
    except (TypeError, ValueError, OSError) as error:  # of a name too long for a file the system itself complains
        raise InputError(f"{path}: a value has the wrong form: {error}.") from error
    _check(corpus, path)
    return corpus


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _present(root: Path, choice: Any) -> Path:
    """The first of several spellings of a path that is there, else the first."""
    paths = [root / str(spelling) for spelling in _listed(choice)]
    if not paths:
        raise ValueError("an empty list where a file or folder is due")
    return next((path for path in paths if path.exists()), paths[0])


def _check(corpus: Corpus, path: Path) -> None:
    if not isinstance(corpus.name, str) or not isinstance(corpus.language, str):
        raise InputError(f"{path}: name and language must be text.")
    wrong = [task for task in corpus.tasks if task not in TASKS]
    if wrong:
        raise InputError(f"{path}: task {wrong[0]!r} is unknown: use {', '.join(TASKS)}.")
    if corpus.label_format not in ("pickle", "table", "csl_news"):
        raise InputError(f"{path}: label_format {corpus.label_format!r} is unknown: use pickle, table or csl_news.")
    if corpus.text_normalization not in ("auto", "characters", "words"):
        raise InputError(f"{path}: text_normalization must be auto, characters or words.")
    lengths = (corpus.max_length, corpus.max_target_length)
    if not all(isinstance(length, int) and length > 0 for length in lengths):
        raise InputError(f"{path}: max_length and max_target_length must be whole numbers above 0.")
    needed = ("train",) if corpus.label_format == "csl_news" else SPLITS
    for key, files in (("labels", corpus.labels), ("isolated_labels", corpus.isolated_labels)):
        for split in needed:
            if split not in files and (files or key == "labels"):
                raise InputError(f"{path}: {key} has no {split!r}; name one file each for {', '.join(needed)}.")


def read_split(corpus: Corpus, task: str, split: str, videos: bool = False, states: FileStates | None = None) -> Split:
    """The clips of a split whose label and pose file, and with ``videos`` also their video, are there.

    ``states``: of the pose files that count as being there, where these lie elsewhere. Raises InputError where the
    label file is missing, broken or holds no usable clip at all.
    """
    labels, problems, path = _read_labels(corpus, task, split)
    video_names = _video_names(corpus) if videos else set()
    states = _file_states(corpus.pose_dir) if states is None else states
    described = corpus.description_dir(split)
    described_names = {entry.name for entry in os.scandir(described)} if described else set()
    samples: list[Sample] = []
    for key, entry in labels.items():
        made = _sample(key, entry, corpus, task, states)
        if isinstance(made, str):
            problems.append(one_line(f"{path}: clip {_quoted(key)}: {made}"))
            continue
        name, pose_file, target, language = made
        description = described / f"{name}.json" if described and f"{name}.json" in described_names else None
        video = _video(entry, Path(pose_file).stem, corpus, video_names) if videos else None
        if videos and video is None:
            problems.append(one_line(f"{path}: clip {_quoted(key)}: no video of it in {corpus.video_dir}."))
            continue
        pose_path = corpus.pose_dir / pose_file
        samples.append(Sample(name, pose_path, description, target, language, *states[pose_file], video, corpus.name))
    if not samples:
        first = problems[0] if problems else f"{path} is empty"
        raise InputError(f"No usable clip in split {split!r} of {corpus.name}: {first}")
    return Split(Samples(samples), problems)


def _quoted(value: Any) -> str:
    """What can be said of a value without writing it all: a few references can stand for more than memory holds."""
    return value if isinstance(value, str) else type(value).__name__


def _sample(
    key: Any, entry: Any, corpus: Corpus, task: str, files: Mapping[str, Any]
) -> tuple[str, str, str, str] | str:
    """(name, pose file, target, language) of a label entry, or what is wrong with it."""
    if not isinstance(entry, Mapping):
        return f"its entry is {type(entry).__name__}, not a dict."
    name, target = entry.get("name", key), _target(entry, task)
    named = [entry[field] for field in ("pose", "video_path", "video") if entry.get(field) is not None]
    if not all(isinstance(value, str) for value in (key, name, target, *named)):
        return f"name, video_path and text must be strings, gloss a list of strings, {MAX_TARGET:,} letters in all."
    pose = next(filter(None, named), f"{key}.pkl")
    if not target.strip():
        return f"its target for {task} is empty."
    if target != target.encode(errors="ignore").decode():  # a lone surrogate would fail in the tokenizer
        return "its target holds text that is not valid Unicode."
    stem = Path(pose).name.rsplit(".", 1)[0]
    spellings = dict.fromkeys(stem.replace(":", sign) for sign in _FOR_COLON)
    candidates = (f"{spelling}{suffix}" for spelling in spellings for suffix in POSE_SUFFIXES)
    file = next((candidate for candidate in candidates if candidate in files), None)
    if file is None:
        return f"{NO_POSE_FILE} {stem}.pkl in {corpus.pose_dir}, nor .npz or .pose."
    # A language the prompt does not know would go unseen into training: it must be a word.
    language = entry.get("language", corpus.language)
    if not isinstance(language, str) or not language.isalpha():
        said = repr(language) if isinstance(language, str) else f"of type {type(language).__name__}"
        return f"its language {said} is not a word such as Chinese or English."
    return name, file, target, language


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


def _video(entry: Mapping[str, Any], stem: str, corpus: Corpus, names: set[str]) -> Path | None:
    """A clip's video: named as its poses are, or by its label, in a folder below the corpus's, too."""
    assert corpus.video_dir is not None
    found = next((f"{stem}{suffix}" for suffix in VIDEO_SUFFIXES if f"{stem}{suffix}" in names), None)
    if found is not None:
        return corpus.video_dir / found
    named = next((entry[field] for field in ("video_path", "video") if entry.get(field)), "")
    # A label must not lead out of the folder.
    if Path(named).suffix not in VIDEO_SUFFIXES or Path(named).is_absolute() or ".." in Path(named).parts:
        return None
    path = corpus.video_dir / named
    return path if path.is_file() else None


def _target(entry: Mapping[str, Any], task: str) -> Any:
    if task != "CSLR":
        return entry.get("text")
    gloss = entry.get("gloss", "")
    if not isinstance(gloss, (list, tuple)) or not all(isinstance(word, str) for word in gloss):
        return gloss
    return " ".join(gloss) if sum(map(len, gloss)) <= MAX_TARGET else gloss  # one word can be named many times


def _file_states(folder: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change of each file."""
    try:
        with os.scandir(folder) as entries:
            states = {entry.name: entry.stat() for entry in entries if entry.is_file()}
    except OSError as error:
        raise InputError(
            f"The pose folder {folder} cannot be read ({error.strerror}): put the pose files there, or set --data_root."
        ) from error
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}


def _read_labels(corpus: Corpus, task: str, split: str) -> tuple[Mapping[Any, Any], list[str], Path]:
    files = corpus.label_files(task)
    path = files[split] if split in files else files["train"]
    if not path.is_file():
        hint = "run `uni-sign demo-data`" if corpus.name == "Demo" else "put it there, or set --data_root"
        raise InputError(f"No label file {path} for split {split!r} of {corpus.name}: {hint}.")
    if corpus.label_format == "csl_news":
        return _csl_news(path, split, files), [], path
    if corpus.label_format == "table" and path.suffix in SUFFIXES:
        return *read_table(path, corpus.columns, corpus.separator, split), path
    return *_pickled(path), path


def _pickled(path: Path) -> Labels:
    labels = load_pickle(path, without_tensors=True)
    if isinstance(labels, list):
        return read_list(path, labels)
    if not isinstance(labels, Mapping):
        raise InputError(f"{path} must hold a dict or a list of clips, but holds {type(labels).__name__}.")
    return Labels(labels, [])


def _csl_news(path: Path, split: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """CSL-News: a JSON list of {video, pose, text}, whose last 1 % are those of dev and test without own files."""
    try:
        if check_file(path) > MAX_BYTES:
            raise InputError(f"{path} holds more than {MAX_BYTES:,} bytes: split it.")
        entries = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON in UTF-8: {error}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} must hold a list of clips, each with video, pose and text.")
    held_out = max(1, int(len(entries) * _HELD_OUT_SHARE))
    chosen = entries
    if split == "train" and not set(SPLITS) <= set(files):
        chosen = entries[:-held_out]
    elif split not in files:
        chosen = entries[-held_out:]
    poses = [entry.get("pose") or entry.get("video") for entry in chosen]
    return {
        Path(pose).stem if isinstance(pose, str) else str(number): entry
        for number, (pose, entry) in enumerate(zip(poses, chosen, strict=True))
    }
