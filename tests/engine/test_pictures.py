"""Pictures of a running job are drawn at times, the last ones always."""

from pathlib import Path

import pytest

from uni_sign.engine import tracking
from uni_sign.engine.tracking import Tracker


def test_the_loss_curve_is_drawn_at_times_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    tracker = Tracker(tmp_path, active=True)
    picture = tmp_path / "pictures" / "loss.png"
    drawn = []
    for seconds, last in ((0.0, False), (5.0, False), (30.0, False), (31.0, False), (32.0, True)):
        now[0] = 100 + seconds
        picture.unlink(missing_ok=True)
        tracker.loss_curve(1, "dev/bleu4", last=last)
        drawn.append(picture.exists())
    assert drawn == [True, False, True, False, True]
