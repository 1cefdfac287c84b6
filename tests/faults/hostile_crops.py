"""Hostile shards of hand crops, and hostile videos: lies about sizes, pictures that are none, lists of other files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
from hostile_shards import arrow
from hypothesis import strategies as st
from PIL import Image
from reader import Reader, Seed

from uni_sign.data.crop_shards import SCHEMA, CropShards
from uni_sign.data.crops import Squares
from uni_sign.data.hands import HANDS
from uni_sign.data.video import Video

SIZE = 16


def encoded(kind: str, width: int = SIZE, height: int = SIZE, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 77).save(file, kind)
    return file.getvalue()


def row(images: list[bytes] | None = None, lines: list[list[int]] | None = None, **changes: Any) -> dict[str, Any]:
    images = [encoded("JPEG"), bytes(SIZE * SIZE * 3)] if images is None else images
    table = [[i % 2, 0, 0, 0, SIZE * (i % 2), len(image)] for i, image in enumerate(images)] if lines is None else lines
    told = {"name": b"a.pkl", "size": 5, "mtime_ns": 7, "video_size": 6, "video_mtime_ns": 8, "problem": ""}
    content = {"table": np.array(table, np.int64).tobytes(), "pictures": b"".join(images)}
    return {**told, "width": 64, "height": 48, **content, **changes}


def crop_shard(_: Path) -> Reader:
    def read(path: Path) -> None:
        shards = CropShards(path.parent)
        corners = {hand: np.zeros((1, 2), np.int64) for hand in HANDS}
        for number in np.flatnonzero(shards._columns["usable"])[:20].tolist():
            numbers = {hand: np.zeros(1, np.int64) for hand in HANDS}
            patches = shards.source(number)(numbers, lambda width, height: Squares(min(8, width, height), corners))
            assert all(patch.image.mode == "RGB" for hand in HANDS for patch in patches.of_hand[hand])

    def arrow_of(*rows: dict[str, Any], **options: Any) -> bytes:
        return arrow(list(rows), schema=SCHEMA, **options)

    good = arrow_of(row(), row(name=b"b.npz"), row([], problem="a.mp4 is empty: get it anew."))
    raw = bytes(SIZE * SIZE * 3)
    lies = [
        *({"width": n, "height": n} for n in (0, -1, 1 << 40, (1 << 63) - 1)),
        *({"table": value} for value in (b"", b"x" * 96, b"\xff" * 96, b"x" * 5)),
        *({"pictures": value} for value in (b"", b"x" * 5, bytes(1 << 20))),
        *({"lines": [[0, 0, 0, 0, w, 768], [1, 0, 0, 0, SIZE, 768]], "pictures": raw * 2} for w in (1, 7, 1 << 39)),
        *({"lines": [[0, 0, at, at, 0, 768], [1, 0, at, at, SIZE, 768]]} for at in (-1, 1 << 39, 1 << 62)),
    ]
    images = [
        encoded("PNG"),
        encoded("GIF"),
        encoded("JPEG", mode="L"),
        encoded("JPEG", mode="CMYK"),
        encoded("JPEG", 9000, 9000),
        encoded("JPEG")[:300],
        encoded("JPEG")[:-40],
        b"\xff\xd8",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ]
    values = st.binary(max_size=9) | st.integers(0, 4).map(lambda n: bytes(n * 768)) | st.sampled_from(images)
    numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-1, 800)
    lines = st.lists(st.lists(numbers, min_size=6, max_size=6), max_size=3)
    made_up = st.builds(lambda told, wide: row(told, width=wide), st.lists(values, max_size=3), numbers) | st.builds(
        row, st.lists(values, max_size=3), lines
    )
    attacks = [
        *(arrow_of(row(**lie)) for lie in lies),
        *(arrow_of(row([image, raw])) for image in images),
        arrow_of(row(), compression="zstd"),
        arrow_of(row([bytes(64 << 20)]), compression="lz4"),
        good[: len(good) // 2],
        good[:-1],
    ]
    return Reader("a.arrow", read, [Seed(good), Seed(arrow_of(row()))], attacks, made_up.map(arrow_of), [b"\xff\xd8"])


def video(folder: Path) -> Reader:
    def read(path: Path) -> None:
        with Video(path) as clip:
            wanted = np.unique(np.array([0, len(clip) // 2, len(clip) - 1]))
            for _, image in clip.images(wanted[wanted >= 0]):
                assert image.dtype == np.uint8

    seeds = [
        _clip(folder / "seed.mp4", "libx264", g="5", bf="2"),
        _clip(folder / "seed.mp4", "mpeg4", g="4"),
        _clip(folder / "seed.mkv", "libx264", g="6"),
    ]
    attacks = [
        b"ffconcat version 1.0\nfile seed.mkv\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nseed.mkv\n#EXT-X-ENDLIST\n",
        b"<?xml version='1.0'?><MPD><Period><BaseURL>http://127.0.0.1/a</BaseURL></Period></MPD>",
        b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
        encoded("PNG"),
        encoded("GIF"),
        *(seed[: len(seed) * part // 4] for seed in seeds for part in (1, 2, 3)),
        seeds[0].replace(b"avc1", b"hvc1"),
        seeds[0].replace(SIZE.to_bytes(2, "big"), b"\xff\xff"),
    ]
    words = [b"moov", b"trak", b"stts", b"ctts", b"elst", b"\0\0\0\1", b"\xff\xff\xff\xff"]
    return Reader("a.mp4", read, [Seed(seed) for seed in seeds], attacks, st.binary(max_size=600), words)


def _clip(path: Path, codec: str, **options: str) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"threads": "1", **options}
        for number in range(20):
            picture = np.full((64, 64, 3), 9 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()
