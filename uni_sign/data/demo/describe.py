"""What a captioner would write below single frames: visible form, palm and mouth, in a few set wordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uni_sign.data.demo.lexicon import HANDSHAPES, MOUTHS, SIGNS, Form, Sign

PHASES = ("beginning", "middle", "end")
_WORDINGS = {
    "beginning": ("{hands} at the {start}", "{hands} near the {start}"),
    "middle": ("{hands} {moves}", "{shape} {moves} now"),
    "end": ("{hands} arrives at the {end}", "{hands} ends at the {end}"),
}
WORDINGS = 2
MOVES = {
    "straight": "moves straight",
    "arc": "moves in an arc",
    "circle": "draws a circle",
    "tap": "taps twice",
    "wiggle": "wiggles",
}
_EVERY = 3
FORMS = 5


def describe(sign: Sign, phase: str, wording: int) -> str:
    """One sentence of at most 16 words for a frame of a sign; wording is 0 or 1."""
    form = sign.form
    seen = _WORDINGS[phase][wording].format(
        hands=_hands(form),
        shape=HANDSHAPES[form.handshape],
        moves=MOVES[form.movement],
        start=form.start,
        end=form.end,
    )
    return f"{seen}, palm {sign.palm}, {MOUTHS[sign.mouth]}"


def _hands(form: Form) -> str:
    shape = HANDSHAPES[form.handshape]
    return {"one": f"right {shape}", "both": f"double {shape}", "base": f"right {shape} over left hand"}[form.hands]


def all_texts() -> list[str]:
    """Every description that can occur, sorted."""
    texts = {describe(sign, phase, wording) for sign in SIGNS for phase in PHASES for wording in range(WORDINGS)}
    return sorted(texts)


def describe_clip(
    signs: Sequence[Sign],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[int, str]:
    """Frame -> description: of every sign its first frame and every third frame after it."""
    texts: dict[int, str] = {}
    for sign, start, length in zip(signs, starts.tolist(), lengths.tolist(), strict=True):
        steps = range(0, length, _EVERY)
        wordings = rng.integers(WORDINGS, size=len(steps))
        for step, wording in zip(steps, wordings.tolist(), strict=True):
            phase = PHASES[min(3 * step // (length - 1), 2)]
            texts[start + step] = describe(sign, phase, wording)
    return texts


def as_json(texts: Mapping[int, str], frames: int, form: int) -> Any:
    """Descriptions in one of the five forms that users have; form counts from 0 to 4."""
    keyed = {str(frame): text for frame, text in texts.items()}
    if form == 0:
        return [
            {"filename": f"{frame:06d}.jpg", **({"description": texts[frame]} if frame in texts else {})}
            for frame in range(frames)
        ]
    if form == 1:
        return {"frames": keyed, "total_frames": frames, "metadata": {"corpus": "Demo"}}
    if form == 2:
        return {"descriptions": keyed, "version": "1"}
    if form == 3:
        return {"data": keyed}
    return {**keyed, "source": "demo", "info": "one line a frame", "total_frames": str(frames)}
