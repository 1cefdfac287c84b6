"""A corpus is one YAML file: names, languages, folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uni_sign.data.tables import check_columns
from uni_sign.errors import InputError
from uni_sign.yaml_files import read_mapping

SPLITS = ("train", "dev", "test")
TASKS = ("SLT", "CSLR", "ISLR")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
_CORPORA = Path(__file__).resolve().parents[2] / "configs" / "corpora"


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
    cache_dir: Path | None = None  # not of the corpus file

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
    known = set(Corpus.__dataclass_fields__) - {"cache_dir"}
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
        corpus = Corpus(**values, cache_dir=root / ".cache" / "labels")
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
