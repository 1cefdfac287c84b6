"""Damage to valid files, the kind that chance and attackers do: bits, cuts, splices, lengths, instructions, words."""

from __future__ import annotations

import pickletools
import random
from collections.abc import Callable, Sequence

_SIZES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 24, 1 << 30, (1 << 31) - 1, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
_HEAD = 400  # most formats keep their lengths at the start; so do half of all edits


def mutated(content: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    """`content` after one to four changes; `others` are spliced in, `words` are what the format gives a meaning to."""
    changes: list[Callable[[bytearray, random.Random], None]] = [_flip, _byte, _cut, _remove, _repeat, _length]
    for _ in range(rng.randint(1, 4)):
        data = bytearray(content)
        choice = rng.randrange(len(changes) + 3)
        if choice < len(changes):
            changes[choice](data, rng)
        elif choice == len(changes):
            _splice(data, rng.choice(others), rng)
        elif words:
            at = _place(data, rng)
            data[at : at + rng.choice((0, 0, 1, 8))] = rng.choice(words)
        content = bytes(data)
    return content


def pickle_mutated(content: bytes, rng: random.Random) -> bytes:
    """A pickle with one to three instructions exchanged, dropped, doubled or given another argument."""
    try:
        starts = [place for _, _, place in pickletools.genops(content) if place is not None]
    except Exception:  # an earlier change made it unreadable, which is a case as well
        return content
    data = bytearray(content)
    for at in sorted(set(rng.choices(starts, k=rng.randint(1, 3))), reverse=True):
        end = next((start for start in starts if start > at), len(content))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] = ord(rng.choice(pickletools.opcodes).code)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end] * rng.choice((1, 2, 500))
        elif kind == 3 and end > at + 1:
            data[at + 1 : end] = rng.choice(_SIZES).to_bytes(8, "little")[: end - at - 1]
        else:
            other = rng.choice(starts)
            data[at:at] = content[other : next((start for start in starts if start > other), len(content))]
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    return rng.randint(0, min(len(data), _HEAD) if rng.random() < 0.5 else len(data))


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at : at + 1] = bytes([rng.choice((0, 0xFF, 0x80, rng.randrange(256)))])


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.randint(1, 40)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.randint(1, 60)] * rng.choice((1, 2, 300))


def _length(data: bytearray, rng: random.Random) -> None:
    at, width = _place(data, rng), rng.choice((1, 2, 4, 8))
    size = rng.choice((*_SIZES, len(data), len(data) + 1)) & ((1 << 8 * width) - 1)
    data[at : at + width] = size.to_bytes(width, rng.choice(("little", "big")))


def _splice(data: bytearray, other: bytes, rng: random.Random) -> None:
    start = rng.randint(0, len(other))
    at = _place(data, rng)
    data[at : at + rng.choice((0, 20, 1 << 30))] = other[start : start + rng.choice((20, 200, 1 << 30))]
