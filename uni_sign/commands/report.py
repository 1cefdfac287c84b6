"""What is wrong with a corpus, clip by clip, as JSON and as a page with pictures: `uni-sign prepare --report`."""

import json
import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.commands.report_page import page
from uni_sign.data.corpora import Corpus
from uni_sign.data.pose_facts import SHORT, SUFFIX, Facts, known_facts
from uni_sign.data.samples import Sample, fingerprint
from uni_sign.data.splits import NO_POSE_FILE, Split, read_split
from uni_sign.data.wholebody import PARTS
from uni_sign.errors import InputError
from uni_sign.skeletons import spread

LENGTHS = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)  # where the histogram's bins begin
_SHOWN = 200  # sentences and texts at the most; names of clips are all there
_USUAL = "usual"


@dataclass(frozen=True)
class Fault:
    """A kind of fault: its title, what it does to training, and which clips have it."""

    title: str
    meaning: str
    has: Callable[[Facts], bool]


# The shares are where a look at the clip pays, not where training fails.
FAULTS = {
    "unreadable": Fault("unreadable", "left out of training", lambda f: bool(f.problem) and f.finite),
    "not_finite": Fault(
        "NaN, infinite or absurd values", "left out of training", lambda f: bool(f.problem) and not f.finite
    ),
    "blank": Fault("body never seen", "all zeros for the model: text without signs", lambda f: f.blank),
    "short": Fault(f"shorter than {SHORT} frames", "hardly a sign", lambda f: not f.problem and f.frames < SHORT),
    "low_confidence": Fault(
        "under half of the points seen", "zeros for the model", lambda f: not f.problem and f.seen_in_all < 0.5
    ),
    "no_hands": Fault(
        "hands hardly seen",
        "both hands are zero in nine of ten frames",
        lambda f: not f.problem and max(f.seen.get("left", 0), f.seen.get("right", 0)) < 0.1,
    ),
    "outside": Fault(
        "coordinates out of range", "over 5 % of the seen points lie beyond the video", lambda f: f.outside > 0.05
    ),
    "several": Fault("several people", "the best seen, steadiest one is taken for the signer", lambda f: f.several > 0),
    "nobody": Fault(
        "frames without anybody", "over a tenth of the frames is empty", lambda f: f.nobody > f.frames / 10
    ),
}


def write_report(corpus: Corpus, splits: Mapping[str, Split], folder: Path) -> str:
    """Merge what all processes found out so far into report.json and report.html; returns a sentence about them.

    Any process may be the last: each writes, and looks whether others have come to know more meanwhile.
    """
    leaks = _leaks(corpus, splits)
    while True:
        state = _state(folder / "facts")
        report = build(corpus, splits, known_facts(folder / "facts"), leaks)
        pictured = {sample.name: sample.pose_path for split in splits.values() for sample in split.samples}
        _replace(folder / "report.json", json.dumps(report, ensure_ascii=False, indent=1))
        _replace(folder / "report.html", page(report, pictured))
        if _state(folder / "facts") == state:
            break
    pending = sum(split["pending"] for split in report["splits"].values())
    more = f"; {pending} clips are still to be examined" if pending else ""
    return f"Report: {folder / 'report.html'} and report.json{more}."


def _state(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_size) for path in folder.glob(f"*{SUFFIX}"))


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(content, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): give another --report_dir.") from error
    finally:
        partial.unlink(missing_ok=True)


# --- what is in it -----------------------------------------------------------------------------------------


