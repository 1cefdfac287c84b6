"""Clips in vectors, as the temporal model leaves them, and the texts that belong to them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uni_sign.data.npz import read_npz
from uni_sign.data.safe_pickle import check_file
from uni_sign.errors import InputError

MAX_BYTES = 64 << 30  # unpacked
_DIMENSIONS = {"global_reprs": 2, "local_reprs": 3, "temporal_reprs": 3}


@dataclass(frozen=True)
class Representations:
    """Global (N, d), local (N, 2, d) and temporal (N, T, d) vectors, float32; real frames of each (N,), and names."""

    global_reprs: np.ndarray
    local_reprs: np.ndarray
    temporal_reprs: np.ndarray
    lengths: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


def write_representations(path: Path, representations: Representations) -> None:
    """`all_representations.npz`, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    arrays = {name: getattr(representations, name) for name in (*_DIMENSIONS, "lengths")}
    with partial.open("wb") as file:
        np.savez(file, **arrays, names=np.array(representations.names))
    partial.replace(path)


def read_representations(path: Path) -> Representations:
    """`all_representations.npz`; ``lengths`` and ``names`` may be missing: all frames are real, names are numbers.

    Raises InputError, naming file and array, where it is damaged, or the arrays do not fit together.
    """
    arrays = read_npz(path, (*_DIMENSIONS, "lengths"), MAX_BYTES, "extract it anew")
    names = _names(path)
    count = None
    for key, dimensions in _DIMENSIONS.items():
        array = arrays.get(key)
        if array is None or array.ndim != dimensions or array.dtype.kind != "f":
            said = "missing" if array is None else f"of shape {array.shape} and type {array.dtype}"
            raise InputError(f"{path}: {key} is {said}: `uni-sign infer temporal` writes such files.")
        count = len(array) if count is None else count
        if len(array) != count or not count:
            raise InputError(f"{path}: {key} holds {len(array)} clips, others {count}: extract them anew.")
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {key} holds a value that is no number: extract them anew, with --dtype fp32.")
    assert count is not None
    vectors = {name: arrays[name].astype(np.float32, copy=False) for name in _DIMENSIONS}
    if vectors["local_reprs"].shape[1:] != (2, vectors["global_reprs"].shape[1]):
        raise InputError(f"{path}: local_reprs is of shape {vectors['local_reprs'].shape}, not (N, 2, d).")
    frames = vectors["temporal_reprs"].shape[1]
    lengths = arrays.get("lengths")
    if lengths is None:
        lengths = np.full(count, frames)
    if lengths.shape != (count,) or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > frames:
        raise InputError(f"{path}: lengths must be {count} whole numbers from 1 to {frames}.")
    if len(names) != count:
        names = [f"{number:05d}" for number in range(count)]
    return Representations(**vectors, lengths=lengths.astype(np.int64), names=names)


def _names(path: Path) -> list[str]:
    """Names as text; none where an older writer pickled them, or they are no text."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays["names"].tolist()
        "".join(names).encode()
    except Exception:  # numpy raises SystemError for letters that there are not
        return []
    return list(names)


def read_texts(path: Path) -> list[str]:
    """`text_data.json`: {"texts": [...]}, one a clip. Raises InputError, naming file and text, for anything else."""
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({type(error).__name__}): write it again.") from None
    texts = content.get("texts") if isinstance(content, dict) else content
    if not isinstance(texts, list) or not texts:
        raise InputError(f'{path} holds no list under "texts": it needs one text a clip.')
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}: text {number} is empty, or no text: give one for each clip.")
    return texts
