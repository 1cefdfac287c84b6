"""The whole model against golden data, the published checkpoints' keys, fusion, and the traps of transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import MT5Config
from transformers.modeling_outputs import BaseModelOutput

from uni_sign.data.descriptions import align
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.errors import InputError
from uni_sign.models.mt5 import load_mt5, new_mt5
from uni_sign.models.pose_encoder import GRAPHS
from uni_sign.models.text_fusion import GatingFusion, LearnableMaskEmbedding, TextEncoder, text_per_frame
from uni_sign.models.uni_sign import Encoded, UniSign
from uni_sign.models.weights import fingerprint, load_checkpoint, load_fusion, unwrap

GOLDEN = Path(__file__).parents[1] / "golden"
MT5_BASE = {
    "vocab_size": 250112,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
}


@pytest.fixture(scope="module")
def io(golden: Callable[[str], Any]) -> dict[str, Tensor]:
    files = [golden(f"02_unisign_pose_io_{part}.npz") for part in (1, 2)]
    return {name.removeprefix("csl/"): torch.from_numpy(file[name]) for file in files for name in file}


@pytest.fixture(scope="module")
def model(tiny_config: dict[str, Any], golden_weights: Callable[[str, str], dict[str, Tensor]]) -> UniSign:
    model = UniSign(MT5Config(**tiny_config)).eval()
    model.load_state_dict(golden_weights("02_unisign_pose_recipe.json", "02_unisign_pose_small_weights.npz"))
    return model


def targets_of(labels: Tensor) -> dict[str, Tensor]:
    return {"labels": labels, "target_position": (labels.flatten() != -100).nonzero()[:, 0]}


def golden_batch(io: dict[str, Tensor], prefix: list[int]) -> dict[str, Any]:
    """The golden clips, each with the padding it was published with."""
    clips, frames = io["src_body"].shape[:2]
    width = len(prefix) + frames
    starts = torch.arange(clips)[:, None] * width
    return {
        **{f"parts.{part}": io[f"src_{part}"].flatten(0, 1) for part in GRAPHS},
        "lengths": [frames] * clips,
        "prefix_ids": torch.tensor(prefix * clips),
        "prefix_position": (starts + torch.arange(len(prefix))).flatten(),
        "frame_position": (starts + len(prefix) + torch.arange(frames)).flatten(),
        "attention_mask": io["attention_mask"],
        "labels": io["labels"],
    }


def test_golden_forward(model: UniSign, io: dict[str, Tensor], golden: Callable[[str], Any]) -> None:
    prefix = golden("02_tokenizer_cases.json")["cases"][0]["ids"]
    batch = golden_batch(io, prefix)
    with torch.no_grad():
        parts = {part: batch[f"parts.{part}"] for part in GRAPHS}
        concat = model.concat_parts(parts, batch["lengths"]).view_as(io["pose_concat_plus_part_para"])
        embeds, gate = model.inputs_embeds(batch)
        encoded = model(batch)
        targets = (io["labels"] != -100).sum()
        losses = [model.summed_loss(encoded, targets_of(io["labels"]), smoothing) / targets for smoothing in (0.2, 0.0)]
    assert gate is None
    torch.testing.assert_close(concat, io["pose_concat_plus_part_para"], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.pose_proj(concat).detach(), io["pose_proj_out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(embeds, io["inputs_embeds"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.hidden_states, io["encoder_last_hidden_state"], atol=1e-5, rtol=0)
    assert float(losses[0]) == pytest.approx(float(io["loss"]), abs=1e-5)
    assert float(losses[1]) == pytest.approx(float(io["hf_loss_no_smoothing"]), abs=1e-5)


def test_golden_logits(model: UniSign, io: dict[str, Tensor]) -> None:
    with torch.no_grad():
        output = model.mt5_model(
            inputs_embeds=io["inputs_embeds"], attention_mask=io["attention_mask"], labels=io["labels"]
        )
    torch.testing.assert_close(output.logits, io["logits"], atol=2e-4, rtol=0)


@pytest.mark.parametrize(("beams", "key"), [(4, "generated"), (1, "generated_greedy")])
def test_golden_generation(model: UniSign, io: dict[str, Tensor], beams: int, key: str) -> None:
    encoded = Encoded(io["encoder_last_hidden_state"], io["attention_mask"], None)
    assert model.generate(encoded, beams, 20).tolist() == io[key].tolist()


@pytest.mark.parametrize(("case", "row"), [("eos_b", 449), ("eos_c", 167), ("eos_d", 513)])
def test_golden_generation_up_to_the_end_of_sentence(
    model: UniSign, io: dict[str, Tensor], case: str, row: int
) -> None:
    head = model.mt5_model.lm_head.weight
    kept = head.data[1].clone()
    head.data[1] = 1.02 * head.data[row]
    try:
        encoded = Encoded(io["encoder_last_hidden_state"], io["attention_mask"], None)
        ours = model.generate(encoded, 4, 20).tolist()
    finally:
        head.data[1] = kept
    assert [_up_to_end(ids) for ids in ours] == [_up_to_end(ids) for ids in io[f"{case}_generated"].tolist()]


@pytest.mark.parametrize(("case", "row"), [("", None), ("eos_b_", 449), ("eos_c_", 167), ("eos_d_", 513)])
def test_golden_beam_scores(model: UniSign, io: dict[str, Tensor], case: str, row: int | None) -> None:
    head = model.mt5_model.lm_head.weight
    kept = head.data[1].clone()
    if row is not None:
        head.data[1] = 1.02 * head.data[row]
    try:
        found = model.mt5_model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=io["encoder_last_hidden_state"]),
            attention_mask=io["attention_mask"],
            **{"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 20, "do_sample": False},
            **{"output_scores": True, "return_dict_in_generate": True},
        )
    finally:
        head.data[1] = kept
    scores = found.sequences_scores.view(len(io["labels"]), 4)
    torch.testing.assert_close(scores, io[f"{case}beam_scores"], atol=1e-4, rtol=0)
    if row is None:
        assert found.sequences.tolist() == io["beam_sequences"].tolist()


def _up_to_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(1) + 1] if 1 in ids else ids


def test_golden_training_gradients(model: UniSign, io: dict[str, Tensor], golden: Callable[[str], Any]) -> None:
    """Train-mode batch norm, as published over padded frames; mT5's dropout off."""
    expected = golden("02_unisign_pose_meta.json")["train"]
    prefix = golden("02_tokenizer_cases.json")["cases"][0]["ids"]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.mt5_model.eval()
    try:
        encoded = model(golden_batch(io, prefix))
        loss = model.summed_loss(encoded, targets_of(io["labels"]), 0.2) / (io["labels"] != -100).sum()
        loss.backward()
        assert float(loss.detach()) == pytest.approx(expected["loss"], abs=1e-4)
        total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        assert float(total) == pytest.approx(expected["total_grad_norm"], rel=1e-3)
        assert [n for n, p in model.named_parameters() if p.grad is None] == expected["params_without_grad"]
        gradients = {n: p.grad for n, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
        for name, norm in expected["grad_norms"].items():
            if norm > 1e-5:
                assert float(gradients[name].norm()) == pytest.approx(norm, rel=2e-3), name
    finally:
        model.load_state_dict(state)
        model.zero_grad()
        model.eval()


def test_published_checkpoint_keys_load_strictly(golden: Callable[[str], Any]) -> None:
    published = golden("checkpoint_keys_uni_sign_pose.json")
    with torch.device("meta"):
        model = UniSign(MT5Config(**MT5_BASE))
    weights = {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for name, (shape, dtype) in published["keys"].items()
    }
    assert set(model.state_dict()) == set(weights)
    model.load_state_dict(weights, strict=True, assign=True)
    assert "627 tensors" in load_checkpoint(model, unwrap({"model": weights}, "published.pth"))
    with torch.device("meta"):
        unique = {id(t): t.numel() for t in [*model.parameters(), *model.buffers()]}
        assert sum(unique.values()) == published["n_unique_elements"]


def test_mt5_is_untied_and_stays_so(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Canary: transformers 5 forces mT5's output matrix to be its input matrix."""
    model = new_mt5(MT5Config(**{**tiny_config, "d_model": 32}))
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    assert model.encoder.embed_tokens.weight is model.shared.weight is model.decoder.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = load_mt5(tmp_path)
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight)
    torch.testing.assert_close(loaded.shared.weight, model.shared.weight)
    assert loaded.encoder.embed_tokens.weight is loaded.shared.weight
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = new_mt5(MT5Config(**{**tiny_config, "d_model": 32}))
    fresh.load_state_dict(state)
    assert not torch.equal(fresh.shared.weight, fresh.lm_head.weight)


def test_damaged_mt5_folders_are_named(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_mt5(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not an mT5 configuration"):
        load_mt5(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config, "d_model": 32}))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_mt5(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 10)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_mt5(tmp_path)


def test_every_parameter_of_a_new_text_encoder_is_used(tiny_config: dict[str, Any]) -> None:
    encoder = TextEncoder(MT5Config(**tiny_config))
    encoder([torch.tensor([[3, 4, 1]])]).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_text_encoder_does_not_mark_the_shared_config(tiny_config: dict[str, Any]) -> None:
    """Canary: MT5EncoderModel sets is_encoder_decoder to false in the config it is given."""
    config = MT5Config(**tiny_config)
    TextEncoder(config)
    assert config.is_encoder_decoder


def test_golden_gating(golden: Callable[[str], Any], golden_weights: Callable[..., dict[str, Tensor]]) -> None:
    io = {name: torch.from_numpy(value) for name, value in golden("07_gating_io.npz").items()}
    fusion = GatingFusion(768)
    weights = golden_weights("07_gating_recipe.json", None)
    fusion.load_state_dict({name.removeprefix("gating_fusion."): value for name, value in weights.items()})
    with torch.no_grad():
        fused, gate = fusion(io["pose"], io["text"], io["has"])
        zero_fused, zero_gate = fusion(io["pose"], torch.zeros_like(io["text"]), torch.zeros_like(io["has"]))
    for ours, name in [
        (fused, "fused"),
        (gate, "gate"),
        (zero_fused, "fused_zero_text"),
        (zero_gate, "gate_zero_text"),
    ]:
        torch.testing.assert_close(ours, io[name], atol=1e-5, rtol=1e-5)


def test_golden_gating_with_dropped_texts(
    golden: Callable[[str], Any], golden_weights: Callable[..., dict[str, Tensor]]
) -> None:
    """Golden drops a text by zeroing its feature where the mask is 1, and leaves the indicator as it was."""
    io = {name: torch.from_numpy(value) for name, value in golden("07_gating_io.npz").items()}
    fusion = GatingFusion(768)
    weights = golden_weights("07_gating_recipe.json", None)
    fusion.load_state_dict({name.removeprefix("gating_fusion."): value for name, value in weights.items()})
    kept = 1 - io["train_dropout_mask"]
    with torch.no_grad():
        fused, gate = fusion(io["pose"], io["text"] * kept, io["has"])
    torch.testing.assert_close(gate, io["train_gate"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused, io["train_fused"], atol=1e-5, rtol=1e-5)


def test_golden_text_encoder(
    golden: Callable[[str], Any], golden_weights: Callable[..., dict[str, Tensor]], tiny_config: dict[str, Any]
) -> None:
    case, io = golden("07_text_encoder.json"), golden("07_text_encoder_io.npz")
    weights = golden_weights("02_unisign_pose_recipe.json", "02_unisign_pose_small_weights.npz")
    encoder = TextEncoder(MT5Config(**tiny_config), pooling="first").eval()
    prefixes = ("mt5_model.shared.", "mt5_model.encoder.")
    own = {n.removeprefix("mt5_model."): v for n, v in weights.items() if n.startswith(prefixes)}
    encoder.encoder.load_state_dict(own)
    known = [(i, ids) for i, ids in enumerate(case["token_ids"]) if ids is not None]
    with torch.no_grad():
        ours = encoder([torch.tensor([ids]) for _, ids in known])
    for (i, _), feature in zip(known, ours, strict=True):
        torch.testing.assert_close(feature, torch.from_numpy(io["features"][i]), atol=1e-5, rtol=1e-5)


def test_golden_descriptions_of_frames(
    golden: Callable[[str], Any], golden_weights: Callable[..., dict[str, Tensor]], tiny_config: dict[str, Any]
) -> None:
    """As published, a frame without a text of its own takes the mask: our --description_fill none."""
    case, io = golden("07_text_encoder.json")["encode_descriptions"], golden("07_text_encoder_io.npz")
    weights = golden_weights("02_unisign_pose_recipe.json", "02_unisign_pose_small_weights.npz")
    encoder = TextEncoder(MT5Config(**tiny_config), pooling="first").eval()
    prefixes = ("mt5_model.shared.", "mt5_model.encoder.")
    encoder.encoder.load_state_dict(
        {n.removeprefix("mt5_model."): v for n, v in weights.items() if n.startswith(prefixes)}
    )
    mask = LearnableMaskEmbedding(768)
    mask.mask.data = torch.from_numpy(io["mask"])
    tokenizer = Tokenizer(GOLDEN / "02_tokenizer")
    for texts, own, expected in zip(
        case["descriptions"], case["has_description"], io["encode_descriptions"], strict=True
    ):
        described = {i: text for i, (text, has) in enumerate(zip(texts, own, strict=True)) if has}
        found = align(described, np.arange(len(texts)), "none")
        assert found is not None
        with torch.no_grad():
            table = mask(encoder([torch.tensor([tokenizer.encode(text)]) for text in found.texts]))
        sides = (torch.from_numpy(side + 1) for side in (found.left, found.right))
        ours = text_per_frame(table, *sides, torch.from_numpy(found.weight))
        torch.testing.assert_close(ours, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_a_large_batch_of_texts_is_encoded_again_in_the_backward_pass(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextEncoder(MT5Config(**{**tiny_config, "d_model": 32, "dropout_rate": 0.0}))
    calls: list[int] = []
    encoder.encoder.register_forward_hook(lambda *_: calls.append(1))
    groups = [torch.tensor([[5, 6, 1], [7, 8, 1]]), torch.tensor([[9, 10, 11, 1]])]
    gradients = []
    for limit in (10, 9):
        monkeypatch.setattr("uni_sign.models.text_fusion.KEPT_TOKENS", limit)
        encoder.zero_grad()
        encoder(groups).square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(calls) == 2 + 4
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_mean_pooling_ignores_padding(tiny_config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(MT5Config(**{**tiny_config, "d_model": 32}), pooling="mean").eval()
    with torch.no_grad():
        padded = encoder([torch.tensor([[5, 6, 1, 0, 0], [7, 8, 9, 10, 1]])])
        alone = encoder([torch.tensor([[5, 6, 1]])])
    torch.testing.assert_close(padded[:1], alone, atol=1e-5, rtol=1e-5)


def test_mask_embedding_is_row_0_and_always_in_the_graph() -> None:
    embedding = LearnableMaskEmbedding(4)
    table = embedding(torch.ones(2, 4))
    rows = text_per_frame(table, torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2]), torch.tensor([0.0, 0.5, 0.0]))
    torch.testing.assert_close(rows[0], embedding.mask[0])
    rows[1:].sum().backward()
    assert embedding.mask.grad is not None
    assert not embedding.mask.grad.any()
    assert embedding(None).requires_grad


def test_checkpoints_of_another_model_are_refused(tiny_config: dict[str, Any]) -> None:
    config = MT5Config(**{**tiny_config, "d_model": 32})
    small = UniSign(config, hidden_dim=16)
    with pytest.raises(InputError, match="hidden_dim"):
        load_checkpoint(small, unwrap({"model": UniSign(config, hidden_dim=32).state_dict()}, "other.pth"))
    state = dict(small.state_dict())
    state.pop("part_para")
    with pytest.raises(InputError, match=r"1 tensors are missing \(first part_para\)"):
        load_checkpoint(small, unwrap({"model": state}, "cut.pth"))
    with pytest.raises(InputError, match="no model weights"):
        unwrap({"epoch": 3}, "other.pth")
    with pytest.raises(InputError, match="are missing"):
        load_checkpoint(small, unwrap({"model": state, "text_encoder": "mt5-base"}, "foreign.pth"))


def test_a_fingerprint_reaches_the_last_value_of_the_largest_tensor() -> None:
    table = torch.zeros(250112, 768, dtype=torch.uint8)
    before = fingerprint({"shared": table})
    table[-1, -1] = 1
    assert fingerprint({"shared": table}) != before


def test_pose_only_weights_start_a_fused_model_and_back(tiny_config: dict[str, Any]) -> None:
    config = MT5Config(**{**tiny_config, "d_model": 32})
    pose = UniSign(config, hidden_dim=16)
    fused = UniSign(config, hidden_dim=16, fusion=True)
    said = load_checkpoint(fused, unwrap({"model": pose.state_dict()}, "pose.pth"))
    assert "not in it, so at their start: gating_fusion, mask_embedding" in said
    torch.testing.assert_close(fused.part_para, pose.part_para)
    said = load_checkpoint(pose, unwrap({"model": fused.state_dict()}, "fused.pth"))
    assert "in it, but not trained here: gating_fusion, mask_embedding" in said


def test_fusion_checkpoint_brings_fusion_alone(tiny_config: dict[str, Any]) -> None:
    config = MT5Config(**{**tiny_config, "d_model": 32})
    source, target = (UniSign(config, hidden_dim=16, fusion=True) for _ in range(2))
    before = target.part_para.clone()
    with torch.no_grad():
        source.part_para.add_(1.0)
    load_fusion(target, unwrap({"model": source.state_dict()}, "fusion.pth"))
    torch.testing.assert_close(target.mask_embedding.mask, source.mask_embedding.mask)
    torch.testing.assert_close(target.part_para, before)
    with pytest.raises(InputError, match="lacks 7 fusion tensors"):
        load_fusion(target, unwrap({"model": UniSign(config, hidden_dim=16).state_dict()}, "pose.pth"))
