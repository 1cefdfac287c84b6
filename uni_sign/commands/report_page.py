"""The report of a corpus as one HTML file: tables, a histogram, pictures of skeletons; no link leads out of it."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.canvas import png_bytes
from uni_sign.data.wholebody import read_content
from uni_sign.errors import SampleError, one_line
from uni_sign.skeletons import clip_of, spread, strip

_PICTURED = 4  # clips of each kind of fault
_FRAMES = 6
_COLOURS = ("#2a78d6", "#d9741c", "#1f8a7a")
_PARTS = {"body": "body", "left": "left hand", "right": "right hand", "face_all": "face"}
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222b36; background: #eef1f5; margin: 0; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; margin: 0; } h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 16px; margin: 28px 0 4px; }
p { margin: 4px 0 12px; } .soft { color: #6b7785; } .path { font-family: ui-monospace, monospace; font-size: 13px; }
.card { background: #fff; border: 1px solid #d5dbe3; border-radius: 8px; padding: 16px 20px; overflow-x: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
.cards b { display: block; font-size: 26px; line-height: 1.2; }
.bad { color: #b3401a; } .good { color: #1f7a55; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid #e3e8ee; white-space: nowrap; }
th { font-weight: 600; color: #6b7785; } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child, .text { text-align: left; } td.text { white-space: normal; }
td.zero { color: #b4bdc8; } a { color: #1b5fb3; text-decoration: none; } a:hover { text-decoration: underline; }
.bar { display: inline-block; height: 8px; border-radius: 4px; background: #d9741c; vertical-align: middle; }
figure { margin: 12px 0; } figcaption { font-size: 13px; color: #6b7785; overflow-wrap: anywhere; }
figure img { max-width: 100%; display: block; }
ul { margin: 0; padding-left: 20px; overflow-wrap: anywhere; }
svg text { font: 12px system-ui, sans-serif; fill: #6b7785; }
"""


