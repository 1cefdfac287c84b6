"""Hostile JSON: labels, descriptions, checkpoints' manifests and states, models' configurations."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from reader import (
    ENTRY,
    GOLDEN,
    VALUE,
    Reader,
    Seed,
    corpus_of,
    fields,
)
from safetensors.torch import save as safetensors_bytes

from uni_sign.commands.export import read_exported
from uni_sign.data.descriptions import read_descriptions
from uni_sign.data.splits import read_split
from uni_sign.data.vocabulary import read_kept
from uni_sign.engine.checkpoint import RunState, find_resume, read_state
from uni_sign.models.mt5 import new_mt5, read_config

JSON_ATTACKS = [
    b"[" * 200_000,
    b'{"a":' * 200_000,
    *(b"[" * depth + b"]" * depth for depth in range(900, 1000, 3)),
    b'{"frames":' + b"[" * 900 + b"]" * 900 + b"}",
    b"9" * 5000,
    b"[" + b"9" * 5000 + b"]",
    b'{"%s": "text"}' % (b"9" * 5000),
    b'{"a": 1e999999999}',
    b"[NaN, Infinity, -Infinity]",
    b'{"\\ud800": "\\udfff"}',
    b'{"a\\nb\\u001b[31m": "x\\u0000"}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe[\x00]\x00",
    '"text"'.encode("utf-32"),
    b"null",
    b"{}",
    b"[[],[],[{}]]",
    b"",
    b"\0" * 1000,
]
JSON_WORDS = [
    b"[" * 300,
    b"]" * 300,
    b"{",
    b"}",
    b'"',
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"\\ud800",
    b"null",
    b"\xff",
]


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def dumped(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """JSON of the values; numbers of thousands of digits, which Python will not write, become short."""
    return values.map(lambda value: _json_or_short(value))


def _json_or_short(value: Any) -> bytes:
    try:
        return json_bytes(value)
    except ValueError:
        return b'{"version": ' + b"9" * 5000 + b"}"


def csl_news(folder: Path) -> Reader:
    corpus = corpus_of(folder, "labels.json", "csl_news")
    whole = [{"video": "a.mp4", "pose": "a.pkl", "text": "今天很好"} for _ in range(5)]
    return Reader(
        "labels.json",
        lambda _: read_split(corpus, "SLT", "train"),
        [Seed(json_bytes(whole)), Seed(json.dumps(whole, indent=1, ensure_ascii=False).encode())],
        [
            *JSON_ATTACKS,
            *(
                b'[{"%s": %s, "text": "t"}]' % (key, b"[" * n + b"]" * n)
                for key in (b"pose", b"video")
                for n in range(900, 1000, 2)
            ),
        ],
        dumped(st.lists(fields(ENTRY, VALUE) | VALUE, max_size=3)),
        [*JSON_WORDS, b'"pose"', b'"text"'],
    )


def descriptions(_: Path) -> Reader:
    frames = {str(frame): f"the hand moves {frame}" for frame in range(4)}
    seeds = [
        [{"filename": f"{i}.jpg", "description": text} for i, text in enumerate(frames.values())],
        {"frames": frames, "metadata": {"version": 1}},
        {"descriptions": frames},
        {"data": frames, "total_frames": 4},
        frames,
    ]
    keys = ("frames", "descriptions", "data", "metadata", "0", "-1", "00", "1e3", "9" * 30, "٣")
    return Reader(
        "clip.json",
        read_descriptions,
        [Seed(json_bytes(seed)) for seed in seeds],
        JSON_ATTACKS,
        dumped(fields(keys, VALUE | fields(keys, VALUE)) | st.lists(fields(["text", "description"], VALUE))),
        [*JSON_WORDS, b'"frames":', b'"text":', b'"-7":'],
    )


def manifest(folder: Path) -> Reader:
    """The newest checkpoint has the case's manifest; a complete older one must then be found, or none be wrong."""
    files = {"state.json": b"{}", "rng_0.pt": b"12345"}
    whole = {name: [len(content), zlib.crc32(content)] for name, content in files.items()}
    older, newest = (folder / "checkpoints" / f"step_0000000{step}" for step in (1, 2))
    for step in (older, newest):
        step.mkdir(parents=True)
        for name, content in files.items():
            (step / name).write_bytes(content)
        (step / "manifest.json").write_bytes(json_bytes(whole))
        os.utime(step / "manifest.json", (0, 0))

    def read(_: Path) -> None:
        found, passed = find_resume(folder, "auto", checksums=True)
        assert found in (older, newest)
        assert all(str(newest) in sentence and sentence.isprintable() for sentence in passed)
        assert (found == newest) != bool(passed)
        find_resume(folder, str(newest), checksums=True)

    names = [b"x" * 300, b"/" * 5000, b"\\u0000", b"\\ud800", b"a\\nb", b"..", b"/dev/zero", b""]
    return Reader(
        "checkpoints/step_00000002/manifest.json",
        read,
        [Seed(json_bytes(whole)), Seed(json_bytes({"state.json": whole["state.json"]}))],
        [*JSON_ATTACKS, *(b'{"%s": [1, 1]}' % name for name in names)],
        dumped(fields(["state.json", "rng_0.pt", ""], st.lists(VALUE, max_size=3) | VALUE) | VALUE),
        JSON_WORDS,
        named="step_00000002",
    )


