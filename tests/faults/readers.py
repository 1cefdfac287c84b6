"""Every reader of foreign files: how it is called, valid files to damage, attacks by hand, and files made up anew."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save as safetensors_bytes
from torch import nn

from uni_sign.commands.checkpoints import stage_of
from uni_sign.commands.export import read_exported
from uni_sign.config import TrainConfig, parse_flags
from uni_sign.data import safe_pickle, wholebody
from uni_sign.data.corpora import Corpus, load_corpus, read_split
from uni_sign.data.descriptions import read_descriptions
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.wholebody import read_pose
from uni_sign.engine.checkpoint import RunState, find_resume, read_state
from uni_sign.models.mt5 import new_mt5, read_config
from uni_sign.models.weights import load_checkpoint, unwrap
from uni_sign.stages.fine_tuning import FineTuningConfig

GOLDEN = Path(__file__).parents[1] / "golden"
MAX_BYTES, MAX_PROGRAM = 16 << 20, 1 << 20  # the readers' own bounds, scaled down with the memory allowed here


@dataclass(frozen=True)
class Seed:
    """A valid file: what is damaged, and how a whole file is made of it again (zipped, say, with right checksums)."""

    content: bytes
    packed: Callable[[bytes], bytes] = bytes


@dataclass(frozen=True)
class Reader:
    """`read` takes the path of `file`, whose name its errors must hold, or what matches `named` instead."""

    file: str
    read: Callable[[Path], Any]
    seeds: Sequence[Seed]
    attacks: Sequence[bytes]
    made_up: st.SearchStrategy[bytes]
    words: Sequence[bytes] = ()
    pickled: bool = False
    named: str = ""


def prepare(folder: Path) -> None:
    """The files round the one that is read, and the scaled bounds; once in a process."""
    codecs.lookup("raw_unicode_escape")  # pickletools imports it on demand
    safe_pickle.MAX_BYTES = wholebody.MAX_BYTES = MAX_BYTES
    safe_pickle.MAX_PROGRAM = MAX_PROGRAM
    (folder / "poses").mkdir()
    (folder / "poses" / "a.pkl").write_bytes(b"x")
    (folder / "spiece.model").write_bytes((GOLDEN / "02_tokenizer" / "spiece.model").read_bytes())


# --- pickles -----------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.called


def _calls(folder: Path) -> list[Any]:
    touch, write = f"touch {folder / 'witness'}", f"open({str(folder / 'witness')!r}, 'w').close()"
    walk = "().__class__.__base__.__subclasses__()"
    return [
        Call(os.system, touch),
        Call(eval, write),
        Call(exec, write),
        Call(eval, walk),
        Call(__import__, "antigravity"),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(np.fromfile, str(folder / "poses" / "a.pkl")),
        Call(np.memmap, str(folder / "witness"), "u1", "w+", 0, 10),
    ]


def _pickle_attacks(folder: Path) -> list[bytes]:
    touch = f"touch {folder / 'witness'}".encode()
    huge = struct.pack("<Q", 1 << 30)
    return [
        *(pickle.dumps({"keypoints": [call]}, protocol) for call in _calls(folder) for protocol in (0, 2, 4)),
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


_DTYPES = st.sampled_from(["<f4", "f8", ">f8", "f2", "i1", ">i4", "u8", "?", "c16", "U3", "S5"]).map(np.dtype)
_ANY_ARRAY = hnp.arrays(_DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
_SHAPES = st.sampled_from(
    [(1, 133, 2), (133, 2), (1, 133), (133,), (2, 133, 2), (2, 133), (0, 133, 2), (0,), (3, 3), ()]
)
_FILLS = st.sampled_from([0, 0.5, 1, 1e30, float("nan"), float("inf"), -1e7])
_FRAME = st.builds(np.full, _SHAPES, _FILLS, st.sampled_from(["f4", "f8", "f2"]).map(np.dtype)) | _ANY_ARRAY
_NUMBER = st.integers() | st.integers(-2, 9) | st.floats() | st.integers(0, 40).map(lambda n: 10 ** (n * 400))
_LEAF = (
    st.none()
    | st.booleans()
    | _NUMBER
    | st.text(max_size=20)
    | st.sampled_from(["a", "a.mp4", "x" * 5000, "\ud800", "../a"])
)


def _nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=6)


_VALUE = _nested(_LEAF)


def _fields(required: Sequence[str], value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Dicts of some of the names a reader knows, and now and then of one that it does not."""
    known = st.dictionaries(st.sampled_from(list(required)), value, max_size=len(required))
    return st.builds(
        lambda some, more: {**some, **more}, known, st.just({}) | st.dictionaries(st.text(), value, max_size=1)
    )


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
    frames = (
        st.lists(_FRAME | _VALUE, max_size=4) | _ANY_ARRAY | st.integers(0, 3).map(lambda n: [np.ones((1, 133))] * n)
    )
    clips = _fields(["keypoints", "scores"], frames).flatmap(
        lambda clip: _fields(["start", "end"], _VALUE).map(lambda more: {**clip, **more})
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
    np.save(objects, np.array([_calls(folder)[0]], object), allow_pickle=True)
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
        _fields(["keypoints", "scores", "start", "end"], _FRAME).map(
            lambda arrays: _npz({name: _npy(array) for name, array in arrays.items() if name.isalnum()})
        ),
        [b"'|O'", b"'<f8'", b"'|S0'", b"(1099511627776,)", b"PK\x01\x02", b"PK\x05\x06"],
    )


