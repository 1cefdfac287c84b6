"""Hands cut out of a corpus's videos once: Arrow files of many clips each, read by memory mapping.

A row is a clip: name, size and time of change of its pose file, and those of its video; the size of its frames; a
table of patches, six numbers each (hand, frame, left, top, width, bytes); their pictures, one behind the other, JPEG
where the width is 0, else pixels as they are; or the sentence that says why there are none. A patch holds, of a frame
in which a hand is seen, as much as the largest square that could be drawn there: what is cut out of it is what would be
cut out of the frame.
"""

import io
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from uni_sign.data.arrow_shards import (
    ABSENT,
    OUTDATED,
    UNREADABLE,
    MappedFiles,
    places_in,
    read_batches,
    shard_files,
)
from uni_sign.data.crops import Locate, Patch, Patches, Source, cut_patches, shares_at, squares
from uni_sign.data.hands import HANDS, hand_planes, seen_frames
from uni_sign.data.samples import Sample, fingerprint
from uni_sign.data.video import MAX_PIXELS, Video
from uni_sign.data.wholebody import read_pose, used_planes
from uni_sign.errors import SampleError

SCHEMA = pa.schema(
    [
        pa.field("name", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("video_size", pa.int64(), nullable=False),
        pa.field("video_mtime_ns", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("table", pa.large_binary(), nullable=False),
        pa.field("pictures", pa.large_binary(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
    ],
    metadata={"uni_sign.layout": "hand patches 2"},
)
_NUMBERS = ("size", "mtime_ns", "video_size", "video_mtime_ns", "width", "height")
_MARGIN = 2  # pixels: corners are cut off to whole ones
_LONGEST_SIDE = 1 << 14  # of a frame
_LINE = 6  # numbers of a line of the table
Fingerprint = tuple[bytes, int, int, int, int]


class CropRow(NamedTuple):
    """A clip as a shard holds it, column by column."""

    name: bytes
    size: int
    mtime_ns: int
    video_size: int
    video_mtime_ns: int
    width: int = 0
    height: int = 0
    table: bytes = b""
    pictures: bytes = b""
    problem: str = ""


def crop_fingerprint(sample: Sample) -> Fingerprint:
    """What tells the pose file and the video of a clip from others, and from themselves after a change."""
    assert sample.video_path is not None
    try:
        state = sample.video_path.stat()
    except OSError:
        return (*fingerprint(sample), -1, -1)
    return (*fingerprint(sample), state.st_size, state.st_mtime_ns)


def crop_row_of(sample: Sample, quality: int) -> CropRow:
    """Cuts the hands out of a clip's video; ``quality``: of JPEG, 1 to 100, or 0: pixels as they are."""
    own = crop_fingerprint(sample)
    assert sample.video_path is not None
    try:
        pose = read_pose(sample.pose_path)
        hands = hand_planes(used_planes(pose.keypoints, pose.scores))
        with Video(sample.video_path, pose.start + len(pose.scores)) as video:
            return _cropped(own, hands, pose.start, video, quality)
    except SampleError as error:
        return CropRow(*own, problem=f"Hand crops of {sample.pose_path}: {error}")


def _cropped(own: Fingerprint, hands: Mapping[str, np.ndarray], start: int, video: Video, quality: int) -> CropRow:
    places = {hand: seen_frames(hands[hand][2]) for hand in HANDS}
    locate = partial(squares, shares_at(hands, places))
    table: list[tuple[int, ...]] = []
    pictures: list[bytes] = []
    size = (0, 0)
    numbers = {hand: places[hand] + start for hand in HANDS}
    for hand, number, patch, of_frame in cut_patches(video, numbers, locate, _MARGIN):
        size = of_frame
        pictures.append(_picture(patch.image, quality))
        width = 0 if quality else patch.image.width
        table.append((HANDS.index(hand), number, patch.left, patch.top, width, len(pictures[-1])))
    listed = np.array(table, np.int64).reshape(-1, _LINE)
    return CropRow(*own, *size, listed.tobytes(), b"".join(pictures))


def _picture(image: Image.Image, quality: int) -> bytes:
    if not quality or not image.width * image.height:
        return image.tobytes()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


class CropShards:
    """The crops of all clips in the shards of some folders; raises InputError, naming the file, for a damaged one."""

    def __init__(self, *folders: Path) -> None:
        self.folder, self.files = ", ".join(map(str, folders)), shard_files(*folders)
        of_files = [read_batches(path, SCHEMA, _read_batch, "hand crops") for path in self.files]
        found = [batch for batches in of_files for batch in batches]
        counts = [sum(len(batch["name"]) for batch in batches) for batches in of_files]
        self._shard_of = np.repeat(np.arange(len(self.files)), counts)
        self._columns: dict[str, Any] = {
            name: np.concatenate([np.zeros(0, np.int64), *(batch[name] for batch in found)]) for name in _COLUMNS
        }
        self._names = [name for batch in found for name in batch["name"]]
        self._problems = [problem for batch in found for problem in batch["problem"]]
        self._maps = MappedFiles(self.files)

    def locate(self, samples: Iterable[Sample]) -> np.ndarray:
        """The row of each clip, int64, or `ABSENT`, `OUTDATED` or `UNREADABLE`."""
        columns = [self._columns[name].tolist() for name in _NUMBERS[:4]]
        usable = self._columns["usable"].tolist()
        keys = list(zip(self._names, *columns, strict=True))
        rows = {key: row if good else UNREADABLE for row, (key, good) in enumerate(zip(keys, usable, strict=True))}
        names = set(self._names)
        wanted = (crop_fingerprint(sample) for sample in samples)
        return np.array([rows.get(key, OUTDATED if key[0] in names else ABSENT) for key in wanted], np.int64)

    def problems(self, samples: Iterable[Sample]) -> list[str]:
        """The sentences that are recorded for those of these clips that are unreadable."""
        columns = [self._columns[name].tolist() for name in _NUMBERS[:4]]
        keys = zip(self._names, *columns, strict=True)
        said = {key: text for key, text in zip(keys, self._problems, strict=True) if text}
        listed = list(samples)
        rows = self.locate(listed).tolist()
        return [said[crop_fingerprint(sample)] for sample, row in zip(listed, rows, strict=True) if row == UNREADABLE]

    def source(self, row: int) -> Source:
        """Where the pixels of a clip come from, for `clip_crops`; what is damaged is a SampleError."""
        columns = {name: int(self._columns[name][row]) for name in _COLUMNS}
        path = self.files[int(self._shard_of[row])]

        def read(numbers: Mapping[str, np.ndarray], locate: Locate) -> Patches:
            if locate(columns["width"], columns["height"]).side == 0:
                return Patches(dict.fromkeys(HANDS, ()), columns["width"], columns["height"])
            data = self._maps[int(self._shard_of[row])]
            table = np.ndarray((columns["table_bytes"] // (8 * _LINE), _LINE), np.int64, data, columns["table_at"])
            ends = columns["pictures_at"] + np.cumsum(table[:, -1])
            found = {(hand, frame): i for i, (hand, frame) in enumerate(table[:, :2].tolist())}
            try:
                of_hand = {
                    hand: [
                        _patch(data, table[i], int(ends[i])) for i in (found[place, n] for n in numbers[hand].tolist())
                    ]
                    for place, hand in enumerate(HANDS)
                }
            except (KeyError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise SampleError(
                    f"{path} lacks a crop that is needed, or holds a broken one ({error}): delete it and run "
                    "`uni-sign prepare --crops` again."
                ) from None
            return Patches(of_hand, columns["width"], columns["height"])

        return read


def _patch(data: Any, line: np.ndarray, end: int) -> Patch:
    _, _, left, top, width, size = line.tolist()
    if size == 0:
        return Patch(Image.new("RGB", (0, 0)), left, top)
    pixels: bytes = data[end - size : end]
    if width:
        return Patch(Image.frombuffer("RGB", (width, size // (3 * width)), pixels, "raw", "RGB", 0, 1), left, top)
    image = Image.open(io.BytesIO(pixels), formats=("JPEG",))
    if image.width * image.height > MAX_PIXELS or image.mode != "RGB":
        raise ValueError("no picture in colour, or too large")
    image.load()
    return Patch(image, left, top)


_COLUMNS = (*_NUMBERS, "table_at", "table_bytes", "pictures_at", "usable")


def _read_batch(batch: pa.RecordBatch, whole: pa.Buffer) -> dict[str, Any]:
    index: dict[str, Any] = {name: batch.column(name).to_numpy() for name in _NUMBERS}
    index["name"] = batch.column("name").to_pylist()
    index["problem"] = batch.column("problem").to_pylist()
    index["usable"] = np.array([not problem for problem in index["problem"]], np.int64)
    index["table_at"], index["table_bytes"] = places_in(batch.column("table"), whole)
    index["pictures_at"], pictures = places_in(batch.column("pictures"), whole)
    sides = np.stack([index["width"], index["height"]])
    if (index["table_bytes"] % (8 * _LINE)).any() or (sides < 0).any() or (sides > _LONGEST_SIDE).any():
        raise ValueError("sizes disagree")
    for at, size, total in zip(
        index["table_at"].tolist(), index["table_bytes"].tolist(), pictures.tolist(), strict=True
    ):
        table = np.frombuffer(whole, np.uint8, size, at).view(np.int64).reshape(-1, _LINE)
        width, taken = table[:, 4], table[:, 5]
        pixels = np.where(width > 0, taken % (3 * np.maximum(width, 1)), 0)
        if (table < 0).any() or (table >= 1 << 40).any() or pixels.any() or int(taken.sum()) != total:
            raise ValueError("pictures outside their row")
    return index


def open_crop_shards(*folders: Path) -> CropShards | None:
    """The crops in these folders, or None where there are none."""
    shards = CropShards(*folders)
    return shards if shards.files else None


def told_crops(folder: str, rows: Mapping[str, np.ndarray]) -> str:
    """How many clips' crops come from the shards, in one sentence."""
    shares = ", ".join(f"{int((found >= 0).sum())} of {len(found)} {split}" for split, found in rows.items())
    outdated = sum(int((found == OUTDATED).sum()) for found in rows.values())
    more = f"; {outdated} have changed since, run `uni-sign prepare --crops` again" if outdated else ""
    return f"Hand crops from {folder}: {shares} clips{more}; the others from their videos."
