"""Descriptions of single frames: reading them, and laying them along the frames of a clip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from uni_sign.data.safe_pickle import check_file
from uni_sign.errors import InputError, SampleError

MAX_BYTES = 64 << 20  # of one clip's file
MAX_FRAME = 1 << 31

NOT_FRAMES = frozenset({"metadata", "info", "total_frames", "version", "source"})

Fill: TypeAlias = Literal["nearest", "interpolate", "none"]


def read_descriptions(path: str | Path) -> dict[int, str]:
    """The described frames of a clip, in the order of the file: frame number to text.

    The file is JSON: a list of {"description": text} or {"text": text}, where the frame is the place in the list;
    or {frame: text}, as it is or as the value of "frames", "descriptions" or "data". What is not text, or blank, is no
    description, and frames below 0 are none. A byte-order mark is accepted.
    Raises SampleError, naming the file, if it cannot be read, names something that is no frame, or describes nothing.
    """
    path = Path(path)
    try:
        found = {frame: text for frame, text in _entries(_read_json(path)) if text.strip() and frame >= 0}
        "".join(found.values()).encode()  # a lone surrogate would fail in the tokenizer
    except UnicodeEncodeError:
        raise SampleError(f"{path} holds text that is not valid Unicode: write it again as UTF-8.") from None
    except _NotAFrameError as key:
        raise SampleError(f"{path} describes {key}, which is no frame number: number the frames from 0.") from None
    if not found:
        raise SampleError(
            f'{path} holds no description: it needs a list of {{"description": text}} or a dict of {{frame: text}}.'
        )
    return found


class _NotAFrameError(Exception):
    """A key is no frame number; the text is the key."""


def _read_json(path: Path) -> Any:
    try:
        if check_file(path) > MAX_BYTES:
            raise SampleError(f"{path} is larger than {MAX_BYTES:,} bytes: describe one clip a file.")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise SampleError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    except RecursionError:
        raise SampleError(f"{path} nests too deeply: it must be a list or dict of texts.") from None
    except InputError as error:
        raise SampleError(str(error)) from None
    except OSError as error:
        raise SampleError(f"{path} cannot be read ({error.strerror}): check the disk.") from None
    except json.JSONDecodeError as error:
        raise SampleError(f"{path} is not valid JSON ({error}): write it again.") from None
    except ValueError:
        raise SampleError(f"{path} holds a number of thousands of digits: write it again.") from None


def _entries(content: Any) -> Iterator[tuple[int, str]]:
    """Frame and text of whatever looks like a description."""
    if isinstance(content, list):
        for frame, entry in enumerate(content):
            fields = entry if isinstance(entry, dict) else {}
            for name in ("text", "description"):  # of both the latter counts
                if isinstance(fields.get(name), str):
                    yield frame, fields[name]
    elif isinstance(content, dict):
        for key, text in _frame_dict(content).items():
            if isinstance(text, str):
                yield _frame(key), text


def _frame_dict(content: dict[str, Any]) -> dict[str, Any]:
    """The dict of frames: under "frames" or "descriptions", else the file's own, else under "data"."""
    own = {key: text for key, text in content.items() if key not in NOT_FRAMES and isinstance(text, str)}
    places = [content.get("frames"), content.get("descriptions"), own or content.get("data")]
    return next((place for place in places if isinstance(place, dict)), {})


def _frame(key: str) -> int:
    try:
        frame = int(key)
    except ValueError:
        frame = MAX_FRAME
    if frame >= MAX_FRAME:
        raise _NotAFrameError(ascii(key[:40]))
    return frame


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which texts stand at each of T frames, and how they mix.

    `texts`: the distinct ones, in the order of their first use. `left`, `right`, int64 (T,): places in `texts`, -1 for
    none. `weight`, float32 (T,): the share of `right`, 0 where both are the same. `indicator`, float32 (T,): 1 where
    the frame has a description of its own.
    """

    texts: list[str]
    left: np.ndarray
    right: np.ndarray
    weight: np.ndarray
    indicator: np.ndarray


def align(descriptions: dict[int, str], frame_indices: np.ndarray, fill: Fill) -> Alignment | None:
    """Lays descriptions along frames (T,), in any order; None if there is no description at all.

    A frame without a description of its own gets, by `fill`, that of the nearest described frame (on a tie the
    earlier), a mix of those before and after it by distance (where there is but one side: that one), or none.
    """
    if not descriptions:
        return None
    numbers = sorted(descriptions)
    described = np.array(numbers, np.int64)
    wanted = np.asarray(frame_indices, np.int64)
    after = np.searchsorted(described, wanted)
    right = np.minimum(after, len(described) - 1)
    own = described[right] == wanted
    left = np.where(own, right, np.maximum(after - 1, 0))  # beyond the first or last, left and right are the same
    gap = described[right] - described[left]
    way = np.where(gap > 0, wanted - described[left], 0)
    if fill == "nearest":
        left = right = np.where(2 * way > gap, right, left)
    elif fill == "none":
        left = right = np.where(own, right, -1)
    elif fill != "interpolate":
        raise ValueError(f"fill must be nearest, interpolate or none, not {fill!r}")
    texts, left, right = _distinct([descriptions[number] for number in numbers], left, right)
    weight = np.where(left == right, 0, way / np.maximum(gap, 1)).astype(np.float32)
    return Alignment(texts, left, right, weight, own.astype(np.float32))


def _distinct(texts: list[str], left: np.ndarray, right: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The texts that `left` and `right` point at, each once, by first use; and where these point now."""
    place: dict[str, int] = {}
    same = np.array([place.setdefault(text, len(place)) for text in texts] + [-1])  # the last for -1
    pairs = same[np.stack([left, right], axis=1)]
    used, first = np.unique(pairs[pairs >= 0], return_index=True)
    by_first_use = used[np.argsort(first)]
    rank = np.full(len(place) + 1, -1)
    rank[by_first_use] = np.arange(len(by_first_use))
    known = list(place)
    return [known[number] for number in by_first_use], rank[pairs[:, 0]], rank[pairs[:, 1]]
