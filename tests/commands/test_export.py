"""Exported folders: what comes back, and the sentence for a folder that somebody else made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from uni_sign.commands.export import export, read_exported
from uni_sign.errors import InputError


def exported(folder: Path, **extras: Any) -> Path:
    """A folder exported from a checkpoint of two tied weights and these extras."""
    weight = torch.ones(2, 3)
    torch.save({"model": {"a": weight, "b": weight}, **extras}, folder / "model.pth")
    export(folder / "model.pth", folder / "exported")
    return folder / "exported"


def test_weights_and_flags_come_back(tmp_path: Path) -> None:
    flags = {"config": {"lr": 0.1, "opt_betas": [0.9, 0.99], "手": None}, "stage": "fine_tuning", "step": 3}
    content = read_exported(exported(tmp_path, **flags))
    assert torch.equal(content.pop("model")["b"], torch.ones(2, 3))
    assert content == flags


def test_what_is_no_flag_stays_behind(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    folder = exported(tmp_path, optimizer={"state": [torch.ones(1)]}, rng=[torch.ones(1)], deep=deep, told="\ud800")
    assert set(read_exported(folder)) == {"model", "told"}


@pytest.mark.parametrize(
    "content",
    ["", "[" * 100_000, "[]", "{}", '{"tied": []}', '{"tied": 1}', '{"tied": {"c": []}}', '{"tied": {"c": "x\\ny"}}'],
)
def test_folders_of_somebody_else(tmp_path: Path, content: str) -> None:
    folder = exported(tmp_path)
    assert json.loads((folder / "config.json").read_text()) == {"tied": {"b": "a"}}
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="exported"):
        read_exported(folder)
