"""The Demo's signs as clips of 143 points, each with what it says: what the keypoint pipeline reads."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uni_sign.data.demo.lexicon import SIGNS, Form, Sign
from uni_sign.data.demo.marker import write_once
from uni_sign.data.demo.mbart import write_mbart
from uni_sign.data.demo.motion import animate

_VERSION = 1
_PROTOCOL = 4
_FILES = ("sign_language_keypoints.pkl", "video_sequences.pkl", "text_data.json", "keypoints_data.pkl")
_MBART = "mbart-demo"
_LOST_HAND = 0.03  # chance of a frame and hand
_JITTER = 0.002  # of the picture
_LIPS = slice(71, 91)  # of the 133 points
_FEET = ((19, 17), (22, 20))  # heel and large toe, left and right
# The 33 body points by those of the 133; the mouth's corners and the hands' knuckles among them.
_BODY = (0, 1, 1, 1, 2, 2, 2, 3, 4, 77, 71, 5, 6, 7, 8, 9, 10, 108, 129, 96, 117, 93, 114, 11, 12, 13, 14, 15, 16)


def generate_holistic(root: Path, *, seed: int = 0, clips_per_sign: int = 24) -> Path:
    """Write `keypoint_demo/` under ``root``, or return at once where the same is complete already; the folder of it.

    Every sign of the Demo is performed ``clips_per_sign`` times by as many signers; the last fifth of all clips are
    such as training never sees. Raises InputError where ``root`` cannot be written.
    """
    claim = {"version": _VERSION, "seed": seed, "clips_per_sign": clips_per_sign}
    write = partial(_write, seed=seed, clips_per_sign=clips_per_sign)
    return write_once(Path(root) / "keypoint_demo", claim, "The demo clips", write)


def _write(folder: Path, seed: int, clips_per_sign: int) -> None:
    # Round by round, so that the first four fifths hold every sign.
    chosen = [(sign, take) for take in range(clips_per_sign) for sign in _told_apart()]
    frames: list[dict[str, Any]] = []
    paths: list[str] = []
    sequences, names, texts = [], [], []
    for sign, take in chosen:
        name = f"{sign.gloss.lower()}-{take:03d}"
        clip = _perform(sign, name, seed)
        for number, frame in enumerate(clip):
            frames.append(frame)
            paths.append(f"frames/{name}/{number:04d}.png")
        sequences.append(clip)
        names.append(name)
        texts.append(sign.english_phrase)
    contents: Sequence[Any] = (
        {"keypoints": frames, "image_paths": paths},
        {"sequences": sequences, "names": names},
        None,
        {"keypoints": np.stack([frame["face"] for frame in frames])},
    )
    for file, content in zip(_FILES, contents, strict=True):
        if content is not None:
            (folder / file).write_bytes(pickle.dumps(content, _PROTOCOL))
    (folder / "text_data.json").write_text(json.dumps({"texts": texts}, ensure_ascii=False), encoding="utf-8")
    write_mbart(folder / _MBART, texts, seed)


def _told_apart() -> list[Sign]:
    """Of signs that look alike the first one, for a skeleton shows no more; none that only ends a sentence."""
    by_form: dict[Form, Sign] = {}
    for sign in SIGNS:
        if sign.role != "tag":
            by_form.setdefault(sign.form, sign)
    return list(by_form.values())


def _perform(sign: Sign, name: str, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), 7])
    truth = animate([sign.form], rng, from_rest=True).truth
    points = _holistic(truth + rng.normal(0.0, _JITTER, truth.shape))
    lost = rng.random((len(points), 2)) < _LOST_HAND
    return [
        {
            "face": frame[:68],
            "left_hand": None if gone[0] else frame[68:89],
            "right_hand": None if gone[1] else frame[89:110],
            "pose": frame[110:],
        }
        for frame, gone in zip(points, lost, strict=True)
    ]


def _holistic(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """133 points (T, 133, 2) to 143 with a depth, (T, 143, 3): hands before the body, legs behind it."""
    feet = np.stack([points[:, place] for pair in zip(*_FEET, strict=True) for place in pair], axis=1)
    body = np.concatenate([points[:, list(_BODY)], feet], axis=1)
    parts = ((points[:, 23:91], -0.1), (points[:, 91:112], -0.25), (points[:, 112:133], -0.25), (body, 0.0))
    whole = [np.pad(part, ((0, 0), (0, 0), (0, 1)), constant_values=depth) for part, depth in parts]
    found: NDArray[np.float32] = np.concatenate(whole, axis=1).astype(np.float32)
    return found
