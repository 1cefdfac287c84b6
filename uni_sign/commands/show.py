"""`uni-sign show`: a finished run for a person: translations beside references, scores, and where the rest lies."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uni_sign.errors import InputError

_CLIPS_PER_LANGUAGE = 3
# In this order, those of them that the run has; the others stay in results.json.
_SCORES = {
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "wer": "WER",
    "top1_instance": "top-1",
    "top1_class": "top-1 per class",
    "loss": "loss",
    "below_mean_picture": "times below the mean picture",
    "below_mean_face": "times below the mean face",
    "similarity": "similarity of clips",
}


def show(output_dir: Path) -> None:
    """Print the run in ``output_dir``; raises InputError where it holds no finished one."""
    results = _results(output_dir)
    splits = [name.removesuffix("/n") for name in results if name.endswith("/n")]
    rows = {split: _rows(output_dir / f"predictions_{split}.jsonl") for split in splits}
    shown = "test" if "test" in rows else splits[-1]
    print("\n".join([*_translations(shown, rows[shown]), *_score_table(results, rows), "", *_places(output_dir)]))


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder} holds no finished run ({path.name}: {error.strerror}): "
            "finish it with --resume auto, or name another folder."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: score the run again with --eval.") from error
    if not isinstance(results, dict) or not any(name.endswith("/n") for name in results):
        raise InputError(f"{path} holds no scores of a split: score the run again with --eval.")
    return results


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [{key: str(row[key]) for key in _columns(row)} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is missing or broken: score the run again with --eval.") from error


def _columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of what was written; of a stage that writes no text, which tells each clip's loss, the name alone."""
    return ("name",) if "loss" in row else ("name", "prediction", "reference", "language")


def _languages(rows: Iterable[Mapping[str, str]]) -> Counter[str]:
    """Clips per language, in alphabetical order; empty where none is told."""
    return Counter(sorted(row.get("language", "") for row in rows))


def _translations(split: str, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A few clips of each language, spread over the split, the reference above what the model wrote.

    Nothing where a stage writes no text.
    """
    if not all("prediction" in row for row in rows):
        return []
    lines = [f"Held-out clips of the {split} split"]
    width = max((len(row["name"]) for row in rows), default=0)
    for language in _languages(rows):
        chosen = [row for row in rows if row["language"] == language]
        lines += ["", f"  {language}"] if language else [""]
        for row in chosen[:: max(1, len(chosen) // _CLIPS_PER_LANGUAGE)][:_CLIPS_PER_LANGUAGE]:
            lines.append(f"    {row['name']:<{width}}  reference   {row['reference']}")
            lines.append(f"    {'':<{width}}  prediction  {row['prediction']}")
    return [*lines, ""]


def _score_table(results: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """A line per split, and one per language below it where there are several."""
    columns = {score: title for score, title in _SCORES.items() if any(f"{split}/{score}" in results for split in rows)}
    lines = [f"{'Scores':<14}{'clips':>7}" + "".join(f"{title:>{len(title) + 4}}" for title in columns.values())]
    for split, of_split in rows.items():
        lines.append(_score_line(f"  {split}", len(of_split), [results.get(f"{split}/{s}") for s in columns], columns))
        languages = _languages(of_split)
        for language, count in languages.items() if len(languages) > 1 else ():
            values = [results.get(f"{split}/{score}_{language.lower()}") for score in columns]
            if any(value is not None for value in values):
                lines.append(_score_line(f"    {language}", count, values, columns))
    return lines


def _score_line(label: str, clips: int, values: Sequence[float | None], columns: Mapping[str, str]) -> str:
    cells = (
        f"{'-' if value is None else _rounded(value):>{len(title) + 4}}"
        for value, title in zip(values, columns.values(), strict=True)
    )
    return f"{label:<14}{clips:>7}" + "".join(cells)


def _rounded(value: float) -> str:
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def _places(folder: Path) -> list[str]:
    """Where the files of the run lie, those that it has."""
    patterns = {
        "predictions": "predictions_*.jsonl",
        "scores": "results.json",
        "loss curve": "pictures/loss.png",
        "gate heat maps": "pictures/*gate*.png",
        "pictures": "pictures/val_*.png",
        "weights": "*.pth",
        "log": "log.jsonl",
    }
    lines = ["Files"]
    for label, pattern in patterns.items():
        found = sorted(folder.glob(pattern))
        lines += [f"  {label if i == 0 else '':<16}{path}" for i, path in enumerate(found)]
    return lines
