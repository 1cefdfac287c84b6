"""Text to signing: draws, batches, and flags of the other kind of motion."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from uni_sign.config import parse_flags
from uni_sign.data.pose_vectors import POSE_VALUES, pose_vectors
from uni_sign.data.signs import Key, Unusable
from uni_sign.errors import Done, InputError
from uni_sign.stages._sign_flow import SignFlow, signing_scores
from uni_sign.stages._sign_items import blank_item, collate_signs
from uni_sign.stages.rectified_flow import RectifiedFlow, RectifiedFlowConfig

ALONE = SimpleNamespace(
    process_index=0, num_processes=1, is_main_process=True, device=torch.device("cpu"), wait_for_everyone=lambda: None
)


def stage_of(root: Path, *flags: str) -> Any:
    words = ["--motion", "signing", "--data_root", str(root), "--dataset", "Demo", "--dim_h", "16", "--num_heads", "2"]
    (config,) = parse_flags([*words, "--fmt_depth", "1", *flags], RectifiedFlowConfig)
    return RectifiedFlow(config, 5)


@pytest.fixture(scope="module")
def stage(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> SignFlow:
    made = stage_of(demo_root, "--cache_dir", str(tmp_path_factory.mktemp("texts")))
    assert isinstance(made, SignFlow)
    made.check()
    made.prepare(ALONE)
    return made


def test_scaled_poses_have_mean_0_and_deviation_1(stage: SignFlow) -> None:
    train = stage.splits["train"]
    items = [train[Key(0, index)] for index in range(len(train))]
    poses = torch.cat([item["poses"] for item in items])  # type: ignore[index]
    torch.testing.assert_close(poses.mean(dim=0), torch.zeros(POSE_VALUES), atol=1e-3, rtol=0)
    deviation = poses.std(dim=0).view(-1, 3)
    moving = deviation[:, 0] > 0.1  # all but the origins of hands and face
    assert moving.sum() == 66
    torch.testing.assert_close(deviation[moving], torch.ones(66, 3), atol=1e-2, rtol=0)
    clip: Any = stage.dataset(train.samples)[Key(0, 3)]
    np.testing.assert_allclose(stage.scale.poses(items[3]["poses"]), pose_vectors(clip.parts), atol=1e-5)  # type: ignore[index]


def test_draws_depend_on_seed_epoch_and_number_alone(demo_root: Path, stage: SignFlow) -> None:
    other = stage_of(demo_root, "--cache_dir", str(stage.config.cache_dir))
    one: Any = stage.splits["train"][Key(2, 3)]
    same: Any = other.splits["train"][Key(2, 3, counted=False)]
    assert (one.pop("index"), same.pop("index")) == (3, -1)
    for name, value in one.items():
        assert torch.equal(value, same[name]) if isinstance(value, torch.Tensor) else value == same[name]
    for key in (Key(3, 3), Key(2, 4)):
        different: Any = stage.splits["train"][key]
        assert different["t"] != one["t"]
    held_out: Any = stage.splits["val"][Key(0, 0)]
    assert not {"t", "noise", "lost_text"} & set(held_out)


def test_texts_are_lost_at_their_rate(demo_root: Path, stage: SignFlow) -> None:
    other = stage_of(demo_root, "--cache_dir", str(stage.config.cache_dir), "--text_dropout_prob", "0.3")
    train = other.splits["train"]
    lost = [bool(train[Key(epoch, index)]["lost_text"]) for epoch in range(40) for index in range(len(train))]
    assert np.mean(lost) == pytest.approx(0.3, abs=0.08)


def test_a_batch_is_padded_and_masked(stage: SignFlow) -> None:
    train = stage.splits["train"]
    items: list[Any] = [train[Key(0, index)] for index in range(4)]
    batch = stage.collate([*items, Unusable("clip is broken")])
    assert batch["problems"] == ["clip is broken"]
    assert batch["frame_mask"].sum(dim=1).tolist() == [len(item["poses"]) for item in items]
    assert batch["text_mask"].sum(dim=1).tolist() == [len(item["text"]) for item in items]
    for place, item in enumerate(items):
        assert torch.equal(batch["poses"][place][batch["frame_mask"][place]], item["poses"])
        assert not batch["noise"][place][~batch["frame_mask"][place]].any()
    empty = collate_signs([Unusable("a"), Unusable("b")], 8)
    assert (empty["counted"], empty["indices"], empty["problems"]) == (False, [-1], ["a", "b"])


def test_the_loss_of_a_clip_does_not_depend_on_its_batch(stage: SignFlow) -> None:
    torch.manual_seed(0)
    model = stage.build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    train = stage.splits["train"]
    items: list[Any] = [train[Key(0, index)] for index in range(6)]
    whole, _ = stage.compute_loss(model, stage.collate(items))
    parts = [stage.compute_loss(model, stage.collate([item]))[0] for item in items]
    torch.testing.assert_close(whole, torch.stack(parts).sum(), rtol=1e-4, atol=1e-4)
    nothing, _ = stage.compute_loss(model, stage.collate([blank_item(stage.sizes.dim_text)]))
    assert nothing == 0
    rows = stage.predict(model, stage.collate([stage.splits["val"][Key(0, index)] for index in range(3)]))
    alone = [stage.predict(model, stage.collate([stage.splits["val"][Key(0, index)]]))[0] for index in range(3)]
    for row, single in zip(rows, alone, strict=True):
        assert row["loss"] == pytest.approx(single["loss"], rel=1e-4)


def test_a_batch_is_not_changed_by_its_loss(stage: SignFlow) -> None:
    batch = stage.collate([stage.splits["train"][Key(0, index)] for index in range(3)])
    batch["lost_text"][:] = True
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    stage.compute_loss(stage.build_model(), batch)
    for name, value in before.items():
        assert torch.equal(batch[name], value), name


def test_true_signing_scores_as_true(stage: SignFlow) -> None:
    clip: Any = stage.dataset(stage.splits["val"].samples)[Key(0, 1)]
    vectors = pose_vectors(clip.parts)
    scores = signing_scores(vectors, vectors)
    assert scores["dtw_mje"] == pytest.approx(0, abs=1e-6)
    assert scores["duration_ratio"] == 1
    assert scores["distance_ratio"] == pytest.approx(1, abs=0.02)
    assert signing_scores(np.concatenate([vectors, vectors[::-1]]), vectors)["duration_ratio"] == 2
    assert signing_scores(vectors, np.zeros_like(vectors)) == {}


def test_the_largest_batch_has_the_most_frames_of_a_clip(stage: SignFlow) -> None:
    batch = stage.largest_batch(3, 0)
    assert batch["poses"].shape == (3, 64, POSE_VALUES)
    assert batch["counted"]
    assert len(stage.largest_batch(9, 130)["poses"]) == 2
    stage.compute_loss(stage.build_model(), batch)


def test_the_cache_is_told_of(demo_root: Path, tmp_path: Path, stage: SignFlow) -> None:
    with pytest.raises(Done, match=r"train: 0 of \d+ are there"):
        stage_of(demo_root, "--cache_dir", str(tmp_path), "--check_status").check()
    with pytest.raises(Done, match=r"val: (\d+) of \1 are there"):
        stage_of(demo_root, "--cache_dir", str(stage.config.cache_dir), "--check_status").check()


def test_sizes_are_those_of_the_weights_and_that_is_said(demo_root: Path, tmp_path: Path, stage: SignFlow) -> None:
    best = {**stage.checkpoint_extras(), "model": stage.build_model().state_dict()}
    torch.save(best, tmp_path / "best.pth")
    same = stage_of(demo_root, "--finetune", str(tmp_path / "best.pth"))
    assert same.model_config == stage.model_config
    assert not same.notes
    torch.testing.assert_close(same.scale.deviation, stage.scale.deviation)
    for flags in (("--dim_h", "8"), ("--max_length", "20")):
        other = stage_of(demo_root, "--finetune", str(tmp_path / "best.pth"), *flags)
        assert other.sizes == stage.sizes
        assert "Its sizes are those of --finetune" in other.notes[0]
    for scale in (torch.zeros(2, 207), torch.full((2, 207), float("inf")), torch.ones(2, 9)):
        torch.save({**best, "pose_scale": scale}, tmp_path / "best.pth")
        with pytest.raises(InputError, match="does not say how its poses are scaled"):
            _ = stage_of(demo_root, "--finetune", str(tmp_path / "best.pth")).scale


def test_a_corpus_of_broken_poses_is_refused_with_the_first_problem(demo_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(demo_root, root)
    for path in (root / "dataset" / "Demo" / "pose_format").glob("train-*"):
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"None of 12 training clips can be read; the first: .*train-00000"):
        _ = stage_of(root).scale


def test_a_torn_entry_is_made_anew_and_said(demo_root: Path, tmp_path: Path) -> None:
    first = stage_of(demo_root, "--cache_dir", str(tmp_path))
    first.prepare(ALONE)
    text = first.texts["train"][2]
    whole, path = np.array(first.read_text(text)), first.cache.path(text)
    path.write_bytes(path.read_bytes()[:-3])
    again = stage_of(demo_root, "--cache_dir", str(tmp_path))
    again.prepare(ALONE)
    assert any("1 torn files are made anew" in note and text in note for note in again.notes)
    # Nearly: it went through the encoder beside other texts before.
    np.testing.assert_allclose(again.read_text(text), whole, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--motion signing --dim_a 64", "--dim_a says nothing with --motion signing"),
        ("--motion signing --prev_dropout_prob 0.1", "--prev_dropout_prob says nothing"),
        ("--lambda_bone 0.5", "--lambda_bone says nothing with --motion face"),
        ("--dataset Demo", "--dataset says nothing with --motion face"),
        ("--motion signing --dim_h 100 --num_heads 8", "Sizes of the network are impossible"),
        ("--motion dancing", "--motion"),
        ("--attention_window -2", "--attention_window -2"),
    ],
)
def test_flags_of_the_other_motion_are_refused(flags: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_flags(flags.split(), RectifiedFlowConfig)


def test_weights_of_corpora_and_wrong_tasks_are_refused(demo_root: Path) -> None:
    with pytest.raises(InputError, match="signing takes no weights"):
        stage_of(demo_root, "--dataset", "Demo:0.5,CSL_Daily:0.5").check()
    with pytest.raises(InputError, match="--task CSLR is not one of"):
        stage_of(demo_root, "--dataset", "WLASL", "--task", "CSLR").check()