_ENTRY = ("name", "video_path", "video", "pose", "text", "gloss", "language")


def _labels() -> dict[str, dict[str, Any]]:
    return {key: {"name": key, "video_path": "a.mp4", "text": "今天很好", "gloss": ["今天", "好"]} for key in "abc"}


_GLOSS = b"X\x05\x00\x00\x00gloss"


def label_pickle(folder: Path) -> Reader:
    corpus = _corpus(folder, "labels.pkl", "pickle")
    doubling = b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
    entry = b"}(X\x01\x00\x00\x00a}(X\x04\x00\x00\x00textX\x01\x00\x00\x00tX\x05\x00\x00\x00video%s%s%su%su."
    named, language = b"X\x01\x00\x00\x00a", b"X\x08\x00\x00\x00language"
    values = _nested(_LEAF | _ANY_ARRAY)
    entries = st.dictionaries(st.text(max_size=3) | _NUMBER, _fields(_ENTRY, values) | values, max_size=3)
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
            *(pickle.dumps({"a": {**_labels()["a"], name: value}}) for name in _ENTRY for value in _odd_values()),
            *(pickle.dumps({key: _labels()["a"]}) for key in (1 << 20_000, ("x",) * 9, "a\nb\x1b[31m", "\ud800", b"x")),
        ],
        st.builds(_pickled, entries, st.integers(0, 5)),
        [b"\x85R", b"h\x00", b"Nb", b"X\x04\x00\x00\x00name", b"X\x04\x00\x00\x00pose"],
        pickled=True,
    )


def _odd_values() -> list[Any]:
    deep: Any = "a"
    wide: Any = "a"
    for _ in range(300):
        deep = [deep]
    for _ in range(40):
        wide = [wide, wide]
    return [
        1 << 20_000,
        np.ones(3),
        wide,
        deep,
        "a\nb",
        "\ud800",
        "\0",
        {},
        ["a", 1],
        b"a",
        "x" * 100_000,
        float("nan"),
    ]


def _corpus(folder: Path, labels: str, label_format: str) -> Corpus:
    files = dict.fromkeys(("train", "dev", "test"), folder / labels)
    return Corpus("Mine", "Chinese", files, folder / "poses", (folder,), label_format=label_format)


# --- JSON --------------------------------------------------------------------------------------------------

