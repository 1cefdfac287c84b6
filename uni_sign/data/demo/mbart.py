"""A very small mBART for the demo clips: tokenizer of mBART-50's form trained on their texts, random weights."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

_PIECES = 400
_ENDINGS = "{0} {0}. {0}?"
_LANGUAGE = "en_XX"
_WIDTH = 96


def write_mbart(folder: Path, texts: Sequence[str], seed: int) -> None:
    """Write a folder that `from_pretrained` reads: tokenizer.json, config.json and model.safetensors."""
    import torch
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration

    tokenizer = MBart50Tokenizer(vocab=_pieces(texts), src_lang=_LANGUAGE, tgt_lang=_LANGUAGE)
    config = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=_WIDTH,
        encoder_layers=1,  # never used
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=_WIDTH,
        decoder_ffn_dim=2 * _WIDTH,
        max_position_embeddings=130,
        scale_embedding=True,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MBartForConditionalGeneration(config)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _pieces(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces with their scores, as a SentencePiece model lists them: <unk>, <s>, </s>, then the others."""
    model = io.BytesIO()
    words = sorted({word.strip(".?,") for text in texts for word in text.split()})
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *(_ENDINGS.format(word) for word in words)]),
        model_writer=model,
        model_type="unigram",
        vocab_size=_PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(trained.id_to_piece(i), trained.get_score(i)) for i in range(trained.get_piece_size())]
