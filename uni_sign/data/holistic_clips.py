"""A clip of 143 points a file: written by extraction, read by `uni-sign prepare sequences`; and Arrow files of many.

An .npz holds `points` (T, 143, 3) float32, `present` (T, 4) bool, and `extractor`: name, version and mode.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.data.holistic import AXES, POINTS, REGIONS
from uni_sign.data.npz import read_npz
from uni_sign.data.safe_pickle import check_file, load_pickle
from uni_sign.data.sequences import Sequences, sequence_of
from uni_sign.errors import InputError

SUFFIXES = (".npz", ".pkl")
MAX_BYTES = 8 << 30  # of one clip, unpacked
_EXTRACTOR = ("name", "version", "mode")


def write_clip(file: Any, points: np.ndarray, present: np.ndarray, extractor: Mapping[str, str]) -> None:
    """Points (T, 143, 3) and which regions are there (T, 4) as an .npz."""
    told = np.array([extractor[name] for name in _EXTRACTOR])
    np.savez_compressed(file, points=points.astype(np.float32), present=present, extractor=told)


def clip_extractor(path: Path) -> dict[str, str] | None:
    """What made a clip's file, or None where there is no such file or it does not say."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(zip(_EXTRACTOR, map(str, arrays["extractor"].tolist()), strict=True))
    except Exception:  # zip, zlib and numpy raise a dozen types for damaged files
        return None


def read_clip(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (T, 143, 3) and regions (T, 4) of an .npz, or of a pickle of frames, perhaps under "keypoints".

    Raises InputError, naming the file, for anything else.
    """
    if path.suffix == ".npz":
        arrays = read_npz(path, ("points", "present"), MAX_BYTES, "extract it anew")
        if len(arrays) < 2:
            raise InputError(f"{path} holds no points and present: extract it anew.")
        points, present = arrays["points"], arrays["present"]
        whole, _ = sequence_of(points, str(path))
        if present.shape != (len(whole), len(REGIONS)) or present.dtype != bool:
            raise InputError(
                f"{path}: present is of shape {present.shape}, not ({len(whole)}, {len(REGIONS)}) of bool."
            )
        return whole, present
    content = load_pickle(path)
    return sequence_of(content.get("keypoints") if isinstance(content, Mapping) else content, str(path))


def write_arrow(path: Path, names: Sequence[str], clips: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
    """Clips in one Arrow file: name, points and present as bytes, a record batch each; whole or not at all."""
    import pyarrow as pa

    schema = pa.schema([("name", pa.string()), ("points", pa.large_binary()), ("present", pa.large_binary())])
    partial = path.with_name(f".{path.name}.partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for name, (points, present) in zip(names, clips, strict=True):
            row = [[name], [points.astype("<f4").tobytes()], [present.tobytes()]]
            columns = [pa.array(values, field.type) for values, field in zip(row, schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    partial.replace(path)


def read_arrow(path: Path) -> Sequences:
    """What `write_arrow` wrote. Raises InputError, naming the file, for anything else."""
    import pyarrow as pa

    check_file(path)
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            columns = [table.column(name).to_pylist() for name in ("name", "points", "present")]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no Arrow file of clips, or is damaged: prepare it anew.") from error
    names, points, present = columns
    frame_bytes, lengths = POINTS * AXES * 4, []
    for name, some, regions in zip(names, points, present, strict=True):
        frames, rest = divmod(len(some or b""), frame_bytes)
        if rest or not frames or len(regions or b"") != frames * len(REGIONS) or not isinstance(name, str):
            raise InputError(f"{path}: clip {name} holds no whole frames: prepare it anew.")
        lengths.append(frames)
    whole = np.frombuffer(b"".join(points), "<f4").reshape(-1, POINTS, AXES)
    if not np.isfinite(whole).all():
        raise InputError(f"{path} holds a value that is no number, such as NaN: prepare it anew.")
    seen = np.frombuffer(b"".join(present), np.uint8).reshape(-1, len(REGIONS)) > 0
    return Sequences(whole, seen, np.cumsum([0, *lengths]), names)
