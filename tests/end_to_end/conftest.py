"""Fixtures of the end-to-end tests; their helpers lie in commands.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from commands import corpus, run, videos

__all__ = ["corpus", "run", "videos"]
