"""The README's first command, cut to two steps."""

import sys
from pathlib import Path

from commands import ROOT, shell


def test_quickstart_runs_through_and_again_in_seconds(tmp_path: Path) -> None:
    out = tmp_path / "run"
    cut = "--epochs 1 --max_steps 2 --num_beams 1 --max_new_tokens 4".split()  # noqa: SIM905 - as a user types it
    environment = {"OUT": str(out), "VIRTUAL_ENV": sys.prefix}
    done = shell(["bash", str(ROOT / "launch" / "quickstart.sh"), *cut], cwd=tmp_path, **environment)
    for said in ("ZeRO 2", "reference", "prediction", "BLEU-4", "loss.png", "test_gate.png", "predictions_test.jsonl"):
        assert said in done.stdout, said
    again = shell(["bash", str(ROOT / "launch" / "quickstart.sh"), *cut], cwd=tmp_path, **environment)
    assert "Resuming from" in again.stdout
