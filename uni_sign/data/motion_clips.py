"""Clips of talking faces: which there are, their pictures, and what is odd about them.

RAVDESS's layout, ``<root>/{train,test}/Actor_*/*.mp4`` with ``.wav`` beside, the third field of a name telling the
emotion; or a manifest, CSV with titles or JSON lines, of ``video``, ``audio``, ``emotion`` and ``split``, with paths
from its own folder.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uni_sign.data.audio import loudness, read_audio, sample_rate
from uni_sign.data.safe_pickle import check_file
from uni_sign.data.video import MAX_PIXELS, Video
from uni_sign.errors import InputError

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
SPLITS = ("train", "test")
_OF_RAVDESS = dict(zip(("01", "02", "03", "04", "05", "06", "07", "08"), (4, 4, 3, 5, 0, 2, 1, 6), strict=True))
_COLUMNS = ("video", "audio", "emotion", "split")
_MAX_BYTES = 1 << 28  # of a manifest
_MAX_CLIP = 8 << 30  # bytes of a clip's pictures
_SMALL = 64  # pixels, enough to see a mouth move
_FARTHEST = 12  # frames that sound is looked for before and after its picture
_SURE = 0.3  # a correlation below it tells nothing


@dataclass(frozen=True)
class MotionClip:
    """A clip of a face: its files, the emotion where it is known, and its split; ``audio`` None: the video's own."""

    name: str
    video: Path
    audio: Path | None
    emotion: str | None
    split: str


def read_motion_clips(source: Path) -> list[MotionClip]:
    """All clips of a folder or of a manifest, by name; raises InputError where there is none, or a row is wrong."""
    clips = sorted(_of_folder(source) if source.is_dir() else _of_manifest(source), key=lambda clip: clip.name)
    if not clips:
        raise InputError(f"{source} holds no clips: train/ and test/ with Actor_*/*.mp4 are looked for.")
    for before, clip in pairwise(clips):
        if before.name == clip.name:
            raise InputError(f"{source} names {clip.name} twice: leave one out.")
    return clips


def _of_folder(root: Path) -> Iterator[MotionClip]:
    for split in SPLITS:
        for video in sorted((root / split).glob("Actor_*/*.mp4")):
            sound, fields = video.with_suffix(".wav"), video.stem.split("-")
            number = _OF_RAVDESS.get(fields[2]) if len(fields) > 2 else None
            name = video.relative_to(root).with_suffix("").as_posix()
            emotion = None if number is None else EMOTIONS[number]
            yield MotionClip(name, video, sound if sound.is_file() else None, emotion, split)


def _of_manifest(path: Path) -> Iterator[MotionClip]:
    if check_file(path) > _MAX_BYTES:
        raise InputError(f"{path} holds more than {_MAX_BYTES:,} bytes: split it.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not in UTF-8: save it so.") from None
    for number, row in _json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text):
        told = {column: row.get(column) or "" for column in _COLUMNS}
        wrong = next((column for column, value in told.items() if not isinstance(value, str) or "\0" in value), None)
        if wrong or not told["video"]:
            raise InputError(f"{path}, row {number}: {wrong or 'video'} is no text: mend it.")
        if told["split"] not in SPLITS:
            raise InputError(f"{path}, row {number}: split is {told['split']!r}, not train or test.")
        if told["emotion"] not in ("", *EMOTIONS):
            raise InputError(f"{path}, row {number}: emotion is {told['emotion']!r}, none of {', '.join(EMOTIONS)}.")
        audio = path.parent / told["audio"] if told["audio"] else None
        yield MotionClip(told["video"], path.parent / told["video"], audio, told["emotion"] or None, told["split"])


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: it is no JSON object: mend it.")
        yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        titles = [title.strip() for title in next(reader, [])]
        if not {"video", "split"} <= set(titles):
            raise InputError(f"{path} has no columns video and split in its first row: a manifest has them.")
        for fields in reader:
            if not any(fields):
                continue
            if len(fields) != len(titles):
                raise InputError(f"{path}, row {reader.line_num}: {len(fields)} fields, not {len(titles)}: mend it.")
            yield reader.line_num, dict(zip(titles, map(str.strip, fields), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, row {reader.line_num}: it breaks the CSV convention ({error}): mend it.") from None


def read_faces(path: Path, size: int, fps: float = 25.0) -> np.ndarray:
    """A video's pictures at ``fps`` a second, their middle square brought to (T, size, size, 3) uint8.

    Raises InputError, naming the file, where it cannot be read, or is too long for memory.
    """
    with Video(path) as video:
        numbers, places = np.unique(video.numbers_at(fps), return_inverse=True)
        if len(places) * size * size * 3 > _MAX_CLIP:
            raise InputError(f"{path} is too long ({len(places):,} pictures of {size} x {size}): split it.")
        pictures = np.stack([_square(image, size) for _, image in video.images(numbers)])
    return pictures[places]


def read_picture(path: Path, size: int) -> np.ndarray:
    """The middle square of a PNG or JPEG, brought to (size, size, 3) uint8; raises InputError for anything else."""
    check_file(path)
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path} has more than {MAX_PIXELS:,} pixels: make it smaller.")
            return _square(np.asarray(image.convert("RGB")), size)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError):
        raise InputError(f"{path} is no PNG or JPEG that can be read: get it anew.") from None


