"""Strangers' checkpoints: tensors come back exactly, nothing else runs or fills the memory, and errors are clear."""

from __future__ import annotations

import argparse
import math
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from uni_sign.data.safe_tensors import load_tensors
from uni_sign.errors import InputError


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.called


def test_tensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
    torch.save(tensors, tmp_path / "new.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "safe.safetensors")
    for name in ("new.pth", "old.pth", "safe.safetensors"):
        loaded = load_tensors(tmp_path / name)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_training_saves_comes_back(tmp_path: Path, zipped: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    weights = model.state_dict()
    weights |= {"tied": weights["0.weight"], "parameter": nn.Parameter(torch.ones(2)), "empty": torch.empty(0, 3)}
    weights |= {
        "half": torch.ones(3).bfloat16(),
        "view": torch.arange(12.0).reshape(3, 4)[1:].t(),
        "one": torch.tensor(1),
    }
    if zipped:  # torch itself does not read it back from the old form
        weights["fp8"] = torch.ones(2).to(torch.float8_e4m3fn)
    content = {"model": weights, "optimizer": optimizer.state_dict(), "epoch": 3, "shape": torch.Size((2, 3))}
    content |= {"device": torch.device("cpu"), "dtype": torch.float32}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    loaded = load_tensors(tmp_path / "model.pth")
    assert loaded.keys() == content.keys()
    assert all(torch.equal(loaded["model"][name].float(), weights[name].float()) for name in weights)
    assert all(loaded[name] == content[name] for name in ("epoch", "shape", "device", "dtype"))


def test_checkpoints_that_would_run_code(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.pth"
    for zipped in (True, False):
        torch.save({"w": Call(os.system, f"touch {mark}")}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=rf"model\.pth asks for {os.system.__module__}\.system"):
            load_tensors(path)
        torch.save({"args": argparse.Namespace(lr=1)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=r"argparse\.Namespace"):
            load_tensors(path)
    assert not mark.exists()


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000N%stQ"
FOUR, GIGA = b"K\x04", b"J\x00\x00\x00\x40"
TIMES = b"q\x00]q\x01" + (b"h\x01ccollections\nOrderedDict\nh\x00\x85Ra") * 3
MEMORY_BOMBS = {
    "builtins.bytearray": b"cbuiltins\nbytearray\n" + GIGA + b"\x85R",
    "torch.FloatTensor": b"ctorch\nFloatTensor\n" + GIGA + b"\x85R",
    "is damaged": b"ctorch.storage\nUntypedStorage\n" + GIGA + b"\x85R",
    "_codecs.encode": b"c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00hex\x86R",
    "collections.Counter": b"ccollections\nCounter\n)R",
    "a dict made of another": b"}" + TIMES,
    "attributes of a dict": b"ccollections\nOrderedDict\n)R}X\x04\x00\x00\x00keysK\x05sb",
    "cut short": b"(" + b"K\x01" * 100 + b"tq\x00ctorch\nSize\nh\x00\x85R",
    "": TENSOR % FOUR + b"K\x00" + GIGA + b"\x85K\x01\x85\x89NtR",  # larger than its storage
    "damaged": TENSOR % GIGA + b"K\x00" + GIGA + b"\x85K\x01\x85\x89NtR",  # a storage larger than the file
    "or is damaged": TENSOR % FOUR + b"K\x00" + GIGA + b"\x85K\x00\x85\x89NtR",  # one number, repeated
}


@pytest.mark.parametrize("named", MEMORY_BOMBS)
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_that_would_fill_the_memory(tmp_path: Path, named: str, zipped: bool) -> None:
    """`torch.load(weights_only=True)` allows all of these."""
    path = tmp_path / "model.pth"
    program = b"\x80\x02}q\x7f(X\x01\x00\x00\x00w" + MEMORY_BOMBS[named] + b"u."
    if zipped:
        torch.save({"w": torch.zeros(4)}, tmp_path / "valid.pth")
        with zipfile.ZipFile(tmp_path / "valid.pth") as valid, zipfile.ZipFile(path, "w") as archive:
            for entry in valid.namelist():
                archive.writestr(entry, program if entry.endswith("data.pkl") else valid.read(entry))
    else:
        start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in start) + program + pickle.dumps([], 2))
    with pytest.raises(InputError, match=rf"model\.pth.*{named}"):
        load_tensors(path)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    header = struct.pack("<Q", 1 << 60)
    for name, content in (
        ("cut.pth", whole[: len(whole) // 2]),
        ("short.pth", whole[:10]),
        ("text.pth", b"hello"),
        ("junk.safetensors", b"hello"),
        ("lies.safetensors", header + b"{}"),
        ("page.safetensors", b"<!DOCTYPE html><html></html>"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
            load_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.namelist():
            packed.writestr(entry, stored.read(entry))
    with pytest.raises(InputError, match="decompression"):
        load_tensors(tmp_path / "z.pth")


@pytest.mark.parametrize("content", [[1, 2], 3.5, {1: 2}, math.pi])
def test_checkpoints_without_names(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match="no dict of named tensors"):
        load_tensors(tmp_path / "model.pth")
