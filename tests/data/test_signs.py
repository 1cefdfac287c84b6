"""Clips to batches: the packed layout, the table of texts, and draws that depend on seed, epoch and clip alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uni_sign.data.samples import Sample
from uni_sign.data.signs import (
    IGNORED,
    MAX_TEXT_TOKENS,
    TEXT_GROUPS,
    Clip,
    ClipSettings,
    Collate,
    FrameTexts,
    Key,
    SignDataset,
    Unusable,
    prompt,
)
from uni_sign.data.text_cache import TextFeatures
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.wholebody import PARTS, read_pose, split_parts

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENIZER = Tokenizer(GOLDEN / "02_tokenizer")
SETTINGS = ClipSettings(max_length=8, max_target_length=6, seed=3, training=True)
DESCRIBED = replace(SETTINGS, descriptions=True)


def write_clip(
    folder: Path,
    name: str,
    frames: int,
    descriptions: dict[int, str] | None = None,
    language: str = "English",
    **extras: int,
) -> Sample:
    """Pose pickle, with ``extras`` in it, and description JSON of a clip that is well seen."""
    rng = np.random.default_rng(len(name) + frames)
    pose = {
        "keypoints": [rng.uniform(0.2, 0.8, (1, 133, 2)) for _ in range(frames)],
        "scores": [rng.uniform(0.5, 1, (1, 133)) for _ in range(frames)],
        **extras,
    }
    path = folder / f"{name}.pkl"
    path.write_bytes(pickle.dumps(pose))
    told = None
    if descriptions is not None:
        told = folder / f"{name}.json"
        told.write_text(json.dumps({"frames": descriptions}))
    return Sample(name, path, told, f"my {name} is blue", language, path.stat().st_size)


def dataset(samples: Sequence[Sample], settings: ClipSettings = SETTINGS) -> SignDataset:
    return SignDataset(samples, TOKENIZER, settings)


def clip_of(data: SignDataset, index: int = 0, epoch: int = 0, counted: bool = True) -> Clip:
    clip = data[Key(epoch, index, counted)]
    assert isinstance(clip, Clip)
    return clip


def same(a: Clip, b: Clip) -> bool:
    left, right = (c.described.left.tolist() if c.described else None for c in (a, b))
    return (
        all(np.array_equal(a.parts[part], b.parts[part]) for part in PARTS)
        and (a.labels, a.prefix) == (b.labels, b.prefix)
        and left == right
    )


def handmade(frames: int, texts: Sequence[str | None], counted: bool = True, prefix: Sequence[int] = (5, 1)) -> Clip:
    """A clip with a text a frame, None for none."""
    distinct = list(dict.fromkeys(text for text in texts if text is not None))
    places = np.array([-1 if text is None else distinct.index(text) for text in texts])
    shown = (places >= 0).astype(np.float32)
    return Clip(
        key=Key(0, frames, counted),
        sample=Sample(f"clip{frames}", Path(), None, "", "English", 0),
        parts={part: np.full((frames, len(points), 3), frames, np.float32) for part, points in PARTS.items()},
        labels=[7, 8, 1],
        prefix=list(prefix),
        described=FrameTexts(distinct, places, places, np.zeros(frames, np.float32), shown),
    )


def texts_of(batch: dict[str, Any], side: str = "text_left") -> list[str | None]:
    """The text that stands at each frame, read back through the table of token ids."""
    rows: list[str | None] = [None]
    rows += [TOKENIZER.decode(ids) for group in batch["text_groups"] for ids in group.tolist()]
    return [rows[i] for i in batch[side].tolist()]


# --- items -------------------------------------------------------------------------------------------------


def test_an_item_is_the_clip_as_wholebody_splits_it(tmp_path: Path) -> None:
    sample = write_clip(tmp_path, "house", 5, language="Chinese")
    clip = clip_of(dataset([sample]))
    pose = read_pose(sample.pose_path)
    expected = split_parts(pose.keypoints, pose.scores)
    for part in PARTS:
        assert clip.parts[part].dtype == np.float32
        np.testing.assert_array_equal(clip.parts[part], expected[part].astype(np.float32))
    assert clip.prefix == TOKENIZER.encode("Translate sign language video to Chinese: ")
    assert prompt("German") == "Translate sign language video to German: "
    assert clip.described is None


def test_targets_are_cut_and_counted(tmp_path: Path) -> None:
    samples = [
        replace(write_clip(tmp_path, "a", 2), target=target) for target in ("I", "My friend bring the blue car.")
    ]
    data = dataset(samples)
    whole = TOKENIZER.encode(samples[1].target)
    assert len(whole) > SETTINGS.max_target_length
    assert data.cut_targets == 1
    assert clip_of(data, 0).labels == TOKENIZER.encode("I")
    assert clip_of(data, 1).labels == [*whole[:5], 1]
    assert data.sizes == [sample.size for sample in samples]


def test_an_unusable_clip_is_named_not_raised(tmp_path: Path) -> None:
    sample = write_clip(tmp_path, "a", 2)
    sample.pose_path.write_bytes(b"nothing")
    item = dataset([sample])[Key(0, 0)]
    assert isinstance(item, Unusable)
    assert str(sample.pose_path) in item.problem
    sample = write_clip(tmp_path, "b", 2, {0: "x"})
    (tmp_path / "b.json").write_text("{")
    item = dataset([sample], DESCRIBED)[Key(0, 0)]
    assert isinstance(item, Unusable)
    assert "b.json" in item.problem


def test_draws_depend_on_seed_epoch_and_clip_alone(tmp_path: Path) -> None:
    samples = [write_clip(tmp_path, name, 30, {i: f"t{i}" for i in range(30)}) for name in ("a", "bb")]
    settings = replace(DESCRIBED, text_dropout_p=0.5)
    data, again = dataset(samples, settings), dataset(samples, settings)
    clip_of(again, 1, 7)
    first = clip_of(data)
    assert len(first.parts["body"]) == 8
    assert same(first, clip_of(again))
    assert same(first, clip_of(data, counted=False))
    assert not same(first, clip_of(data, epoch=1))
    assert not same(first, clip_of(dataset(samples, replace(settings, seed=4))))
    held_out = dataset(samples, replace(settings, training=False))
    assert same(clip_of(held_out), clip_of(held_out, epoch=1))
    described = clip_of(held_out).described
    assert described is not None
    assert described.indicator.all()


def test_items_are_the_same_from_any_worker(tmp_path: Path) -> None:
    samples = [write_clip(tmp_path, "a" * n, 20, {0: "x", 9: "y"}) for n in (1, 2, 3)]
    data = dataset(samples, replace(DESCRIBED, text_dropout_p=0.5))
    batches = [[Key(1, i)] for i in (2, 0, 1)]
    loader = torch.utils.data.DataLoader(data, batch_sampler=batches, num_workers=2, collate_fn=list)
    for keys, [item] in zip(batches, loader, strict=True):
        assert same(item, data[keys[0]])  # type: ignore[arg-type]


# --- descriptions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fill", "left", "right", "weight"),
    [
        ("nearest", "AAAEE", "AAAEE", [0, 0, 0, 0, 0]),
        ("interpolate", "AAAAE", "AEEEE", [0, 0.25, 0.5, 0.75, 0]),
        ("none", "A---E", "A---E", [0, 0, 0, 0, 0]),
    ],
)
def test_description_fill(tmp_path: Path, fill: Any, left: str, right: str, weight: list[float]) -> None:
    data = dataset([write_clip(tmp_path, "a", 5, {0: "A", 4: "E"})], replace(DESCRIBED, description_fill=fill))
    batch = Collate(TOKENIZER, True, None)([data[Key(0, 0)]])
    for side, expected in (("text_left", left), ("text_right", right)):
        assert texts_of(batch, side) == [None if text == "-" else text for text in expected]
    assert batch["text_weight"].tolist() == weight
    assert batch["text_indicator"].tolist() == [1, 0, 0, 0, 1]
    assert batch["text_weight"].dtype == batch["text_indicator"].dtype == torch.float32


def test_chosen_frames_keep_their_own_descriptions(tmp_path: Path) -> None:
    words = ["blue", "red", "big", "old", "I", "my", "the", "you", "we", "no", "go", "do"]
    data = dataset([write_clip(tmp_path, "a", 12, dict(enumerate(words)))], replace(DESCRIBED, training=False))
    batch = Collate(TOKENIZER, True, None)([data[Key(0, 0)]])
    assert texts_of(batch) == [words[i * 11 // 7] for i in range(8)]


def test_descriptions_are_numbered_as_in_the_whole_video(tmp_path: Path) -> None:
    sample = write_clip(tmp_path, "a", 9, dict(enumerate("ABCDEFGHI")), start=3, end=6)
    batch = Collate(TOKENIZER, True, None)([dataset([sample], DESCRIBED)[Key(0, 0)]])
    assert texts_of(batch) == ["D", "E", "F"]


@pytest.mark.parametrize("fill", ["nearest", "interpolate", "none"])
@pytest.mark.parametrize("described", [range(6), range(0, 6, 2)])
def test_text_dropout_hides_described_frames(tmp_path: Path, fill: Any, described: range) -> None:
    sample = write_clip(tmp_path, "a", 6, {i: f"text {i}" for i in described})
    settings = replace(DESCRIBED, description_fill=fill)
    own = np.isin(np.arange(6), described)
    kept = clip_of(dataset([sample], settings)).described
    gone = clip_of(dataset([sample], replace(settings, text_dropout_p=1.0))).described
    assert kept is not None
    assert gone is not None
    assert np.array_equal(kept.indicator, own)
    assert not gone.indicator.any()
    assert (gone.left[own] == -1).all()
    assert (gone.right[own] == -1).all()
    assert not gone.weight[own].any()
    for name in ("left", "right", "weight"):
        assert np.array_equal(getattr(gone, name)[~own], getattr(kept, name)[~own])
    batch = Collate(TOKENIZER, True, None)([clip_of(dataset([sample], replace(settings, text_dropout_p=1.0)))])
    assert not batch["text_left"][torch.from_numpy(own)].any()
    assert not batch["text_indicator"].any()


def test_text_dropout_hides_its_share(tmp_path: Path) -> None:
    sample = write_clip(tmp_path, "a", 400, dict.fromkeys(range(400), "x"))
    settings = replace(DESCRIBED, max_length=400, text_dropout_p=0.25)
    described = clip_of(dataset([sample], settings)).described
    assert described is not None
    assert 0.15 < 1 - described.indicator.mean() < 0.35
    assert np.array_equal(described.left == -1, described.indicator == 0)


# --- batches -----------------------------------------------------------------------------------------------


def test_golden_collate() -> None:
    """Real frames are exactly golden's, packed instead of padded; the mask has golden's lengths after the prefix."""
    arrays = np.load(GOLDEN / "01_collate.npz")
    inputs = [{part: arrays[f"in{i}/{part}"].astype(np.float32) for part in PARTS} for i in range(3)]
    clips = [replace(handmade(len(parts["body"]), []), parts=parts) for parts in inputs]
    batch = Collate(TOKENIZER, False, None)(clips)
    lengths = arrays["src/src_length_batch"]
    assert batch["lengths"] == lengths.tolist()
    assert batch["attention_mask"].sum(1).tolist() == (arrays["src/attention_mask"].sum(1) + 2).tolist()
    for part in PARTS:
        real = [arrays[f"src/{part}"][i, :length] for i, length in enumerate(lengths)]
        np.testing.assert_array_equal(batch[f"parts.{part}"].numpy(), np.concatenate(real).astype(np.float32))


def test_packed_layout() -> None:
    clips = [handmade(3, [None] * 3, prefix=(9, 1)), handmade(1, [None]), handmade(2, [None] * 2, prefix=(6, 7, 1))]
    batch = Collate(TOKENIZER, False, None)(clips)
    flat = torch.full((3 * 5,), -1)
    flat[batch["prefix_position"]] = batch["prefix_ids"]
    flat[batch["frame_position"]] = 100 + batch["parts.body"][:, 0, 0].long()
    assert flat.view(3, 5).tolist() == [
        [9, 1, 103, 103, 103],
        [5, 1, 101, -1, -1],
        [6, 7, 1, 102, 102],
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["attention_mask"].dtype == torch.int64
    assert (batch["names"], batch["indices"]) == (["clip3", "clip1", "clip2"], [3, 1, 2])
    assert not [name for name in batch if name.startswith("text")]


def test_labels_are_padded_with_what_no_loss_counts() -> None:
    short = replace(handmade(1, []), labels=[7, 1])
    batch = Collate(TOKENIZER, False, None)([handmade(2, []), short])
    assert batch["labels"].tolist() == [[7, 8, 1], [7, 1, IGNORED]]


def test_uncounted_clips_have_no_targets_and_no_index() -> None:
    batch = Collate(TOKENIZER, False, None)([handmade(2, []), handmade(3, [], counted=False)])
    assert batch["labels"].tolist() == [[7, 8, 1], [IGNORED] * 3]
    assert batch["indices"] == [2, -1]
    assert batch["lengths"] == [2, 3]


def test_unusable_clips_are_left_out_and_reported() -> None:
    batch = Collate(TOKENIZER, True, None)([Unusable("first"), handmade(2, ["x", None]), Unusable("second")])
    assert batch["problems"] == ["first", "second"]
    assert batch["names"] == ["clip2"]
    assert len(batch["parts.body"]) == 2


@pytest.mark.parametrize("descriptions", [False, True])
def test_only_unusable_clips_give_one_blank_one(descriptions: bool) -> None:
    batch = Collate(TOKENIZER, descriptions, None)([Unusable("first"), Unusable("second")])
    assert batch["problems"] == ["first", "second"]
    assert (batch["indices"], batch["lengths"]) == ([-1], [1])
    assert (batch["labels"] == IGNORED).all()
    assert batch["attention_mask"].sum() == 2
    for part, points in PARTS.items():
        assert batch[f"parts.{part}"].shape == (1, len(points), 3)
        assert not batch[f"parts.{part}"].any()
    if descriptions:
        assert texts_of(batch) == [None]
        assert len(batch["text_groups"]) == TEXT_GROUPS


# --- the table of texts ------------------------------------------------------------------------------------


def test_identical_texts_stand_once_in_the_table() -> None:
    told: list[list[str | None]] = [["blue", "red", None, "blue"], ["red", "big house", "blue"], [None, None]]
    batch = Collate(TOKENIZER, True, None)([handmade(len(texts), texts) for texts in told])
    encoded = [TOKENIZER.decode(ids) for group in batch["text_groups"] for ids in group.tolist()]
    assert sorted(text for text in encoded if text) == ["big house", "blue", "red"]
    expected = [text for texts in told for text in texts]
    assert texts_of(batch) == texts_of(batch, "text_right") == expected
    assert [row == 0 for row in batch["text_left"].tolist()] == [text is None for text in expected]
    assert batch["text_left"].dtype == torch.int64


def test_unused_texts_are_not_encoded() -> None:
    clip = handmade(2, ["blue", "red"])
    assert clip.described is not None
    hidden = np.array([0, -1])
    clip = replace(clip, described=replace(clip.described, left=hidden, right=hidden))
    batch = Collate(TOKENIZER, True, None)([clip])
    assert texts_of(batch) == ["blue", None]
    assert "red" not in [TOKENIZER.decode(ids) for group in batch["text_groups"] for ids in group.tolist()]


def test_groups_are_sorted_by_length_and_tightly_padded() -> None:
    texts = [" ".join(["blue"] * n) for n in (9, 1, 5, 3, 7, 2, 8, 6, 4)]
    batch = Collate(TOKENIZER, True, None)([handmade(9, texts)])
    groups = batch["text_groups"]
    assert [len(group) for group in groups] == [3, 2, 2, 2]
    lengths = [(group != 0).sum(1).tolist() for group in groups]
    flat = [length for ones in lengths for length in ones]
    assert flat == sorted(flat)
    assert [group.shape[1] for group in groups] == [max(ones) for ones in lengths]
    assert texts_of(batch) == texts


@pytest.mark.parametrize("count", range(7))
def test_the_number_of_groups_is_fixed(count: int) -> None:
    texts: list[str | None] = [f"{'blue ' * n}car" for n in range(count)]
    batch = Collate(TOKENIZER, True, None)([handmade(count + 1, [*texts, None])])
    assert len(batch["text_groups"]) == TEXT_GROUPS
    assert all(len(group) >= 1 and (group != 0).any(1).all() for group in batch["text_groups"])
    assert texts_of(batch) == [*texts, None]


def test_long_texts_are_cut() -> None:
    batch = Collate(TOKENIZER, True, None)([handmade(1, ["blue car " * 300])])
    [longest] = [group for group in batch["text_groups"] if group.shape[1] > 1]
    assert longest.shape == (1, MAX_TEXT_TOKENS)
    assert longest[0, -1] == 1


def test_cached_features_take_the_place_of_token_ids(tmp_path: Path) -> None:
    features = TextFeatures(tmp_path, 2)
    writer = features.writer()
    stored = {"blue": [1.0, 2.0], "red": [3.0, 4.0], "unused": [5.0, 6.0]}
    writer.append(list(stored), np.array(list(stored.values())))
    writer.close()
    features.refresh()
    collate = pickle.loads(pickle.dumps(Collate(TOKENIZER, True, features)))
    batch = collate([handmade(3, ["red", None, "blue"]), handmade(1, ["red"])])
    assert "text_groups" not in batch
    table = torch.cat([torch.zeros(1, 2), batch["text_features"]])
    assert table.shape == (3, 2)
    assert table[batch["text_left"]].tolist() == [[3, 4], [0, 0], [1, 2], [3, 4]]
    nothing = collate([handmade(2, [None, None])])
    assert nothing["text_features"].shape == (0, 2)
    assert nothing["text_left"].tolist() == [0, 0]


def test_many_different_texts_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uni_sign.data.signs._REMEMBERED_TEXTS", 2)
    collate = Collate(TOKENIZER, True, None)
    for _ in range(2):
        texts = ["blue", "red", "big car", "old"]
        assert texts_of(collate([handmade(4, texts)])) == texts