def _square(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    how = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(square)).resize((size, size), how))


@dataclass(frozen=True)
class ClipFacts:
    """Of a clip: frames a second and how many, its sound's samples a second (0: no sound), and its offset.

    ``sync_offset``: frames that the sound comes after its picture, None where that cannot be told.
    """

    fps: float
    frames: int
    sample_rate: int
    sync_offset: int | None


def clip_facts(clip: MotionClip) -> ClipFacts:
    """What the files of a clip say; raises InputError where its pictures cannot be read."""
    with Video(clip.video) as video:
        fps, frames = video.fps, len(video)
        pictures = np.stack([_square(image, _SMALL) for _, image in video.images(np.arange(frames))])
    sound = clip.audio or clip.video
    try:
        rate = sample_rate(sound)
        heard = loudness(read_audio(sound), frames, fps or 25.0)
    except InputError:
        return ClipFacts(fps, frames, 0, None)
    return ClipFacts(fps, frames, rate, sync_offset(pictures, heard))


def sync_offset(pictures: np.ndarray, heard: np.ndarray) -> int | None:
    """Frames that sound, by its loudness (T,), comes after pictures (T, S, S, 3); None where that cannot be told.

    How fast the lower middle of the picture changes is laid over how fast the loudness does.
    """
    size = pictures.shape[1]
    mouth = pictures[:, size // 2 : size * 7 // 8, size // 4 : size * 3 // 4].astype(np.float32).mean(axis=3)
    moves, changes = np.abs(np.diff(mouth, axis=0)).mean(axis=(1, 2)), np.abs(np.diff(heard))
    if len(moves) < 4 * _FARTHEST:
        return None
    middle = slice(_FARTHEST, len(moves) - _FARTHEST)
    lags = np.arange(-_FARTHEST, _FARTHEST + 1)
    shifted = np.stack([np.roll(changes, -lag)[middle] for lag in lags])
    moved = moves[middle] - moves[middle].mean()
    shifted = shifted - shifted.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(shifted, axis=1) * np.linalg.norm(moved)
    found = np.divide(shifted @ moved, norms, out=np.zeros(len(lags)), where=norms > 0)
    best = int(found.argmax())
    return int(lags[best]) if found[best] > _SURE else None


def clip_problems(facts: ClipFacts, fps: float = 25.0, least: int = 60) -> list[str]:
    """What is odd about a clip, a phrase each."""
    problems = []
    if abs(facts.fps - fps) > 0.01 * fps:
        problems.append(f"{facts.fps:.2f} frames a second, not {fps:g}")
    if facts.frames < least:
        problems.append(f"{facts.frames} frames, fewer than {least}")
    if not facts.sample_rate:
        problems.append("no sound that can be read")
    elif facts.sample_rate < 16_000:
        problems.append(f"sound of {facts.sample_rate} samples a second, fewer than 16000")
    if facts.sync_offset is not None and abs(facts.sync_offset) > 2:
        problems.append(f"its sound comes {facts.sync_offset} frames after its picture")
    return problems
