"""The fine-tuning stage without a launcher: fill modes, freezing, fingerprints, scores of each task."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.stages._frozen_text import FrozenTextEncoder
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig


def make_stage(root: Path, **flags: Any) -> FineTuning:
    return FineTuning(FineTuningConfig(dataset="Demo", data_root=root, hidden_dim=16, **flags), seed=0)


def first_batch(stage: FineTuning, split: str = "train", clips: int = 3) -> dict[str, Any]:
    datasets = stage.build_datasets()
    return datasets.collate([datasets.splits[split][Key(0, index)] for index in range(clips)])


@pytest.mark.parametrize("fill", ["nearest", "interpolate", "none"])
def test_every_fill_mode_trains_all_of_the_fusion(fill: Any, demo_root: Path) -> None:
    stage = make_stage(demo_root, use_descriptions=True, description_fill=fill)
    model, batch = stage.build_model(), first_batch(stage)
    loss, logs = stage.compute_loss(model, batch)
    (loss / stage.count_targets(batch)).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert 0 < float(logs["gate"]) < 1
    mixed = batch["text_weight"] > 0
    assert bool(mixed.any()) == (fill == "interpolate")
    assert bool((batch["text_left"] == 0).any()) == (fill == "none")


def test_all_of_the_model_starts_in_training_mode(demo_root: Path) -> None:
    """Canary: transformers gives what it loads in evaluation mode, which would train without dropout."""
    model = make_stage(demo_root, use_descriptions=True).build_model()
    assert all(module.training for module in model.modules())


def test_a_batch_without_any_text_gives_every_parameter_a_gradient(demo_root: Path) -> None:
    stage = make_stage(demo_root, use_descriptions=True, text_dropout_p=1.0, description_fill="none")
    model, batch = stage.build_model(), first_batch(stage)
    assert not batch["text_left"].any()
    loss, _ = stage.compute_loss(model, batch)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_frozen_features_equal_the_encoder_and_a_second_pass_calls_none(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_stage(demo_root, use_descriptions=True)
    frozen = make_stage(demo_root, use_descriptions=True, text_encoder_freeze=True, text_cache=str(tmp_path))
    frozen.prepare(Accelerator(cpu=True))
    ours, theirs = first_batch(frozen), first_batch(trained)
    with torch.no_grad():
        expected = trained.build_model().eval().text_encoder(theirs["text_groups"])
    for side in ("text_left", "text_right"):
        torch.testing.assert_close(
            ours["text_features"][ours[side] - 1], expected[theirs[side] - 1], atol=1e-5, rtol=1e-5
        )
    assert not any(name.startswith("text_encoder") for name, _ in frozen.build_model().named_parameters())

    def no_call(_: FrozenTextEncoder) -> None:
        raise AssertionError("the encoder was loaded although the cache is complete")

    monkeypatch.setattr(FrozenTextEncoder, "_encoder", no_call)
    again = make_stage(demo_root, use_descriptions=True, text_encoder_freeze=True, text_cache=str(tmp_path))
    again.prepare(Accelerator(cpu=True))
    torch.testing.assert_close(first_batch(again)["text_features"], ours["text_features"])


def test_pooling_and_weights_change_the_fingerprint(demo_root: Path, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"use_descriptions": True, "text_encoder_freeze": True, "text_cache": str(tmp_path)}
    mean = make_stage(demo_root, **flags).text_encoder
    first = make_stage(demo_root, **flags, text_pooling="first").text_encoder
    assert mean is not None
    assert first is not None
    assert mean.fingerprint != first.fingerprint
    model = make_stage(demo_root, use_descriptions=True).build_model()
    torch.save({"model": model.state_dict()}, tmp_path / "trained.pth")
    tuned = make_stage(demo_root, **flags, finetune=str(tmp_path / "trained.pth")).text_encoder
    assert tuned is not None
    assert tuned.fingerprint not in (mean.fingerprint, first.fingerprint)


def test_a_checkpoint_of_another_frozen_encoder_is_refused(demo_root: Path, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"use_descriptions": True, "text_encoder_freeze": True, "text_cache": str(tmp_path)}
    stage = make_stage(demo_root, **flags)
    path = tmp_path / "best.pth"
    torch.save({"model": stage.build_model().state_dict(), **stage.checkpoint_extras()}, path)
    make_stage(demo_root, **flags, finetune=str(path)).check()
    with pytest.raises(InputError, match="--text_pooling mean, not first"):
        make_stage(demo_root, **flags, text_pooling="first", finetune=str(path)).check()
    with pytest.raises(InputError, match="--text_pooling mean, not first"):
        make_stage(demo_root, use_descriptions=True, text_pooling="first", finetune=str(path)).check()
    content = torch.load(path, weights_only=True)
    torch.save({**content, "text_encoder_fingerprint": "0" * 32}, path)
    with pytest.raises(InputError, match="another frozen text encoder"):
        make_stage(demo_root, **flags, finetune=str(path)).check()


def test_descriptions_asked_for_and_not_there_are_refused(demo_root: Path, tmp_path: Path) -> None:
    for name in ("data", "dataset", "pretrained_weight"):
        (tmp_path / name).symlink_to(demo_root / name)
    with pytest.raises(InputError, match="none of the 12 training clips has a description file"):
        make_stage(tmp_path, use_descriptions=True).check()
    make_stage(tmp_path).check()


def test_isolated_signs_are_at_most_64_frames(demo_root: Path) -> None:
    stage = make_stage(demo_root, task="ISLR")
    assert stage.longest_clip == 64
    assert stage.monitor == "dev/top1_instance"
    assert not make_stage(demo_root, task="CSLR").higher_is_better


def test_the_largest_batch_is_of_the_longest_clips_within_the_frames(demo_root: Path) -> None:
    stage = make_stage(demo_root)
    six, fewer = stage.largest_batch(6, 0), stage.largest_batch(6, 100)
    assert six["lengths"] == sorted(six["lengths"], reverse=True)
    assert len(six["lengths"]) == 6
    assert 0 < len(fewer["lengths"]) < 6
    assert sum(fewer["lengths"]) <= 100 < sum(six["lengths"][: len(fewer["lengths"]) + 1])
    assert len(stage.largest_batch(6, 1)["lengths"]) == 1


def test_an_image_branch_that_cannot_learn_is_told(demo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "rgb.pth").touch()
    stage = make_stage(demo_root, rgb_support=True, batch_norm="frozen")
    model = stage.build_model()
    assert [note for note in stage.notes if "image trunk that never trained" in note]
    trunk = {f"features.{k.split('.', 2)[2]}": v for k, v in model.state_dict().items() if "rgb_support_backbone" in k}
    trunk |= {name: value + 0.5 for name, value in trunk.items() if name.endswith("running_mean")}
    torch.save(trunk, tmp_path / "b0.pth")
    torch.nn.init.zeros_(model.fusion_gate[2].weight)
    torch.nn.init.zeros_(model.fusion_gate[2].bias)
    torch.save({"model": model.state_dict()}, tmp_path / "rgb.pth")
    started = make_stage(demo_root, rgb_support=True, batch_norm="frozen", rgb_backbone=str(tmp_path / "b0.pth"))
    loaded = started.build_model()
    assert [note for note in started.notes if "358 tensors of the image trunk" in note]
    assert not [note for note in started.notes if "never trained" in note or "gate" in note]
    assert float(loaded.get_buffer("rgb_support_backbone.0.0.1.running_mean")[0]) == 0.5
    dead = make_stage(demo_root, rgb_support=True, finetune=str(tmp_path / "rgb.pth"))
    dead.build_model()
    assert [note for note in dead.notes if "the gate of the hand crops is all zero" in note]


def test_a_folder_of_fetched_shards_needs_a_stream() -> None:
    assert FineTuningConfig(stream_cache="x").conflicts() == "--stream_cache needs --stream"
    assert FineTuningConfig(stream_cache="x", stream="y").conflicts() is None
