"""Prepared poses: the same items and batches as from the files, stale ones never, damaged ones said."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from uni_sign.data.arrow_shards import ABSENT, OUTDATED, UNREADABLE
from uni_sign.data.samples import Sample
from uni_sign.data.shard_writer import ShardWriter, remove_leftovers, row_of
from uni_sign.data.shards import SCHEMA, Shards, open_shards, told_shares
from uni_sign.data.signs import Clip, ClipSettings, Collate, Key, SignDataset, Unusable
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.wholebody import PARTS, USED_POINTS
from uni_sign.errors import InputError

TOKENIZER = Tokenizer(Path(__file__).parents[1] / "golden" / "02_tokenizer")
SETTINGS = ClipSettings(max_length=8, max_target_length=6, seed=3, training=True)


def pose(frames: int, kinds: str = "dd", persons: int = 1, **extras: int) -> dict[str, Any]:
    rng = np.random.default_rng(frames)
    points = [rng.uniform(0.2, 0.8, (persons, 133, 2)).astype(kinds[0]) for _ in range(frames)]
    scores = [rng.uniform(0, 1, (persons, 133)).astype(kinds[1]) for _ in range(frames)]
    return {"keypoints": points, "scores": scores, **extras}


def sample_of(path: Path) -> Sample:
    state = path.stat()
    return Sample(path.stem, path, None, f"my {path.stem}", "English", state.st_size, state.st_mtime_ns)


def write(folder: Path, name: str, content: dict[str, Any] | bytes) -> Sample:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npz":
        np.savez(path, **{key: np.asarray(value) for key, value in content.items()})
    else:
        path.write_bytes(pickle.dumps(content))
    return sample_of(path)


def prepared(folder: Path, samples: Sequence[Sample], shard_bytes: int = 1 << 30) -> Shards:
    with ShardWriter(folder / "prepared", "0-of-1", shard_bytes) as writer:
        for sample in samples:
            writer.append(row_of(sample))
    shards = open_shards(folder / "prepared")
    assert shards is not None
    return shards


def every_kind(folder: Path) -> list[Sample]:
    clips = {
        "short.pkl": pose(5),
        "limit.pkl": pose(8, "ff"),
        "long.pkl": pose(30),
        "single.pkl": pose(21, "ff"),
        "mixed.pkl": pose(12, "df"),
        "half.pkl": pose(9, "ee"),
        "whole.npz": pose(10, "ff"),
        "cut.pkl": pose(40, "dd", start=3, end=33),
        "started.pkl": pose(6, "ff", start=100, end=106),
        "two.pkl": pose(11, "dd", persons=2),
        "frame.pkl": pose(1, "ff"),
        "unseen.pkl": {**pose(4), "scores": [np.zeros((1, 133)) for _ in range(4)]},
    }
    return [write(folder, name, content) for name, content in clips.items()]


def datasets(samples: Sequence[Sample], shards: Shards, **changes: Any) -> tuple[SignDataset, SignDataset]:
    """The same clips from shards and from their files."""
    settings = replace(SETTINGS, **changes)
    return SignDataset(samples, TOKENIZER, settings, shards), SignDataset(samples, TOKENIZER, settings)


# --- the same as from the files ----------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("max_length", [1, 8, 100])
def test_items_and_batches_are_those_of_the_files(
    tmp_path: Path, training: bool, max_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = every_kind(tmp_path)
    fast, slow = datasets(samples, prepared(tmp_path, samples), training=training, max_length=max_length)
    keys = [Key(epoch, index) for epoch in range(2) for index in range(len(samples))]
    expected = [slow[key] for key in keys]
    monkeypatch.setattr("uni_sign.data.signs.read_pose", None)  # nothing is read from a file
    items = [fast[key] for key in keys]
    for ours, theirs in zip(items, expected, strict=True):
        assert isinstance(ours, Clip)
        assert isinstance(theirs, Clip)
        assert (ours.key, ours.sample, ours.labels, ours.prefix) == (
            *(theirs.key, theirs.sample, theirs.labels, theirs.prefix),
        )
        for part in PARTS:
            assert ours.parts[part].dtype == np.float32
            np.testing.assert_array_equal(ours.parts[part], theirs.parts[part])
    one, other = (Collate(TOKENIZER, False, None)(batch) for batch in (items, expected))
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name])
            assert value.stride() == other[name].stride()  # or sums in the model could differ in their last bit


@pytest.mark.parametrize("training", [True, False])
def test_descriptions_meet_the_same_frames(tmp_path: Path, training: bool) -> None:
    told = tmp_path / "a.json"
    told.write_text(json.dumps({str(frame): f"text {frame}" for frame in range(40)}))
    sample = replace(write(tmp_path, "a.pkl", pose(40, start=3, end=33)), description_path=told)
    shards = prepared(tmp_path, [sample])
    ours, theirs = (data[Key(1, 0)] for data in datasets([sample], shards, descriptions=True, training=training))
    assert isinstance(ours, Clip)
    assert isinstance(theirs, Clip)
    assert ours.described is not None
    assert theirs.described is not None
    assert len(ours.described.texts) == 8
    assert ours.described.texts == theirs.described.texts


def test_workers_map_the_shards_for_themselves(tmp_path: Path) -> None:
    samples = every_kind(tmp_path)
    shards = prepared(tmp_path, samples, shard_bytes=1)
    assert len(shards.files) == len(samples)
    fast, _ = datasets(samples, shards)
    here = [fast[Key(0, index)] for index in range(len(samples))]
    again = pickle.loads(pickle.dumps(fast))
    assert len(pickle.dumps(fast)) < 20_000
    loader = torch.utils.data.DataLoader(
        again, batch_sampler=[[Key(0, i)] for i in range(len(samples))], num_workers=2, collate_fn=list
    )
    for ours, [theirs] in zip(here, loader, strict=True):
        assert isinstance(ours, Clip)
        for part in PARTS:
            np.testing.assert_array_equal(ours.parts[part], theirs.parts[part])


def test_reading_is_a_view(tmp_path: Path) -> None:
    samples = [write(tmp_path, "a.pkl", pose(5))]
    shards = prepared(tmp_path, samples)
    for part in shards.parts(0).values():
        assert not part.flags.owndata
        assert not part.flags.writeable
        assert part.transpose(2, 0, 1).flags.c_contiguous
    assert shards.points(0, np.array([0, 2])).shape == (3, 2, USED_POINTS)


# --- what is current ---------------------------------------------------------------------------------------


def test_a_changed_file_is_read_itself(tmp_path: Path) -> None:
    samples = [write(tmp_path, f"{name}.pkl", pose(5)) for name in "abc"]
    shards = prepared(tmp_path, samples)
    changed = write(tmp_path, "b.pkl", pose(6))
    touched = tmp_path / "c.pkl"
    os.utime(touched, ns=(0, samples[2].mtime_ns + 1))
    now = [samples[0], changed, sample_of(touched), write(tmp_path, "d.pkl", pose(7))]
    fast, slow = datasets(now, shards)
    assert fast.rows.tolist() == [0, OUTDATED, OUTDATED, ABSENT]
    assert "1 of 4 train clips; 2 have changed" in told_shares(shards.folder, {"train": fast.rows})
    for index in range(4):
        ours, theirs = fast[Key(0, index)], slow[Key(0, index)]
        assert isinstance(ours, Clip)
        assert isinstance(theirs, Clip)
        np.testing.assert_array_equal(ours.parts["body"], theirs.parts["body"])
    again = prepared(tmp_path, now[1:])
    assert (again.locate(now) >= 0).all()
    assert again.without(now) == []
    assert again.without(now[:1]) == [path for path in again.files if path not in shards.files]


def test_an_unreadable_clip_is_reported_as_from_its_file(tmp_path: Path) -> None:
    samples = [write(tmp_path, "a.pkl", b"nothing"), write(tmp_path, "b.pkl", pose(2))]
    shards = prepared(tmp_path, samples)
    fast, slow = datasets(samples, shards)
    assert fast.rows.tolist() == [UNREADABLE, 1]
    item = fast[Key(0, 0)]
    assert isinstance(item, Unusable)
    assert item == slow[Key(0, 0)]
    assert shards.problems(samples) == [item.problem]
    assert shards.problems(samples[1:]) == []


def test_a_clip_that_became_readable_is_used(tmp_path: Path) -> None:
    sample = write(tmp_path, "a.pkl", pose(3))
    away = sample.pose_path.rename(tmp_path / "away")  # as if a disk had failed for a while
    prepared(tmp_path, [sample])
    away.rename(sample.pose_path)
    assert prepared(tmp_path, []).locate([sample]).tolist() == [UNREADABLE]
    shards = prepared(tmp_path, [sample])
    assert len(shards) == 2
    [row] = shards.locate([sample]).tolist()
    assert shards.frames[row] == 3


def test_sizes_are_frames_only_where_all_are_known(tmp_path: Path) -> None:
    samples = [write(tmp_path, "a.pkl", pose(5)), write(tmp_path, "b.pkl", pose(30)), write(tmp_path, "c.pkl", b"x")]
    fast, slow = datasets(samples, prepared(tmp_path, samples))
    assert fast.sizes == [5, 8, 8]
    assert slow.sizes == [sample.size for sample in samples]
    assert prepared(tmp_path, []).known_frames(samples) == {samples[0].pose_path: 5, samples[1].pose_path: 30}
    more = [*samples, write(tmp_path, "d.pkl", pose(3))]
    some, _ = datasets(more, prepared(tmp_path, []))
    assert some.sizes == [sample.size for sample in more]


def test_no_shards_are_none(tmp_path: Path) -> None:
    assert open_shards(tmp_path / "nowhere") is None
    (tmp_path / ".0-of-1.partial").write_bytes(b"half")
    assert open_shards(tmp_path) is None


# --- files that are damaged, or not ours -------------------------------------------------------------------


def damaged(folder: Path, change: Any) -> Path:
    prepared(folder, [write(folder, "a.pkl", pose(3))])
    [path] = (folder / "prepared").glob("*.arrow")
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 900, 3000, -1])
def test_cut_shards_are_refused(tmp_path: Path, keep: int) -> None:
    path = damaged(tmp_path, lambda data: data[:keep])
    with pytest.raises(InputError, match=rf"{path.name} .*(delete it and run|is empty)"):
        open_shards(path.parent)


def test_shards_of_another_version_are_refused(tmp_path: Path) -> None:
    layout = SCHEMA.metadata[b"uni_sign.layout"]
    path = damaged(tmp_path, lambda data: data.replace(layout, b"0" * len(layout)))
    with pytest.raises(InputError, match=rf"{path.name} is of another version"):
        open_shards(path.parent)


def test_values_that_no_pose_has_are_refused(tmp_path: Path) -> None:
    sample = write(tmp_path, "a.pkl", pose(30, "ff"))
    row = row_of(sample)
    bad = np.full(30 * 3 * USED_POINTS, np.nan, np.float32).tobytes()
    for changes in ({"parts": bad}, {"points": bad}):
        folder = tmp_path / next(iter(changes))
        with ShardWriter(folder, "0-of-1", 1 << 30) as writer:
            writer.append(row._replace(**changes))
        for max_length in (8, 30):
            data = SignDataset([sample], TOKENIZER, replace(SETTINGS, max_length=max_length), Shards(folder))
            item = data[Key(0, 0)]
            if ("parts" in changes) == (max_length == 30):
                assert isinstance(item, Unusable)
                assert "values of a.pkl that no pose has" in item.problem
            else:
                assert isinstance(item, Clip)


def test_a_shard_that_changes_after_the_start_ends_the_run(tmp_path: Path) -> None:
    sample = write(tmp_path, "a.pkl", pose(3))
    fast, _ = datasets([sample], prepared(tmp_path, [sample]))
    [path] = (tmp_path / "prepared").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="has changed since the start"):
        fast[Key(0, 0)]
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        fast[Key(0, 0)]


# --- writing -----------------------------------------------------------------------------------------------


def test_a_shard_is_complete_or_not_there(tmp_path: Path) -> None:
    samples = [write(tmp_path, f"{n}.pkl", pose(4)) for n in range(4)]
    writer = ShardWriter(tmp_path / "prepared", "0-of-1", 12_000)
    size = len(row_of(samples[0]).parts) + len(row_of(samples[0]).points)
    assert size < 12_000 < 2 * size
    for sample in samples[:3]:
        writer.append(row_of(sample))
    assert len(Shards(tmp_path / "prepared")) == 2  # the third is in memory: killed here, it alone is lost
    shards = prepared(tmp_path, samples[2:])
    assert sorted(shards.locate(samples).tolist()) == [0, 1, 2, 3]
    with pa.OSFile(str(shards.files[0])) as file:  # any program that knows Arrow reads it
        assert pa.ipc.open_file(file).read_all().schema == SCHEMA


def test_two_writers_of_one_share_are_refused(tmp_path: Path) -> None:
    sample = write(tmp_path, "a.pkl", pose(4))
    first, second = (ShardWriter(tmp_path / "prepared", "0-of-2", 1 << 30) for _ in range(2))
    for writer in (first, second):
        writer.append(row_of(sample))
    first._flush()
    with pytest.raises(InputError, match=r"written by another process: wait for it, or give .*--shard_index"):
        second.close()
    first.close()
    assert len(Shards(tmp_path / "prepared")) == 1
    (tmp_path / "prepared" / ".1-of-2.partial").write_bytes(b"left by a killed writer")
    remove_leftovers(tmp_path / "prepared")
    assert [path.suffix for path in (tmp_path / "prepared").iterdir()] == [".arrow"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "prepared").write_bytes(b"a file")
    with pytest.raises(InputError, match="prepared cannot be written"):
        prepared(tmp_path, [write(tmp_path, "a.pkl", pose(4))])
