"""YAML files of strangers: bounded time and memory, and one sentence for what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from uni_sign.errors import InputError
from uni_sign.yaml_files import MAX_BYTES, read_mapping


def refusal(folder: Path, content: str) -> str:
    path = folder / "file.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_mapping(path)
    assert "file.yaml" in str(caught.value)
    return str(caught.value)


def test_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("\ufeffa: [1, 0x10, 3e-4]\n2: {手: true}\n", encoding="utf-8")
    assert read_mapping(path) == {"a": [1, 16, "3e-4"], "2": {"手": True}}


def test_references_are_refused(tmp_path: Path) -> None:
    """A few lines of references to references stand for more than memory holds."""
    laughs = "l0: &l0 [lol]\n" + "".join(f"l{i}: &l{i} [{f'*l{i - 1}, ' * 9}]\n" for i in range(1, 12))
    assert "a reference (*) in line 2" in refusal(tmp_path, laughs)
    assert "a reference" in refusal(tmp_path, "a: &a [*a]\n")
    assert "a reference" in refusal(tmp_path, "a: &a {}\nb: {<<: *a}\n")


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 5000, "1" + ":59" * 3000])
def test_endless_numbers_are_refused(tmp_path: Path, number: str) -> None:
    assert "digits in line 2" in refusal(tmp_path, f"a: 1\nb: {number}\n")


def test_size_and_depth_are_bounded(tmp_path: Path) -> None:
    assert f"{MAX_BYTES:,} bytes" in refusal(tmp_path, "a: " + "x" * MAX_BYTES)
    assert "not valid YAML" in refusal(tmp_path, "a: " + "[" * 5000)


def test_tags_run_nothing(tmp_path: Path) -> None:
    assert "not valid YAML" in refusal(tmp_path, f"a: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    assert "not valid YAML" in refusal(tmp_path, "a: !!python/name:os.system")
    assert not (tmp_path / "ran").exists()
