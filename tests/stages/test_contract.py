"""What every stage must be: found by name, described by flags, and with all the methods that the loop calls."""

import dataclasses
import inspect

import pytest

from uni_sign.config import TrainConfig
from uni_sign.errors import InputError
from uni_sign.stages.base import Stage, load_stage, stage_names

METHODS = [name for name, value in vars(Stage).items() if inspect.isfunction(value) and not name.startswith("_")]
PROPERTIES = [name for name, value in vars(Stage).items() if isinstance(value, property)]


def test_there_are_stages_and_the_protocol_is_not_empty() -> None:
    assert "fine_tuning" in stage_names()
    assert {"check", "build_model", "build_datasets", "compute_loss", "evaluate", "predict"} <= set(METHODS)
    assert {"monitor", "higher_is_better"} <= set(PROPERTIES)


@pytest.mark.parametrize("name", stage_names())
def test_a_stage_keeps_the_protocol(name: str) -> None:
    stage = load_stage(name)
    assert stage.name == name
    assert dataclasses.is_dataclass(stage.Config)
    assert stage.best_file.name.endswith(".pth")
    assert set(stage.defaults) <= {field.name for field in dataclasses.fields(TrainConfig)}
    # A stage that makes several kinds of motion has a class for each.
    for kind in getattr(stage, "kinds", {"": stage}).values():
        assert (kind.name, kind.best_file) == (name, stage.best_file)
        for method in METHODS:
            wanted = list(inspect.signature(getattr(Stage, method)).parameters)
            assert list(inspect.signature(getattr(kind, method)).parameters) == wanted, method
        for prop in PROPERTIES:
            assert isinstance(inspect.getattr_static(kind, prop), property), prop


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="fine_tuning"):
        load_stage("fine_toning")
    assert load_stage("fine-tuning") is load_stage("fine_tuning")
