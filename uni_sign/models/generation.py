"""What beam search need not do again: keys and values of the encoder's output are those of all beams of a clip."""

import inspect

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, MT5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

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

    The search of transformers, which by itself would project the encoder's output once a beam, and copy all of it
    each time the beams change places. ``synced``: all ranks make equally many steps, as ZeRO-3 needs.
    """
    found: Tensor = mt5.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden_states),
        attention_mask=attention_mask,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        synced_gpus=synced,
        **{_CACHE: EncoderDecoderCache(DynamicCache(), _cross_attention_cache(mt5, hidden_states, num_beams))},
    )
    return found


def _cross_attention_cache(mt5: MT5ForConditionalGeneration, hidden_states: Tensor, num_beams: int) -> DynamicCache:
    """Keys and values (B * beams, heads, S, d_kv) of each decoder layer, projected once a clip."""
    cache = _SharedCache()
    heads = (*hidden_states.shape[:-1], -1, mt5.config.d_kv)
    for number, block in enumerate(mt5.decoder.block):
        attention = block.layer[1].EncDecAttention
        pair = (project(hidden_states).view(heads).transpose(1, 2) for project in (attention.k, attention.v))
        cache.update(*(states.repeat_interleave(num_beams, dim=0) for states in pair), number)
    return cache
