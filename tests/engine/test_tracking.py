"""Which trackers a run has, and what W&B is told of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from uni_sign.config import TrainConfig
from uni_sign.engine.tracking import Tracker, _trackers


@pytest.mark.parametrize(
    ("mode", "report_to", "use_wandb", "expected"),
    [
        ("disabled", "auto", False, set()),
        ("disabled", "auto", True, {"wandb"}),
        ("offline", "auto", False, {"wandb"}),
        ("offline", "none", False, set()),
        ("offline", "tensorboard", False, {"tensorboard"}),
        ("offline", "tensorboard", True, {"tensorboard", "wandb"}),
        ("offline", "wandb,tensorboard", False, {"tensorboard", "wandb"}),
    ],
)
def test_trackers(
    mode: str, report_to: str, use_wandb: bool, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert _trackers(TrainConfig(report_to=report_to, use_wandb=use_wandb)) == expected


def told(config: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `wandb.init` gets."""
    options: dict[str, Any] = {}

    def init(**given: Any) -> Any:
        options.update(given)
        return SimpleNamespace(id="abc", finish=lambda: None)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tracker = Tracker(folder, active=True)
    assert tracker.start(config, {"lr": 0.1}, 0, None) == "abc"
    tracker.close()
    return options


def test_wandb_flags_reach_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        use_wandb=True, wandb_project="p", wandb_entity="team", wandb_run_name="first", wandb_tags="a, b,,c"
    )
    options = told(config, tmp_path, monkeypatch)
    names = ("project", "entity", "name", "tags", "config")
    assert [options[name] for name in names] == ["p", "team", "first", ["a", "b", "c"], {"lr": 0.1}]


def test_without_them_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = told(TrainConfig(use_wandb=True), tmp_path, monkeypatch)
    assert [options[name] for name in ("project", "entity", "name", "tags")] == ["uni_sign", None, None, None]
