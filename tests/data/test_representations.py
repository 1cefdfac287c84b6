"""Clips in vectors: written and read, and one sentence for each damage."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uni_sign.data.representations import Representations, read_representations, read_texts, write_representations
from uni_sign.errors import InputError


def made(count: int = 3, frames: int = 4) -> Representations:
    draw = np.random.default_rng(0)
    vectors = (
        draw.standard_normal(shape).astype(np.float32) for shape in ((count, 6), (count, 2, 6), (count, frames, 5))
    )
    return Representations(*vectors, lengths=np.array([4, 2, 1]), names=["a", "b", "字"])


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "all_representations.npz"
    write_representations(path, made())
    found = read_representations(path)
    for name in ("global_reprs", "local_reprs", "temporal_reprs", "lengths"):
        assert np.array_equal(getattr(found, name), getattr(made(), name))
    assert found.names == made().names
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_older_file_has_no_lengths_and_pickled_names(tmp_path: Path) -> None:
    path, held = tmp_path / "old.npz", made()
    names = np.array(["a", "b", None], dtype=object)
    np.savez(path, **{n: getattr(held, n) for n in ("global_reprs", "local_reprs", "temporal_reprs")}, names=names)
    found = read_representations(path)
    assert found.lengths.tolist() == [4, 4, 4]
    assert found.names == ["00000", "00001", "00002"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"global_reprs": np.zeros((2, 6), np.float32)}, "others 2"),
        ({"global_reprs": np.zeros((3, 7), np.float32)}, r"local_reprs is of shape \(3, 2, 6\)"),
        ({"temporal_reprs": np.full((3, 4, 5), np.inf, np.float32)}, "temporal_reprs holds a value that is no number"),
        ({"global_reprs": np.zeros((3, 6), np.int64)}, "global_reprs is of shape .* and type int64"),
        ({"lengths": np.array([4, 0, 1])}, "lengths must be 3 whole numbers from 1 to 4"),
        ({"lengths": np.array([5, 2, 1])}, "lengths must be"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "all_representations.npz"
    write_representations(path, replace(made(), **changes))
    with pytest.raises(InputError, match=said):
        read_representations(path)


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "all_representations.npz"
    write_representations(path, made())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"is not an \.npz file of plain arrays"):
        read_representations(path)
    np.savez(path, global_reprs=made().global_reprs)
    with pytest.raises(InputError, match="local_reprs is missing"):
        read_representations(path)


def test_texts(tmp_path: Path) -> None:
    path = tmp_path / "text_data.json"
    path.write_text(json.dumps({"texts": ["one", "二"]}), encoding="utf-8")
    assert read_texts(path) == ["one", "二"]
    for content, said in (
        ("{", "is not valid JSON"),
        ('{"texts": []}', "no list under"),
        ('{"texts": ["a", 3]}', "text 1 is empty, or no text"),
        ('{"texts": ["a", " "]}', "text 1 is empty, or no text"),
        ("[" * 100_000, "is not valid JSON"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=said):
            read_texts(path)
