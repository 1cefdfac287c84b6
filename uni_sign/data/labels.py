"""A split's label file as columns, clip by clip, whatever its format.

Unpickling the labels of a large corpus without trusting them takes long, so its columns are kept in an Arrow file and
read again while the label file is the one that they come from.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from uni_sign.data.arrow_shards import SUFFIX, read_batches
from uni_sign.data.corpora import SPLITS, Corpus
from uni_sign.data.safe_pickle import MAX_BYTES, check_file, load_pickle
from uni_sign.data.tables import SUFFIXES, Labels, read_list, read_table
from uni_sign.errors import InputError, one_line

MAX_TARGET = 100_000  # letters of the glosses of one clip
_HELD_OUT_SHARE = 0.01
_KEPT_FROM = 20_000  # entries: below, reading the label file is as fast
_COLUMNS = ("keys", "names", "stems", "targets", "languages", "videos", "problems")
_NAMED = (str, type(None))  # what an entry may have where it can name a file
_VERSION = "1"  # another where a column is made otherwise


@dataclass(frozen=True)
class LabelColumns:
    """Of each entry: its key, and the clip's name, its pose file's name without a suffix, target, language, and video
    as the label names it; or a sentence in ``problems`` for what is wrong, else empty.
    """

    keys: list[str]
    names: list[str]
    stems: list[str]
    targets: list[str]
    languages: list[str]
    videos: list[str]
    problems: list[str]


def label_file(corpus: Corpus, task: str, split: str) -> Path:
    """The label file of a split; raises InputError where there is none."""
    files = corpus.label_files(task)
    path = files[split] if split in files else files["train"]
    if not path.is_file():
        hint = "run `uni-sign demo-data`" if corpus.name == "Demo" else "put it there, or set --data_root"
        raise InputError(f"No label file {path} for split {split!r} of {corpus.name}: {hint}.")
    return path


def read_labels(corpus: Corpus, task: str, split: str) -> tuple[LabelColumns, list[str]]:
    """The columns of a split's label file, and a sentence for each row of it that gives no entry."""
    path = label_file(corpus, task, split)
    kept, schema = _kept_file(corpus, task, split, path)
    if kept is not None and kept.is_file():
        with contextlib.suppress(InputError):  # of another version or damaged: it is made anew
            return _read_kept(kept, schema)
    entries, problems = _read_entries(corpus, task, split, path)
    columns = _columns(entries, corpus, task, path)
    if kept is not None and len(columns.keys) >= _KEPT_FROM:
        with contextlib.suppress(OSError):  # it saves seconds of the next start, no more
            _keep(kept, schema, columns, problems)
    return columns, problems


def _read_entries(corpus: Corpus, task: str, split: str, path: Path) -> Labels:
    if corpus.label_format == "csl_news":
        return Labels(_csl_news(path, split, corpus.label_files(task)), [])
    if corpus.label_format == "table" and path.suffix in SUFFIXES:
        return read_table(path, corpus.columns, corpus.separator, split)
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


# --- entries to columns ------------------------------------------------------------------------------------


def _columns(entries: Mapping[Any, Any], corpus: Corpus, task: str, path: Path) -> LabelColumns:
    rows = []
    for key, entry in entries.items():
        row = _row(key, entry, corpus.language, task)
        # A key can be anything, and a few references can stand for more than memory holds.
        quoted = key if isinstance(key, str) else type(key).__name__
        rows.append((quoted, "", "", "", "", "", row) if isinstance(row, str) else (quoted, *row, ""))
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in _COLUMNS]
    keyed = zip(columns[0], columns[-1], strict=True)
    columns[-1] = [problem and one_line(f"{path}: clip {key}: {problem}") for key, problem in keyed]
    return LabelColumns(*columns)


