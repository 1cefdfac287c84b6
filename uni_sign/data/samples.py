"""Clips by index, in few large arrays: a fork shares them, and 200,000 clips pickle in no time."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One clip: its files, the text it is to become; size in bytes and time of change of its pose file.

    ``video_path``: where the hands' crops come from, in a run that uses them; ``corpus``: its corpus's name.
    """

    name: str
    pose_path: Path
    description_path: Path | None
    target: str
    language: str
    size: int
    mtime_ns: int = 0
    video_path: Path | None = None
    corpus: str = ""


Fingerprint = tuple[bytes, int, int]  # a pose file's name, size and time of change


def fingerprint(sample: Sample) -> Fingerprint:
    """What tells this pose file from another, and from itself after a change."""
    return os.fsencode(sample.pose_path.name), sample.size, sample.mtime_ns


class Blobs(Sequence[bytes]):
    """Byte strings in one buffer."""

    def __init__(self, blobs: Iterable[bytes]) -> None:
        listed = list(blobs)
        self._bytes = b"".join(listed)
        self._ends = np.cumsum([0, *map(len, listed)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._bytes[self._ends[place] : self._ends[place + 1]]


class _Repeated:
    """Texts of which few are distinct."""

    def __init__(self, texts: Sequence[str]) -> None:
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        self._texts = list(numbers)
        codes = np.fromiter(map(numbers.__getitem__, texts), np.int64, len(texts))
        self._codes = codes.astype(np.min_scalar_type(len(numbers)))

    def __getitem__(self, index: int) -> str:
        return self._texts[self._codes[index]]


class Samples(Sequence[Sample]):
    """A split's clips, each made when it is asked for."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        listed = list(samples)
        self._texts = [
            Blobs(text.encode("utf-8", "surrogatepass") for text in column)
            for column in (
                [sample.name for sample in listed],
                [str(sample.pose_path) for sample in listed],
                [str(sample.description_path or "") for sample in listed],
                [sample.target for sample in listed],
                [str(sample.video_path or "") for sample in listed],
            )
        ]
        self._languages = _Repeated([sample.language for sample in listed])
        self._corpora = _Repeated([sample.corpus for sample in listed])
        self._numbers = np.array([(sample.size, sample.mtime_ns) for sample in listed], np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name, pose, description, target, video = (
            column[index].decode("utf-8", "surrogatepass") for column in self._texts
        )
        size, mtime_ns = self._numbers[index].tolist()
        told, seen = (Path(path) if path else None for path in (description, video))
        language, corpus = self._languages[index], self._corpora[index]
        return Sample(name, Path(pose), told, target, language, size, mtime_ns, seen, corpus)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Samples) and list(self) == list(other)

    @property
    def sizes(self) -> list[int]:
        """Bytes of each clip's pose file."""
        sizes: list[int] = self._numbers[:, 0].tolist()
        return sizes


class Ids(Sequence[list[int]]):
    """Token ids of many texts in one array."""

    def __init__(self, rows: Iterable[Sequence[int]]) -> None:
        listed = list(rows)
        self.lengths = np.array([len(row) for row in listed], np.int64)
        self._ids = np.array([i for row in listed for i in row], np.int32)
        self._ends = np.cumsum([0, *self.lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        ids: list[int] = self._ids[self._ends[place] : self._ends[place + 1]].tolist()
        return ids
