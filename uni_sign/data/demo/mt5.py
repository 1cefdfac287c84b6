"""A very small mT5 for the Demo corpus: tokenizer trained on its texts, random weights, the usual files."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from safetensors.numpy import save

_PIECES = 768  # 256 bytes, 160 characters, and room for nearly every word
_STREAM = 5  # of random numbers, apart from those of the sentences
_ENDINGS = "{0} {0}, {0}. {0}? {0}。 {0}？"
# No dropout: at this width 0.1 doubles the steps until the first right sentence, and the demo is to be short.
_CONFIG: dict[str, Any] = {
    "architectures": ["MT5ForConditionalGeneration"],
    "model_type": "mt5",
    "d_model": 96,
    "d_kv": 24,
    "d_ff": 192,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-06,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "use_cache": True,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "tokenizer_class": "T5Tokenizer",
}
_TOKENIZER_CONFIG = {
    "tokenizer_class": "T5Tokenizer",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "extra_ids": 0,
    "sp_model_kwargs": {},
}


def write_mt5(folder: Path, texts: Sequence[str], words: Sequence[str], seed: int) -> None:
    """Write `spiece.model`, `tokenizer_config.json`, `config.json` and `model.safetensors` into folder.

    The tokenizer learns from `texts`; `words` are what should become one piece each where there is room.
    """
    model = _train_tokenizer(texts, words)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    config = {**_CONFIG, "vocab_size": -(-pieces // 64) * 64}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model)
    _write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    _write_json(folder / "config.json", config)
    weights = save(_weights(config, np.random.default_rng([seed, _STREAM])), {"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _train_tokenizer(texts: Sequence[str], words: Sequence[str]) -> bytes:
    """A unigram SentencePiece model with mT5's special ids that gives every text back unchanged."""
    # The trainer considers only what stands in several different words, so each word is shown with endings.
    shown = [_ENDINGS.format(word) for word in words] * 5
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *shown]),
        model_writer=model,
        model_type="unigram",
        vocab_size=_PIECES,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _weights(config: dict[str, Any], rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Tensors of an untied mT5 under the published names, with T5's initial scales.

    `lm_head` is scaled like the other matrices: with T5's 1.0 the first loss would be some forty nats.
    """
    width = config["d_model"]
    shapes = {
        "shared.weight": ((config["vocab_size"], width), 1.0),
        "lm_head.weight": ((config["vocab_size"], width), width**-0.5),
    }
    for stack, layers in (("encoder", config["num_layers"]), ("decoder", config["num_decoder_layers"])):
        shapes |= _stack(config, stack, layers)
    tensors = {key: rng.normal(0.0, scale, shape).astype(np.float32) for key, (shape, scale) in shapes.items()}
    norms = {key: np.ones(width, np.float32) for key in _norms(config)}
    return tensors | norms


def _stack(config: dict[str, Any], stack: str, layers: int) -> dict[str, tuple[tuple[int, int], float]]:
    """Key -> shape and standard deviation of the matrices of an encoder or decoder."""
    width, inner, hidden = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    attentions = ["layer.0.SelfAttention"] + (["layer.1.EncDecAttention"] if stack == "decoder" else [])
    dense = f"layer.{len(attentions)}.DenseReluDense"
    shapes: dict[str, tuple[tuple[int, int], float]] = {
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
            (config["relative_attention_num_buckets"], config["num_heads"]),
            width**-0.5,
        )
    }
    for block in (f"{stack}.block.{layer}" for layer in range(layers)):
        for attention in attentions:
            shapes[f"{block}.{attention}.q.weight"] = ((inner, width), (width * config["d_kv"]) ** -0.5)
            shapes[f"{block}.{attention}.k.weight"] = ((inner, width), width**-0.5)
            shapes[f"{block}.{attention}.v.weight"] = ((inner, width), width**-0.5)
            shapes[f"{block}.{attention}.o.weight"] = ((width, inner), inner**-0.5)
        shapes[f"{block}.{dense}.wi_0.weight"] = ((hidden, width), width**-0.5)
        shapes[f"{block}.{dense}.wi_1.weight"] = ((hidden, width), width**-0.5)
        shapes[f"{block}.{dense}.wo.weight"] = ((width, hidden), hidden**-0.5)
    return shapes


def _norms(config: dict[str, Any]) -> list[str]:
    stacks = (("encoder", config["num_layers"], 2), ("decoder", config["num_decoder_layers"], 3))
    inner = [
        f"{stack}.block.{layer}.layer.{part}.layer_norm.weight"
        for stack, layers, parts in stacks
        for layer in range(layers)
        for part in range(parts)
    ]
    return [*inner, *(f"{stack}.final_layer_norm.weight" for stack, _, _ in stacks)]
