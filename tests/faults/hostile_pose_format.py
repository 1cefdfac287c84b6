"""Hostile `.pose` files: lies about counts, components of millions of points, names without end."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from pose_files import PACKAGE, body, component, header, pose_file, text
from reader import MAX_BYTES, Reader, Seed

from uni_sign.data.wholebody import read_pose

NAMES = st.sampled_from(["BODY", "body_133", "FEET", "FACE", "LEFT_HAND", "RIGHT-HAND", "POSE_LANDMARKS", "", "\0\n"])
COUNTS = st.sampled_from([0, 1, 6, 17, 21, 23, 68, 133, 478])
COMPONENTS = st.lists(st.builds(component, NAMES, COUNTS, st.sampled_from(["XYC", "XYZC", "C", "", "XY"])), max_size=5)
PACKAGED = [component(*told) for told in PACKAGE]


def _frames(frames: int, people: int, points: int, fill: float, said: int | None, version: float) -> bytes:
    shape = (frames, people, points)
    return body(np.full((*shape, 2), fill), np.full(shape, fill), version, said)


BODIES = st.builds(
    _frames,
    *(st.integers(0, 3), st.integers(0, 3), st.sampled_from([133, 110, 1])),
    st.sampled_from([0, 0.5, 1e30, float("nan"), float("inf"), -1e7]),
    *(st.none() | st.sampled_from([0, 3, 65_535]), st.sampled_from([0.1, 0.2])),
)


def pose_format(_: Path) -> Reader:
    many = struct.pack("<fHHHH", 0.2, 9, 9, 0, 65_535)
    empty_names = text("BODY") + text("XYC") + struct.pack("<HHH", 65_535, 0, 0) + bytes(2 * 65_535)
    start = header(PACKAGED)
    old = header(PACKAGED, 0.1)
    return Reader(
        "clip.pose",
        read_pose,
        [Seed(pose_file(3, people, version, 3)) for people in (1, 2) for version in (0.1, 0.2)]
        + [Seed(header([component("all", 133)]) + _frames(2, 1, 133, 0.5, None, 0.2))],
        [
            bytes(MAX_BYTES + 1),
            many + empty_names * 100,
            many + text("x" * 65_535) * 200,
            many,
            start + struct.pack("<fIH", 25, (1 << 32) - 1, 65_535),
            start + struct.pack("<fIH", float("nan"), 0, 0),
            start + struct.pack("<fIH", 25, 1 << 31, 1) + bytes(1 << 20),
            start + _frames(0, 1, 133, 0, 0, 0.2),
            start + _frames(1, 9000, 133, 0.5, None, 0.2),
            start + _frames(1, 9000, 133, 0, None, 0.2),
            start + _frames(9000, 1, 133, float("nan"), None, 0.2),
            old + _frames(2, 1, 133, 0.5, 3, 0.1),
            old + struct.pack("<HHH", 25, 0, 0) + bytes(1 << 20),
            header(PACKAGED, 0.3) + _frames(1, 1, 133, 1, None, 0.2),
            header(PACKAGED, float("nan")),
            header(PACKAGED, size=(0, 1)) + _frames(1, 1, 133, 1, None, 0.2),
            header([component(name, points, "") for name, points in PACKAGE]) + _frames(1, 1, 133, 1, None, 0.2),
            header([component("\ud7ff\u202e\n" * 9000, 133, "XYC")[:-20]]),
            header([]) + _frames(1, 1, 133, 1, None, 0.2),
        ],
        st.builds(
            lambda parts, rest, version: header(parts, version) + rest, COMPONENTS, BODIES, st.sampled_from([0.1, 0.2])
        )
        | BODIES.map(lambda rest: start + rest),
        [text("BODY"), text("XYC"), text("XYZC"), struct.pack("<HHH", 65_535, 65_535, 65_535), struct.pack("<f", 0.1)],
    )
