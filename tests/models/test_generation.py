"""Beam search with keys and values projected once a clip gives what the library's own does."""

from typing import Any

import pytest
import torch
from transformers import MT5Config
from transformers.modeling_outputs import BaseModelOutput

from uni_sign.models.generation import beam_search
from uni_sign.models.mt5 import new_mt5


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("decoder_layers", [2, 3])
def test_the_same_tokens(tiny_config: dict[str, Any], beams: int, decoder_layers: int) -> None:
    torch.manual_seed(0)
    mt5 = new_mt5(MT5Config(**{**tiny_config, "num_layers": 3, "num_decoder_layers": decoder_layers})).eval()
    states, mask = torch.randn(3, 9, mt5.config.d_model), torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    # A decoder this small hardly looks at the encoder: louder states make the beams change places.
    for block in mt5.decoder.block:
        block.layer[1].EncDecAttention.o.weight.data.mul_(8)
    expected = mt5.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        num_beams=beams,
        max_new_tokens=12,
        do_sample=False,
    )
    assert torch.equal(beam_search(mt5, states, mask, beams, 12), expected)
    assert len({tuple(row) for row in expected.tolist()}) == 3


def test_encoder_output_is_projected_and_read_once_a_clip(tiny_config: dict[str, Any]) -> None:
    """With more layers in the decoder than in the encoder, too, where the library's own cache is too short."""
    mt5 = new_mt5(MT5Config(**{**tiny_config, "num_layers": 1, "num_decoder_layers": 3})).eval()
    projected: list[int] = []
    attended: list[tuple[int, ...]] = []
    for attention in (block.layer[1].EncDecAttention for block in mt5.decoder.block):
        attention.k.register_forward_hook(lambda _, given, __: projected.append(len(given[0])))
        attention.q.register_forward_hook(lambda _, given, __: attended.append(tuple(given[0].shape)))
    beam_search(mt5, torch.randn(3, 9, mt5.config.d_model), torch.ones(3, 9, dtype=torch.long), 4, 6)
    assert projected == [3] * len(mt5.decoder.block)
    assert attended
    assert set(attended) == {(3, 4, mt5.config.d_model)}
    assert not any(module._forward_pre_hooks for module in mt5.decoder.modules())