_JSON_ATTACKS = [
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
_JSON_WORDS = [
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


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _dumped(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """JSON of the values; numbers of thousands of digits, which Python will not write, become short."""
    return values.map(lambda value: _json_or_short(value))


def _json_or_short(value: Any) -> bytes:
    try:
        return _json(value)
    except ValueError:
        return b'{"version": ' + b"9" * 5000 + b"}"


def csl_news(folder: Path) -> Reader:
    corpus = _corpus(folder, "labels.json", "csl_news")
    whole = [{"video": "a.mp4", "pose": "a.pkl", "text": "今天很好"} for _ in range(5)]
    return Reader(
        "labels.json",
        lambda _: read_split(corpus, "SLT", "train"),
        [Seed(_json(whole)), Seed(json.dumps(whole, indent=1, ensure_ascii=False).encode())],
        [
            *_JSON_ATTACKS,
            *(
                b'[{"%s": %s, "text": "t"}]' % (key, b"[" * n + b"]" * n)
                for key in (b"pose", b"video")
                for n in range(900, 1000, 2)
            ),
        ],
        _dumped(st.lists(_fields(_ENTRY, _VALUE) | _VALUE, max_size=3)),
        [*_JSON_WORDS, b'"pose"', b'"text"'],
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
        [Seed(_json(seed)) for seed in seeds],
        _JSON_ATTACKS,
        _dumped(_fields(keys, _VALUE | _fields(keys, _VALUE)) | st.lists(_fields(["text", "description"], _VALUE))),
        [*_JSON_WORDS, b'"frames":', b'"text":', b'"-7":'],
    )


def manifest(folder: Path) -> Reader:
    """The newest checkpoint has the case's manifest; a complete older one must then be found, or none be wrong."""
    older, newest = (folder / "checkpoints" / f"step_0000000{step}" for step in (1, 2))
    for step in (older, newest):
        step.mkdir(parents=True)
        (step / "state.json").write_bytes(b"{}")
        (step / "rng_0.pt").write_bytes(b"12345")
        (step / "manifest.json").write_bytes(b'{"state.json": 2}')
        os.utime(step / "manifest.json", (0, 0))

    def read(_: Path) -> None:
        found, passed = find_resume(folder, "auto")
        assert found in (older, newest)
        assert all(str(newest) in sentence and sentence.isprintable() for sentence in passed)
        assert (found == newest) != bool(passed)
        find_resume(folder, str(newest))

    names = [b"x" * 300, b"/" * 5000, b"\\u0000", b"\\ud800", b"a\\nb", b"..", b"/dev/zero", b""]
    return Reader(
        "checkpoints/step_00000002/manifest.json",
        read,
        [Seed(b'{"state.json": 2}'), Seed(_json({"state.json": 2, "rng_0.pt": 5}))],
        [*_JSON_ATTACKS, *(b'{"%s": 1}' % name for name in names)],
        _dumped(_fields(["state.json", "rng_0.pt", ""], _VALUE) | _VALUE),
        _JSON_WORDS,
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
        [Seed(_json(asdict(own)))],
        [*_JSON_ATTACKS, *(b'{"%s": %s}' % (name.encode(), value) for name in names for value in odd)],
        _dumped(_fields(names, _VALUE) | _fields(names, _VALUE).map(lambda some: {**asdict(own), **some})),
        [*_JSON_WORDS, b'"step"', b"true", b"-1"],
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
        [Seed(_json(whole)), Seed(json.dumps(whole, indent=1).encode())],
        [
            *_JSON_ATTACKS,
            *(_json({**whole, name: value}) for name in whole for value in odd),
            *(_json({**whole, name: value}) for name, value in more.items()),
            *(_json({name: value}) for name, value in more.items()),
        ],
        _dumped(_fields(list(whole), _VALUE).map(lambda some: {**whole, **some})),
        [*_JSON_WORDS, b'"gated-gelu"', b'"d_model"', b"99999999999", b"-1"],
    )


def export_config(folder: Path) -> Reader:
    weights = {"a": torch.ones(2, 2), "b": torch.ones(3)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weights))
    whole = {"stage": "fine_tuning", "config": {"hidden_dim": 4}, "tied": {"c": "a"}}
    return Reader(
        "config.json",
        lambda path: read_exported(path.parent),
        [Seed(_json(whole))],
        [
            *_JSON_ATTACKS,
            *(b'{"tied": %s}' % tied for tied in (b"[]", b"1", b"null", b'{"a": []}', b'{"a": {}}', b'{"a": "x\\ny"}')),
        ],
        _dumped(_fields(["tied", "stage", "config", "model"], _VALUE | st.dictionaries(st.text(), _VALUE))),
        [*_JSON_WORDS, b'"tied"'],
        named=folder.name,
    )


# --- YAML --------------------------------------------------------------------------------------------------


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


# What does not go together is said of flags: they can come from several files.
_CONFLICT = r"^--(hidden_dim .* multiple|\w+ needs|eval scores|min_lr .* above|warmup_epochs .* more)"


def corpus_yaml(folder: Path) -> Reader:
    shipped = sorted((Path(__file__).parents[2] / "configs" / "corpora").glob("*.yaml"))
    keys = list(Corpus.__dataclass_fields__)
    whole = yaml.safe_load(shipped[0].read_text())
    attacks = [
        *_yaml_attacks(folder, ["name", "labels", "pose_dir", "max_length"]),
        *(
            _yaml({**whole, key: value})
            for key in keys
            for value in [*_odd_values()[4:8], True, 1.5, [[1]], ["a\nb"], {"train": []}]
        ),
        *(_yaml(whole) + bomb for key in keys for bomb in _yaml_bombs(key)),
        *(_yaml(whole) + f"{key}: 0x{'f' * 5000}\n".encode() for key in keys),
    ]
    return Reader(
        "corpus.yaml",
        lambda path: load_corpus(str(path), folder),
        [Seed(path.read_bytes()) for path in shipped],
        attacks,
        _fields(keys, _VALUE).map(_yaml) | _fields(keys, _VALUE).map(lambda some: _yaml({**whole, **some})),
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
        [Seed(_yaml(whole)), Seed(_json(whole)), Seed((Path(__file__).parents[2] / "configs/demo.yaml").read_bytes())],
        _yaml_attacks(folder, names[:5]),
        _fields(names, _VALUE).map(_yaml),
        [*_YAML_WORDS, *(f"\n{name}: ".encode() for name in names)],
        named=rf"flags\.yaml|{_CONFLICT}",
    )


# --- tensors -----------------------------------------------------------------------------------------------


def _saved(value: Any, zipped: bool = True, protocol: int = 2) -> bytes:
    with io.BytesIO() as file:
        torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        return file.getvalue()


def _repacked(whole: bytes, name: str) -> Callable[[bytes], bytes]:
    """Makes a checkpoint of another `name` record, as torch lays it out."""

    def packed(inner: bytes) -> bytes:
        with io.BytesIO() as file:
            with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
                for entry in old.namelist():
                    new.writestr(entry, inner if entry.endswith(name) else old.read(entry))
            return file.getvalue()

    return packed


_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
_STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ"
_ORDERED = b"ccollections\nOrderedDict\n"


def _tensor(size: bytes, stride: bytes, count: bytes = b"K\x04") -> bytes:
    """A program that names a float32 tensor of record 0 (4 numbers), of this size and stride."""
    return _REBUILD + b"(" + _STORAGE % count + b"K\x00" + size + stride + b"\x89" + _ORDERED + b")RtR"


def _torch_programs() -> list[bytes]:
    """Values of the key `w` that a checkpoint has no need of."""
    big = b"J\x00\x00\x00\x40"  # 1 GiB of bytes
    half = b"J\x00\x00\x00\x10"
    hexed = b"c_codecs\nencode\n%sX\x03\x00\x00\x00hex\x86R"
    bomb = b"X\x10\x00\x00\x00" + b"x" * 16
    for _ in range(3):
        bomb = b"c_codecs\nencode\n" + bomb + b"X\x06\x00\x00\x00utf-32\x86R"
    for _ in range(24):
        bomb = hexed % bomb
    many = b"(" + b"".join(b"J%sN" % struct.pack("<i", i) for i in range(50_000)) + b"d"
    return [
        b"cbuiltins\nbytearray\n" + big + b"\x85R",
        b"ctorch\nFloatTensor\n" + half + b"\x85R",
        b"ctorch\nUntypedStorage\n" + big + b"\x85R",
        b"ctorch.storage\nUntypedStorage\n" + big + b"\x85R",
        bomb,
        _tensor(half + b"\x85", b"K\x00\x85"),
        _tensor(half + b"\x85", b"K\x01\x85"),
        _tensor(half + b"\x85", b"K\x01\x85", half),
        _tensor(b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
        _tensor(b"K\x02K\x02\x86", b"K\x00K\x00\x86"),
        _tensor(b"K\x02K\x02\x86", b"K\x02K\x01\x86") + _tensor(half + b"\x85", b"K\x01\x85") + b"0",
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\nK\x02\x85K\x01\x85\x89tR",
        b"ccollections\nCounter\n" + b"]\x85R",
        many + b"q\x00]q\x01" + (b"h\x01" + _ORDERED + b"]h\x00\x86\x85R" + b"a") * 200,
        b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemscos\nsystem\nsb",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + _ORDERED + _ORDERED + b")NtR",
        b"(" + b"K\x01" * 50_000 + b"tq\x00]q\x01" + b"h\x01ctorch\nSize\nh\x00\x85Ra0" * 2000,
        b"cos\nsystem\nX\x04\x00\x00\x00true\x85R",
        b"ctorch.hub\nload\nX\x04\x00\x00\x00true\x85R",
        b"cbuiltins\ncomplex\n)R",
        b"(K\x01K\x02tQ",
        b"K\x05Q",
        b"]" * 5000 + b"a" * 4999,
        b"\x8a\xff" + b"\x7f" * 255,
    ]


_KEY = b"X\x01\x00\x00\x00w"


def _checkpoint_attacks(folder: Path, whole: bytes) -> list[bytes]:
    repack = _repacked(whole, "data.pkl")
    programs = [b"\x80\x02}q\x7f(" + _KEY + program + b"u." for program in _torch_programs()]
    for method in (b"keys", b"items", b"get"):
        odd = _ORDERED + b")R}X%sK\x05sb" % (struct.pack("<I", len(method)) + method)
        programs += [b"\x80\x02" + odd + b".", b"\x80\x02}X\x05\x00\x00\x00model" + odd + b"s."]
    legacy = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    with zipfile.ZipFile(io.BytesIO(whole)) as stored, io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in stored.namelist():
                packed.writestr(entry, bytes(64 << 20) if entry.endswith("/0") else stored.read(entry))
        bomb = file.getvalue()
    size = struct.pack("<I", len(_part(whole, "data.pkl")))
    return [
        *(repack(program) for program in programs),
        *(b"".join(legacy) + program + pickle.dumps([], 2) for program in programs),
        *(b"".join(legacy) + program + pickle.dumps(["0"], 2) + struct.pack("<q", 1 << 30) for program in programs),
        *(_saved({"w": call}, zipped) for call in _calls(folder) for zipped in (True, False)),
        *(whole.replace(size, struct.pack("<I", lie)) for lie in (0, 1, 1 << 30, 0xFFFFFFFF)),
        bomb,
        _saved({"model": {"weight": torch.ones(2, 2).to_sparse()}}),
        _saved({"model": {"weight": torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)}}),
        _saved({"model": {"weight": torch.empty(2, 3, device="meta"), "bias": torch.ones(2)}}),
        _saved({"model": {"weight": torch.ones(1).expand(2, 3), "bias": torch.ones(1).expand(1 << 40)}}),
        _saved({"model": {"weight": torch.ones(2, 3, dtype=torch.complex64), "bias": torch.ones(2)}}),
        _saved({"model": {"a\nb": torch.ones(2, 3)}}),
        _saved({"model": {1: torch.ones(2, 3), "1": torch.ones(2)}}),
        _saved([1]),
    ]


def _part(whole: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return archive.read(next(entry for entry in archive.namelist() if entry.endswith(name)))


def _model_state() -> dict[str, Any]:
    model = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    return {"model": model, "stage": "fine_tuning", "config": {"hidden_dim": 4}, "run": {"seed": 5}, "epoch": 1}


_TENSOR = hnp.arrays(
    st.sampled_from(["f4", "f8", "f2", "i8", "u1"]), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
)
_TENSORS = _TENSOR.map(lambda array: torch.from_numpy(np.array(array)))


def pth(folder: Path) -> Reader:
    def read(path: Path) -> None:
        load_checkpoint(nn.Linear(3, 2), unwrap(load_tensors(path), str(path)))

    return _pth(folder, read, _LEAF, [Seed(_saved(_model_state()["model"]))])


def pth_flags(folder: Path) -> Reader:
    odd = st.just("fine_tuning") | _fields(["hidden_dim", "mt5", "dataset", "max_length", "rgb_support"], _VALUE)
    return _pth(folder, lambda path: stage_of(path, [], program="uni-sign infer"), odd, [])


def _pth(folder: Path, read: Callable[[Path], Any], extra: st.SearchStrategy[Any], more: list[Seed]) -> Reader:
    whole = _saved(_model_state())
    values = _nested(_TENSORS | _LEAF.filter(lambda leaf: type(leaf) is not int or abs(leaf) < 1 << 60))
    weights = st.dictionaries(st.sampled_from(["weight", "bias"]) | st.text(max_size=4), _TENSORS | values, max_size=3)
    contents = st.builds(lambda a, b: {**a, **b}, _fields(["model", "state_dict", "text_encoder"], weights | values),
                         _fields(["stage", "config", "run"], extra))  # fmt: skip
    return Reader(
        "model.pth",
        read,
        [
            Seed(whole),
            Seed(_saved(_model_state(), zipped=False)),
            *more,
            *(Seed(_part(whole, name), _repacked(whole, name)) for name in ("data.pkl", "/version", "byteorder")),
        ],
        _checkpoint_attacks(folder, whole),
        st.builds(_saved, contents, st.booleans()),
        [_REBUILD, _ORDERED + b")R", b"ctorch\nFloatStorage\n", b"PK\x01\x02", b"PK\x05\x06", b"Q", b"h\x00"],
        pickled=True,
        named=rf"model\.pth|{_CONFLICT}",
    )


def safetensors(_: Path) -> Reader:
    def read(path: Path) -> None:
        load_checkpoint(nn.Linear(3, 2), unwrap(load_tensors(path), str(path)))

    def header(content: bytes, size: int | None = None, data: int = 32) -> bytes:
        return struct.pack("<Q", len(content) if size is None else size) + content + bytes(data)

    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    odd: list[dict[str, Any]] = [
        *(
            {**entry, "shape": shape}
            for shape in ([1 << 62, 4], [-1], [1 << 63], [0, 1 << 62], [], [[]], None, [2.5], [1] * 99)
        ),
        *({**entry, "data_offsets": to} for to in ([0, 1 << 40], [24, 0], [8, 32], [-1, 23], [0], None, [1 << 64, 1])),
        *({**entry, "dtype": kind} for kind in ("F4", "F8_E8M0", "F8_E5M2", "F6_E2M3", "C64", "BOOL", "X", "", None)),
    ]
    names = ("dtype", "shape", "data_offsets")
    values = _VALUE | st.sampled_from([*entry.values(), "F4", "BF16", "F8_E4M3", [0, 0], [0, 8], [24, 32], [2], []])
    headers = _fields(["weight", "bias", "__metadata__"], _fields(names, values))
    whole = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    return Reader(
        "model.safetensors",
        read,
        [Seed(safetensors_bytes(whole)), Seed(safetensors_bytes(whole, {"format": "pt"}))],
        [
            *(header(_json({"weight": one}), None, 24) for one in odd),
            *(header(b"{}", size) for size in (0, 1, 1 << 30, 1 << 63, (1 << 64) - 1)),
            *(header(attack) for attack in _JSON_ATTACKS),
            header(
                b"{"
                + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(9999))
                + b"}",
                None,
                0,
            ),
        ],
        st.builds(lambda text, data: header(text, None, data), _dumped(headers), st.sampled_from([0, 8, 24, 32])),
        [*_JSON_WORDS, b'"F4"', b'"BF16"', b'"shape":[4611686018427387904,4]', b'"__metadata__":'],
    )


# --- SentencePiece -----------------------------------------------------------------------------------------


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


READERS: dict[str, Callable[[Path], Reader]] = {
    build.__name__: build
    for build in (
        *(pose_pickle, pose_npz, label_pickle, csl_news, descriptions, corpus_yaml, flags_yaml),
        *(pth, pth_flags, safetensors, export_config, manifest, state, mt5_config, spiece),
    )
}