def state(folder: Path) -> Reader:
    own = RunState(epoch=1, window=2, step=3, best_score=0.5, tracker_id="x", world_size=2, global_batch=8, clips=9)

    def read(path: Path) -> None:
        found = read_state(path.parent, own)
        assert all(type(value) in (int, float, str, type(None)) for value in asdict(found).values())
        assert all(number >= 0 for number in (found.epoch, found.window, found.step, found.best_step))

    names = list(asdict(own))
    odd = [
        b"1" + b"0" * 4000,
        b"-1",
        b"true",
        b'"1"',
        b"[]",
        b"1.5",
        b"NaN",
        b"1e999",
        b"null",
        b'"a\\nb"',
        b"[" * 900 + b"]" * 900,
    ]
    return Reader(
        "state.json",
        read,
        [Seed(json_bytes(asdict(own)))],
        [*JSON_ATTACKS, *(b'{"%s": %s}' % (name.encode(), value) for name in names for value in odd)],
        dumped(fields(names, VALUE) | fields(names, VALUE).map(lambda some: {**asdict(own), **some})),
        [*JSON_WORDS, b'"step"', b"true", b"-1"],
        named=folder.name,
    )


def mt5_config(_: Path) -> Reader:
    whole = json.loads((GOLDEN / "02_mt5_tiny_config.json").read_text())

    def read(path: Path) -> None:
        config = read_config(path.parent)
        with torch.device("meta"):
            new_mt5(config)

    odd = [0, -1, 1 << 40, 1 << 62, 1.5, 1e400, "8", "\n", None, [], {}, True, [[]] * 3]
    more = {
        "auto_map": {"AutoConfig": "evil--evil.Evil"},
        "attn_implementation": "evil/kernel",
        "_attn_implementation": "evil/kernel",
        "dtype": "os.system",
        "torch_dtype": "__import__",
        "transformers_version": "9" * 99,
        "quantization_config": {"quant_method": "bitsandbytes"},
        "id2label": {"x": 1},
        "num_labels": 1 << 40,
        "is_decoder": True,
        "feed_forward_proj": "gated-__class__",
    }
    return Reader(
        "config.json",
        read,
        [Seed(json_bytes(whole)), Seed(json.dumps(whole, indent=1).encode())],
        [
            *JSON_ATTACKS,
            *(json_bytes({**whole, name: value}) for name in whole for value in odd),
            *(json_bytes({**whole, name: value}) for name, value in more.items()),
            *(json_bytes({name: value}) for name, value in more.items()),
        ],
        dumped(fields(list(whole), VALUE).map(lambda some: {**whole, **some})),
        [*JSON_WORDS, b'"gated-gelu"', b'"d_model"', b"99999999999", b"-1"],
    )


def export_config(folder: Path) -> Reader:
    weights = {"a": torch.ones(2, 2), "b": torch.ones(3)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weights))
    whole = {"stage": "fine_tuning", "config": {"hidden_dim": 4}, "tied": {"c": "a"}}
    return Reader(
        "config.json",
        lambda path: read_exported(path.parent),
        [Seed(json_bytes(whole))],
        [
            *JSON_ATTACKS,
            *(b'{"tied": %s}' % tied for tied in (b"[]", b"1", b"null", b'{"a": []}', b'{"a": {}}', b'{"a": "x\\ny"}')),
        ],
        dumped(fields(["tied", "stage", "config", "model"], VALUE | st.dictionaries(st.text(), VALUE))),
        [*JSON_WORDS, b'"tied"'],
        named=folder.name,
    )


def kept_pieces(_: Path) -> Reader:
    whole = {"ids": [0, 1, 2, 7], "rows": 9, "tokenizer": "ab", "described": False}

    def read(path: Path) -> None:
        kept = read_kept(path.parent)
        assert kept is None or kept.ids[-1] < kept.rows

    odd = [
        b"[]",
        b"[0, 1, 2, 1e999]",
        b"[0, 1, 2, 2]",
        b"[0, 1, 2, null]",
        b"[[0], 1, 2]",
        b'"012"',
        b"null",
        b"{}",
        b"9",
    ]
    return Reader(
        "kept_pieces.json",
        read,
        [Seed(json_bytes(whole))],
        [*JSON_ATTACKS, *(b'%s, "%s": %s}' % (json_bytes(whole)[:-1], n.encode(), v) for n in whole for v in odd)],
        dumped(fields(list(whole), VALUE).map(lambda some: {**whole, **some})),
        [*JSON_WORDS, b'"ids"', b"true", b"-1"],
    )
