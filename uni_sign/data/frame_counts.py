"""How many frames pose files hold: none says so before all of it is read, so each is counted once, ever.

The counts lie in one .npz file: 16-byte digests of each pose file's name, size and time of change, and its frames.
A file that changes is another file.
"""

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uni_sign.data.wholebody import read_pose
from uni_sign.errors import SampleError

UNREADABLE = 0
_DIGEST = 16


def count_frames(file: Path) -> int:
    """Frames of a pose file; `UNREADABLE` where training will leave its clip out, and say why."""
    try:
        return len(read_pose(file).keypoints)
    except SampleError:
        return UNREADABLE


class FrameCounts:
    """The counts of earlier runs, kept in ``path``; a damaged or missing file holds none."""

    def __init__(self, path: Path) -> None:
        self._path, self._known = path, _read(path)

    def lookup(self, files: Sequence[Path]) -> np.ndarray:
        """Frames of each file, int64; -1 where it was not counted as it is now."""
        known = self._known
        return np.array([known.get(_key(file), -1) for file in files], np.int64)

    def store(self, files: Sequence[Path], frames: Sequence[int]) -> None:
        """Add counts, on disk too, whole or not at all; raises OSError where it cannot be written."""
        self._known.update(zip(map(_key, files), map(int, frames), strict=True))
        self._known.pop(b"", None)
        keys = np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, _DIGEST)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                np.savez(file, keys=keys, frames=np.fromiter(self._known.values(), np.int64))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        finally:
            partial.unlink(missing_ok=True)


def _key(file: Path) -> bytes:
    """The digest of a file as it is now; empty where there is none."""
    try:
        status = file.stat()
    except OSError:
        return b""
    words = f"{file.name}\n{status.st_size}\n{status.st_mtime_ns}"
    return hashlib.blake2b(words.encode("utf-8", "surrogateescape"), digest_size=_DIGEST).digest()


def _read(path: Path) -> dict[bytes, int]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keys, frames = arrays["keys"], arrays["frames"]
    except Exception:  # zip, zlib and numpy raise a dozen types for damaged files
        return {}
    fits = keys.shape[:1] == frames.shape and keys.shape[1:] == (_DIGEST,)
    if not fits or keys.dtype != np.uint8 or frames.dtype != np.int64:
        return {}
    raw = keys.tobytes()
    return {raw[i * _DIGEST : (i + 1) * _DIGEST]: n for i, n in enumerate(frames.tolist()) if n >= 0}
