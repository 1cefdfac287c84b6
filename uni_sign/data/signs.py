"""Clips to training batches: poses to parts, frames to descriptions, targets to token ids."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from uni_sign.data.arrow_shards import ABSENT, UNREADABLE
from uni_sign.data.crop_shards import CropShards
from uni_sign.data.crops import HandCrops, clip_crops, from_video, no_crops
from uni_sign.data.descriptions import align, read_descriptions
from uni_sign.data.hands import HANDS, hand_planes
from uni_sign.data.samples import Sample, Samples
from uni_sign.data.shards import Shards
from uni_sign.data.target_ids import target_ids
from uni_sign.data.text_cache import TextFeatures
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.wholebody import PARTS, choose_frames, normalized_parts, read_pose, used_planes
from uni_sign.errors import SampleError

Fill = Literal["nearest", "interpolate", "none"]
Parts = dict[str, np.ndarray]
MAX_TEXT_TOKENS = 256
# Texts of a batch go through a trainable encoder in groups alike in length, of so many padded tokens at the most.
TEXT_GROUPS = 4
_TOKENS_PER_GROUP = 4096
IGNORED = -100
_NO_PATH = Path()
_REMEMBERED_TEXTS = 65536


@dataclass(frozen=True)
class Key:
    """What the sampler asks for: clip ``index`` in ``epoch``; an uncounted clip only fills a place."""

    epoch: int
    index: int
    counted: bool = True


@dataclass(frozen=True)
class Unusable:
    """A clip that could not be read, and why."""

    problem: str


@dataclass(frozen=True)
class FrameTexts:
    """Descriptions of a clip's T frames: distinct texts, and per frame the two it lies between (-1: none)."""

    texts: list[str]
    left: np.ndarray
    right: np.ndarray
    weight: np.ndarray
    indicator: np.ndarray


@dataclass(frozen=True)
class Clip:
    """One clip ready to be batched: parts (T, V, 3) float32, token ids, and its descriptions where used."""

    key: Key
    sample: Sample
    parts: Parts
    labels: list[int]
    prefix: list[int]
    described: FrameTexts | None
    crops: dict[str, HandCrops] | None = None


@dataclass(frozen=True)
class ClipSettings:
    """How clips are read: ``descriptions`` off leaves out all text work, ``rgb_support`` off all videos."""

    max_length: int
    max_target_length: int
    seed: int
    training: bool
    descriptions: bool = False
    description_fill: Fill = "nearest"
    text_dropout_p: float = 0.0
    rgb_support: bool = False


def prompt(language: str) -> str:
    """The prefix that tells mT5 what to write."""
    return f"Translate sign language video to {language}: "


