"""What is made of each clip or text once: a file each, in the safetensors format, read memory-mapped.

An entry's name is a digest of the content, its folder's name one of the settings: what belongs to another
content or other settings is never taken for it. Files appear whole, so that several processes may fill a cache and any
of them may be killed.
"""

import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from uni_sign.data.motion_clips import MotionClip
from uni_sign.errors import InputError

# What there can be an entry of; a text is its own content.
Cached = MotionClip | str
_SUFFIX = ".safetensors"
_VERSION = 1  # of what makes entries: another one makes all of them anew
_KNOWN = "contents.jsonl"
_DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I64": np.int64, "F64": np.float64}
_ENTRY = re.compile(r"[0-9a-f]{16}/([0-9a-f]{32}\.safetensors|\.[0-9a-f]{32}\.[0-9a-f]{32})")
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_BLOCK = 1 << 20
_MAX_HEADER = 1 << 20
_SHOWN = 60  # letters of a text


@dataclass(frozen=True)
class CacheStatus:
    """Of some items: how many have an entry, how many none, and of these how many have one of the past.

    Such a ``stale`` one was made of another content, or by other settings; of a ``torn`` one, missing too, a part is
    left, and it is made anew. ``spoiled``: entries of the right length whose content is not what was stored.
    """

    present: int
    missing: int
    stale: int
    size: int
    torn: int = 0
    spoiled: tuple[Path, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.present} of {self.present + self.missing} are there ({self.size / 1e6:.1f} MB)"]
        if self.stale:
            parts.append(f"of {self.stale} others there is what other files or settings gave")
        if self.torn:
            parts.append(f"of {self.torn} others there is a torn file, which is made anew")
        if self.spoiled:
            parts.append(f"spoiled on disk, to be deleted: {', '.join(map(str, self.spoiled))}")
        return "; ".join(parts)


class FeatureCache:
    """Arrays by clip or text under ``folder``; ``settings`` are plain values, all that they depend on beside it.

    Of a clip ``with_sound``, or of its video alone.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], with_sound: bool = True) -> None:
        self.folder, self._with_sound = folder, with_sound
        self._own = folder / digest_of({"version": _VERSION, **settings})
        self._known = _read_known(folder / _KNOWN)
        self._paths: dict[Cached, Path] = {}

    def path(self, item: Cached) -> Path:
        """Where an entry is, or will be; raises InputError where the item's files cannot be read."""
        if item not in self._paths:
            whole = hashlib.blake2b(self._identity(item), digest_size=16).hexdigest()
            self._paths[item] = self._own / f"{whole}{_SUFFIX}"
        return self._paths[item]

    def _identity(self, item: Cached) -> bytes:
        if isinstance(item, str):
            return item.encode("utf-8", "surrogatepass")
        files = (item.video, item.audio if self._with_sound else None)
        return "".join(self._content(file) for file in files if file is not None).encode()

    def missing(self, items: Sequence[Cached]) -> list[Cached]:
        """Those without a whole entry; what cannot be read is one of them."""
        return [item for item in items if not self._has(item)]

    def torn(self, missing: Sequence[Cached]) -> list[Cached]:
        """Those of which a part of an entry is left."""
        return [item for item in missing if item in self._paths and self._paths[item].is_file()]

    def store(self, item: Cached, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep an item's arrays, whole or not at all; raises InputError where the folder cannot be written."""
        path = self.path(item)
        partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}")
        whole = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        content = save(whole, {"clip": told(item), "check": _checksum(whole)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise InputError(
                f"{path.parent} cannot be written ({error.strerror}): choose another --cache_dir."
            ) from None

    def load(self, item: Cached) -> dict[str, np.ndarray]:
        """An item's arrays, of which only what is used is read; raises InputError where they are missing or damaged."""
        path = self.path(item)
        try:
            return _views(path)
        except _DAMAGE:
            raise InputError(
                f"{path}, made of {told(item)}, is missing or damaged: run again, with --force_preprocess."
            ) from None

    def status(self, items: Sequence[Cached]) -> CacheStatus:
        """What there is of these items; it reads all of it."""
        missing = self.missing(items)
        gone = {told(item) for item in missing}
        left = set(items) - set(missing)
        paths = sorted({self.path(item) for item in left})
        size = sum(self.path(item).stat().st_size for item in left)
        stale = {name for name in map(_clip_of, self._entries()) if name in gone}
        return CacheStatus(
            len(left), len(missing), len(stale), size, len(self.torn(missing)), tuple(filter(_is_spoiled, paths))
        )

    def clear(self) -> None:
        """Delete all entries, those of other settings too, and nothing else."""
        for path in self._entries():
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()
        (self.folder / _KNOWN).unlink(missing_ok=True)
        self._known, self._paths = {}, {}

    def _entries(self) -> list[Path]:
        """All files of entries, whole ones and what killed processes left of them."""
        return [path for path in self.folder.glob("*/*") if _ENTRY.fullmatch(f"{path.parent.name}/{path.name}")]

    def _has(self, item: Cached) -> bool:
        try:
            return bool(_views(self.path(item)))
        except (InputError, *_DAMAGE):
            return False

    def _content(self, path: Path) -> str:
        """A digest of a file's bytes; one that has not changed since is not read again."""
        try:
            status = path.stat()
            # Of a copy that keeps the time of change, the time of its own tells it.
            key = f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            if key not in self._known:
                self._known[key] = _digest(path)
                self._remember(key)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): check the path.") from None
        return self._known[key]

    def _remember(self, key: str) -> None:
        line = json.dumps({"file": key, "content": self._known[key]}) + "\n"
        # Without it the file is read again next time, no more.
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / _KNOWN).open("ab", buffering=0) as file:
                file.write(line.encode())


def digest_of(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of plain values by name."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_known(path: Path) -> dict[str, str]:
    known = {}
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                row = json.loads(line.decode())
                known[str(row["file"])] = str(row["content"])
    return known


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where data begins, and the header; raises ValueError for a damaged one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length).decode()) if 0 < length <= _MAX_HEADER else None
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    return 8 + length, header


def _views(path: Path) -> dict[str, np.ndarray]:
    start, header = _header(path)
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r")[start:]
    if len(data) != max(entry["data_offsets"][1] for entry in header.values()):
        raise ValueError("it is cut short")
    return dict(_arrays(data, header))


def _arrays(data: np.ndarray, header: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, entry in header.items():
        dtype, shape, (first, end) = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        if end - first != math.prod(shape) * dtype.itemsize:
            raise ValueError("its header is damaged")
        yield name, np.frombuffer(data[first:end], dtype).reshape(shape)


def told(item: Cached) -> str:
    """A clip's name, or a text's beginning, as an entry holds it: file names need not be in UTF-8, headers are."""
    return (item[:_SHOWN] if isinstance(item, str) else item.name).encode("utf-8", "backslashreplace").decode()


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(arrays):
        digest.update(arrays[name].data if arrays[name].size else b"")
    return digest.hexdigest()


def _is_spoiled(path: Path) -> bool:
    try:
        return bool(_header(path)[1]["__metadata__"]["check"] != _checksum(_views(path)))
    except _DAMAGE:
        return True


def _clip_of(path: Path) -> str | None:
    try:
        return str(_header(path)[1]["__metadata__"]["clip"])
    except _DAMAGE:
        return None
