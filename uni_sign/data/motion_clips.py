"""Clips of talking faces: which there are, their pictures, and what is odd about them.

RAVDESS's layout, ``<root>/{train,test}/Actor_*/*.mp4`` with ``.wav`` beside, the third field of a name telling the
emotion; or a manifest, CSV with titles or JSON lines, of ``video``, ``audio``, ``emotion`` and ``split``, with paths
from its own folder.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uni_sign.data.audio import RATE, audio_facts, loudness, read_audio
from uni_sign.data.safe_pickle import check_file
from uni_sign.data.video import MAX_PIXELS, Video
from uni_sign.errors import InputError

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
SPLITS = ("train", "test")
_OF_RAVDESS = dict(zip(("01", "02", "03", "04", "05", "06", "07", "08"), (4, 4, 3, 5, 0, 2, 1, 6), strict=True))
_RAVDESS = re.compile(r"\d\d-\d\d-(0[1-8])(?:-\d\d){4}", re.ASCII)
_COLUMNS = ("video", "audio", "emotion", "split")
_MAX_BYTES = 1 << 28  # of a manifest
_MAX_CLIP = 8 << 30  # bytes of a clip's pictures
_SMALL = 64  # pixels, enough to see a mouth move
_FARTHEST = 12  # frames that sound is looked for before and after its picture
_LOOKED_AT = 1500  # frames of a clip, a minute: enough to see where its sound lies
_UNSEEN = 2  # frames between sound and picture that nobody sees
_UNEQUAL = 0.5  # seconds that sound and pictures may differ in length
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
            sound, ravdess = video.with_suffix(".wav"), _RAVDESS.fullmatch(video.stem)
            name = video.relative_to(root).with_suffix("").as_posix()
            emotion = EMOTIONS[_OF_RAVDESS[ravdess[1]]] if ravdess else None
            yield MotionClip(name, video, sound if sound.is_file() else None, emotion, split)


def _of_manifest(path: Path) -> Iterator[MotionClip]:
    if check_file(path) > _MAX_BYTES:
        raise InputError(f"{path} holds more than {_MAX_BYTES:,} bytes: split it.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not in UTF-8: save it so.") from None
    for number, row in _json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text):
        told = {column: "" if row.get(column) is None else row[column] for column in _COLUMNS}
        wrong = next((column for column, value in told.items() if not _is_text(value)), None)
        if wrong or not told["video"]:
            raise InputError(f"{path}, row {number}: {wrong or 'video'} is no text: mend it.")
        if told["split"] not in SPLITS:
            raise InputError(f"{path}, row {number}: split is {told['split']!r}, not train or test.")
        if told["emotion"] not in ("", *EMOTIONS):
            raise InputError(f"{path}, row {number}: emotion is {told['emotion']!r}, none of {', '.join(EMOTIONS)}.")
        audio = path.parent / told["audio"] if told["audio"] else None
        yield MotionClip(told["video"], path.parent / told["video"], audio, told["emotion"] or None, told["split"])


def _is_text(value: Any) -> bool:
    """Whether a value is text that a file's name can be."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


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
        if twice := next((title for title in titles if titles.count(title) > 1 and title in _COLUMNS), None):
            raise InputError(f"{path} has more than one column {twice} in its first row: leave one out.")
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
        numbers = video.numbers_at(fps)
        if len(numbers) * size * size * 3 > _MAX_CLIP:
            raise InputError(f"{path} is too long ({len(numbers):,} pictures of {size} x {size}): split it.")
        return _squares(video, numbers, size)


def read_face(path: Path, size: int) -> np.ndarray:
    """The middle square of a video's first picture, brought to (size, size, 3) uint8; raises InputError, naming it."""
    with Video(path) as video:
        return _squares(video, np.zeros(1, np.int64), size)[0]


def _squares(video: Video, numbers: np.ndarray, size: int) -> np.ndarray:
    """The middle squares of frames of these rising numbers, brought to (N, size, size, 3) uint8."""
    wanted, places = np.unique(numbers, return_inverse=True)
    squares = np.empty((len(wanted), size, size, 3), np.uint8)
    for place, (_, image) in enumerate(video.images(wanted)):
        squares[place] = _square(image, size)
    return squares if len(wanted) == len(numbers) else squares[places]


def read_picture(path: Path, size: int) -> np.ndarray:
    """The middle square of a PNG or JPEG, brought to (size, size, 3) uint8; raises InputError for anything else."""
    check_file(path)
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path} has more than {MAX_PIXELS:,} pixels: make it smaller.")
            return _square(np.asarray(image.convert("RGB")), size)
    except InputError:
        raise
    except Exception:  # of damage Pillow raises a dozen types
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
    """Of a clip: frames a second, how many, and how long they last; its sound; where that lies.

    ``sample_rate``, ``sound_seconds``: 0 where ``silence`` says in a sentence why nothing is heard. ``sync_offset``:
    frames that the sound comes after its picture, None where that cannot be told.
    """

    fps: float
    frames: int
    seconds: float
    sample_rate: int = 0
    sound_seconds: float = 0.0
    sync_offset: int | None = None
    silence: str = ""


def clip_facts(clip: MotionClip) -> ClipFacts:
    """What the files of a clip say; raises InputError where its pictures cannot be read."""
    with Video(clip.video) as video:
        fps, frames, seconds = video.fps, len(video), video.seconds
        pictures = _squares(video, video.numbers_at(fps or 1.0)[:_LOOKED_AT], _SMALL)
    sound = clip.audio or clip.video
    try:
        rate, waveform = audio_facts(sound).sample_rate, read_audio(sound)
    except InputError as error:
        return ClipFacts(fps, frames, seconds, silence=str(error))
    offset = sync_offset(pictures, loudness(waveform, len(pictures), fps)) if fps else None
    return ClipFacts(fps, frames, seconds, rate, len(waveform) / RATE, offset)


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


def clip_problems(facts: ClipFacts, min_frames: int = 60, fps: float = 25.0) -> list[str]:
    """What is odd about a clip, a sentence each; ``min_frames`` at ``fps`` are what training takes at a time."""
    problems = []
    if abs(facts.fps - fps) > 0.01 * fps:
        problems.append(f"It has {facts.fps:.2f} frames a second, not {fps:g}: they are resampled.")
    if round(facts.seconds * fps) < min_frames:
        problems.append(f"It lasts {facts.seconds:.2f} s, less than the {min_frames / fps:.2f} s that are needed.")
    if facts.silence:
        return [*problems, facts.silence]
    if facts.sample_rate < RATE:
        problems.append(f"Its sound has {facts.sample_rate} samples a second, fewer than {RATE}: it is dull.")
    if abs(facts.sound_seconds - facts.seconds) > _UNEQUAL:
        problems.append(f"Its sound lasts {facts.sound_seconds:.2f} s, its pictures {facts.seconds:.2f} s.")
    if facts.sync_offset is not None and abs(facts.sync_offset) > _UNSEEN:
        side = "after" if facts.sync_offset > 0 else "before"
        problems.append(f"Its sound comes {abs(facts.sync_offset)} frames {side} its picture.")
    return problems
