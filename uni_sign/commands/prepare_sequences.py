"""`uni-sign prepare sequences` and `prepare text`: clips and a table of texts to the keypoint pipeline's files."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from uni_sign.config import flag, parse_flags
from uni_sign.data.holistic import point_mask
from uni_sign.data.holistic_clips import SUFFIXES, read_arrow, read_clip, write_arrow
from uni_sign.data.sequences import read_sequences
from uni_sign.data.tables import read_table
from uni_sign.errors import InputError

_PROTOCOL = 4
_SHOWN = 10


@dataclass(frozen=True)
class _TableConfig:
    """The table of texts."""

    csv: str = flag("", "table of the clips and their texts; a .tsv has tabs")
    name_column: str = flag("name", "title of the column that holds a clip's name, with or without an ending")
    text_column: str = flag("text", "title of the column that holds its text")
    separator: str = flag("", "what stands between two fields; default: a comma, or a tab in a .tsv")


@dataclass(frozen=True)
class SequencesConfig(_TableConfig):
    """The flags of clips to sequences."""

    clips: Path = flag(Path("holistic"), "folder of <clip>.npz or .pkl, one clip a file")
    output: Path = flag(Path("video_sequences.pkl"), "the file to make")
    format: Literal["pkl", "arrow"] = flag("pkl", "a pickle as users know it, or Arrow, read by memory mapping")


@dataclass(frozen=True)
class TextConfig(_TableConfig):
    """The flags of texts beside sequences."""

    sequences: Path = flag(Path("video_sequences.pkl"), "the sequences that the texts belong to")
    output: Path = flag(Path("text_data.json"), "the file to make")


def prepare_sequences(argv: Sequence[str]) -> int:
    """Make the sequences; with a table those clips that have a text alone, in its order.

    Status 1 where some are left out.
    """
    [config] = parse_flags(argv, SequencesConfig, program="uni-sign prepare sequences")
    files = {path.stem: path for path in sorted(config.clips.rglob("*")) if path.suffix in SUFFIXES}
    if not files:
        raise InputError(f"No clip ({', '.join(SUFFIXES)}) in --clips {config.clips}.")
    texts = _texts(config) if config.csv else dict.fromkeys(files, "")
    problems = [f"{config.csv}: clip {name} has no file in {config.clips}." for name in texts if name not in files]
    if config.csv:
        problems += [
            f"{path}: the clip has no text in {config.csv}." for name, path in files.items() if name not in texts
        ]
    names, clips = [], []
    for name in tqdm([name for name in texts if name in files], "sequences", unit="clip"):
        try:
            clips.append(read_clip(files[name]))
            names.append(name)
        except InputError as error:
            problems.append(str(error))
    if not names:
        raise InputError(f"No clip in {config.clips} can be used; the first: {problems[0]}")
    if config.format == "arrow":
        write_arrow(config.output, names, iter(clips))
    else:
        _write(config.output, pickle.dumps({"sequences": [_plain(*clip) for clip in clips], "names": names}, _PROTOCOL))
    return _told(f"{config.output}: {len(names)} sequences.", problems)


def prepare_text(argv: Sequence[str]) -> int:
    """Make the texts, one a sequence and in their order. Raises InputError where a sequence has none."""
    [config] = parse_flags(argv, TextConfig, program="uni-sign prepare text")
    if not config.csv:
        raise InputError("--csv: name the table of the clips and their texts.")
    arrow = config.sequences.suffix == ".arrow"
    names = (read_arrow if arrow else read_sequences)(config.sequences).names
    texts = _texts(config)
    without = [name for name in names if name not in texts]
    if without:
        raise InputError(
            f"{config.csv} has no text of {len(without)} of the {len(names)} sequences, the first {without[0]}: make "
            "the sequences with the same --csv, which leaves such clips out."
        )
    content = json.dumps({"texts": [texts[name] for name in names], "names": names}, ensure_ascii=False)
    _write(config.output, content.encode())
    return _told(f"{config.output}: {len(names)} texts.", [])


def _texts(config: _TableConfig) -> dict[str, str]:
    """Text by clip name, in the order of the table."""
    path = Path(config.csv)
    separator = config.separator or ("\t" if path.suffix == ".tsv" else ",")
    if len(separator) != 1:
        raise InputError(f"--separator {separator!r} must be one character.")
    columns = {"name": config.name_column, "text": config.text_column}
    entries, problems = read_table(path, columns, separator, "train")
    for problem in problems[:_SHOWN]:
        print(problem)
    texts = {str(name): entry["text"] for name, entry in entries.items() if entry["text"]}
    texts = {Path(name).stem if Path(name).suffix else name: text for name, text in texts.items()}
    if not texts:
        raise InputError(
            f"{path} holds no clip with a text in its columns {config.name_column} and {config.text_column}."
        )
    return texts


def _plain(points: np.ndarray, present: np.ndarray) -> Any:
    """As users know a sequence: an array, in which a missing region is zero."""
    return np.where(point_mask(present)[..., None], points, 0).astype(np.float32)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"--output {path} cannot be written: {error.strerror}.") from error


def _told(done: str, problems: Sequence[str]) -> int:
    for problem in problems[:_SHOWN]:
        print(f"left out: {problem}")
    if len(problems) > _SHOWN:
        print(f"left out: {len(problems) - _SHOWN} more.")
    print(done)
    return 1 if problems else 0
