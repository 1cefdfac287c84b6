"""Labels as corpora publish them: tables in text (CSV, TSV, "|"), and pickles that hold a list of clips.

PHOENIX14T: `PHOENIX-2014-T.train.corpus.csv`, name|video|start|end|speaker|orth|translation, and gzip'd pickles of
{name, signer, gloss, text, sign}, where sign may be a torch tensor. How2Sign: `how2sign_realigned_train.csv`, by tabs
VIDEO_ID VIDEO_NAME SENTENCE_ID SENTENCE_NAME START_REALIGNED END_REALIGNED SENTENCE. OpenASL: `openasl-v1.0.tsv`, by
tabs vid yid start end raw-text tokenized-text gloss split, all splits in one file.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from uni_sign.data.safe_pickle import check_file
from uni_sign.errors import InputError, one_line

SUFFIXES = (".csv", ".tsv", ".txt")
MEANINGS = ("name", "video", "text", "gloss", "language", "split")  # what a column can be
MAX_BYTES = 1 << 28  # of one table: OpenASL's 98,417 rows take a twentieth
_MAX_LETTERS = 100_000  # of one field
_MAX_BAD = 10_000  # rows: so many are no accident, but another separator or another file
_SPLITS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("dev", "val", "valid", "validation"), "dev"
)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Labels(NamedTuple):
    """Entries by clip name, and a sentence for each row that gives none."""

    entries: Mapping[Any, Any]
    problems: list[str]


def check_columns(columns: Any, separator: Any) -> None:
    """Raises ValueError where a corpus file's ``columns`` or ``separator`` could describe no table."""
    if not isinstance(separator, str) or len(separator) != 1 or separator in '\n\r"\0':
        raise ValueError("separator must be one character, such as a tab or |")
    if not isinstance(columns, dict) or not all(isinstance(word, str) for pair in columns.items() for word in pair):
        raise ValueError("columns must hold names, such as text: translation")
    unknown = sorted(set(columns) - set(MEANINGS))
    if unknown or "name" not in columns or not {"text", "gloss"} & set(columns):
        what = f"{unknown[0]!r} is none of them" if unknown else "name, and text or gloss, are needed"
        raise ValueError(f"columns can name {', '.join(MEANINGS)}: {what}")


def read_table(path: Path, columns: Mapping[str, str], separator: str, split: str) -> Labels:
    """The rows of a split, each by its name; without a column for the split all rows.

    ``columns``: from what a column is (`MEANINGS`) to its title in the first row. Text is UTF-8. Fields follow the CSV
    convention for quotes where the separator is a comma or semicolon; else a line is a row, and a field that is wholly
    in quotes loses them. Raises InputError, naming the file, where it is no such table.
    """
    if check_file(path) > MAX_BYTES:
        raise InputError(f"{path} holds more than {MAX_BYTES:,} bytes: split it.")
    content = path.read_bytes()
    if content.startswith(_UTF_16):
        raise InputError(f"{path} is in UTF-16: save it in UTF-8.")
    rows = _rows(content.removeprefix(codecs.BOM_UTF8), separator)
    places = _places(path, next(rows, (1, [])), columns, separator)
    labels = _Collected(path)
    for number, fields in rows:
        if problem := _problem(fields, places.width):
            labels.reject(f"row {number} {problem}")
            continue
        entry = {meaning: fields[place].strip() for meaning, place in places.of.items()}
        its_split = _SPLITS.get(entry.pop("split", split).lower())
        if its_split == split:
            labels.add(entry["name"], entry, f"row {number}")
        elif its_split is None and split == "train":  # said once, of three times that the file is read
            labels.reject(f"row {number} is of no split that is known: train, dev and test are")
    return labels.labels


def read_list(path: Path, clips: list[Any]) -> Labels:
    """A pickle's list of clips, each a dict with a name, such as train/some_clip, of which the last part counts."""
    labels = _Collected(path)
    for number, clip in enumerate(clips, 1):
        if isinstance(clip, dict) and isinstance(clip.get("name"), str):
            labels.add(clip["name"], clip, f"clip {number}")
        else:
            labels.reject(f"clip {number} is no dict with a name")
    return labels.labels


class _Collected:
    """Entries by name, the first of each; what is wrong with the others."""

    def __init__(self, path: Path) -> None:
        self._path, self.labels = path, Labels({}, [])

    def add(self, name: str, entry: dict[str, Any], where: str) -> None:
        known: dict[str, Any] = self.labels.entries  # type: ignore[assignment]
        name = name.rsplit("/", 1)[-1]
        if not name or name in known:
            self.reject(f"{where} names clip {name} again" if name else f"{where} has no name")
        else:
            known[name] = {**entry, "name": name}

    def reject(self, problem: str) -> None:
        self.labels.problems.append(one_line(f"{self._path}: {problem}."))
        if len(self.labels.problems) > _MAX_BAD:
            first = self.labels.problems[0]
            raise InputError(f"{self._path} has more than {_MAX_BAD:,} bad rows: mend it; the first: {first}")


class _Places(NamedTuple):
    of: dict[str, int]
    width: int


def _places(path: Path, first: tuple[int, list[str] | str], columns: Mapping[str, str], separator: str) -> _Places:
    titles = [title.strip() for title in first[1]] if isinstance(first[1], list) else []
    for title in columns.values():
        if titles.count(title) != 1:
            how = "no" if title not in titles else "more than one"
            raise InputError(
                f"{path} has {how} column {title!r} in its first row, but {', '.join(titles)[:300] or 'nothing'}: "
                f"mend the file, or columns and separator ({separator!r}) in the corpus file."
            )
    return _Places({meaning: titles.index(title) for meaning, title in columns.items()}, len(titles))


def _problem(fields: list[str] | str, width: int) -> str:
    """What is wrong with a row; empty where nothing is."""
    if isinstance(fields, str):
        return fields
    if len(fields) != width:
        return f"has {len(fields)} fields, not {width}"
    if max(map(len, fields)) > _MAX_LETTERS:
        return f"has a field of more than {_MAX_LETTERS:,} letters"
    whole = "".join(fields)
    if "\0" in whole:
        return "holds a zero byte"
    return "" if whole == whole.encode(errors="ignore").decode() else "is not valid UTF-8"


def _rows(content: bytes, separator: str) -> Iterator[tuple[int, list[str] | str]]:
    """(number, fields) of each row that is not blank; a sentence in place of fields that the CSV convention forbids."""
    # Lines end at \n alone: texts may hold other characters that Python takes for the end of a line.
    lines = io.TextIOWrapper(io.BytesIO(content), "utf-8", "surrogateescape", newline="\n")
    if separator not in ",;":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, [_unquoted(field) for field in line.rstrip("\r\n").split(separator)]
        return
    reader = csv.reader(lines, delimiter=separator)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"breaks the CSV convention ({error})"
            continue
        if fields:
            yield number, fields


def _unquoted(field: str) -> str:
    """A field without the quotes that some writers of tables put round it, those within doubled."""
    inner = field[1:-1].replace('""', "")
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if quoted else field
