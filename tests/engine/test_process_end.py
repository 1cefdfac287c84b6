"""A run's process ends with its status, whatever would go wrong while Python takes itself down."""

import os
import subprocess
import sys

import pytest

_ENDS = """
import atexit, os, sys
from uni_sign.engine.process_end import end_process, keep_group

class Group:
    def __del__(self):
        os.abort()

atexit.register(print, "what is registered is done")
if {grouped}:
    keep_group(Group())
sys.stdout.write("and what is written is read: ")
end_process({status})
"""


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("status", [0, 75])
def test_status_and_output(grouped: bool, status: int) -> None:
    words = [sys.executable, "-c", _ENDS.format(grouped=grouped, status=status)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (status, "")
    assert ended.stdout == "and what is written is read: what is registered is done\n"


def test_output_that_nobody_reads() -> None:
    """As of `uni-sign train ... | head -1`: all was done, so that is the status."""
    words = [sys.executable, "-c", _ENDS.format(grouped=True, status=0)]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=buffered) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