def build(
    corpus: Corpus, splits: Mapping[str, Split], known: Mapping[Any, Facts], leaks: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as plain data; its keys are those of report.json."""
    found = {
        name: [(sample, known[fingerprint(sample)]) for sample in split.samples if fingerprint(sample) in known]
        for name, split in splits.items()
    }
    everything = list(
        {fingerprint(sample): (sample, facts) for clips in found.values() for sample, facts in clips}.values()
    )
    problems = sorted({problem for split in splits.values() for problem in split.problems})
    return {
        "corpus": corpus.name,
        "pose_dir": str(corpus.pose_dir),
        "max_length": corpus.max_length,
        "splits": {name: _of_split(split, found[name], corpus.max_length) for name, split in splits.items()},
        "faults": {key: _of_fault(fault, everything) for key, fault in FAULTS.items()},
        _USUAL: _usual(everything),
        "lengths": {
            "from": list(LENGTHS),
            **{name: _histogram([facts for _, facts in clips]) for name, clips in found.items()},
        },
        "extractors": _extractors(everything),
        "leaks": dict(leaks),
        "sentences": [*problems, *(facts.problem for _, facts in everything if facts.problem)][:_SHOWN],
    }


def _of_split(split: Split, found: Sequence[tuple[Sample, Facts]], max_length: int) -> dict[str, Any]:
    missing = sum(NO_POSE_FILE in problem for problem in split.problems)
    read = [facts for _, facts in found if not facts.problem]
    frames = np.array([facts.frames for facts in read])
    low, middle, high = (np.quantile(frames, q) if len(frames) else 0 for q in (0, 0.5, 1))
    return {
        "clips": len(split.samples),
        "missing": missing,
        "unusable": len(split.problems) - missing,
        "pending": len(split.samples) - len(found),
        **{key: sum(fault.has(facts) for _, facts in found) for key, fault in FAULTS.items()},
        "frames": {
            **{"total": int(frames.sum()), "shortest": int(low), "median": int(middle), "longest": int(high)},
            "over_max_length": int((frames > max_length).sum()),
        },
        "seen": {part: _mean([facts.seen.get(part, 0.0) for facts in read]) for part in PARTS},
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def _of_fault(fault: Fault, everything: Sequence[tuple[Sample, Facts]]) -> dict[str, Any]:
    names = [sample.name for sample, facts in everything if fault.has(facts)]
    return {"title": fault.title, "meaning": fault.meaning, "clips": len(names), "names": sorted(names)}


def _usual(everything: Sequence[tuple[Sample, Facts]]) -> list[str]:
    """A few clips without any fault."""
    names = [s.name for s, facts in everything if not any(fault.has(facts) for fault in FAULTS.values())]
    return [names[i] for i in spread(len(names), 6)]


def _histogram(facts: Sequence[Facts]) -> list[int]:
    frames = [one.frames for one in facts if not one.problem]
    counts: list[int] = np.histogram(frames, [*LENGTHS, np.inf])[0].tolist()
    return counts


def _extractors(everything: Sequence[tuple[Sample, Facts]]) -> list[dict[str, Any]]:
    told = Counter(facts.extractor for _, facts in everything if not facts.problem)
    return [{"extractor": name, "clips": clips} for name, clips in told.most_common(20)]


def _leaks(corpus: Corpus, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Pose files in several splits, and held-out texts that training shows; words of ISLR are the same by design."""
    of_file: dict[str, set[str]] = defaultdict(set)
    for name, split in splits.items():
        for sample in split.samples:
            of_file[sample.pose_path.name].add(name)
    shared = sorted(file for file, names in of_file.items() if len(names) > 1)
    task = next((task for task in corpus.tasks if task != "ISLR"), None)
    texts = {name: _texts(corpus, task, name) for name in splits} if task else {}
    held_out = {}
    for name in [name for name in texts if name != "train"]:
        known = texts[name].keys() & texts["train"].keys()
        held_out[name] = {
            "clips": sum(texts[name].values()),
            "clips_with_text_of_train": sum(texts[name][text] for text in known),
            "texts": sorted(known)[:_SHOWN],
        }
    return {"task": task, "files_in_several_splits": shared, "held_out_texts": held_out}


def _texts(corpus: Corpus, task: str, split: str) -> Counter[str]:
    try:
        return Counter(read_split(corpus, task, split).samples.targets)
    except InputError:  # of a split without clips of this task
        return Counter()
