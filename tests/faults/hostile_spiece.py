"""Hostile SentencePiece models, written field by field."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from reader import (
    GOLDEN,
    Reader,
    Seed,
)

from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.vocabulary import kept_tokenizer, needed_pieces


def _field(number: int, value: bytes | float | int) -> bytes:
    """One protobuf field: bytes, a float32 or a varint."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    if isinstance(value, float):
        return _varint(number << 3 | 5) + np.float32(value).tobytes()
    return _varint(number << 3) + _varint(value & (1 << 64) - 1)


def _varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _spiece(pieces: Sequence[tuple[bytes, float, int]], trainer: bytes = b"", charsmap: bytes = b"") -> bytes:
    said = b"".join(_field(1, _field(1, text) + _field(2, score) + _field(3, kind)) for text, score, kind in pieces)
    return said + _field(2, trainer) + _field(3, _field(2, charsmap) if charsmap else b"")


def spiece(_: Path) -> Reader:
    def read(path: Path) -> None:
        tokenizer = Tokenizer(path.parent)
        for text in ("", "今天很好 hello ▁ ﷺ ａ\n</s>", "x" * 300, "\0\ufffd", "👍🏽é"):
            tokenizer.encode(text, 50)
        tokenizer.decode([*range(min(len(tokenizer), 300)), len(tokenizer), -1])
        assert kept_tokenizer(tokenizer, needed_pieces(tokenizer, [["今天 hello ab"]])).encode("x")

    special = [(b"<pad>", 0.0, 3), (b"</s>", 0.0, 3), (b"<unk>", 0.0, 2)]
    small = [
        *special,
        *((f"<0x{i:02X}>".encode(), -9.0, 6) for i in range(256)),
        ("▁a".encode(), -1.0, 1),
        (b"b", -2.0, 1),
    ]
    bytes_on = _field(35, 1) + _field(3, 1) + _field(40, 2) + _field(42, 1) + _field(43, 0) + _field(41, (1 << 64) - 1)
    golden = (GOLDEN / "02_tokenizer" / "spiece.model").read_bytes()
    maps = [
        b"x",
        struct.pack("<I", 4) + b"abcd",
        struct.pack("<I", 1 << 30) + bytes(64),
        struct.pack("<I", 1024) + b"\xff" * 1024 + b"x\0",
    ]
    maps += [struct.pack("<I", 1024) + bytes([i % 251 for i in range(1024)]) + b"x\0", struct.pack("<I", 0) + b"abc\0"]
    pieces = st.lists(st.tuples(st.binary(max_size=6), st.floats(width=32), st.integers(0, 7)), max_size=6)
    return Reader(
        "spiece.model",
        read,
        [Seed(golden), Seed(_spiece(small, bytes_on)), Seed(_spiece([*special, *small[-2:]]))],
        [
            *(_spiece(small, bytes_on, charsmap) for charsmap in maps),
            *(_spiece([*small, (b"c", score, 1)], bytes_on) for score in (float("nan"), float("inf"), -3e38, 3e38)),
            *(
                _spiece([*small, (text, -1.0, kind)], bytes_on)
                for text in (b"", b"b", b"\xff\xfe", b"a" * 70_000)
                for kind in range(8)
            ),
            *(_spiece(small, _field(3, kind)) for kind in range(6)),
            *(_spiece(small, bytes_on + _field(number, 1 << 31)) for number in range(40, 46)),
            _spiece(special),
            _spiece([]),
            b"\x0a\xff\xff\xff\xff\x0f",
            b"\x0b" * 100_000,
            b"\x0a\x80" * 1000,
            bytes(100),
        ],
        st.builds(
            _spiece,
            pieces.map(lambda more: [*special, *more]) | pieces,
            st.just(bytes_on) | st.binary(max_size=9),
            st.binary(max_size=40),
        ),
        [b"\x0a\x04\x0a\x00\x18\x01", _field(3, _field(2, b"\x04\x00\x00\x00abcd")), b"\xff" * 9],
    )
