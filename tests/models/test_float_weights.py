"""The published weights of FLOAT: every key and shape of them, there and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from uni_sign.errors import InputError
from uni_sign.models.audio_encoder import AudioEncoder, EmotionEncoder, SpeechClassifier, audio_projection
from uni_sign.models.float_weights import GROUPS, export_float, load_float
from uni_sign.models.flow_transformer import FlowSizes, FlowTransformer
from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder
from uni_sign.models.wav2vec2 import wav2vec2_config
from uni_sign.models.weights import Checkpoint

# facebook/wav2vec2-large-xlsr's shape, as the emotion classifier has it.
LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "conv_bias": True, "do_stable_layer_norm": True, "feat_extract_norm": "layer",
}  # fmt: skip
TINY_SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "conv_dim": [4] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
TINY_FLOW = FlowSizes(frames=6, num_prev_frames=2, dim_w=8, dim_a=8, dim_r=8, dim_h=16, fmt_depth=1, num_heads=2)


def modules(
    flow: FlowSizes, faces: AutoencoderSizes, speech: dict[str, Any], feeling: dict[str, Any]
) -> dict[str, nn.Module]:
    return {
        "motion_autoencoder": MotionAutoencoder(faces),
        "audio_encoder": AudioEncoder(Wav2Vec2Model(wav2vec2_config(speech)), dim_a=flow.dim_a),
        "emotion_encoder": EmotionEncoder(SpeechClassifier(wav2vec2_config(feeling))),
        "fmt": FlowTransformer(flow),
    }


def tiny(seed: int) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    made = modules(TINY_FLOW, AutoencoderSizes(16, 8, 3, 4), TINY_SPEECH, TINY_SPEECH)
    with torch.no_grad():
        for module in made.values():
            for parameter in module.parameters():
                parameter.normal_()
    return made


def test_every_key_and_shape_of_the_published_weights(golden: Callable[[str], Any]) -> None:
    published = golden("checkpoint_keys_float.json")
    with torch.device("meta"):
        ours = modules(FlowSizes(), AutoencoderSizes(), {}, LARGE)
    found = {
        f"{prefix}.{name}": value for prefix, module in ours.items() for name, value in module.state_dict().items()
    }
    described = {name: [list(value.shape), str(value.dtype).removeprefix("torch.")] for name, value in found.items()}
    assert len(published["keys"]) == 947
    assert described == published["keys"]
    counts = {
        prefix: [len(m.state_dict()), sum(v.numel() for v in m.state_dict().values())] for prefix, m in ours.items()
    }
    assert counts == published["groups"]
    assert sum(p.numel() for p in ours["fmt"].parameters()) == pytest.approx(157e6, rel=0.005)


def test_there_and_back(tmp_path: Path) -> None:
    ours, others = tiny(0), tiny(1)
    flat = export_float(ours)
    assert {name.split(".")[0] for name in flat} == set(GROUPS)
    save_file(flat, tmp_path / "float.safetensors")  # which refuses tensors that share memory
    said = load_float(others, Checkpoint("float.safetensors", load_file(tmp_path / "float.safetensors")))
    assert said == f"Loaded {len(flat)} tensors of {', '.join(GROUPS)} from float.safetensors."
    for prefix in GROUPS:
        one, other = ours[prefix].state_dict(), others[prefix].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_older_names_of_normed_weights() -> None:
    flat = export_float(tiny(0))
    parts = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    older = dict(flat)
    for new, old in parts.items():
        older = {name.replace(new, old): value for name, value in older.items()}
    assert len(set(older) - set(flat)) == 4
    others = tiny(1)
    load_float(others, Checkpoint("float.pth", older))
    assert all(torch.equal(value, flat[name]) for name, value in export_float(others).items())


def test_a_part_alone() -> None:
    flat = export_float(tiny(0))
    fmt, projection = FlowTransformer(TINY_FLOW), audio_projection(16, 8)
    said = load_float({"fmt": fmt, "audio_encoder.audio_projection": projection}, Checkpoint("float.pth", flat))
    assert "in it, but not loaded: emotion_encoder, motion_autoencoder." in said
    assert torch.equal(projection[0].weight, flat["audio_encoder.audio_projection.0.weight"])
    assert export_float({"fmt": fmt.bfloat16()})["fmt.decoder.linear.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("fmt.c_embedder.bias", None, r"1 tensors are missing .first fmt\.c_embedder\.bias"),
     ("fmt.evil", torch.zeros(1), r"1 tensors are unknown .first fmt\.evil"),
     ("evil.weight", torch.zeros(1), r"evil\.weight is in none of motion_autoencoder"),
     ("fmt.c_embedder.bias", torch.zeros(3), r"fmt\.c_embedder\.bias has shape .3,., here .16,."),
     ("fmt.alignment_mask", torch.zeros(8, 8, dtype=torch.bool), r"another fmt\.alignment_mask"),
     ("motion_autoencoder.dec.to_rgbs.0.upsample.kernel", torch.zeros(4, 4), r"another motion_autoencoder\..*kernel")],
)  # fmt: skip
def test_other_files_load_nothing(name: str, value: Tensor | None, says: str) -> None:
    flat = {key: tensor for key, tensor in {**export_float(tiny(0)), name: value}.items() if tensor is not None}
    others = tiny(1)
    before = export_float(others)
    with pytest.raises(InputError, match=rf"float\.pth .*{says}"):
        load_float(others, Checkpoint("float.pth", flat))
    assert all(torch.equal(value, before[key]) for key, value in export_float(others).items())