def _row(key: Any, entry: Any, language: str, task: str) -> tuple[str, str, str, str, str] | str:
    """(name, stem, target, language, video) of a label entry, or what is wrong with it."""
    if not isinstance(entry, dict):
        return f"its entry is {type(entry).__name__}, not a dict."
    name, target = entry.get("name", key), _target(entry, task)
    pose, path, video = entry.get("pose"), entry.get("video_path"), entry.get("video")
    texts = isinstance(key, str) and isinstance(name, str) and isinstance(target, str)
    if not (texts and isinstance(pose, _NAMED) and isinstance(path, _NAMED) and isinstance(video, _NAMED)):
        return f"name, video_path and text must be strings, gloss a list of strings, {MAX_TARGET:,} letters in all."
    if not target.strip():
        return f"its target for {task} is empty."
    if target != target.encode(errors="ignore").decode():  # a lone surrogate would fail in the tokenizer
        return "its target holds text that is not valid Unicode."
    # A language the prompt does not know would go unseen into training: it must be a word.
    spoken = entry.get("language", language)
    if not isinstance(spoken, str) or not spoken.isalpha():
        said = repr(spoken) if isinstance(spoken, str) else f"of type {type(spoken).__name__}"
        return f"its language {said} is not a word such as Chinese or English."
    file = (pose or path or video or f"{key}.pkl").rstrip("/").rsplit("/", 1)[-1]
    return name, file.rsplit(".", 1)[0], target, spoken, path or video or ""


def _target(entry: Mapping[str, Any], task: str) -> Any:
    if task != "CSLR":
        return entry.get("text")
    gloss = entry.get("gloss", "")
    if not isinstance(gloss, (list, tuple)) or not all(isinstance(word, str) for word in gloss):
        return gloss
    return " ".join(gloss) if sum(map(len, gloss)) <= MAX_TARGET else gloss  # one word can be named many times


# --- columns that are kept ---------------------------------------------------------------------------------


def _kept_file(corpus: Corpus, task: str, split: str, path: Path) -> tuple[Path | None, pa.Schema]:
    """Where the columns are kept, and their schema, which says what they were made of."""
    state = path.stat()
    made_of = repr((str(path), task, split, corpus.label_format, corpus.columns, corpus.separator, corpus.language))
    made_of += repr(sorted(corpus.label_files(task)))
    metadata = {
        "uni_sign.labels": _VERSION,
        "made_of": hashlib.blake2b(made_of.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest(),
        "state": f"{state.st_size} {state.st_mtime_ns}",
    }
    schema = pa.schema([pa.field(name, pa.large_binary(), nullable=False) for name in _COLUMNS], metadata=metadata)
    return corpus.cache_dir and corpus.cache_dir / f"{metadata['made_of']}{SUFFIX}", schema


def _read_kept(kept: Path, schema: pa.Schema) -> tuple[LabelColumns, list[str]]:
    def read(batch: pa.RecordBatch, _: pa.Buffer) -> list[list[str]]:
        return [[value.decode("utf-8", "surrogatepass") for value in column.to_pylist()] for column in batch.columns]

    batches = read_batches(kept, schema, read, "labels")
    if len(batches) != 2:
        raise InputError(f"{kept} does not hold a label file's columns: delete it.")
    columns, problems = batches
    return LabelColumns(*columns), problems[-1]


def _keep(kept: Path, schema: pa.Schema, columns: LabelColumns, problems: list[str]) -> None:
    """Write the columns, and as a second batch the sentences that belong to no entry; whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f".{uuid.uuid4().hex}.partial")
    own = [getattr(columns, name) for name in _COLUMNS]
    others = [*([""] * len(problems) for _ in _COLUMNS[1:]), problems]
    try:
        with partial.open("wb") as file:
            with pa.ipc.new_file(file, schema) as arrow:
                for batch in (own, others):
                    encoded = [[text.encode("utf-8", "surrogatepass") for text in column] for column in batch]
                    arrow.write_batch(
                        pa.record_batch([pa.array(column, pa.large_binary()) for column in encoded], schema)
                    )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)
