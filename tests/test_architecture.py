"""Who imports whom, walked from the sources; docstrings; and files that stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "uni_sign").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}

# By the longest matching prefix of a module's name: the prefixes of what it may import of ours.
MAY_IMPORT = {
    "uni_sign.errors": (),
    "uni_sign.yaml_files": ("uni_sign.errors",),
    "uni_sign.config": ("uni_sign.yaml_files", "uni_sign.errors"),
    "uni_sign.drawing": ("uni_sign.errors",),
    "uni_sign.canvas": ("uni_sign.errors",),
    "uni_sign.skeletons": ("uni_sign.canvas", "uni_sign.data.wholebody", "uni_sign.errors"),
    "uni_sign.data.skeleton_images": ("uni_sign.data", "uni_sign.canvas"),
    "uni_sign.metrics": ("uni_sign.metrics", "uni_sign.errors"),
    "uni_sign.data": ("uni_sign.data", "uni_sign.yaml_files", "uni_sign.errors"),
    "uni_sign.models": ("uni_sign.models", "uni_sign.errors"),
    "uni_sign.stages": (
        *("uni_sign.stages.base", "uni_sign.stages._"),
        *("uni_sign.models", "uni_sign.data", "uni_sign.metrics", "uni_sign.config", "uni_sign.errors"),
    ),
    "uni_sign.engine": (
        *("uni_sign.engine", "uni_sign.config", "uni_sign.stages.base", "uni_sign.drawing", "uni_sign.errors"),
    ),
}


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of ours that a tree imports anywhere, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "uni_sign")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module is not None
            if node.module.split(".")[0] == "uni_sign":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in SOURCES else node.module for name in names)


def rule_of(module: str) -> tuple[str, ...] | None:
    prefixes = [prefix for prefix in MAY_IMPORT if module == prefix or module.startswith(prefix + ".")]
    return MAY_IMPORT[max(prefixes, key=len)] if prefixes else None


def allowed(module: str, rule: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p if p.endswith("_") else p + ".") for p in rule)


def test_the_walk_sees_what_it_is_to_judge() -> None:
    tree = ast.parse("def f():\n    from uni_sign.stages import fine_tuning\nimport uni_sign.cli, os\n")
    assert set(imported(tree)) == {"uni_sign.stages.fine_tuning", "uni_sign.cli"}
    stages = rule_of("uni_sign.stages.fine_tuning")
    assert stages is not None
    assert not allowed("uni_sign.stages.fine_tuning", stages)
    assert not allowed("uni_sign.stages.baseline", stages)
    assert allowed("uni_sign.stages._frozen_text", stages)


@pytest.mark.parametrize("module", [name for name in SOURCES if rule_of(name) is not None])
def test_imports_go_one_way(module: str) -> None:
    rule = rule_of(module)
    assert rule is not None
    wrong = sorted({name for name in imported(TREES[module]) if not allowed(name, rule)})
    assert not wrong, f"{module} must not import {', '.join(wrong)}"


def test_nothing_but_the_entry_points_imports_the_command() -> None:
    importers = {module for module, tree in TREES.items() if "uni_sign.cli" in set(imported(tree))}
    assert importers == {"uni_sign.__main__"}
    assert set(imported(ast.parse((ROOT / "fine_tuning.py").read_text()))) == {"uni_sign.cli"}


def test_no_stage_is_named_by_the_engine() -> None:
    stages = {name.split(".")[-1] for name in SOURCES if name.startswith("uni_sign.stages.")} - {"base"}
    for module, tree in TREES.items():
        if module.startswith("uni_sign.engine"):
            words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            assert not words & stages, module


@pytest.mark.parametrize("module", SOURCES)
def test_docstrings(module: str) -> None:
    tree = TREES[module]
    assert ast.get_docstring(tree), f"{module} has no docstring"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert not [node.name for node in public if not ast.get_docstring(node)]


def test_files_stay_short() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in SOURCES.items()}
    assert not {module: length for module, length in lengths.items() if length > 500}