def page(report: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """The whole page; ``files``: the pose file of each clip by name, for the pictures."""
    title = f"{report['corpus']}: what is wrong with its poses"
    body = [
        f"<h1>{_said(report['corpus'])}</h1><p class='soft path'>{_said(report['pose_dir'])}</p>",
        _cards(report),
        "<h2>Splits</h2>" + _card(_splits(report)),
        "<h2>Faults</h2>" + _card(_faults(report)),
        "<h2>Lengths</h2>" + _card(_lengths(report["lengths"])),
        "<h2>Points that are seen</h2>" + _card(_seen(report["splits"])),
        "<h2>Extractors</h2>" + _card(_extractors(report["extractors"])),
        "<h2>Held-out clips that training shows</h2>" + _card(_leaks(report["leaks"])),
        "<h2>Pictures</h2>" + _pictures(report, files),
        "<h2>In words</h2>" + _card(_sentences(report["sentences"])),
    ]
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{_said(title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{''.join(part + chr(10) for part in body)}</main></body></html>\n"
    )


def _said(text: Any) -> str:
    """A stranger's text, harmless and on one line."""
    return escape(one_line(str(text)))


def _card(inside: str) -> str:
    return f"<div class='card'>{inside}</div>"


def _cards(report: Mapping[str, Any]) -> str:
    splits = report["splits"].values()
    leaks = report["leaks"]
    lost = sum(split["missing"] + split["unusable"] + split["unreadable"] + split["not_finite"] for split in splits)
    leaking = len(leaks["files_in_several_splits"])
    leaking += sum(split["clips_with_text_of_train"] for split in leaks["held_out_texts"].values())
    told = [
        ("clips", sum(split["clips"] for split in splits), ""),
        ("frames", sum(split["frames"]["total"] for split in splits), ""),
        ("still to be examined", sum(split["pending"] for split in splits), "bad"),
        ("left out of training", lost, "bad"),
        ("held out, yet in training", leaking, "bad"),
    ]
    cells = (
        f"<div class='card'><b class='{(bad if number else 'good') if bad else ''}'>{number:,}</b>{name}</div>"
        for name, number, bad in told
    )
    return f"<div class='cards'>{''.join(cells)}</div>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of finished cells, `<td>` and all; names of columns of text begin with a blank."""
    top = "".join(f"<th class='{'text' if name[:1] == ' ' else ''}'>{name}</th>" for name in head)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{chr(10).join(row)}</tr>' for row in rows)}</table>"


def _number(value: int) -> str:
    return f"<td class='{'' if value else 'zero'}'>{value:,}</td>"


def _text(words: Any) -> str:
    return f"<td class='text'>{_said(words)}</td>"


def _splits(report: Mapping[str, Any]) -> str:
    head = ["split", "clips", "missing", "unusable", "unreadable", "pending", "frames", "shortest", "median", "longest",
            f"over {report['max_length']}"]  # fmt: skip
    rows = []
    for name, split in report["splits"].items():
        numbers = [split[key] for key in ("clips", "missing", "unusable")]
        numbers += [split["unreadable"] + split["not_finite"], split["pending"]]
        numbers += [split["frames"][key] for key in ("total", "shortest", "median", "longest", "over_max_length")]
        rows.append([_text(name), *map(_number, numbers)])
    said = (
        "missing: no pose file; unusable: its label is wrong; over "
        f"{report['max_length']}: longer than the corpus's limit, so training draws frames from it."
    )
    return _table(head, rows) + f"<p class='soft'>{said}</p>"


def _faults(report: Mapping[str, Any]) -> str:
    names = list(report["splits"])
    examined = sum(split["clips"] - split["pending"] for split in report["splits"].values())
    rows = []
    for key, fault in report["faults"].items():
        share = fault["clips"] / max(1, examined)
        title = f"<a href='#{key}'>{_said(fault['title'])}</a>" if fault["clips"] else _said(fault["title"])
        wide = max(2, 120 * share) if share else 0
        bar = f"<td class='text'><span class='bar' style='width:{wide:.0f}px'></span> {share:.1%}</td>"
        by_split = [_number(report["splits"][name][key]) for name in names]
        rows.append(
            [f"<td class='text'>{title}</td>", *by_split, _number(fault["clips"]), bar, _text(fault["meaning"])]
        )
    return _table(["fault", *map(_said, names), "all", " share", " "], rows)


def _lengths(lengths: Mapping[str, Any]) -> str:
    """Bars a bin and split, as shares of the split's clips."""
    edges, splits = lengths["from"], {name: counts for name, counts in lengths.items() if name != "from"}
    shares = {name: np.array(counts) / max(1, sum(counts)) for name, counts in splits.items()}
    highest = max((float(share.max()) for share in shares.values()), default=0) or 1.0
    width, height, left, step = 960, 190, 8, 944 / len(edges)
    bar = (step - 16) / max(1, len(shares))
    parts = [f"<line x1='{left}' y1='{height}' x2='{width - 8}' y2='{height}' stroke='#d5dbe3'/>"]
    for i, edge in enumerate(edges):
        label = f"{edge}\u2013{edges[i + 1] - 1}" if i + 1 < len(edges) else f"{edge}+"
        parts.append(f"<text x='{left + (i + 0.5) * step:.1f}' y='{height + 18}' text-anchor='middle'>{label}</text>")
        for j, (name, share) in enumerate(shares.items()):
            tall = 160 * float(share[i]) / highest
            x = left + i * step + 8 + j * bar
            tip = f"<title>{_said(name)}: {splits[name][i]:,} clips of {label} frames ({share[i]:.1%})</title>"
            parts.append(
                f"<rect x='{x:.1f}' y='{height - tall:.1f}' width='{bar - 2:.1f}' height='{tall:.1f}' rx='2' "
                f"fill='{_COLOURS[j % len(_COLOURS)]}'>{tip}</rect>"
            )
    for j, name in enumerate(shares):
        x = left + 110 * j
        parts.append(f"<rect x='{x}' y='4' width='10' height='10' rx='2' fill='{_COLOURS[j % len(_COLOURS)]}'/>")
        parts.append(f"<text x='{x + 16}' y='13'>{_said(name)}</text>")
    drawn = f"<svg viewBox='0 0 {width} {height + 26}' width='100%' role='img'>{''.join(parts)}</svg>"
    return drawn + "<p class='soft'>Frames of a clip; the bars are shares of the clips of their split.</p>"


def _seen(splits: Mapping[str, Any]) -> str:
    rows = []
    for name, split in splits.items():
        cells = []
        for part in _PARTS:
            share = split["seen"][part]
            cells.append(
                f"<td><span class='bar' style='width:{80 * share:.0f}px;background:#2a78d6'></span> {share:.1%}</td>"
            )
        rows.append([_text(name), *cells])
    said = "Share of a part's points whose score is above the threshold, 0.3: the others are zero for the model."
    return _table(["split", *_PARTS.values()], rows) + f"<p class='soft'>{said}</p>"


def _extractors(extractors: Sequence[Mapping[str, Any]]) -> str:
    rows = [[_text(told["extractor"] or "not said in the pose file"), _number(told["clips"])] for told in extractors]
    warning = "<p class='bad'>Poses of several extractors: a model learns their differences, too.</p>"
    return _table(["extractor", "clips"], rows) + (warning if len(extractors) > 1 else "")


def _leaks(leaks: Mapping[str, Any]) -> str:
    rows = []
    for name, split in leaks["held_out_texts"].items():
        shown, clips = split["clips_with_text_of_train"], split["clips"]
        examples = "; ".join(split["texts"][:5])
        rows.append(
            [_text(name), _number(clips), _number(shown), f"<td>{shown / max(1, clips):.1%}</td>", _text(examples)]
        )
    files = leaks["files_in_several_splits"]
    said = f"<p class='{'bad' if files else 'soft'}'>Pose files in several splits: {len(files):,}"
    said += f" ({_said(', '.join(files[:10]))}).</p>" if files else ".</p>"
    if not rows:
        return said + "<p class='soft'>No texts to compare: the words of ISLR are the same in all splits.</p>"
    return said + _table(["split", "clips", "text also in train", "share", " for example"], rows)


# --- pictures ----------------------------------------------------------------------------------------------


def _pictures(report: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    kinds = [
        (key, fault["title"], fault["meaning"], _sampled(fault["names"])) for key, fault in report["faults"].items()
    ]
    kinds.append(("usual", "nothing wrong", "for comparison", report["usual"]))
    parts = []
    for key, title, meaning, names in kinds:
        if not names:
            continue
        figures = [_figure(name, files[name]) for name in names if name in files]
        parts.append(
            f"<h3 id='{key}'>{_said(title)}</h3><p class='soft'>{_said(meaning)}</p>" + _card("".join(figures))
        )
    return "".join(parts) or _card("<p>No clip was examined yet.</p>")


def _sampled(names: Sequence[str]) -> list[str]:
    return [names[i] for i in spread(len(names), _PICTURED)]


def _figure(name: str, path: Path) -> str:
    """Some frames of a clip, or why there is nothing to see."""
    try:
        clip = clip_of(name, read_content(path))
        data = base64.b64encode(png_bytes(strip(clip, _FRAMES, 150))).decode()
    except SampleError as error:
        return f"<figure><figcaption>{_said(name)}: {_said(error)}</figcaption></figure>"
    return (
        f"<figure><img alt='skeletons of {_said(name)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{_said(name)}, {len(clip):,} frames. {_said(clip.problem)}</figcaption></figure>"
    )


def _sentences(sentences: Sequence[str]) -> str:
    if not sentences:
        return "<p class='good'>Every clip has a label and a pose file that can be read.</p>"
    return f"<ul>{''.join(f'<li>{_said(sentence)}</li>' for sentence in sentences)}</ul>"
