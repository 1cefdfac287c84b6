"""Clips by index, in few large arrays: a fork shares them, and 200,000 clips pickle in no time."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, overload

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


def fingerprints(samples: Iterable[Sample]) -> list[Fingerprint]:
    """`fingerprint` of each clip; of `Samples` without making them."""
    return samples.fingerprints() if isinstance(samples, Samples) else list(map(fingerprint, samples))


class Blobs(Sequence[bytes]):
    """Byte strings in one buffer."""

    def __init__(self, blobs: Iterable[bytes]) -> None:
        listed = list(blobs)
        self._fill(b"".join(listed), listed)

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "Blobs":
        """Texts in UTF-8."""
        joined = "".join(texts)
        if not joined.isascii():
            return cls(text.encode("utf-8", "surrogatepass") for text in texts)
        blobs = cls.__new__(cls)
        blobs._fill(joined.encode(), texts)
        return blobs

    def _fill(self, joined: bytes, parts: Sequence[bytes | str]) -> None:
        self._bytes = joined
        self._ends = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of each, (n,)."""
        return np.diff(self._ends)

    def update(self, digest: Any) -> None:
        """Feed a hash with all of them, and where each ends."""
        digest.update(self._ends.data)
        digest.update(self._bytes)

    def encoded(self) -> list[bytes]:
        """All of them."""
        ends = self._ends.tolist()
        return [self._bytes[start:end] for start, end in pairwise(ends)]

    def decoded(self) -> list[str]:
        """All of them as text."""
        return [blob.decode("utf-8", "surrogatepass") for blob in self.encoded()]

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._bytes[self._ends[place] : self._ends[place + 1]]


class Repeated(Sequence[str]):
    """Texts of which few are distinct: ``distinct``, and the number of each one's text, ``codes`` (n,)."""

    def __init__(self, texts: Sequence[str]) -> None:
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        self.distinct = list(numbers)
        codes = np.fromiter(map(numbers.__getitem__, texts), np.int64, len(texts))
        self.codes = codes.astype(np.min_scalar_type(len(numbers)))

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return map(self.distinct.__getitem__, self.codes.tolist())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self)[index]
        return self.distinct[self.codes[index]]


class Samples(Sequence[Sample]):
    """A split's clips, each made when it is asked for. ``languages``, ``corpora``: of all clips."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        listed = list(samples)
        self._fill(
            [sample.name for sample in listed],
            [str(sample.pose_path) for sample in listed],
            [str(sample.description_path or "") for sample in listed],
            [sample.target for sample in listed],
            [sample.language for sample in listed],
            [sample.size for sample in listed],
            [sample.mtime_ns for sample in listed],
            [str(sample.video_path or "") for sample in listed],
            [sample.corpus for sample in listed],
        )

    @classmethod
    def of(cls, *columns: Sequence[Any]) -> "Samples":
        """Clips by column, in the order of `Sample`'s fields; paths are text, and empty where there is none."""
        samples = cls.__new__(cls)
        samples._fill(*columns)
        return samples

    @classmethod
    def joined(cls, parts: Sequence["Samples"]) -> "Samples":
        """The clips of all parts, one after the other."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        return cls.of(*([value for values in column for value in values] for column in columns))

    def _fill(
        self,
        names: Sequence[str],
        poses: Sequence[str],
        descriptions: Sequence[str],
        targets: Sequence[str],
        languages: Sequence[str],
        sizes: Sequence[int],
        times: Sequence[int],
        videos: Sequence[str],
        corpora: Sequence[str],
    ) -> None:
        texts = (names, poses, descriptions, targets, videos)
        self._texts = list(map(Blobs.of_texts, texts))
        self.languages, self.corpora = Repeated(languages), Repeated(corpora)
        self._numbers = np.array([sizes, times], np.int64).T.copy()

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
        language, corpus = self.languages[index], self.corpora[index]
        return Sample(name, Path(pose), told, target, language, size, mtime_ns, seen, corpus)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Samples) and list(self) == list(other)

    def _columns(self) -> list[list[Any]]:
        names, poses, descriptions, targets, videos = (column.decoded() for column in self._texts)
        languages, corpora = (
            [of.distinct[code] for code in of.codes.tolist()] for of in (self.languages, self.corpora)
        )
        return [names, poses, descriptions, targets, languages, *self._numbers.T.tolist(), videos, corpora]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each clip's pose file."""
        sizes: list[int] = self._numbers[:, 0].tolist()
        return sizes

    @property
    def targets(self) -> list[str]:
        """The text that each clip is to become."""
        return self._texts[3].decoded()

    def update_with_targets(self, digest: Any) -> None:
        """Feed a hash with every target."""
        self._texts[3].update(digest)

    @property
    def described(self) -> np.ndarray:
        """Whether each clip has a description file, (n,) bool."""
        return self._texts[2].lengths > 0

    def fingerprints(self) -> list[Fingerprint]:
        """`fingerprint` of each clip."""
        names = [pose.rpartition(b"/")[2] for pose in self._texts[1].encoded()]
        return list(zip(names, *self._numbers.T.tolist(), strict=True))


class Ids(Sequence[list[int]]):
    """Token ids of many texts in one array."""

    def __init__(self, rows: Iterable[Sequence[int]]) -> None:
        listed = list(rows)
        lengths = np.fromiter(map(len, listed), np.int64, len(listed))
        self._fill(np.fromiter(chain.from_iterable(listed), np.int32, int(lengths.sum())), lengths)

    @classmethod
    def of(cls, flat: np.ndarray, lengths: np.ndarray) -> "Ids":
        """Ids one behind the other (sum of lengths,), and how many each text has (n,)."""
        ids = cls.__new__(cls)
        ids._fill(flat, lengths)
        return ids

    def _fill(self, flat: np.ndarray, lengths: np.ndarray) -> None:
        self.flat, self.lengths = flat, lengths
        self._ends = np.concatenate([[0], np.cumsum(lengths)])

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
        ids: list[int] = self.flat[self._ends[place] : self._ends[place + 1]].tolist()
        return ids
