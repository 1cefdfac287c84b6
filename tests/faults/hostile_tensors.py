"""Hostile checkpoints: what torch.save wrote, then and now, and safetensors."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_json import JSON_ATTACKS, JSON_WORDS, dumped, json_bytes
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reader import (
    CONFLICT,
    LEAF,
    VALUE,
    Reader,
    Seed,
    calls,
    fields,
    nested,
)
from safetensors.torch import save as safetensors_bytes
from torch import nn

from uni_sign.commands.checkpoints import stage_of
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.models.weights import load_checkpoint, unwrap


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
        *(_saved({"w": call}, zipped) for call in calls(folder) for zipped in (True, False)),
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

    return _pth(folder, read, LEAF, [Seed(_saved(_model_state()["model"]))])


def pth_flags(folder: Path) -> Reader:
    odd = st.just("fine_tuning") | fields(["hidden_dim", "mt5", "dataset", "max_length", "rgb_support"], VALUE)
    return _pth(folder, lambda path: stage_of(path, [], program="uni-sign infer"), odd, [])


def _pth(folder: Path, read: Callable[[Path], Any], extra: st.SearchStrategy[Any], more: list[Seed]) -> Reader:
    whole = _saved(_model_state())
    values = nested(_TENSORS | LEAF.filter(lambda leaf: type(leaf) is not int or abs(leaf) < 1 << 60))
    weights = st.dictionaries(st.sampled_from(["weight", "bias"]) | st.text(max_size=4), _TENSORS | values, max_size=3)
    contents = st.builds(lambda a, b: {**a, **b}, fields(["model", "state_dict", "text_encoder"], weights | values),
                         fields(["stage", "config", "run"], extra))  # fmt: skip
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
        named=rf"model\.pth|{CONFLICT}",
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
    values = VALUE | st.sampled_from([*entry.values(), "F4", "BF16", "F8_E4M3", [0, 0], [0, 8], [24, 32], [2], []])
    headers = fields(["weight", "bias", "__metadata__"], fields(names, values))
    whole = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    return Reader(
        "model.safetensors",
        read,
        [Seed(safetensors_bytes(whole)), Seed(safetensors_bytes(whole, {"format": "pt"}))],
        [
            *(header(json_bytes({"weight": one}), None, 24) for one in odd),
            *(header(b"{}", size) for size in (0, 1, 1 << 30, 1 << 63, (1 << 64) - 1)),
            *(header(attack) for attack in JSON_ATTACKS),
            header(
                b"{"
                + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(9999))
                + b"}",
                None,
                0,
            ),
        ],
        st.builds(lambda text, data: header(text, None, data), dumped(headers), st.sampled_from([0, 8, 24, 32])),
        [*JSON_WORDS, b'"F4"', b'"BF16"', b'"shape":[4611686018427387904,4]', b'"__metadata__":'],
    )
