"""What `uni-sign doctor` says of clips of talking faces: rate, length, sound, and whether sound and picture agree."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from tqdm import tqdm

from uni_sign.data.motion_clips import ClipFacts, MotionClip, clip_facts, clip_problems
from uni_sign.errors import InputError
from uni_sign.stages.base import Finding

_LOOKED_AT = 100  # clips: what is wrong with a corpus is wrong with many
_NAMED = 3


def face_findings(clips: Sequence[MotionClip], min_frames: int, fps: float) -> list[Finding]:
    """Findings over clips spread evenly; ``min_frames`` at ``fps`` are what training takes at a time."""
    spread = np.unique(np.linspace(0, len(clips) - 1, min(len(clips), _LOOKED_AT)).round().astype(int))
    facts, odd, unreadable = list[ClipFacts](), dict[str, list[str]](), list[str]()
    for number in tqdm(spread.tolist(), desc="clips", unit="clip", leave=False):
        try:
            facts.append(clip_facts(clips[number]))
        except InputError as error:
            unreadable.append(str(error))
            continue
        for problem in clip_problems(facts[-1], min_frames, fps):
            # Of one kind are those that differ in numbers alone.
            kind = " ".join(word for word in problem.split() if not any(letter.isdigit() for letter in word))
            odd.setdefault(kind, []).append(f"{clips[number].name}: {problem}")
    findings = [_summary(facts, len(clips))] if facts else []
    if unreadable:
        remedy = "extract them anew, or leave them out"
        findings.append(_many("warn" if facts else "fail", unreadable, len(spread), remedy))
    remedy = "mend the clips, or leave them out"
    return findings + [_many("warn", problems, len(spread), remedy) for problems in odd.values()]


def _summary(facts: Sequence[ClipFacts], clips: int) -> Finding:
    rates = ", ".join(f"{fps:g}" for fps in sorted({round(one.fps, 2) for one in facts}))
    seconds = [one.seconds for one in facts]
    heard = Counter(one.sample_rate for one in facts if not one.silence)
    sound = ", ".join(f"{rate} Hz ({count})" for rate, count in sorted(heard.items())) or "none"
    offsets = [one.sync_offset for one in facts if one.sync_offset is not None]
    told = f"{np.median(offsets):+g} frames ({len(offsets)} clips tell)" if offsets else "cannot be told"
    return Finding(
        "pass",
        "clips",
        f"{len(facts)} of {clips} looked at: {rates} frames a second, {min(seconds):.1f} to {max(seconds):.1f} s; "
        f"sound: {sound}; it comes after the picture by {told}",
    )


def _many(level: Literal["warn", "fail"], sentences: Sequence[str], of: int, remedy: str) -> Finding:
    more = f" (and {len(sentences) - _NAMED} more)" if len(sentences) > _NAMED else ""
    return Finding(level, "clips", f"{len(sentences)} of {of}: {' '.join(sentences[:_NAMED])}{more}", remedy)
