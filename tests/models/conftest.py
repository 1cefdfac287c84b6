"""The shape of the golden mT5."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_config(golden: Callable[[str], Any]) -> dict[str, Any]:
    config: dict[str, Any] = golden("02_mt5_tiny_config.json")
    return config
