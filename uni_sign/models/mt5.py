"""mT5 with an output matrix of its own."""

import json
from pathlib import Path

from torch import Tensor, nn
from transformers import GenerationConfig, MT5Config, MT5EncoderModel, MT5ForConditionalGeneration, PreTrainedModel

from uni_sign.errors import InputError
from uni_sign.models.cross_entropy import output_matrix
from uni_sign.models.pretrained import load_pretrained

_SIZES = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
)
_RATES = ("dropout_rate", "layer_norm_epsilon", "initializer_factor")
_ACTIVATIONS = ("relu", "gated-gelu", "gated-silu")
_LARGEST = 1 << 24
_MOST_LAYERS = 200
_MOST_PARAMETERS = 10**11  # generously counted; mT5-xxl has 1.3 * 10**10
_TIED_EMBEDDINGS = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}


def read_config(folder: Path) -> MT5Config:
    """The mT5 configuration of a local folder; raises InputError where there is none or it is broken."""
    if not (folder / "config.json").is_file():
        raise InputError(
            f"No mT5 model in {folder} (config.json is missing): put google/mt5-base there, or point --mt5 elsewhere."
        )
    path = folder / "config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        sizes = {name: given[name] for name in _SIZES if given.get(name) is not None}
        rates = {name: float(given[name]) for name in _RATES if name in given}
        activation = given.get("feed_forward_proj", "gated-gelu")
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not an mT5 configuration: {error}.") from error
    wrong = [name for name, size in sizes.items() if type(size) is not int or not 0 < size <= _LARGEST]
    wrong += [name for name, rate in rates.items() if not 0 <= rate <= 1]
    wrong += [] if activation in _ACTIVATIONS else ["feed_forward_proj"]
    if wrong:
        raise InputError(f"{path} is not an mT5 configuration: {wrong[0]} has an impossible value.")
    # Of what a stranger's file says only these values count: others can name code to load.
    config = adapted(MT5Config(**sizes, **rates, feed_forward_proj=activation))
    _check_size(config, path)
    return config


def _check_size(config: MT5Config, path: Path) -> None:
    width = max(config.d_model, config.d_ff, config.d_kv * config.num_heads)
    layers = config.num_layers + config.num_decoder_layers
    if layers > _MOST_LAYERS or config.d_model * (2 * config.vocab_size + 15 * layers * width) > _MOST_PARAMETERS:
        raise InputError(f"{path} describes a model larger than any mT5: get it anew.")


def adapted(config: MT5Config) -> MT5Config:
    """mT5 is published untied, yet transformers 5 forces the tie when it reads a config: undo that.

    Its GELU, spelled out in eight operations that all keep their results for the backward pass, becomes one.
    """
    config.tie_word_embeddings = False
    if config.dense_act_fn == "gelu_new":
        config.dense_act_fn = "gelu_pytorch_tanh"
    return config


def share_embeddings(model: MT5ForConditionalGeneration) -> MT5ForConditionalGeneration:
    """Encoder and decoder read ``shared``; ``lm_head`` stays a parameter of its own; mT5's ids are set."""
    model.encoder.set_input_embeddings(model.shared)
    model.decoder.set_input_embeddings(model.shared)
    if model.lm_head.weight is model.shared.weight:
        model.lm_head.weight = nn.Parameter(model.shared.weight.detach().clone())
    model.lm_head = output_matrix(model.lm_head)
    # A config that spells out only what differs from the defaults would leave these unset.
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    return model


def new_mt5(config: MT5Config) -> MT5ForConditionalGeneration:
    """A randomly initialised mT5 of this shape, untied."""
    return share_embeddings(MT5ForConditionalGeneration(adapted(config)))


def load_mt5(folder: Path) -> MT5ForConditionalGeneration:
    """The pretrained mT5 of a local folder in float32; raises InputError where weights are missing or wrong."""
    model = load_pretrained(
        MT5ForConditionalGeneration, folder, read_config(folder), "mT5", lambda name: name in _TIED_EMBEDDINGS
    )
    return share_embeddings(model)


def load_text_stack(folder: Path) -> MT5EncoderModel:
    """The encoder half of the pretrained mT5 of a local folder in float32."""
    model: MT5EncoderModel = load_pretrained(
        MT5EncoderModel, folder, read_config(folder), "mT5", lambda name: name == "encoder.embed_tokens.weight"
    )
    model.encoder.set_input_embeddings(model.shared)
    return model


def recompute_blocks(model: PreTrainedModel) -> None:
    """Training keeps the inputs of this model's blocks alone, and runs each block again in the backward pass."""
    # The older name for versions of transformers before the newer one.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # Its hooks ask for gradients of what a frozen embedding looks up, which only reentrant recomputation needs.
    if hasattr(model, "_require_grads_hook"):
        model.disable_input_require_grads()


def decoder_states(mt5: MT5ForConditionalGeneration, encoded: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Teacher-forced decoder states (B, L, D) for encoder output (B, S, D), its mask (B, S), labels (B, L)."""
    shifted = mt5.prepare_decoder_input_ids_from_labels(labels)
    return mt5.decoder(
        input_ids=shifted, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
    ).last_hidden_state
