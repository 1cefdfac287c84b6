"""The configuration of an mT5 folder: its sizes count, and nothing else that a stranger wrote into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MT5Config, MT5EncoderModel

from uni_sign.errors import InputError
from uni_sign.models.mt5 import adapted, read_config

TINY = json.loads((Path(__file__).parents[1] / "golden" / "02_mt5_tiny_config.json").read_text())
BASE = {"vocab_size": 250112, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
XXL = {"vocab_size": 250112, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}


def write(folder: Path, content: Any) -> Path:
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("sizes", [TINY, BASE, XXL])
def test_sizes_and_rates_are_kept(tmp_path: Path, sizes: dict[str, Any]) -> None:
    config = read_config(write(tmp_path, {**sizes, "dropout_rate": 0}))
    assert all(getattr(config, name) == value for name, value in sizes.items() if name in BASE)
    assert config.num_decoder_layers == sizes["num_layers"]
    assert (config.dropout_rate, config.feed_forward_proj, config.tie_word_embeddings) == (0.0, "gated-gelu", False)


def test_what_names_code_does_not_count(tmp_path: Path) -> None:
    evil = {"auto_map": {"AutoConfig": "evil.Evil"}, "attn_implementation": "evil/kernel", "is_decoder": True}
    assert read_config(write(tmp_path, {**TINY, **evil})).to_dict() == read_config(write(tmp_path, TINY)).to_dict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(({"d_model": size}, "d_model") for size in (0, -1, 1.5, "8", True, [], 1 << 40)),
        ({"num_layers": 10_000}, "larger than any mT5"),
        ({"d_ff": 1 << 24, "d_model": 1 << 20}, "larger than any mT5"),
        ({"dropout_rate": 1.5}, "dropout_rate"),
        ({"dropout_rate": float("nan")}, "dropout_rate"),
        ({"layer_norm_epsilon": []}, "not an mT5 configuration"),
        ({"initializer_factor": 10**400}, "not an mT5 configuration"),
        ({"feed_forward_proj": "gated-__class__"}, "feed_forward_proj"),
        ({"feed_forward_proj": []}, "feed_forward_proj"),
    ],
)
def test_impossible_values(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=rf"config\.json.*{says}"):
        read_config(write(tmp_path, {**TINY, **change}))


@pytest.mark.parametrize("content", ["", "[]", "null", "[" * 100_000, '{"d_model": ' + "9" * 5000 + "}"])
def test_what_is_no_configuration(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"config\.json is not an mT5 configuration"):
        read_config(write(tmp_path, content))


@pytest.mark.parametrize("activation", ["gated-gelu", "gated-silu", "relu"])
def test_the_activation_in_one_operation_is_the_same(activation: str) -> None:
    config = MT5Config(**TINY | {"feed_forward_proj": activation})
    plain = MT5EncoderModel(config).double().eval()
    ours = MT5EncoderModel(adapted(MT5Config(**TINY | {"feed_forward_proj": activation}))).double().eval()
    ours.load_state_dict(plain.state_dict())
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).last_hidden_state, plain(ids).last_hidden_state, rtol=1e-10, atol=1e-10)
    kept: list[torch.Size] = []
    states = torch.randn(3, config.d_model, dtype=torch.float64)
    layer = ours.encoder.block[0].layer[1].DenseReluDense
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer.act(layer.wi_0(states) if hasattr(layer, "wi_0") else layer.wi(states))
    assert len([shape for shape in kept if shape[-1] == config.d_ff]) <= 2
