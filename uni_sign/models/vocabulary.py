"""mT5's vocabulary matrices: a part of their rows, all of them again, and generation within a part."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from uni_sign.models.uni_sign import UniSign
from uni_sign.models.zero3 import rows_of

_OUTPUT = "lm_head.weight"
_MATRICES = ("shared.weight", "embed_tokens.weight", _OUTPUT)


def vocabulary_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The rows of each vocabulary matrix among ``weights``, by its name."""
    return {name: len(value) for name, value in weights.items() if name.endswith(_MATRICES)}


def sliced(weights: Mapping[str, Tensor], ids: Sequence[int], rows: int) -> dict[str, Tensor]:
    """``weights``, of whose vocabulary matrices with ``rows`` rows only the rows ``ids`` are left."""
    chosen = torch.tensor(ids)
    whole = {name for name, size in vocabulary_sizes(weights).items() if size == rows}
    return {name: value[chosen] if name in whole else value for name, value in weights.items()}


def restored(weights: Mapping[str, Tensor], ids: Sequence[int], mt5: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights``, whose vocabulary matrices of ``len(ids)`` rows are the rows ``ids`` of those of ``mt5`` again.

    The other rows are those of ``mt5`` bit by bit, in its dtype or the wider one of the two. Tied weights stay tied.
    """
    chosen = torch.tensor(ids)
    whole = dict(weights)
    made: dict[tuple[int, bool], Tensor] = {}
    for name, size in vocabulary_sizes(weights).items():
        value, output = weights[name], name.endswith(_OUTPUT)
        if size != len(ids):
            continue
        if (value.data_ptr(), output) not in made:
            source = mt5[_OUTPUT if output else "shared.weight"]
            dtype = torch.promote_types(source.dtype, value.dtype)
            made[value.data_ptr(), output] = source.to(dtype).index_copy(0, chosen, value.to(dtype))
        whole[name] = made[value.data_ptr(), output]
    return whole


@contextmanager
def constrained_generation(model: UniSign, ids: Sequence[int] | None) -> Iterator[None]:
    """Inside, ``model`` generates as if it had the pieces ``ids`` (K,) alone, which begin with 0, 1, 2.

    Output matrix, softmax and beams see K rows, copied once at the start; the ids that come out are the full
    vocabulary's. Collective under ZeRO-3, which gathers both matrices for the copy. None: nothing changes.
    """
    if ids is None:
        yield
        return
    mt5 = model.mt5_model
    chosen = torch.tensor(ids, device=mt5.lm_head.weight.device)
    before = mt5.lm_head, mt5.decoder.embed_tokens, mt5.config.vocab_size
    head = nn.Linear(mt5.config.d_model, len(ids), bias=False, device="meta")
    head.weight = nn.Parameter(rows_of(mt5.lm_head.weight, chosen), requires_grad=False)
    embedding = nn.Embedding.from_pretrained(rows_of(mt5.shared.weight, chosen))
    try:
        mt5.lm_head, mt5.decoder.embed_tokens, mt5.config.vocab_size = head, embedding, len(ids)
        model.generated_ids = chosen
        yield
    finally:
        mt5.lm_head, mt5.decoder.embed_tokens, mt5.config.vocab_size = before
        model.generated_ids = None
