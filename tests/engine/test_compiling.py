"""`--compile`: the same numbers and names, few compilations however lengths vary, and what it refuses."""

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MT5Config

from uni_sign.engine.compiling import check_compiler, compile_in_place
from uni_sign.errors import InputError
from uni_sign.models.mt5 import decoder_states
from uni_sign.models.uni_sign import UniSign


def test_varying_lengths_compile_a_few_blocks_once_and_change_no_number() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
    plain = UniSign(MT5Config(vocab_size=40, dropout_rate=0.0, **sizes), hidden_dim=8)
    compiled = copy.deepcopy(plain)
    graphs: list[Any] = []

    def counting(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_in_place(compiled.transformer_blocks(), counting)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())
    draw = random.Random(0)
    for _ in range(20):
        states = torch.randn(draw.randint(2, 4), draw.randint(5, 40), 16)
        labels = torch.randint(2, 40, (len(states), draw.randint(3, 12)))
        torch.testing.assert_close(
            _loss_and_gradients(compiled, states, labels), _loss_and_gradients(plain, states, labels)
        )
    # The first block and the later ones, in the encoder and in the decoder; sizes that were equal by chance once more.
    assert 4 <= (compilations := len(graphs)) <= 8
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        compiled.mt5_model.generate(inputs_embeds=states, max_new_tokens=3)
    assert len(graphs) == compilations


def _loss_and_gradients(model: UniSign, states: Tensor, labels: Tensor) -> list[Tensor]:
    model.zero_grad()
    mask = torch.ones(states.shape[:2], dtype=torch.long)
    encoded = model.mt5_model.encoder(inputs_embeds=states, attention_mask=mask).last_hidden_state
    loss = decoder_states(model.mt5_model, encoded, mask, labels).square().sum()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.mt5_model.parameters() if p.grad is not None)]


def test_a_machine_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match="C\\+\\+ compiler"):
        check_compiler()
