"""Label files that are tables: PHOENIX14T's, How2Sign's and OpenASL's annotations, and any other CSV or TSV."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uni_sign.data.safe_pickle import MAX_BYTES, check_file
from uni_sign.errors import InputError

SUFFIXES = (".csv", ".tsv")
COLUMNS = ("name", "text", "gloss", "video", "language", "split")
_DELIMITERS = ("\t", "|", ",", ";")
_LONGEST_FIELD = 1 << 20
# What data sets call the three splits.
_SPLITS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}


def read_table(path: Path, columns: Mapping[str, str], split: str) -> dict[str, dict[str, Any]]:
    """Label entries by clip name, of a table in UTF-8 whose first line names its columns.

    ``columns``: which of these hold a clip's ``name``, ``text``, ``gloss`` (words with spaces between), ``video``,
    ``language`` and ``split``; with the last, only rows of ``split`` count. The line of names tells what separates
    them: tab, bar, comma or semicolon. Raises InputError, naming file and line.
    """
    lines = io.StringIO(_text(path), newline="")
    header = lines.readline().rstrip("\r\n")
    delimiter = max(_DELIMITERS, key=header.count)
    names = header.split(delimiter)
    places = {field: _place(path, names, column) for field, column in columns.items()}
    entries: dict[str, dict[str, Any]] = {}
    for number, row in _rows(path, lines, delimiter):
        if len(row) != len(names):
            raise InputError(
                f"{path}: line {number} has {len(row)} fields, the first line {len(names)}: mend the line."
            )
        values = {field: row[place].strip() for field, place in places.items()}
        if _SPLITS.get(values.pop("split", split).lower()) != split:
            continue
        if values["name"] in entries:
            raise InputError(f"{path}: line {number} names clip {values['name']!r} once more: leave one of them.")
        entries[values["name"]] = _entry(values)
    return entries


def _text(path: Path) -> str:
    if check_file(path) > MAX_BYTES:
        raise InputError(f"{path} holds more than {MAX_BYTES:,} bytes: split it.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not text in UTF-8: {error}.") from error
    if "\0" in text:
        raise InputError(f"{path} holds a zero byte: it is no table.")
    return text


def _place(path: Path, names: list[str], column: str) -> int:
    if column not in names:
        raise InputError(
            f"{path} has no column {column!r} (its first line: {', '.join(names)[:200]}): name another one under "
            "`columns` in the corpus file."
        )
    return names.index(column)


def _rows(path: Path, lines: Any, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, and the number of the line in which each ends."""
    # In tables of bars and tabs a quotation mark is one of the text.
    quoting: Any = csv.QUOTE_NONE if delimiter in "\t|" else csv.QUOTE_MINIMAL
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
        yield from ((reader.line_num + 1, row) for row in reader if row)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num + 1} cannot be read: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _entry(values: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {field: value for field, value in values.items() if field != "video"}
    if "gloss" in values:
        entry["gloss"] = values["gloss"].split()
    # A folder of pictures (PHOENIX14T) is named by a pattern, which is no file.
    if values.get("video") and "*" not in values["video"]:
        entry["video_path"] = values["video"]
    return entry
