"""Hostile YAML: corpora and flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hostile_json import json_bytes
from reader import (
    CONFLICT,
    VALUE,
    Reader,
    Seed,
    fields,
    odd_values,
)

from uni_sign.config import TrainConfig, parse_flags
from uni_sign.data.corpora import Corpus, load_corpus
from uni_sign.stages.fine_tuning import FineTuningConfig

_CONFIGS = Path(__file__).parents[2] / "configs"


def _yaml_bombs(key: str) -> list[bytes]:
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12)]
    laughs = "\n".join(["l0: &l0 [lol]", *levels])
    inline = "&l0 [lol]"
    for i in range(1, 12):
        inline = f"[&m{i} {inline}, {', '.join([f'*m{i}'] * 9)}]"
    return [
        laughs.encode(),
        f"{laughs}\n{key}: *l11\n".encode(),
        f"{key}: {inline}\n".encode(),
        f"{key}: &a [*a]\n".encode(),
        f"{key}: &a {{x: *a}}\n".encode(),
        f"&a {key}: *a\n".encode(),
        ("a: &a {}\n" + "b: {<<: [" + ", ".join(["*a"] * 1000) + "]}\n").encode(),
    ]


def _yaml_attacks(folder: Path, keys: Sequence[str]) -> list[bytes]:
    touch = f"touch {folder / 'witness'}"
    tags = [f'!!python/object/apply:os.system ["{touch}"]', "!!python/name:os.system", "!!python/module:antigravity"]
    tags += [
        f'!!python/object/new:os.system ["{touch}"]',
        "!!python/tuple [1]",
        "!!binary x",
        "!!set {a}",
        "!!omap [a: 1]",
    ]
    odd = [
        "0x" + "f" * 5000,
        "0b" + "1" * 20_000,
        "1" + ":59" * 3000,
        "9" * 5000,
        ".nan",
        "-.inf",
        "1e999",
        "~",
        "[]",
        "{}",
    ]
    odd += [
        "2020-13-45",
        '"a\\nb\\e[31m"',
        '"\\ud800"',
        '"\\0"',
        "true",
        "-1",
        "[" * 2000,
        "[" * 150 + "]" * 150,
        '"' + "x" * 100_000 + '"',
    ]
    odd += [
        "!!int x",
        "!!float x",
        "!!timestamp 1",
        "!!null x",
        "!!bool x",
        "1.5",
        "[1, [2]]",
        "{? [a] : b}",
        "? x",
        "=",
        "<<",
    ]
    return [
        *(bomb for key in keys for bomb in _yaml_bombs(key)),
        *(f"{key}: {value}\n".encode() for key in keys for value in (*tags, *odd)),
        b'"a\\nb\\e[31m": 1\n',
        b'"--config": x\n',
        b"help: 1\n",
        b"x" * 100_000 + b": 1\n",
        b"{" * 100_000,
        b"- " * 100_000,
        b"? " * 100_000,
        b"a:\n" + b"".join(b" " * i + b"a:\n" for i in range(1, 1000)),
        b"%YAML 9.9\n---\na: b\n",
        b"--- a\n--- b\n",
        b"\xff\xfea\x00",
        b"\0",
        b"&a" * 10_000,
        b"*a",
    ]


_YAML_WORDS = [
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!python/name:os.system ",
    b"!!int ",
    b"0x" + b"f" * 5000,
    b"[" * 200,
    b"]" * 200,
]
_YAML_WORDS += [
    b"{",
    b"}",
    b"? ",
    b": ",
    b"- ",
    b"|\n",
    b"'",
    b'"',
    b"1:59:59",
    b"2020-13-45",
    b"\x00",
    b"\xff",
    b"\n",
    b"%TAG ! x\n",
    b"---\n",
]


def _yaml(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode(errors="surrogatepass")
    except (ValueError, yaml.YAMLError):
        return b"version: 0x" + b"f" * 5000


def corpus_yaml(folder: Path) -> Reader:
    shipped = sorted((_CONFIGS / "corpora").glob("*.yaml"))
    keys = list(Corpus.__dataclass_fields__)
    whole = yaml.safe_load(shipped[0].read_text())
    attacks = [
        *_yaml_attacks(folder, ["name", "labels", "pose_dir", "max_length"]),
        *(
            _yaml({**whole, key: value})
            for key in keys
            for value in [*odd_values()[4:8], True, 1.5, [[1]], ["a\nb"], {"train": []}]
        ),
        *(_yaml(whole) + bomb for key in keys for bomb in _yaml_bombs(key)),
        *(_yaml(whole) + f"{key}: 0x{'f' * 5000}\n".encode() for key in keys),
    ]
    return Reader(
        "corpus.yaml",
        lambda path: load_corpus(str(path), folder),
        [Seed(path.read_bytes()) for path in shipped],
        attacks,
        fields(keys, VALUE).map(_yaml) | fields(keys, VALUE).map(lambda some: _yaml({**whole, **some})),
        [*_YAML_WORDS, *(f"\n{key}: ".encode() for key in keys)],
    )


def flags_yaml(folder: Path) -> Reader:
    names = [
        "epochs",
        "lr",
        "opt_betas",
        "offload",
        "output_dir",
        "opt",
        "seed",
        "report_to",
        "hidden_dim",
        "mt5",
        "dataset",
    ]
    whole = {
        "epochs": 3,
        "lr": 0.001,
        "opt_betas": [0.9, 0.99],
        "offload": False,
        "opt": "sgd",
        "seed": 5,
        "dataset": "Demo",
    }
    return Reader(
        "flags.yaml",
        lambda path: parse_flags(["--config", str(path)], TrainConfig, FineTuningConfig),
        [
            Seed(_yaml(whole)),
            Seed(json_bytes(whole)),
            Seed((Path(__file__).parents[2] / "configs/demo.yaml").read_bytes()),
        ],
        _yaml_attacks(folder, names[:5]),
        fields(names, VALUE).map(_yaml),
        [*_YAML_WORDS, *(f"\n{name}: ".encode() for name in names)],
        named=rf"flags\.yaml|{CONFLICT}",
    )
