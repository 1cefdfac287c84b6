"""What the poses were extracted by: models learn its habits, so another one in fine-tuning or scoring is told."""

from collections.abc import Mapping, Sequence
from typing import Any

from uni_sign.data.samples import Sample
from uni_sign.data.wholebody import extractor_of

_ASKED = 5  # clips, spread over the corpus


def extractor_of_clips(samples: Sequence[Sample]) -> dict[str, str] | None:
    """Name, version and mode, where some of these clips' pose files say it."""
    step = max(1, len(samples) // _ASKED)
    told = (extractor_of(samples[place].pose_path) for place in range(0, len(samples), step))
    return next((extractor for extractor in told if extractor), None)


def extractor_note(extras: Mapping[str, Any], source: str, here: Mapping[str, str] | None) -> str | None:
    """A warning where a checkpoint's poses, by its ``extras``, were extracted by something else than those ``here``."""
    before = extras.get("extractor")
    if not isinstance(before, Mapping) or here is None or dict(before) == dict(here):
        return None
    named = [" ".join(str(told.get(part, "?")) for part in ("name", "mode", "version")) for told in (before, here)]
    return f"{source} was trained on poses extracted by {named[0]}; those here are by {named[1]}: scores may suffer."
