"""`uni-sign trim` and the way back by `uni-sign export --full_vocab`; inference with a trimmed checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from uni_sign.cli import main
from uni_sign.commands.checkpoints import stage_of
from uni_sign.data.signs import Key
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.vocabulary import read_kept
from uni_sign.models.mt5 import load_mt5
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig

SMALL: dict[str, Any] = {"dataset": "Demo", "hidden_dim": 16, "num_beams": 2, "max_new_tokens": 8}


def make_stage(root: Path, **flags: Any) -> FineTuning:
    return FineTuning(FineTuningConfig(data_root=root, **SMALL, **flags), seed=0)


def trained(stage: FineTuning, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint of the stage, all of whose weights have moved."""
    weights = stage.build_model().to(dtype).state_dict()
    moved = {name: value + 0.5 if value.is_floating_point() else value for name, value in weights.items()}
    torch.save({"model": moved, **stage.checkpoint_extras(), "run": {}}, path)
    return path


@pytest.fixture(scope="module")
def folder(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `uni-sign trim` makes of the Demo's mT5."""
    target = tmp_path_factory.mktemp("trim") / "mt5"
    assert main(["trim", str(target), "--dataset", "Demo", "--data_root", str(demo_root), "--use-descriptions"]) == 0
    return target


def test_the_trimmed_folder_is_an_mt5(
    folder: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = demo_root / "pretrained_weight" / "mt5-demo"
    kept = read_kept(folder)
    assert kept is not None
    assert kept.described
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "kept_pieces.json",
        "model.safetensors",
        "spiece.model",
    ]
    whole, cut = load_mt5(full).state_dict(), load_mt5(folder).state_dict()
    for name, value in whole.items():
        assert torch.equal(cut[name], value[list(kept.ids)] if len(value) == kept.rows else value), name
    assert len(Tokenizer(folder)) == len(kept.ids) == load_mt5(folder).config.vocab_size
    main(["trim", str(tmp_path / "again"), "--dataset", "Demo", "--data_root", str(demo_root)])
    said = capsys.readouterr().out
    parameters = sum(value.numel() for name, value in whole.items() if "embed_tokens" not in name)
    assert f"pieces      {len(Tokenizer(full)):>13,} -> " in said
    assert f"parameters  {parameters:>13,} -> " in said
    assert not list(tmp_path.glob(".*"))


def test_training_on_a_trimmed_folder_is_training_with_the_flag(folder: Path, demo_root: Path) -> None:
    flagged = make_stage(demo_root, use_descriptions=True, trim_vocab=True)
    given = make_stage(demo_root, use_descriptions=True, mt5=str(folder))
    given.check()
    assert given.kept == flagged.kept
    assert given.tokenizer.model_bytes == flagged.tokenizer.model_bytes
    assert given.checkpoint_extras()["kept_pieces"] == flagged.checkpoint_extras()["kept_pieces"]
    torch.manual_seed(0)
    ours = given.build_model().state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(ours[name], value) for name, value in flagged.build_model().state_dict().items())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--trim_vocab", "--mt5", "{folder}"], "trimmed already: leave the flag out"),
        (["--constrain_vocab"], "leave out one"),
        (["--finetune", "x.pth"], "leave out --finetune"),
    ],
)
def test_what_cannot_be_trimmed(
    flags: list[str], says: str, folder: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "Demo", "--data_root", str(demo_root), *(flag.format(folder=folder) for flag in flags)]
    assert main(["trim", str(tmp_path / "mt5"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(
    demo_root: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "Demo", "--data_root", str(demo_root)]
    for target, says in (("/proc/x", "cannot be written"), (str(folder), "exists already"), ("--mt5", "Name the mT5")):
        assert main(["trim", target, *words]) == 2
        assert says in capsys.readouterr().err
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for file in folder.iterdir():
        (mixed / file.name).symlink_to(file)
    (mixed / "config.json").unlink()
    (mixed / "config.json").symlink_to(demo_root / "pretrained_weight" / "mt5-demo" / "config.json")
    assert main(["train", "fine_tuning", "--mt5", str(mixed), *words]) == 2
    assert "mixes files of different vocabularies" in capsys.readouterr().err


# --- the way back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by_folder", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_exported_model_has_the_whole_vocabulary(
    by_folder: bool, dtype: torch.dtype, folder: Path, demo_root: Path, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"mt5": str(folder)} if by_folder else {"trim_vocab": True}
    stage = make_stage(demo_root, use_descriptions=True, **flags)
    path, full = trained(stage, tmp_path / "best.pth", dtype), tmp_path / "full"
    mt5 = str(demo_root / "pretrained_weight" / "mt5-demo")
    assert main(["export", str(path), str(tmp_path / "cut")]) == 0  # a trimmed folder, the map in its config
    assert main(["export", str(tmp_path / "cut"), f"{full}.pth", "--full_vocab", mt5]) == 0
    assert main(["export", str(path), str(full), "--full_vocab", mt5]) == 0
    original = make_stage(demo_root, use_descriptions=True).build_model().state_dict()
    weights = torch.load(path, weights_only=True)["model"]
    check_exported(full.with_suffix(".pth"), weights, original, stage)
    check_exported(full / "model.safetensors", weights, original, stage)
    extras = json.loads((full / "config.json").read_text())
    assert "kept_pieces" not in extras
    assert (extras["config"]["trim_vocab"], extras["config"]["mt5"]) == (False, mt5 if by_folder else "")


def check_exported(exported: Path, trained: dict[str, Any], original: dict[str, Any], stage: FineTuning) -> None:
    """It loads strictly into an untrimmed model; kept rows are the trained ones, the others mT5's, bit by bit."""
    whole = make_stage(stage.config.data_root, use_descriptions=True, finetune=str(exported))
    whole.check()
    model = whole.build_model().state_dict()
    assert whole.notes[-1].endswith(f"tensors from --finetune {exported}.")  # none missing, none left over
    assert stage.kept is not None
    rows = list(stage.kept.ids)
    lost = sorted(set(range(stage.kept.rows)) - set(rows))
    for name, value in trained.items():
        back = model[name]
        if back.shape != value.shape:
            assert torch.equal(back[lost], original[name][lost]), name
            back = back[rows]
        assert torch.equal(back, value.to(back.dtype)), name


def test_a_frozen_text_encoder_comes_back_as_it_can(folder: Path, demo_root: Path, tmp_path: Path) -> None:
    """One with the whole vocabulary is the same afterwards; one that was trained with a part gets the rest."""
    mt5 = str(demo_root / "pretrained_weight" / "mt5-demo")
    flags: dict[str, Any] = {"use_descriptions": True, "text_encoder_freeze": True, "text_cache": str(tmp_path)}
    with_text = str(trained(make_stage(demo_root, use_descriptions=True, trim_vocab=True), tmp_path / "text.pth"))
    stages = {
        "whole": make_stage(demo_root, **flags, trim_vocab=True),
        "part": make_stage(demo_root, **flags, trim_vocab=True, finetune=with_text),
        "folder": make_stage(demo_root, **flags, mt5=str(folder)),
    }
    for name, stage in stages.items():
        path, target = trained(stage, tmp_path / f"{name}.pth"), tmp_path / f"{name}_full.pth"
        assert main(["export", str(path), str(target), "--full_vocab", mt5]) == 0
        content = torch.load(target)
        assert ("text_encoder_fingerprint" in content) == (name == "whole")
        back = make_stage(demo_root, **flags, finetune=str(target))
        back.check()
        assert back.text_encoder is not None
        if name == "part":
            shared = content["model"]["text_encoder.encoder.shared.weight"]
            assert torch.equal(shared[5], stage.checkpoint_extras()["text_encoder"]["encoder.shared.weight"][5])
            back.text_encoder.encode(["the hand"], torch.device("cpu"), shown=False)


def test_exports_that_are_refused(
    folder: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrimmed = trained(make_stage(demo_root), tmp_path / "untrimmed.pth")
    cut = trained(make_stage(demo_root, trim_vocab=True), tmp_path / "cut.pth")
    mt5 = demo_root / "pretrained_weight" / "mt5-demo"
    for source, given, says in (
        (untrimmed, mt5, "says of no trimmed vocabulary: leave out --full_vocab"),
        (cut, folder, "is not the mT5 that"),
        (cut, tmp_path, "No mT5 model in"),
    ):
        assert main(["export", str(source), str(tmp_path / "x.pth"), "--full_vocab", str(given)]) == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path / "x.pth").exists()


# --- later use ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["trim_vocab", "constrain_vocab"])
def test_inference_needs_no_corpus(
    flag: str, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = make_stage(demo_root, **{flag: True})
    path = trained(stage, tmp_path / "best.pth")
    if stage.generated is not None:
        content = torch.load(path, weights_only=True)
        lost = sorted(set(range(stage.generated.rows)) - set(stage.generated.ids))
        content["model"]["mt5_model.lm_head.weight"][lost] *= 9  # what a free search would write
        torch.save(content, path)
    (tmp_path / "pretrained_weight").symlink_to(demo_root / "pretrained_weight")
    clip = stage.splits["test"].samples[0]
    words = ["--data_root", str(tmp_path), "--poses", str(clip.pose_path)]
    assert main(["infer", "--checkpoint", str(path), *words, "--language", clip.language]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])

    loaded, [config] = stage_of(path, ["--data_root", str(demo_root)], program="uni-sign evaluate")
    again = loaded(config, 0)
    again.check()
    assert (again.kept, again.generated) == (stage.kept, stage.generated)
    datasets = again.build_datasets()
    model = again.build_model().eval()
    with again.generation(model):
        (expected,) = again.predict(model, datasets.collate([datasets.splits["test"][Key(0, 0)]]))
    assert row == {"name": clip.name, "prediction": expected["prediction"]}


def test_the_written_weights_hold_each_matrix_once(folder: Path) -> None:
    assert not [name for name in load_file(folder / "model.safetensors") if "embed_tokens" in name]
