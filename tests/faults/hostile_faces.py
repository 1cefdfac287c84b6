"""Hostile files of talking faces: sound, videos with lies about times, pictures, manifests, and entries of a cache."""

from __future__ import annotations

import io
import json
import struct
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from hostile_crops import encoded
from hostile_json import JSON_ATTACKS, JSON_WORDS, dumped
from hypothesis import strategies as st
from reader import VALUE, Reader, Seed, fields

from uni_sign.data import audio, motion_clips
from uni_sign.data.audio import audio_facts, has_audio, loudness, read_audio
from uni_sign.data.feature_cache import FeatureCache
from uni_sign.data.motion_clips import (
    MotionClip,
    clip_facts,
    clip_problems,
    read_faces,
    read_motion_clips,
    read_picture,
)
from uni_sign.data.video_writer import write_video_with_sound

RATE = 16_000
COLUMNS = ("video", "audio", "emotion", "split")
SECONDS, CLIP_BYTES = 600, 64 << 20  # the readers' own bounds, scaled down with the memory allowed here
_WORDS = [b"RIFF", b"WAVE", b"fmt ", b"data", b"LIST", b"fLaC", b"moov", b"stts", b"edts", b"esds", b"\xff\xff\xff\xff"]


def _tone(samples: int) -> np.ndarray:
    return 0.5 * np.sin(np.arange(samples) / 6)


