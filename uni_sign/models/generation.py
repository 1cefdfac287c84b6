"""What beam search need not do again: keys and values of the encoder's output are those of all beams of a clip."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, MT5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from uni_sign.models.few_rows import FewRows

# transformers renames it; the old name stays for a while.
_CACHE = "cache" if "cache" in inspect.signature(MT5ForConditionalGeneration.forward).parameters else "past_key_values"


class _SharedCache(DynamicCache):
    """Keys and values that every beam of a clip reads: choosing among the beams changes nothing in it."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Nothing moves."""


@torch.no_grad()
def beam_search(
    mt5: MT5ForConditionalGeneration,
    hidden_states: Tensor,
    attention_mask: Tensor,
    num_beams: int,
    max_new_tokens: int,
    synced: bool = False,
) -> Tensor:
    """Beam search from encoder output (B, S, D) and its mask (B, S): token ids (B, <= max_new_tokens + 1).

    The search of transformers, which by itself would project the encoder's output once a beam, copy all of it each
    time the beams change places, and read it once a beam in each step. ``synced``: all ranks make equally many steps,
    as ZeRO-3 needs.
    """
    with _beams_as_queries(mt5, num_beams), FewRows():
        found: Tensor = mt5.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_states),
            attention_mask=attention_mask,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            synced_gpus=synced,
            **{_CACHE: EncoderDecoderCache(DynamicCache(), _cross_attention_cache(mt5, hidden_states))},
        )
    return found


def _cross_attention_cache(mt5: MT5ForConditionalGeneration, hidden_states: Tensor) -> DynamicCache:
    """Keys and values (B, heads, S, d_kv) of each decoder layer, projected once a clip."""
    cache = _SharedCache()
    heads = (*hidden_states.shape[:-1], -1, mt5.config.d_kv)
    for number, block in enumerate(mt5.decoder.block):
        attention = block.layer[1].EncDecAttention
        pair = (project(hidden_states).view(heads).transpose(1, 2) for project in (attention.k, attention.v))
        cache.update(*pair, number)
    return cache


@contextmanager
def _beams_as_queries(mt5: MT5ForConditionalGeneration, num_beams: int) -> Iterator[None]:
    """Inside, the cross-attention of the decoder takes a clip's beams (B * beams, 1, D) as its queries (B, beams, D).

    It has neither order nor positions, so that each query's result is the same.
    """

    def fold(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        [beams] = given
        mask = named["mask"]
        folded = {"mask": mask if mask is None else mask[::num_beams]}
        return (beams.reshape(-1, num_beams, beams.shape[-1]),), {**named, **folded}

    def unfold(_: nn.Module, __: Any, made: tuple[Any, ...]) -> tuple[Any, ...]:
        return (made[0].reshape(-1, 1, made[0].shape[-1]), *made[1:])

    attentions = [block.layer[1].EncDecAttention for block in mt5.decoder.block]
    hooks = [attention.register_forward_pre_hook(fold, with_kwargs=True) for attention in attentions]
    hooks += [attention.register_forward_hook(unfold) for attention in attentions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
