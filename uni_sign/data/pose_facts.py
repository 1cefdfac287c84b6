"""What a corpus report knows of each clip's poses, examined once: one line of JSON a clip, kept beside the report.

A line is whole or left out, so a killed process loses nothing but its last one, and any number of processes write,
each into a file of its own. A pose file that changes is another file, as for the shards.
"""

import dataclasses
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from uni_sign.data.samples import Fingerprint, Sample, fingerprint
from uni_sign.data.wholebody import LIMIT, PARTS, THRESHOLD, People, Pose, people_of, pose_of, read_content
from uni_sign.errors import InputError, SampleError, one_line

SUFFIX = ".facts.jsonl"
SHORT = 16  # frames, half a second of video: fewer are said to be short
_VERSION = 1  # a change of what is found out makes other lines
_EXTRACTOR = ("name", "version", "mode")


@dataclass(frozen=True, eq=False)
class Reading:
    """A pose file's content, its signer, and why there is none."""

    content: Any = None
    pose: Pose | None = None
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """Of one clip: frames; those that show several people, and nobody; shares of points.

    ``problem``: why it is left out of training; ``finite``: no value is NaN, infinite or absurd; ``outside``: share of
    the seen points that lie beyond the video; ``seen``: per part, the share of points above the threshold; ``blank``:
    so little of the body is seen that the model sees nothing; ``extractor``: name, version and mode, where told.
    """

    problem: str = ""
    finite: bool = True
    frames: int = 0
    several: int = 0
    nobody: int = 0
    people: int = 0
    outside: float = 0.0
    blank: bool = False
    seen: dict[str, float] = field(default_factory=dict)
    extractor: str = ""

    @property
    def seen_in_all(self) -> float:
        """The share of all points of the model that are seen."""
        return sum(self.seen.get(part, 0.0) * len(points) for part, points in PARTS.items()) / _USED


_USED = sum(map(len, PARTS.values()))


def read_clip(path: Path) -> Reading:
    """Reads a pose file, whatever is wrong with it."""
    content = None
    try:
        content = read_content(path)
        return Reading(content, pose_of(content, path))
    except SampleError as error:
        return Reading(content, problem=str(error))


def facts_of(reading: Reading) -> Facts:
    """What there is to know of a clip that was read."""
    try:
        people = people_of(reading.content)
    except (SampleError, MemoryError):
        return Facts(reading.problem)
    counts, pose = people.counts, reading.pose
    told: dict[str, Any] = {
        "frames": len(counts),
        "several": int((counts > 1).sum()),
        "nobody": int((counts == 0).sum()),
        "people": int(counts.max()),
        "extractor": _extractor(reading.content),
    }
    if pose is None:
        return Facts(reading.problem, _finite(people), **told)
    seen = pose.scores > THRESHOLD
    outside = ((pose.keypoints < 0) | (pose.keypoints > 1)).any(axis=2) & seen
    body = seen[:, list(PARTS["body"])]
    points = pose.keypoints[:, list(PARTS["body"])][body]
    return Facts(
        outside=float(outside.sum() / max(1, seen.sum())),
        # As `wholebody.normalized_parts` has it.
        blank=bool(len(points) < 4 or (np.ptp(points, axis=0) == 0).all()),
        seen={part: float(seen[:, list(numbers)].mean()) for part, numbers in PARTS.items()},
        **told,
    )


def _finite(people: People) -> bool:
    return bool((np.abs(people.keypoints) <= LIMIT).all() and (np.abs(people.scores) <= LIMIT).all())


def _extractor(content: Mapping[str, Any]) -> str:
    """Name, version and mode in one line; empty where a file does not say."""
    told = content.get("extractor")
    if not isinstance(told, Mapping):
        return ""
    values = [told.get(name) for name in _EXTRACTOR]
    return one_line(" ".join(str(value)[:100] for value in values if isinstance(value, str | int | float)))


# --- the lines ---------------------------------------------------------------------------------------------


class FactLog:
    """Appends lines to a file of its own in ``folder``, which it makes when there is something to write.

    Raises InputError where it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: TextIO | None = None

    def __enter__(self) -> "FactLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, sample: Sample, facts: Facts) -> None:
        """Write down a clip; it is there whatever happens to this process."""
        name, size, mtime_ns = fingerprint(sample)
        key = {"version": _VERSION, "name": os.fsdecode(name), "size": size, "mtime_ns": mtime_ns}
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = (self._folder / f"{uuid.uuid4().hex}{SUFFIX}").open("x", encoding="ascii")
            self._file.write(json.dumps({**key, **dataclasses.asdict(facts)}) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self._folder} cannot be written ({error.strerror}): give another --report_dir."
            ) from error


def known_facts(folder: Path) -> dict[Fingerprint, Facts]:
    """All clips that any process has examined; a line that is damaged or of another version counts for nothing."""
    found: dict[Fingerprint, Facts] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): delete it, and start again.") from error
        for line in lines:
            known = _parsed(line)
            if known is not None:
                found[known[0]] = known[1]
    return found


def _parsed(line: str) -> tuple[Fingerprint, Facts] | None:
    try:
        told = json.loads(line)
        key = os.fsencode(told.pop("name")), told.pop("size"), told.pop("mtime_ns")
        facts = Facts(**told) if told.pop("version") == _VERSION else None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    if facts is None or not all(type(number) is int for number in key[1:]) or not _sound(facts):
        return None
    return key, facts


def _sound(facts: Facts) -> bool:
    """Every value is of its type, and within its bounds."""
    shares = [facts.outside, *(facts.seen.values() if isinstance(facts.seen, dict) else [None])]
    counts = [facts.frames, facts.several, facts.nobody, facts.people]
    return (
        all(type(text) is str for text in (facts.problem, facts.extractor))
        and all(type(flag) is bool for flag in (facts.finite, facts.blank))
        and all(type(count) is int and count >= 0 for count in counts)
        and all(isinstance(share, float) and 0 <= share <= 1 for share in shares)
        and set(facts.seen) <= set(PARTS)
    )
