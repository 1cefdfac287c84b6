"""Fixtures of the fault tests: those of the end-to-end tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from commands import corpus, run

__all__ = ["corpus", "run"]
