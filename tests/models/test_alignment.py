"""Vectors of a clip to text, against golden numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_hierarchical import Weights, part
from transformers import MBartConfig, MBartForConditionalGeneration

from uni_sign.models.alignment import UNUSED_MODULES, VideoLanguageAlignment


@pytest.fixture
def model(golden: Callable[[str], Any], golden_weights: Weights) -> VideoLanguageAlignment:
    config = MBartConfig(**golden("09_keypoint_meta.json")["align"]["mbart_config"])
    made = VideoLanguageAlignment(MBartForConditionalGeneration(config), 60).eval()
    made.load_state_dict(part(golden_weights("09_keypoint_recipe.json"), "align"))
    return made


@torch.no_grad()
def test_golden_numbers(model: VideoLanguageAlignment, golden: Callable[[str], Any]) -> None:
    numbers = {name: torch.from_numpy(value) for name, value in golden("09_keypoint_io.npz").items() if "align" in name}
    states, mask = model(numbers["align/global"], numbers["align/local"])
    torch.testing.assert_close(states, numbers["align/video_embedding"], atol=1e-5, rtol=1e-5)
    ids, labels = numbers["align/ids"], numbers["align/labels"]
    logits = model.logits(states, mask, ids[:, :-1])
    seen = numbers["align/attention_mask"][:, :-1] > 0  # padded places attended to one another there
    torch.testing.assert_close(logits[seen], numbers["align/logits"][seen], atol=1e-5, rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss, numbers["align/loss"], atol=1e-5, rtol=1e-5)
    ids = model.generate(states, mask, 4, 12, early_stopping=True, no_repeat_ngram_size=2)
    assert ids.tolist() == golden("09_keypoint_meta.json")["align"]["generated"]


def test_what_nothing_uses_does_not_train(model: VideoLanguageAlignment) -> None:
    states, mask = model(torch.randn(2, 20), torch.randn(2, 2, 20))
    model.logits(states, mask, torch.tensor([[2, 5, 6], [2, 7, 8]])).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert all(name.startswith(UNUSED_MODULES) for name in frozen)


@torch.no_grad()
def test_temporal_states_are_attended_to_but_for_padding(golden: Callable[[str], Any]) -> None:
    config = MBartConfig(**golden("09_keypoint_meta.json")["align"]["mbart_config"])
    model = VideoLanguageAlignment(MBartForConditionalGeneration(config), 60, temporal_dim=24).eval()
    vectors, temporal = (torch.randn(2, 20), torch.randn(2, 2, 20)), torch.randn(2, 5, 24)
    padding = (torch.arange(5) >= 3).expand(2, -1)
    ids = torch.tensor([[2, 5, 6], [2, 7, 8]])
    padded = model.logits(*model(*vectors, temporal, padding), ids)
    short = model.logits(*model(*vectors, temporal[:, :3]), ids)
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.logits(*model(*vectors, temporal[:, :2]), ids), short, atol=1e-4)
