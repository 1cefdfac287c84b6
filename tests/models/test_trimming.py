"""A part of the vocabulary: the same logits, all rows back, and generation within it; parameters of mT5-base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MT5Config

from uni_sign.models.mt5 import decoder_states
from uni_sign.models.uni_sign import Encoded, UniSign
from uni_sign.models.vocabulary import constrained_generation, restored, sliced, vocabulary_sizes

ROWS, IDS = 96, (0, 1, 2, 5, 6, 11, 40, 41, 60, 77, 80, 95)
TINY = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
MT5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}


def tiny(rows: int) -> UniSign:
    return UniSign(MT5Config(vocab_size=rows, **TINY), hidden_dim=8).eval()


@pytest.fixture(scope="module")
def models() -> tuple[UniSign, UniSign]:
    """A model with all rows, and the same with those of IDS alone."""
    torch.manual_seed(1)
    full, cut = tiny(ROWS), tiny(len(IDS))
    # So peaked that beams differ, and with an end of the sentence that comes early.
    full.mt5_model.lm_head.weight.data.mul_(2.0)
    cut.load_state_dict(sliced(full.state_dict(), IDS, ROWS))
    return full, cut


def encoded(clips: int = 4) -> Encoded:
    states = torch.randn(clips, 5, 32, generator=torch.Generator().manual_seed(3))
    return Encoded(states, torch.ones(clips, 5, dtype=torch.long), None)


def test_logits_of_kept_pieces_are_equal(models: tuple[UniSign, UniSign]) -> None:
    full, cut = models
    labels = torch.tensor([[3, 4, 7, 1], [11, 1, -100, -100]])
    theirs = torch.where(labels < 0, labels, torch.tensor(IDS)[labels.clamp(min=0)])
    given = encoded(2)
    with torch.no_grad():
        ours = cut.mt5_model.lm_head(decoder_states(cut.mt5_model, given.hidden_states, given.attention_mask, labels))
        all_ = full.mt5_model.lm_head(decoder_states(full.mt5_model, given.hidden_states, given.attention_mask, theirs))
    torch.testing.assert_close(ours, all_[..., list(IDS)], atol=1e-6, rtol=0)


# --- all rows back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_rows_come_back_bit_by_bit(models: tuple[UniSign, UniSign], dtype: torch.dtype) -> None:
    full = models[0].state_dict()
    mt5 = {name.removeprefix("mt5_model."): value for name, value in full.items()}
    trained = {n: (v + 1).to(dtype) if v.is_floating_point() else v for n, v in sliced(full, IDS, ROWS).items()}
    back = restored(trained, IDS, mt5)
    lost = sorted(set(range(ROWS)) - set(IDS))
    assert set(vocabulary_sizes(back).values()) == {ROWS}
    assert len(vocabulary_sizes(back)) == 4
    for name, value in back.items():
        if name not in vocabulary_sizes(full):
            assert value is trained[name]
            continue
        assert value.dtype == torch.float32
        assert torch.equal(value[lost], full[name][lost])
        assert torch.equal(value[list(IDS)], trained[name].float())


def test_tied_weights_stay_tied_and_the_output_matrix_apart() -> None:
    shared = torch.ones(len(IDS), 2)
    names = ("shared.weight", "encoder.embed_tokens.weight", "lm_head.weight", "text_encoder.encoder.shared.weight")
    mt5 = {"shared.weight": torch.zeros(ROWS, 2), "lm_head.weight": torch.full((ROWS, 2), 7.0)}
    back = restored({**dict.fromkeys(names, shared), names[3]: shared + 1}, IDS, mt5)
    assert back[names[0]] is back[names[1]]
    assert back[names[2]][3, 0] == 7
    assert back[names[3]][[3, 5], 0].tolist() == [0, 2]
    assert not mt5["shared.weight"].any()


def test_matrices_of_another_size_are_left_alone() -> None:
    weights = {"a.shared.weight": torch.ones(7, 2), "proj.weight": torch.ones(ROWS, 2)}
    assert all(value is weights[name] for name, value in sliced(weights, IDS, ROWS).items())
    assert all(value is weights[name] for name, value in restored(weights, IDS, weights).items())


# --- generation --------------------------------------------------------------------------------------------


class Masked:
    """Full generation, every other logit -inf before the softmax."""

    def __init__(self, head: nn.Linear) -> None:
        self.handle = head.register_forward_hook(self)

    def __call__(self, _: nn.Module, __: Any, logits: Tensor) -> Tensor:
        lost = torch.ones(ROWS, dtype=torch.bool)
        lost[list(IDS)] = False
        return logits.masked_fill(lost, float("-inf"))


@pytest.fixture
def masked(models: tuple[UniSign, UniSign]) -> Iterator[UniSign]:
    hook = Masked(models[0].mt5_model.lm_head)
    yield models[0]
    hook.handle.remove()


def generations(model: UniSign, beams: int) -> Tensor:
    return model.generate(encoded(), beams, 12)


@pytest.mark.parametrize("beams", [1, 4])
def test_constrained_equals_trimmed_equals_masked(
    models: tuple[UniSign, UniSign], beams: int, request: pytest.FixtureRequest
) -> None:
    full, cut = models
    free = generations(full, beams)
    with constrained_generation(full, IDS):
        held = generations(full, beams)
    assert set(held.unique().tolist()) <= set(IDS)
    assert not torch.equal(free, held)
    assert torch.equal(held, torch.tensor(IDS)[generations(cut, beams)])
    assert torch.equal(held, generations(request.getfixturevalue("masked"), beams))


def test_nothing_remains_of_a_constraint(models: tuple[UniSign, UniSign]) -> None:
    full = models[0]
    before, free = {name: id(p) for name, p in full.named_parameters()}, generations(full, 2)
    with constrained_generation(full, IDS):
        assert full.mt5_model.lm_head.out_features == full.mt5_model.config.vocab_size == len(IDS)
    with pytest.raises(TypeError), constrained_generation(full, IDS):
        full.generate(encoded(), "two", 12)  # type: ignore[arg-type]
    assert {name: id(p) for name, p in full.named_parameters()} == before
    assert full.mt5_model.config.vocab_size == ROWS
    assert torch.equal(generations(full, 2), free)
    with constrained_generation(full, None):
        assert torch.equal(generations(full, 2), free)


# --- what it saves -----------------------------------------------------------------------------------------


def test_mt5_base_with_20480_pieces_has_at_least_55_percent_fewer_parameters() -> None:
    def parameters(rows: int) -> int:
        with torch.device("meta"):
            model = UniSign(MT5Config(vocab_size=rows, **MT5_BASE), hidden_dim=256)
        return sum(p.numel() for p in model.parameters())

    whole, trimmed = parameters(250_112), parameters(20_480)
    assert whole - trimmed == 2 * (250_112 - 20_480) * 768
    assert (whole, trimmed) == (587_747_368, 235_032_616)
    assert 1 - trimmed / whole >= 0.55
