"""A model of the keypoint pipeline is built from what its best file tells, and from nothing that cannot be."""

from typing import Any

import pytest
import torch

from uni_sign.models.keypoint_models import keypoint_model

ENCODER = {
    **{"input_dim": 3, "d_global": 8, "d_region": 8, "nhead": 4, "num_region_layers": 1, "num_interaction_layers": 1},
    **{"dim_feedforward": 8, "dropout": 0.1},
}
TEMPORAL = {
    **{"d_temporal": 8, "d_final": 8, "temporal_nhead": 2, "num_temporal_layers": 1, "num_decoder_layers": 1},
    **{"temporal_dim_feedforward": 8, "temporal_dropout": 0.1, "fusion_method": "concat"},
}
MBART = {
    **{"vocab_size": 20, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "skeleton": {**ENCODER, "image_size": 16},
    "hierarchical_image": {**ENCODER, "image_size": 16},
    "hierarchical_keypoint": {**ENCODER, "num_decoder_layers": 1},
    "temporal": {**ENCODER, **TEMPORAL, "image_size": 16},
    "alignment": {"video_repr_dim": 24, "cross_attention_heads": 2, "dropout": 0.1, "temporal_dim": 8, "mbart": MBART},
}


@pytest.mark.parametrize("stage", CONFIGS)
def test_each_stage_is_built_from_plain_values(stage: str) -> None:
    config = {"stage": stage, **CONFIGS[stage]}
    with torch.device("meta"):
        first, second = keypoint_model(config), keypoint_model(config)
    second.load_state_dict(first.state_dict(), strict=True, assign=True)


@pytest.mark.parametrize("stage", CONFIGS)
def test_what_is_missing_is_named(stage: str) -> None:
    for name in CONFIGS[stage]:
        config = {"stage": stage, **{other: value for other, value in CONFIGS[stage].items() if other != name}}
        with pytest.raises(ValueError, match=name), torch.device("meta"):
            keypoint_model(config)


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, config in CONFIGS.items() for name in config])
def test_impossible_values_are_refused(stage: str, name: str) -> None:
    for value in (-1, True, "8", 1e9, None, [8], float("nan"), 10**9):
        with pytest.raises(ValueError, match=r"impossible|its mbart"), torch.device("meta"):
            keypoint_model({"stage": stage, **CONFIGS[stage], name: value})


@pytest.mark.parametrize("config", [{}, {"stage": "no_stage"}, {"stage": ["skeleton"]}])
def test_an_unknown_stage_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="its stage is"):
        keypoint_model(config)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible"), torch.device("meta"):
        keypoint_model({"stage": "skeleton", **CONFIGS["skeleton"], "d_region": 9})
