"""Fixtures of the fault tests: those of the end-to-end tests, and two machines made of network namespaces."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
sys.path.insert(0, str(Path(__file__).parent))

from commands import corpus, run
from namespaces import nodes

__all__ = ["corpus", "nodes", "run"]