def _wav(samples: int = 3000, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes((_tone(samples) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def _encoded(path: Path, codec: str, samples: np.ndarray, rate: int = RATE, kind: str = "fltp") -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format=kind, layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def _header(channels: int = 1, rate: int = RATE, code: int = 1, bits: int = 16, size: int = 0xFFFF_FFFF) -> bytes:
    align = channels * bits // 8 % 65_536
    told = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, rate * align % (1 << 32), align, bits)
    return b"RIFF" + struct.pack("<I", size) + b"WAVE" + told + b"data" + struct.pack("<I", size)


def sound(folder: Path) -> Reader:
    audio.MAX_SECONDS = SECONDS

    def read(path: Path) -> None:
        has_audio(path)
        audio_facts(path)
        heard = read_audio(path)
        assert heard.dtype == np.float32
        assert np.abs(heard).max() <= 1
        loudness(heard, 50, 25.0)

    tone = _tone(6000).astype(np.float32)
    silence = np.zeros(RATE * SECONDS // 2, np.int16)
    seeds = [
        _wav(),
        _wav(3000, 44_100),
        _encoded(folder / "seed.flac", "flac", (tone * 32767).astype(np.int16), kind="s16"),
        _encoded(folder / "seed.m4a", "aac", tone),
        _encoded(folder / "seed.mp3", "libmp3lame", tone),
        _encoded(folder / "seed.mkv", "aac", tone),
    ]
    attacks = [
        *(_header(channels=n) + bytes(4000) for n in (0, 2, 64, 65_535)),
        *(_header(rate=n) + bytes(4000) for n in (0, 1, 999, 1000, 768_001, (1 << 32) - 1)),
        *(_header(code=n, bits=b) + bytes(4000) for n in (0, 2, 3, 17, 49, 85, 65_534) for b in (0, 1, 4, 64, 255)),
        *(_header(code=3, bits=b) + b"\x7f" * 4000 for b in (32, 64)),
        *(_header(size=n) + bytes(4000) for n in (0, 1, 4036, 1 << 20)),
        *(seed[: len(seed) * part // 4] for seed in seeds for part in (1, 2, 3)),
        # Silence of minutes, and of more than is allowed, in some kilobytes.
        _encoded(folder / "seed.flac", "flac", silence, kind="s16"),
        _encoded(folder / "seed.flac", "flac", silence, 4000, "s16"),
        b"ffconcat version 1.0\nfile seed.flac\n",
        b"#EXTM3U\n#EXTINF:1,\nseed.m4a\n#EXT-X-ENDLIST\n",
        b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n",
        b"<?xml version='1.0'?><MPD><Period><BaseURL>http://127.0.0.1/a</BaseURL></Period></MPD>",
        encoded("PNG"),
        b"ID3" + b"\xff" * 500,
        b"OggS" + b"\xff" * 500,
    ]
    return Reader("a.wav", read, [Seed(seed) for seed in seeds], attacks, st.binary(max_size=600), _WORDS)


def face_video(folder: Path) -> Reader:
    motion_clips._MAX_CLIP, audio.MAX_SECONDS = CLIP_BYTES, SECONDS

    def read(path: Path) -> None:
        pictures = read_faces(path, 16)
        assert pictures.shape[1:] == (16, 16, 3)
        clip_problems(clip_facts(MotionClip("a", path, None, None, "train")))

    frames = np.random.default_rng(0).integers(0, 255, (60, 32, 48, 3), np.uint8)
    write_video_with_sound(folder / "seed.mp4", frames, 25.0, _tone(60 * 640))
    spoken = (folder / "seed.mp4").read_bytes()
    seeds = [spoken, _at(folder / "seed.mp4", [0, 1, 2, 9, 10]), _at(folder / "seed.mkv", [0, 1, 2, 9, 10])]
    attacks = [
        *(_at(folder / "seed.mp4", times) for times in ([0], [0, 1 << 20], [0, 1, 1 << 30], [0, 1, 2, 1 << 33])),
        *(_at(folder / "seed.mkv", times) for times in ([0, 1 << 20], [0, 1, 2, 1 << 36])),
        *(_at(folder / "seed.mp4", [0, 1, 2], rate) for rate in (1, 100_000)),
        spoken[: len(spoken) // 2],
        encoded("GIF"),
    ]
    words = [*_WORDS, b"ctts", b"elst", b"mdhd", b"mvhd"]
    return Reader("a.mp4", read, [Seed(seed) for seed in seeds], attacks, st.binary(max_size=600), words)


def _at(path: Path, times: list[int], rate: int = 25) -> bytes:
    """A video with a picture at each of these times, in shares of a ``rate``-th of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=min(rate, 60_000))
        stream.width = stream.height = 32
        stream.codec_context.time_base = Fraction(1, min(rate, 60_000))
        for number, time in enumerate(times):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            for packet in stream.encode(picture):
                packet.pts = packet.dts = time
                container.mux(packet)
    return path.read_bytes()


def face_picture(_: Path) -> Reader:
    seeds = [encoded("PNG"), encoded("JPEG"), encoded("PNG", mode="P"), encoded("JPEG", mode="CMYK")]
    attacks = [
        *(encoded("PNG", mode=mode) for mode in ("1", "L", "LA", "RGBA", "I;16")),
        *(encoded(kind, wide, high) for kind in ("PNG", "JPEG") for wide, high in ((1, 1), (9000, 9000), (1, 60_000))),
        encoded("GIF"),
        encoded("BMP"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        *(seed[: len(seed) // 2] for seed in seeds),
    ]
    words = [
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"iCCP",
        b"zTXt",
        b"eXIf",
        b"acTL",
        b"\xff\xd8",
        b"\xff\xc0",
        b"\xff\xda",
    ]

    def read(path: Path) -> None:
        assert read_picture(path, 32).shape == (32, 32, 3)

    return Reader("a.png", read, [Seed(seed) for seed in seeds], attacks, st.binary(max_size=600), words)


_CLIPS = [("a.mp4", "a.wav", "happy", "train"), ("b/你.mp4", "", "", "test"), ('"c, d".mp4', "", "sad", "train")]


def clip_table(_: Path) -> Reader:
    rows = "\r\n".join(",".join('"' + field.replace('"', '""') + '"' for field in row) for row in (COLUMNS, *_CLIPS))
    whole, first = rows.encode(), ",".join(COLUMNS).encode() + b"\n"
    attacks = [
        b"",
        first,
        b"\xef\xbb\xbf" + whole,
        rows.encode("utf-16"),
        *(first + row for row in (b'"' * 200_001, b'"' + b"x" * 3_000_000, b"a\0,,,train", b"\r" * 50_000)),
        *(first + row * 100_000 for row in (b"\n", b",,,\n", b"a,,,train\n", b'"\n')),
        first + b"".join(b"%d,,,train\n" % number for number in range(50_000)),
        first + b"\x1b[31m\n,,,train\n" * 2,
        b"video," * 200_000 + b"split\na",
        first + b"../../../etc/passwd,/dev/zero,,train\n",
    ]
    words = [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"train", b"test", b"happy", b"video"]
    made_up = st.lists(st.sampled_from(words) | st.binary(max_size=4), max_size=30).map(
        lambda some: first + b"".join(some)
    )
    return Reader("clips.csv", read_motion_clips, [Seed(whole)], attacks, made_up, words)


def clip_lines(_: Path) -> Reader:
    whole = "\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in _CLIPS).encode()
    right = st.fixed_dictionaries({"video": st.text(max_size=5) | VALUE, "split": st.sampled_from(["train", "test"])})
    rows = st.lists(dumped(fields(list(COLUMNS), VALUE) | right), max_size=4)
    attacks = [
        *JSON_ATTACKS,
        *(json.dumps({"video": text, "split": "train"}).encode() * 1 for text in ("\ud800", "\0", "x" * 100_000, "\n")),
        *(b'{"video": "\\ud800\\n", "split": "train"}\n' * n for n in (2, 10_000)),
    ]
    return Reader("clips.jsonl", read_motion_clips, [Seed(whole)], attacks, rows.map(b"\n".join), JSON_WORDS)


def cached_features(folder: Path) -> Reader:
    (folder / "clip.mp4").write_bytes(b"a clip")
    clip, cache = MotionClip("clip", folder / "clip.mp4", None, None, "train"), FeatureCache(folder / "cache", {})
    rng = np.random.default_rng(0)
    cache.store(clip, {"coordinates": rng.random((9, 20), np.float32), "audio": rng.random((9, 8)).astype(np.float16)})

    def read(path: Path) -> None:
        assert cache.path(clip) == path
        there = not cache.missing([clip])
        assert cache.status([clip]).present == there
        for value in cache.load(clip).values():
            value.sum(dtype=np.float64)
        assert there

    whole = cache.path(clip).read_bytes()
    told = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    audio_told = told["audio"]
    lies: list[Any] = [
        *({"shape": value} for value in ([], [-1], [-9, -8], [9.0, 8.0], [True], "98", [1 << 70], [9, 8, 0], None)),
        *({"data_offsets": value} for value in ([0, 0], [-144, 0], [0, 1 << 70], [1 << 70, 0], [0.0, 144.0], "ab", {})),
        *({"dtype": value} for value in ("F64", "BF16", "", None, [], "O")),
        *({"shape": [n], "data_offsets": [0, 2 * n]} for n in (-1, 0, 1, 1 << 40)),
    ]
    attacks = [
        whole[:-1],
        whole + b"x",
        *(_entry(json.dumps({**told, "audio": {**audio_told, **lie}}).encode()) for lie in lies),
        *map(_entry, (b"{}", b"[]", b"null", b'{"__metadata__": 3}', b'{"a": null}', b'{"a": {"a": {}}}')),
        *(n.to_bytes(8, "little") + b"{}" for n in (0, 1, 2, 1 << 20, (1 << 63) - 1, (1 << 64) - 1)),
        *map(_entry, JSON_ATTACKS),
    ]
    values = VALUE | st.sampled_from([*audio_told.values(), "F32", "I64", [0, 0], [0, 8], [9], []])
    headers = st.dictionaries(
        st.sampled_from(["audio", "coordinates", "__metadata__"]), fields(list(audio_told), values)
    )
    return Reader(
        str(cache.path(clip).relative_to(folder)), read, [Seed(whole)], attacks, dumped(headers).map(_entry), JSON_WORDS
    )


def _entry(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(864)


def cached_contents(folder: Path) -> Reader:
    """Digests that a cache remembers: of what is damaged the clips are read again."""
    (folder / "clip.mp4").write_bytes(b"a clip")
    clip = MotionClip("clip", folder / "clip.mp4", None, None, "train")
    FeatureCache(folder, {}).store(clip, {"a": np.zeros(3, np.float32)})
    whole = (folder / "contents.jsonl").read_bytes()
    made_up = st.lists(dumped(fields(["file", "content"], VALUE) | VALUE), max_size=4).map(b"\n".join)
    return Reader(
        "contents.jsonl", lambda _: FeatureCache(folder, {}), [Seed(whole)], JSON_ATTACKS, made_up, JSON_WORDS
    )
