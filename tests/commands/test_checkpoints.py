"""From a checkpoint's own words to its stage and flags: what is taken, and the sentence for what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from uni_sign.commands.checkpoints import stage_of
from uni_sign.errors import InputError


def saved(folder: Path, **changes: Any) -> Path:
    content = {"model": {}, "stage": "fine_tuning", "config": {"hidden_dim": 8}, "run": {"seed": 5}, **changes}
    torch.save(content, folder / "model.pth")
    return folder / "model.pth"


def test_the_flags_of_the_run_are_kept(tmp_path: Path) -> None:
    path = saved(tmp_path)
    stage, [config] = stage_of(path, ["--max_length", "9"], program="uni-sign infer")
    assert (stage.name, config.hidden_dim, config.max_length, config.finetune) == ("fine_tuning", 8, 9, str(path))


def test_files_that_training_began_with_are_not_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, config={"rgb_support": True, "rgb_backbone": "gone.pth", "fusion_checkpoint": "gone.pth"})
    _, [config] = stage_of(path, [], program="uni-sign infer")
    assert (config.rgb_support, config.rgb_backbone, config.fusion_checkpoint) == (True, "", "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stage": 1}, "does not say how it was trained"),
        ({"config": []}, "does not say how it was trained"),
        ({"stage": "../evil"}, "Unknown stage ../evil"),
        ({"config": {"hidden_dim": 3}}, "--hidden_dim 3 must be at least 4"),
        ({"config": {"hidden_dim": [[8]]}}, "hidden_dim must be one value"),
        ({"config": {"dataset": "--help"}}, "dataset"),
    ],
)
def test_strange_words_name_the_file(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        stage_of(saved(tmp_path, **changes), [], program="uni-sign infer")
    assert "model.pth" in str(caught.value)
    assert says in str(caught.value)
