"""Fine-tuning with a part of the vocabulary: what is kept, what checkpoints remember, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from uni_sign.data.descriptions import read_descriptions
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig


def make_stage(root: Path, **flags: Any) -> FineTuning:
    given = {"dataset": "Demo", "hidden_dim": 16, "num_beams": 2, "max_new_tokens": 8, **flags}
    return FineTuning(FineTuningConfig(data_root=root, **given), seed=0)


def first_batch(stage: FineTuning, split: str = "train") -> dict[str, Any]:
    datasets = stage.build_datasets()
    return datasets.collate([datasets.splits[split][Key(0, index)] for index in range(3)])


def saved(stage: FineTuning, path: Path, model: Any = None) -> Path:
    model = model or stage.build_model()
    torch.save({"model": model.state_dict(), **stage.checkpoint_extras(), "run": {}}, path)
    return path


def evaluated(stage: FineTuning, model: Any, split: str = "test") -> list[dict[str, Any]]:
    datasets = stage.build_datasets()
    dataset: Any = datasets.splits[split]
    keys = [[Key(0, index) for index in range(len(dataset))]]
    loader = DataLoader(dataset, batch_sampler=keys, collate_fn=datasets.collate)
    return stage.evaluate(model.eval(), loader, Accelerator(cpu=True)).rows


@pytest.mark.parametrize("described", [False, True])
def test_the_trimmed_model_computes_the_same(demo_root: Path, described: bool) -> None:
    flags = {"use_descriptions": described}
    full, cut = make_stage(demo_root, **flags), make_stage(demo_root, trim_vocab=True, **flags)
    assert cut.kept is not None
    assert len(cut.kept.ids) == cut.mt5_config.vocab_size == len(cut.tokenizer) < len(full.tokenizer)
    cut.check()
    ids = torch.tensor(cut.kept.ids)
    whole, trimmed = full.build_model().eval(), cut.build_model().eval()
    own = trimmed.state_dict()
    # But for the vocabulary, which the stage cut itself, the same random weights.
    own.update({name: value for name, value in whole.state_dict().items() if own[name].shape == value.shape})
    trimmed.load_state_dict(own)
    theirs, ours = first_batch(full), first_batch(cut)
    assert torch.equal(ids[ours["prefix_ids"]], theirs["prefix_ids"])
    real = ours["labels"] >= 0
    assert torch.equal(ids[ours["labels"][real]], theirs["labels"][real])
    with torch.no_grad():
        expected, found = whole(theirs), trimmed(ours)
    torch.testing.assert_close(found.hidden_states, expected.hidden_states, atol=1e-6, rtol=1e-6)
    if described:
        assert trimmed.text_encoder.encoder.shared.num_embeddings == len(ids)


def test_descriptions_are_kept_where_the_model_encodes_them(demo_root: Path) -> None:
    stage = make_stage(demo_root, trim_vocab=True, use_descriptions=True)
    frozen = make_stage(demo_root, trim_vocab=True, use_descriptions=True, text_encoder_freeze=True)
    alone = make_stage(demo_root, trim_vocab=True)
    assert stage.kept is not None
    assert frozen.kept == alone.kept != stage.kept
    path = next(sample.description_path for sample in stage.splits["dev"].samples if sample.description_path)
    for text in read_descriptions(path).values():
        assert [stage.kept.ids[i] for i in stage.tokenizer.encode(text)] == stage.folder_tokenizer.encode(text)


def test_each_rank_and_each_start_keeps_the_same(demo_root: Path) -> None:
    once, again = (make_stage(demo_root, trim_vocab=True) for _ in range(2))
    assert once.kept == again.kept
    assert once.vocabulary == again.vocabulary != ""
    assert make_stage(demo_root, trim_vocab=True, task="ISLR").vocabulary != once.vocabulary
    assert make_stage(demo_root).vocabulary == ""
    assert once.tokenizer.model_bytes == again.tokenizer.model_bytes


# --- checkpoints -------------------------------------------------------------------------------------------


def test_a_published_checkpoint_is_cut(demo_root: Path, tmp_path: Path) -> None:
    full = make_stage(demo_root, use_descriptions=True)
    model = full.build_model()
    path = tmp_path / "published.pth"
    torch.save(model.state_dict(), path)
    stage = make_stage(demo_root, use_descriptions=True, trim_vocab=True, finetune=str(path))
    stage.check()
    assert stage.kept is not None
    own, ids = stage.build_model().state_dict(), list(stage.kept.ids)
    for name, value in model.state_dict().items():
        assert torch.equal(own[name], value[ids] if value.shape != own[name].shape else value), name


def test_a_checkpoint_keeps_its_own_pieces(demo_root: Path, tmp_path: Path) -> None:
    """Evaluation, inference and further training use them: another task's corpus needs others."""
    first = make_stage(demo_root, trim_vocab=True, task="ISLR")
    path = str(saved(first, tmp_path / "best.pth"))
    stage = make_stage(demo_root, trim_vocab=True, finetune=path)
    assert stage.kept == first.kept != make_stage(demo_root, trim_vocab=True).kept
    stage.check()
    model = stage.build_model()
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in torch.load(path)["model"].items())
    assert any("targets need pieces" in note for note in stage.build_datasets().notes)
    assert not any("targets need" in note for note in first.build_datasets().notes)