class SignDataset(torch.utils.data.Dataset[Clip | Unusable]):
    """Clips by `Key`. Every random draw depends on seed, epoch and clip alone: not on process or worker.

    Poses come from ``shards`` where these hold the clip as its file is now, else from the file, with the same result;
    hand crops likewise from ``crop_shards``, else from the video. ``kept_ids``: see `target_ids`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        tokenizer: Tokenizer,
        settings: ClipSettings,
        shards: Shards | None = None,
        crop_shards: CropShards | None = None,
        kept_ids: Path | None = None,
    ) -> None:
        self.samples = samples if isinstance(samples, Samples) else Samples(samples)
        self.settings = settings
        self.labels = target_ids(self.samples, tokenizer, kept_ids)
        self.cut_targets = int((self.labels.lengths > settings.max_target_length).sum())
        languages = sorted(self.samples.languages.distinct)
        self.prefixes = {language: tokenizer.encode(prompt(language)) for language in languages}
        self._shards = shards
        self.rows = shards.locate(self.samples) if shards else np.full(len(self.samples), ABSENT)
        self._crop_shards = crop_shards
        self.crop_rows = crop_shards.locate(self.samples) if crop_shards else np.full(len(self.samples), ABSENT)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def sizes(self) -> list[int]:
        """A measure of each clip's length that needs no reading, the same for all: frames, else bytes of its file.

        Frames if the shards know of all clips; what is unreadable counts like the longest.
        """
        known = (self.rows >= 0) | (self.rows == UNREADABLE)
        if self._shards is None or not known.all():
            return self.samples.sizes
        longest = self.settings.max_length
        frames = np.where(self.rows >= 0, self._shards.frames[np.maximum(self.rows, 0)], longest)
        sizes: list[int] = np.minimum(frames, longest).tolist()
        return sizes

    def __getitem__(self, key: Key) -> Clip | Unusable:
        try:
            return self._clip(key)
        except SampleError as error:
            return Unusable(str(error))

    def _clip(self, key: Key) -> Clip:
        sample, settings = self.samples[key.index], self.settings
        row = int(self.rows[key.index])
        if self._shards is not None and row >= 0:
            parts, frames, hands, end = self._prepared(self._shards, row, key)
        else:
            parts, frames, hands, end = self._from_file(sample.pose_path, key)
        return Clip(
            key=key,
            sample=sample,
            parts=parts,
            labels=_cut(self.labels[key.index], settings.max_target_length),
            prefix=self.prefixes[sample.language],
            described=self._describe(sample, frames, key) if settings.descriptions else None,
            crops=self._crops(sample, frames, hands, end, key) if settings.rgb_support else None,
        )

    def _prepared(self, shards: Shards, row: int, key: Key) -> tuple[Parts, np.ndarray, Parts, int]:
        """Parts of the chosen frames, from the shards; these frames' numbers in the video; the hands' planes; and the
        number behind the clip's last frame.
        """
        count, start = int(shards.frames[row]), int(shards.starts[row])
        chosen = self._chosen(count, key)
        if len(chosen) == count and not self.settings.rgb_support:
            return shards.parts(row), chosen + start, {}, start + count
        planes = shards.points(row, chosen)
        hands = hand_planes(planes) if self.settings.rgb_support else {}
        parts = shards.parts(row) if len(chosen) == count else _as_float32(normalized_parts(planes))
        return parts, chosen + start, hands, start + count

    def _from_file(self, path: Path, key: Key) -> tuple[Parts, np.ndarray, Parts, int]:
        """The same from the clip's own file."""
        pose = read_pose(path)
        chosen = self._chosen(len(pose.keypoints), key)
        keypoints, scores = pose.keypoints, pose.scores
        if len(chosen) < len(keypoints):
            keypoints, scores = keypoints[chosen], scores[chosen]
        planes = used_planes(keypoints, scores)
        hands = hand_planes(planes) if self.settings.rgb_support else {}
        end = pose.start + len(pose.keypoints)
        return _as_float32(normalized_parts(planes)), chosen + pose.start, hands, end

    def _crops(self, sample: Sample, frames: np.ndarray, hands: Parts, end: int, key: Key) -> dict[str, HandCrops]:
        settings = self.settings
        draw = np.random.default_rng([settings.seed, key.epoch, key.index, 1]) if settings.training else None
        row = int(self.crop_rows[key.index])
        assert sample.video_path is not None
        kept = self._crop_shards
        source = kept.source(row) if kept is not None and row >= 0 else from_video(sample.video_path, end)
        try:
            return clip_crops(hands, frames, source, draw)
        except SampleError as error:
            raise SampleError(f"Hand crops of {sample.pose_path}: {error}") from None

    def _chosen(self, count: int, key: Key) -> np.ndarray:
        settings, draw = self.settings, None
        if settings.training and count > settings.max_length:
            # Python's generator, whose choice the published training made; numpy's for all else.
            draw = random.Random(f"{settings.seed} {key.epoch} {key.index}")
        return choose_frames(count, settings.max_length, draw)

    def _describe(self, sample: Sample, frames: np.ndarray, key: Key) -> FrameTexts:
        count, settings = len(frames), self.settings
        found = read_descriptions(sample.description_path) if sample.description_path else {}
        alignment = align(found, frames, settings.description_fill)
        if alignment is None:
            nowhere = np.full(count, -1, np.int64)
            zeros = np.zeros(count, np.float32)
            return FrameTexts([], nowhere, nowhere, zeros, zeros)
        left, right, indicator = alignment.left, alignment.right, alignment.indicator
        weight = alignment.weight
        if settings.training and settings.text_dropout_p > 0:
            rng = np.random.default_rng([settings.seed, key.epoch, key.index])
            dropped = (indicator > 0) & (rng.random(count) < settings.text_dropout_p)
            left, right = np.where(dropped, -1, left), np.where(dropped, -1, right)
            weight, indicator = np.where(dropped, 0, weight), np.where(dropped, 0, indicator)
        return FrameTexts(alignment.texts, left, right, weight, indicator)


