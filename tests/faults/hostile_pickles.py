"""Hostile poses and labels: pickles, gzip'd or not, and npz."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from reader import (
    ANY_ARRAY,
    ENTRY,
    FRAME,
    LEAF,
    MAX_BYTES,
    MAX_PROGRAM,
    NUMBER,
    VALUE,
    Reader,
    Seed,
    calls,
    corpus_of,
    fields,
    nested,
    odd_values,
)

from uni_sign.data.splits import read_split
from uni_sign.data.wholebody import read_pose


def _pickle_attacks(folder: Path) -> list[bytes]:
    touch = f"touch {folder / 'witness'}".encode()
    huge = struct.pack("<Q", 1 << 30)
    return [
        *(pickle.dumps({"keypoints": [call]}, protocol) for call in calls(folder) for protocol in (0, 2, 4)),
        b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        b"(S'" + touch + b"'\nios\nsystem\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x13__class__.__mro__.0\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x0bcore.os.sys\x93.",
        b"\x80\x02U\x03idaQ.",
        b"Pid\n.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x04\x96" + huge + b".",
        b"\x80\x04\x8e" + huge + b".",
        b"\x80\x04\x95" + huge + b"N.",
        b"\x80\x02\x8b" + huge[:4] + b".",
        b"cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R.",
        b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b".",
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x04})" + b"\x85" * 100_000 + b"Ns.",
        gzip.compress(pickle.dumps(bytes(MAX_BYTES + 1))),
        gzip.compress(b"\x80\x04" + b"]" * (MAX_PROGRAM + 1)),
        gzip.compress(gzip.compress(bytes(1 << 20))),
        gzip.compress(pickle.dumps(1))[:-5],
    ]


def _pickled(value: Any, protocol: int) -> bytes:
    """A pickle; of protocol 2 or more where there is a number of thousands of digits, which older ones spell out."""
    try:
        return pickle.dumps(value, protocol)
    except ValueError:
        return pickle.dumps(value, 2)


def _clip() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "keypoints": [rng.random((1, 133, 2)) for _ in range(3)],
        "scores": [rng.random((1, 133), np.float32) for _ in range(3)],
        "start": 0,
        "end": 3,
    }


def pose_pickle(folder: Path) -> Reader:
    frames = st.lists(FRAME | VALUE, max_size=4) | ANY_ARRAY | st.integers(0, 3).map(lambda n: [np.ones((1, 133))] * n)
    clips = fields(["keypoints", "scores"], frames).flatmap(
        lambda clip: fields(["start", "end"], VALUE).map(lambda more: {**clip, **more})
    )
    return Reader(
        "clip.pkl",
        read_pose,
        [Seed(pickle.dumps(_clip(), protocol), packed) for protocol in (0, 2, 4, 5) for packed in (bytes, _gzip)],
        _pickle_attacks(folder),
        st.builds(_pickled, clips, st.integers(0, 5)),
        [b"cnumpy\ndtype\n", b"\x85R", b"h\x00", b"Nb", b"\x8c\x02os\x8c\x06system\x93"],
        pickled=True,
    )


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 1)


def _npz(arrays: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in arrays.items():
                archive.writestr(f"{name}.npy", content)
        return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


def _npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text.encode() + bytes(64)


def pose_npz(folder: Path) -> Reader:
    clip = {name: np.array(value) for name, value in _clip().items()}
    whole = {name: _npy(array) for name, array in clip.items()}
    header = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}"
    headers = [
        header.format("'<f8'", (1 << 27, 133)),
        header.format("'<f8'", (1 << 40,)),
        header.format("'<f8'", (-1,)),
        header.format("'|S0'", (1 << 60, 133, 2)),
        header.format("'|O'", (1,)),
        header.format("[('a', '<f8', (100000, 100000))]", (1,)),
        header.format("'<f8'", "(" * 500 + ")" * 500),
        "[" * 5000,
        "__import__('os').system('touch witness')",
        header.format("'<f8'", "9" * 5000),
    ]
    objects = io.BytesIO()
    np.save(objects, np.array([calls(folder)[0]], object), allow_pickle=True)
    bomb = _npz({"keypoints": bytes(MAX_BYTES), "scores": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    return Reader(
        "clip.npz",
        read_pose,
        [Seed(_npz(whole)), Seed(_npz(whole, zipfile.ZIP_DEFLATED))]
        + [Seed(whole[name], lambda inner, name=name: _npz({**whole, name: inner})) for name in whole],
        [
            *(_npz({**whole, "keypoints": _npy_header(text)}) for text in headers),
            _npz({**whole, "keypoints": objects.getvalue()}),
            bomb,
            bomb.replace(struct.pack("<I", MAX_BYTES), struct.pack("<I", 100)),
            _npy_header(header.format("'<f8'", (1 << 27, 133))) + _npz(whole),
            whole["keypoints"],
            _npz({}),
        ],
        fields(["keypoints", "scores", "start", "end"], FRAME).map(
            lambda arrays: _npz({name: _npy(array) for name, array in arrays.items() if name.isalnum()})
        ),
        [b"'|O'", b"'<f8'", b"'|S0'", b"(1099511627776,)", b"PK\x01\x02", b"PK\x05\x06"],
    )


def _labels() -> dict[str, dict[str, Any]]:
    return {key: {"name": key, "video_path": "a.mp4", "text": "今天很好", "gloss": ["今天", "好"]} for key in "abc"}


_GLOSS = b"X\x05\x00\x00\x00gloss"


def label_pickle(folder: Path) -> Reader:
    corpus = corpus_of(folder, "labels.pkl", "pickle")
    doubling = b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
    entry = b"}(X\x01\x00\x00\x00a}(X\x04\x00\x00\x00textX\x01\x00\x00\x00tX\x05\x00\x00\x00video%s%s%su%su."
    named, language = b"X\x01\x00\x00\x00a", b"X\x08\x00\x00\x00language"
    values = nested(LEAF | ANY_ARRAY)
    entries = st.dictionaries(st.text(max_size=3) | NUMBER, fields(ENTRY, values) | values, max_size=3)
    return Reader(
        "labels.pkl",
        lambda _: [read_split(corpus, task, "train") for task in ("SLT", "CSLR")],
        [Seed(pickle.dumps(_labels(), protocol), packed) for protocol in (0, 2, 4) for packed in (bytes, _gzip)],
        [
            *_pickle_attacks(folder),
            doubling + entry % (named, b"X\x04\x00\x00\x00name", doubling[2:], b""),
            doubling + entry % (named, language, doubling[2:], b""),
            doubling + entry % (named, language, b"]" * 900 + b"a" * 899, b""),
            b"\x80\x02X\x00\x00\x01\x00"
            + b"x" * 65536
            + b"q\x000"
            + entry % (named, _GLOSS, b"](" + b"h\x00" * 20_000 + b"e", b""),
            *(pickle.dumps({"a": {**_labels()["a"], name: value}}) for name in ENTRY for value in odd_values()),
            *(pickle.dumps({key: _labels()["a"]}) for key in (1 << 20_000, ("x",) * 9, "a\nb\x1b[31m", "\ud800", b"x")),
        ],
        st.builds(_pickled, entries, st.integers(0, 5)),
        [b"\x85R", b"h\x00", b"Nb", b"X\x04\x00\x00\x00name", b"X\x04\x00\x00\x00pose"],
        pickled=True,
    )


def label_list(folder: Path) -> Reader:
    """As PHOENIX14T's pickles are, with tensors that are left out unread."""
    corpus = corpus_of(folder, "labels.pkl", "pickle")
    clips = [{"name": f"train/{name}", "gloss": "JA", "text": "ja .", "sign": torch.ones(2, 3)} for name in "aab"]
    entries = st.lists(fields(ENTRY, nested(LEAF | ANY_ARRAY)) | VALUE, max_size=3)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch.storage\n_load_from_bytes\n"
    return Reader(
        "labels.pkl",
        lambda _: [read_split(corpus, task, "train") for task in ("SLT", "CSLR")],
        [Seed(pickle.dumps(clips, protocol), packed) for protocol in (2, 4) for packed in (bytes, _gzip)],
        [
            *(pickle.dumps([{"name": "a", "sign": call}], protocol) for call in calls(folder) for protocol in (0, 4)),
            *(b"\x80\x02" + name + ending for name in tensor for ending in (b".", b")R.", b")R}b.", b"(tR)R.", b"s.")),
            b"\x80\x02ctorch.storage\n_load_from_bytes\nU\xff" + b"cos\nsystem\n" * 21 + b"abc\x85R.",
            b"\x80\x02](" + b"N" * 500_000 + b"e.",
        ],
        st.builds(_pickled, entries, st.integers(0, 5)),
        [b"\x85R", b"Nb", *tensor, b"ccollections\nOrderedDict\n", b"X\x04\x00\x00\x00name"],
        pickled=True,
    )
