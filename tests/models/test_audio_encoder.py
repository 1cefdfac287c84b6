"""Speech to frames against golden numbers; folders and configurations of strangers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Wav2Vec2Model

from uni_sign.errors import InputError
from uni_sign.models.audio_encoder import (
    EMOTIONS,
    AudioEncoder,
    EmotionEncoder,
    SpeechClassifier,
    audio_projection,
    emotion_label,
    load_audio_backbone,
    load_emotion_encoder,
)
from uni_sign.models.wav2vec2 import (
    conv_features,
    current_name,
    feature_width,
    layer_features,
    normalized,
    plain_config,
    wav2vec2_config,
)

TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


def tiny(**change: Any) -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(wav2vec2_config({**TINY, **change})).eval()


@pytest.fixture(scope="module")
def published(golden: Callable[[str], Any]) -> Wav2Vec2Model:
    import weights_recipe

    recipe = golden("10_float_wav2vec_recipe.json")
    plain = {name: value for name, value in recipe["config"].items() if name in TINY}
    model = Wav2Vec2Model(wav2vec2_config(plain)).eval()
    weights = weights_recipe.build(recipe["recipe"])
    model.load_state_dict({name.removeprefix("wav2vec2."): torch.from_numpy(value) for name, value in weights.items()})
    return model


@torch.no_grad()
def test_features_are_the_published_ones(published: Wav2Vec2Model, golden: Callable[[str], Any]) -> None:
    numbers = {name: torch.from_numpy(value) for name, value in golden("10_float_wav2vec_io.npz").items()}
    found = {
        "interpolated_features": conv_features(published, numbers["audio"], 10),
        "stacked_hidden": layer_features(published, numbers["audio"], 10, only_last=False),
        "last_hidden_state": layer_features(published, numbers["audio"], 10, only_last=True),
    }
    for name, value in found.items():
        torch.testing.assert_close(value, numbers[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stable", [False, True])
@torch.no_grad()
def test_layers_are_those_of_transformers(stable: bool) -> None:
    """Canary: at wav2vec2's own rate, hidden states 1 to the last are what transformers gives.

    Where another layer norm follows the last layer, some versions give the last state without it.
    """
    model = tiny(do_stable_layer_norm=stable, feat_extract_norm="layer" if stable else "group")
    waveform = normalized(torch.randn(2, 4000))
    expected = model(waveform, output_hidden_states=True)
    frames = expected.last_hidden_state.shape[1]
    found = layer_features(model, waveform, frames, only_last=False)
    torch.testing.assert_close(found[..., :32], expected.hidden_states[1], atol=1e-5, rtol=1e-5)
    assert len(expected.hidden_states) == 3
    torch.testing.assert_close(found[..., -32:], expected.last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_frame_at_both_ends_and_evenly_between() -> None:
    model, waveform = tiny(), torch.randn(1, 3280)
    heard = model.feature_extractor(waveform).transpose(1, 2)
    found = conv_features(model, waveform, 19)
    assert heard.shape[1] == 10
    torch.testing.assert_close(found[:, ::2], heard)
    torch.testing.assert_close(found[:, 1::2], (heard[:, 1:] + heard[:, :-1]) / 2)


def test_waveforms_are_normalised_each_alone() -> None:
    waveform = torch.randn(2, 5000) * torch.tensor([[3.0], [0.01]]) + torch.tensor([[1.0], [-2.0]])
    found = normalized(waveform)
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(dim=1), torch.ones(2), atol=1e-2, rtol=0)
    assert not normalized(torch.zeros(1, 100)).any()


def test_too_little_sound() -> None:
    with pytest.raises(ValueError, match="399 samples of sound are fewer than the 400"):
        conv_features(tiny(), torch.zeros(1, 399), 1)
    assert conv_features(tiny(), torch.zeros(1, 400), 3).shape == (1, 3, 16)


@pytest.mark.parametrize(("only_last", "width"), [(False, 64), (True, 32)])
def test_only_the_projection_trains(only_last: bool, width: int) -> None:
    encoder = AudioEncoder(tiny(), dim_a=8, only_last_features=only_last).train()
    assert not encoder.wav2vec2.training
    waveform = normalized(torch.randn(2, 1600))
    encoder(waveform, 5).sum().backward()
    trained = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert trained == {f"audio_projection.{part}.{kind}" for part in (0, 1) for kind in ("weight", "bias")}
    assert feature_width(encoder.wav2vec2.config, only_last) == width
    kept = encoder.features(waveform, 5)  # what a cache holds
    assert (kept.shape, kept.requires_grad) == ((2, 5, width), False)
    alone = audio_projection(width, 8)
    alone.load_state_dict(encoder.audio_projection.state_dict())
    torch.testing.assert_close(alone(kept), encoder(waveform, 5))


@torch.no_grad()
def test_emotions_add_up_to_one() -> None:
    torch.manual_seed(0)
    encoder = EmotionEncoder(SpeechClassifier(wav2vec2_config(TINY))).train()
    assert not encoder.wav2vec2_for_emotion.training
    waveform = normalized(torch.randn(3, 2000))
    found = encoder(waveform)
    assert found.shape == (3, 1, 7)
    torch.testing.assert_close(found.sum(dim=2), torch.ones(3, 1))
    head, heard = encoder.wav2vec2_for_emotion.classifier, encoder.wav2vec2_for_emotion.wav2vec2(waveform)
    pooled = heard.last_hidden_state.mean(dim=1)
    expected = head.out_proj(torch.tanh(head.dense(pooled))).exp()
    torch.testing.assert_close(found[:, 0], expected / expected.sum(dim=1, keepdim=True))


def test_labels_by_name() -> None:
    assert emotion_label("happy").flatten().tolist() == [0, 0, 0, 1, 0, 0, 0]
    with pytest.raises(InputError, match=r"calm is no emotion .* angry, disgust"):
        emotion_label("calm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny().save_pretrained(tmp_path / "audio")
    return tmp_path / "audio"


def change_config(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
@pytest.mark.parametrize("old", [False, True])
def test_a_folder_by_either_name_of_its_weights(folder: Path, old: bool, prefix: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    if old:
        weights = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): value
            for name, value in weights.items()
        }
        assert any(name.endswith("weight_g") for name in weights)
        assert {current_name(name) for name in weights} == set(load_file(path))
    weights = {prefix + name: value for name, value in weights.items() if name != "masked_spec_embed"}
    save_file(weights | ({"lm_head.weight": torch.zeros(1)} if prefix else {}), path, {"format": "pt"})
    model, expected = load_audio_backbone(folder), tiny()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    waveform = normalized(torch.randn(1, 2000))
    torch.testing.assert_close(layer_features(model, waveform, 4, False), layer_features(expected, waveform, 4, False))


def test_what_names_code_does_not_count(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModel": "evil.Evil"}, attn_implementation="evil/kernel", layerdrop="evil")
    assert load_audio_backbone(folder).config.num_hidden_layers == 2


def test_configurations_come_back_from_plain_values() -> None:
    config = wav2vec2_config({**TINY, "conv_bias": True})
    assert plain_config(wav2vec2_config(plain_config(config))) == plain_config(config)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(({"hidden_size": size}, "hidden_size") for size in (0, True, "32", 1 << 20)),
        ({"num_hidden_layers": 1000}, "num_hidden_layers"),
        *(({"conv_dim": stack}, "conv_dim") for stack in (5, [], ["16"] * 7)),
        ({"conv_dim": [16] * 6}, "(conv|valid)"),
        ({"conv_stride": [0] * 7}, "conv_stride"),
        ({"conv_bias": 1}, "conv_bias"),
        *(({"hidden_act": act}, "hidden_act") for act in ("__class__", [])),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"num_attention_heads": 5}, "no multiple"),
        ({"hidden_size": 1 << 14, "num_hidden_layers": 100}, "larger than any"),
    ],
)
def test_impossible_configurations(folder: Path, change: dict[str, Any], says: str) -> None:
    change_config(folder, **change)
    with pytest.raises(InputError, match=rf"config\.json is not a wav2vec2 configuration: .*{says}"):
        load_audio_backbone(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "[" * 100_000])
def test_what_is_no_configuration(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is not a wav2vec2 configuration"):
        load_audio_backbone(folder)


def test_folders_without_what_is_needed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No wav2vec2 model in .*nowhere.*--wav2vec_model_path"):
        load_audio_backbone(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"No speech emotion model in .*nowhere.*--audio2emotion_path"):
        load_emotion_encoder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"lack 4 tensors, first classifier"):  # a model of speech alone
        load_emotion_encoder(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layers.1.attention.q_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors, first encoder\.layers\.1"):
        load_audio_backbone(folder)


def test_an_emotion_folder_and_its_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = SpeechClassifier(wav2vec2_config(TINY)).eval()
    classifier.save_pretrained(tmp_path)
    labels = {str(number): name.title() for number, name in enumerate(EMOTIONS)}
    change_config(tmp_path, id2label=labels)
    waveform = normalized(torch.randn(1, 2000))
    found: Tensor = load_emotion_encoder(tmp_path)(waveform)
    torch.testing.assert_close(found, EmotionEncoder(classifier)(waveform))
    for wrong in ({**labels, "0": "calm"}, {**labels, "7": "calm"}, ["angry"], {"0": []}):
        change_config(tmp_path, id2label=wrong)
        with pytest.raises(InputError, match=r"config\.json tells other emotions apart"):
            load_emotion_encoder(tmp_path)
