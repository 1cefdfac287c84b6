"""Hostile tables of labels: quotes without end, zero bytes, other encodings, rows of every width."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import strategies as st
from reader import Reader, Seed, corpus_of

from uni_sign.data.splits import read_split

_ROWS = [["id", "said", "part"], *([f"{name}", 'he said ""yes"" 你好', "train"] for name in "abc")]


def csv_table(folder: Path) -> Reader:
    return _table(folder, ",")


def plain_table(folder: Path) -> Reader:
    return _table(folder, "\t")


def _table(folder: Path, separator: str) -> Reader:
    columns = {"name": "id", "text": "said", "split": "part"}
    corpus = dataclasses.replace(corpus_of(folder, "labels.csv", "table"), separator=separator, columns=columns)
    whole = "\r\n".join(separator.join(f'"{field}"' for field in row) for row in _ROWS).encode()
    first = f"id{separator}said{separator}part\n".encode()
    between = separator.encode()
    attacks = [
        b"",
        first,
        whole.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + whole,
        b"\xef\xbb\xbf" * 1000,
        *(first + row for row in (b'"' * 100_001, b'"' + b"x" * 3_000_000, b"a\0" + between, b"\r" * 50_000)),
        *(first + row * 200_000 for row in (b"\n", between, b"a\n", b'"\n', b"a" + 2 * between + b"train\n")),
        first + b"a" + between + b"\xff\xfe" + between + b"train",
        first + b"\x1b[31m" + between + b"x\x07" + between + b"train",
        b"id" + between * 500_000,
        b"\0" * 1000,
        b"\x80\x04N.",
    ]
    words = [b'"', b'""', between, b"\0", b"\xff", b"\r", b"\n", b"\xe2\x80\xa8", b"train", b"/"]
    made_up = st.lists(st.sampled_from(words) | st.binary(max_size=4), max_size=30).map(
        lambda some: first + b"".join(some)
    )
    return Reader(
        "labels.csv",
        lambda _: read_split(corpus, "SLT", "train"),
        [Seed(whole), Seed(whole.replace(b'"', b""))],
        attacks,
        made_up,
        words,
    )