def test_a_trimmed_checkpoint_is_refused_elsewhere(demo_root: Path, tmp_path: Path) -> None:
    cut = make_stage(demo_root, trim_vocab=True)
    path = str(saved(cut, tmp_path / "best.pth"))
    with pytest.raises(InputError, match=r"keeps \d+ pieces .* give --trim_vocab .*`uni-sign export .* --full_vocab"):
        make_stage(demo_root, finetune=path).check()
    with pytest.raises(InputError, match="trimmed without the pieces of descriptions"):
        make_stage(demo_root, trim_vocab=True, use_descriptions=True, finetune=path).check()
    content = torch.load(path)
    kept = content["kept_pieces"]
    torch.save({**content, "kept_pieces": {**kept, "tokenizer": "0" * 32}}, path)
    with pytest.raises(InputError, match="another vocabulary"):
        make_stage(demo_root, trim_vocab=True, finetune=path).check()
    torch.save({**content, "kept_pieces": {**kept, "ids": kept["ids"][::-1]}}, path)
    with pytest.raises(InputError, match=r"best\.pth names pieces that no vocabulary can have"):
        make_stage(demo_root, trim_vocab=True, finetune=path).check()
    del content["kept_pieces"]
    torch.save(content, path)
    with pytest.raises(InputError, match="does not say of which pieces"):
        make_stage(demo_root, trim_vocab=True, finetune=path).build_model()


# --- the text encoder --------------------------------------------------------------------------------------


def texts_and_features(stage: FineTuning) -> Any:
    stage.prepare(Accelerator(cpu=True))
    assert stage.text_encoder is not None
    batch = first_batch(stage)
    return batch["text_features"], batch["text_left"]


def test_a_frozen_text_encoder_keeps_the_whole_vocabulary(demo_root: Path, tmp_path: Path) -> None:
    flags = {"use_descriptions": True, "text_encoder_freeze": True, "text_cache": str(tmp_path)}
    full, cut = make_stage(demo_root, **flags), make_stage(demo_root, **flags, trim_vocab=True)
    assert full.text_encoder is not None
    assert cut.text_encoder is not None
    assert cut.text_encoder.fingerprint == full.text_encoder.fingerprint
    for ours, theirs in zip(texts_and_features(cut), texts_and_features(full), strict=True):
        assert torch.equal(ours, theirs)


def test_a_text_encoder_trained_with_a_part_is_frozen_with_it(demo_root: Path, tmp_path: Path) -> None:
    trained = make_stage(demo_root, use_descriptions=True, trim_vocab=True)
    model = trained.build_model().eval()
    path = str(saved(trained, tmp_path / "best.pth", model))
    flags = {"use_descriptions": True, "text_encoder_freeze": True, "text_cache": str(tmp_path), "trim_vocab": True}
    frozen = make_stage(demo_root, **flags, finetune=path)
    frozen.check()
    features, left = texts_and_features(frozen)
    batch = first_batch(trained)
    with torch.no_grad():
        expected = model.text_encoder(batch["text_groups"])
    torch.testing.assert_close(features[left - 1], expected[batch["text_left"] - 1], atol=1e-5, rtol=1e-5)
    again = str(saved(frozen, tmp_path / "again.pth"))
    make_stage(demo_root, **flags, finetune=again).check()


# --- generation --------------------------------------------------------------------------------------------


def test_constrained_evaluation_writes_what_the_trimmed_model_writes(demo_root: Path, tmp_path: Path) -> None:
    full, path = make_stage(demo_root), str(tmp_path / "published.pth")
    model, kept = full.build_model(), make_stage(demo_root, trim_vocab=True).kept
    assert kept is not None
    model.mt5_model.lm_head.weight.data[sorted(set(range(kept.rows)) - set(kept.ids))] *= 9  # a free search's choice
    torch.save(model.state_dict(), path)
    held = make_stage(demo_root, constrain_vocab=True, finetune=path)
    cut = make_stage(demo_root, trim_vocab=True, finetune=path)
    assert held.generated == cut.kept == kept
    assert held.kept is None
    rows = evaluated(held, held.build_model())
    assert rows == evaluated(cut, cut.build_model())
    assert rows != evaluated(full, model)


def test_inference_remembers_the_pieces_and_another_corpus_has_its_own(demo_root: Path, tmp_path: Path) -> None:
    stage = make_stage(demo_root, constrain_vocab=True)
    path = str(saved(stage, tmp_path / "best.pth"))
    (tmp_path / "pretrained_weight").symlink_to(demo_root / "pretrained_weight")
    assert make_stage(tmp_path, constrain_vocab=True, finetune=path).generated == stage.generated  # no corpus here
    other = make_stage(demo_root, constrain_vocab=True, finetune=path, task="ISLR")
    assert other.generated == make_stage(demo_root, constrain_vocab=True, task="ISLR").generated != stage.generated


def test_both_flags_at_once_are_refused() -> None:
    assert FineTuningConfig(trim_vocab=True).conflicts() is None
    assert "--trim_vocab" in str(FineTuningConfig(trim_vocab=True, constrain_vocab=True).conflicts())


def test_the_checklist_counts_the_trimmed_model(demo_root: Path) -> None:
    full, cut = make_stage(demo_root), make_stage(demo_root, trim_vocab=True)
    assert cut.kept is not None
    saved_rows = full.mt5_config.vocab_size - len(cut.kept.ids)
    sizes = [sum(p.numel() for p in stage.meta_model().parameters()) for stage in (full, cut)]
    assert sizes[0] - sizes[1] == 2 * saved_rows * full.mt5_config.d_model
    assert {finding.level for finding in cut.examine()} == {"pass"}
    assert any(f"{cut.kept} of" in finding.detail for finding in cut.examine())