def _as_float32(parts: Parts) -> Parts:
    return {name: part.astype(np.float32, copy=False) for name, part in parts.items()}


def _cut(ids: list[int], length: int) -> list[int]:
    """At most ``length`` ids, the end-of-sentence id staying last."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


class Collate:
    """Clips to one batch of packed tensors (see `uni_sign.models.uni_sign.UniSign`); picklable for workers.

    Identical texts of a batch are encoded once. ``features``: the frozen encoder's cache; without it the batch
    carries token ids in `TEXT_GROUPS` or more length-sorted groups, each padded to its own longest.
    """

    def __init__(
        self, tokenizer: Tokenizer, descriptions: bool, features: TextFeatures | None, rgb_support: bool = False
    ) -> None:
        self.descriptions, self.features, self.rgb_support = descriptions, features, rgb_support
        self._tokenizer = tokenizer
        self._known_ids: dict[str, list[int]] = {}

    def __call__(self, items: Sequence[Clip | Unusable]) -> dict[str, Any]:
        problems = [item.problem for item in items if isinstance(item, Unusable)]
        clips = [item for item in items if isinstance(item, Clip)] or [_blank()]
        lengths = np.array([len(clip.parts["body"]) for clip in clips])
        batch: dict[str, Any] = {
            "names": [clip.sample.name for clip in clips],
            "indices": [clip.key.index if clip.key.counted else -1 for clip in clips],
            "problems": problems,
            # Either all clips count, or there is one that only fills this rank's place.
            "counted": any(clip.key.counted for clip in clips),
            "lengths": lengths.tolist(),
            **_targets(clips),
            **{f"parts.{part}": packed([clip.parts[part] for clip in clips]) for part in PARTS},
            **_places([len(clip.prefix) for clip in clips], lengths),
            "prefix_ids": torch.tensor([i for clip in clips for i in clip.prefix]),
        }
        if self.descriptions:
            batch.update(self._texts(clips))
        if self.rgb_support:
            batch.update(_packed_crops(clips, np.cumsum(lengths) - lengths))
        return batch

    def _texts(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Per-frame rows into the table of distinct texts, row 0 of which is "no text"."""
        row_of: dict[str, int] = {}
        left, right = [], []
        for clip in clips:
            described = clip.described
            assert described is not None
            places = np.unique(np.concatenate([described.left, described.right]))
            used = places[places >= 0].tolist()
            for i in used:
                row_of.setdefault(described.texts[i], len(row_of))
            rows = np.zeros(len(described.texts) + 1, np.int64)
            for i in used:
                rows[i] = row_of[described.texts[i]] + 1
            left.append(rows[described.left])
            right.append(rows[described.right])
        frames = [clip.described for clip in clips if clip.described is not None]
        batch: dict[str, Any] = {
            "text_weight": torch.from_numpy(np.concatenate([f.weight for f in frames]).astype(np.float32)),
            "text_indicator": torch.from_numpy(np.concatenate([f.indicator for f in frames]).astype(np.float32)),
        }
        texts, order = list(row_of), np.arange(len(row_of) + 1)
        if self.features is not None:
            batch["text_features"] = torch.from_numpy(self.features.lookup(texts))
        else:
            batch["text_groups"], order = self._groups(texts)
        batch["text_left"] = torch.from_numpy(order[np.concatenate(left)])
        batch["text_right"] = torch.from_numpy(order[np.concatenate(right)])
        return batch

    def _encode(self, text: str) -> list[int]:
        if text not in self._known_ids:
            if len(self._known_ids) >= _REMEMBERED_TEXTS:
                self._known_ids.clear()
            self._known_ids[text] = self._tokenizer.encode(text, MAX_TEXT_TOKENS)
        return self._known_ids[text]

    def _groups(self, texts: Sequence[str]) -> tuple[list[Tensor], np.ndarray]:
        """Token ids in length-sorted groups, and the table row of each text after sorting (0 stays 0)."""
        ids = [self._encode(text) for text in texts]
        by_length = np.argsort([len(i) for i in ids], kind="stable") if ids else np.zeros(0, np.int64)
        groups, row, rows = [], 1, np.zeros(len(ids) + 1, np.int64)
        for members in np.array_split(by_length, TEXT_GROUPS):
            # An empty group still makes its call, on an empty text: the same graph on every rank.
            texts_of_group = [ids[i] for i in members] or [self._encode("")]
            rows[members + 1] = row + np.arange(len(members))
            row += len(texts_of_group)
            size = max(1, _TOKENS_PER_GROUP // len(texts_of_group[-1]))
            groups += [_padded(texts_of_group[i : i + size], 0) for i in range(0, len(texts_of_group), size)]
        return groups, rows


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def _targets(clips: Sequence[Clip]) -> dict[str, Tensor]:
    """Labels (B, L), and the flat places of those that are targets: found here, where a GPU need not be waited for."""
    labels = _padded([clip.labels if clip.key.counted else [IGNORED] * len(clip.labels) for clip in clips], IGNORED)
    return {"labels": labels, "target_position": (labels.flatten() != IGNORED).nonzero()[:, 0]}


def packed(parts: Sequence[np.ndarray]) -> Tensor:
    """Parts (T, V, 3) one after the other, (N, V, 3), in planes as they come: several times faster to copy."""
    planes = np.empty((3, sum(map(len, parts)), parts[0].shape[1]), np.float32)
    np.concatenate([part.transpose(2, 0, 1) for part in parts], axis=1, out=planes)
    return torch.from_numpy(planes.transpose(1, 2, 0))


def _places(prefix_lengths: Sequence[int], frame_lengths: np.ndarray) -> dict[str, Tensor]:
    """Flat places of prefix tokens and frames in the (B, S) input, each clip from the left, and its mask."""
    prefix = np.asarray(prefix_lengths)
    total = prefix + frame_lengths
    width = int(total.max())
    starts = np.arange(len(total)) * width
    return {
        "prefix_position": torch.from_numpy(_runs(starts, prefix)),
        "frame_position": torch.from_numpy(_runs(starts + prefix, frame_lengths)),
        "attention_mask": torch.from_numpy((np.arange(width) < total[:, None]).astype(np.int64)),
    }


def _packed_crops(clips: Sequence[Clip], starts: np.ndarray) -> dict[str, Tensor]:
    """Of each hand the crops of all clips, and the packed frames that they are of (see `fused_hands`)."""
    batch: dict[str, Tensor] = {}
    for hand in HANDS:
        crops = [clip.crops[hand] if clip.crops else no_crops() for clip in clips]
        places = [of_clip.places + start for of_clip, start in zip(crops, starts.tolist(), strict=True)]
        batch[f"crops.{hand}"] = torch.from_numpy(np.concatenate([of_clip.images for of_clip in crops]))
        batch[f"crop_points.{hand}"] = torch.from_numpy(np.concatenate([of_clip.points for of_clip in crops]))
        batch[f"crop_place.{hand}"] = torch.from_numpy(np.concatenate(places))
    return batch


def _runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each run, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _blank() -> Clip:
    """One empty frame that counts for nothing: stands where every clip of a rank's batch was unusable."""
    nothing = np.zeros(1, np.float32)
    nowhere = np.full(1, -1, np.int64)
    return Clip(
        key=Key(0, -1, counted=False),
        sample=Sample("", _NO_PATH, None, "", "", 0),
        parts={part: np.zeros((1, len(points), 3), np.float32) for part, points in PARTS.items()},
        labels=[1],
        prefix=[1],
        described=FrameTexts([], nowhere, nowhere, nothing, nothing),
    )
