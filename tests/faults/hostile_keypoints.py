"""Hostile files of the keypoint pipeline: frames, sequences and vectors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from hostile_pickles import _npy, _npz, _pickle_attacks, _pickled
from hypothesis import strategies as st
from reader import ANY_ARRAY, FRAME, VALUE, Reader, Seed, fields, odd_values

from uni_sign.data.holistic import REGIONS, read_frames
from uni_sign.data.representations import read_representations
from uni_sign.data.sequences import read_sequences

_REGION = FRAME | ANY_ARRAY | VALUE | st.sampled_from([np.ones((count, 3)) for count in REGIONS.values()])


def _frame() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.random((count, 3)) for name, count in REGIONS.items()}


def frames_pickle(folder: Path) -> Reader:
    """`sign_language_keypoints.pkl`."""
    whole = {"keypoints": [_frame(), {**_frame(), "face": None}], "image_paths": ["a/0.png", "a/1.png"]}
    frames = st.lists(fields(list(REGIONS), _REGION) | VALUE | ANY_ARRAY, max_size=3)
    contents = fields(["keypoints", "image_paths", "train"], frames | VALUE) | frames
    return Reader(
        "frames.pkl",
        read_frames,
        [Seed(pickle.dumps(whole, protocol)) for protocol in (0, 2, 4)],
        [
            *_pickle_attacks(folder),
            *(pickle.dumps({**whole, name: value}) for name in whole for value in odd_values()),
            *(pickle.dumps({"keypoints": [{"face": value}]}) for value in odd_values()),
        ],
        st.builds(_pickled, contents, st.integers(0, 5)),
        [b"\x85R", b"h\x00", b"Nb"],
        pickled=True,
    )


def sequences_pickle(folder: Path) -> Reader:
    """`video_sequences.pkl`."""
    clip = np.random.default_rng(0).random((3, 143, 3))
    whole = {"sequences": [clip, [_frame(), _frame()]], "names": ["a", "b"]}
    one = ANY_ARRAY | VALUE | st.lists(fields(list(REGIONS), _REGION) | VALUE, max_size=2) | st.just(clip)
    contents = fields(["sequences", "names"], st.lists(one, max_size=3) | VALUE) | st.lists(one, max_size=2)
    return Reader(
        "sequences.pkl",
        read_sequences,
        [Seed(pickle.dumps(whole, protocol)) for protocol in (0, 2, 4)],
        [
            *_pickle_attacks(folder),
            *(pickle.dumps({**whole, name: value}) for name in whole for value in odd_values()),
            *(pickle.dumps({"sequences": [value]}) for value in odd_values()),
            pickle.dumps({"sequences": [np.ones((2000, 143, 3), np.float32)] * 20_000}),
        ],
        st.builds(_pickled, contents, st.integers(0, 5)),
        [b"\x85R", b"h\x00", b"Nb"],
        pickled=True,
    )


def vectors_npz(_: Path) -> Reader:
    """`all_representations.npz`."""
    rng = np.random.default_rng(0)
    shapes = {"global_reprs": (3, 4), "local_reprs": (3, 2, 4), "temporal_reprs": (3, 5, 6)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {"lengths": np.array([5, 4, 1]), "names": np.array(["a", "b", "c"])}
    whole = {name: _npy(array) for name, array in arrays.items()}
    return Reader(
        "vectors.npz",
        read_representations,
        [Seed(_npz(whole))]
        + [Seed(whole[name], lambda inner, name=name: _npz({**whole, name: inner})) for name in whole],
        [whole["names"], _npz({}), *(_npz({**whole, name: b""}) for name in whole)],
        fields(list(arrays), ANY_ARRAY).map(
            lambda made: _npz({name: _npy(array) for name, array in made.items() if name.isalnum() or name in whole})
        ),
        [b"'<f8'", b"'<i8'", b"PK\x01\x02"],
    )
