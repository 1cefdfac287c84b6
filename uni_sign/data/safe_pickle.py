"""Reads pickles that come from strangers: their data, and nothing that would run.

Allowing numpy's names is not enough: `numpy.dtype.__setstate__` reads outside its array when a pickle tells it
to, ten bytes can make Python's unpickler allocate 64 GB (a memo index), and 200 kB can overflow the C stack (a
nested tuple as a key). So a pickle is read in three steps: `check_program` walks its instructions without
running any; Python's unpickler runs them, with inert stand-ins for the few names that data needs; `_Finisher`
puts arrays in place of the stand-ins after checking shape, type and size.
"""

from __future__ import annotations

import gzip
import math
import os
import pickle
import re
import stat
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uni_sign.errors import InputError

MAX_BYTES = 2 << 30  # of one pickle, unpacked
MAX_PROGRAM = 1 << 26  # bytes of instructions: one byte can stand for a list of 64
MAX_TUPLES = 500_000  # bounds how deep tuples nest; long videos have eight for each frame
SHALLOW_TUPLES = 50_000  # as many can be hashed on a thread's usual stack of 8 MiB, however nested
HASH_FRAME = 128  # bytes of C stack for each level of nesting, rounded up


def load_pickle(path: str | Path, stack: bool = False, without_tensors: bool = False) -> Any:
    """Reads a pickle, gzip'd or not, of dicts, lists, tuples, str, bytes, numbers and numpy arrays of these.

    With `stack`, one array (n, *shape) comes in place of each list of n different arrays of one shape and type.
    `without_tensors` leaves out torch's tensors, unread: None stands for each.
    Raises InputError, naming the file, when it cannot be read, is damaged, unpacks to more than `MAX_BYTES`, or
    asks for anything else; in that case nothing of it was run.
    """
    path = Path(path)
    data = _read(path)
    try:
        tuples = check_program(data)
        if tuples <= SHALLOW_TUPLES:
            return _unpickle(data, stack, without_tensors)
        return _on_deep_stack(_unpickle, data, stack, without_tensors)
    except RefusedError as refused:
        raise InputError(
            f"{path} asks for {refused}, and was refused before anything ran: "
            "keep only plain data in it (numbers, text, lists, dicts, numpy arrays)."
        ) from None
    except RecursionError:
        raise InputError(f"{path} nests too deeply: no data file needs that, get it anew.") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory: split it.") from None
    except Exception:  # of bytes that make no sense the unpickler raises a dozen types
        raise InputError(f"{path} is not a pickle, or is damaged or cut short: get it anew.") from None


# --- files -----------------------------------------------------------------------------------------------


def check_file(path: Path) -> int:
    """The size of an ordinary, non-empty, readable file; of a pipe or a device there would be no end."""
    try:
        status = path.stat()
        readable = os.access(path, os.R_OK)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({_reason(error)}): check the path.") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a file: give the path of a file.")
    if not readable:
        raise InputError(f"{path} cannot be read: check its permissions.")
    if status.st_size == 0:
        raise InputError(f"{path} is empty: get it anew.")
    return status.st_size


def _read(path: Path) -> bytes:
    """All bytes of a file, unpacked when it starts like gzip."""
    size = check_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if packed:
                return b"".join(_unpacked(path, file))
            if size > MAX_BYTES:
                raise _too_large(path)
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path} is a damaged gzip file: get it anew.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({_reason(error)}): check the disk.") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory: split it.") from None


def _unpacked(path: Path, file: FileIO) -> Iterator[bytes]:
    total = 0
    with gzip.GzipFile(fileobj=file) as stream:
        while chunk := stream.read(1 << 20):
            total += len(chunk)
            if total > MAX_BYTES:
                raise _too_large(path)
            yield chunk


def _too_large(path: Path) -> InputError:
    return InputError(f"{path} holds more than {MAX_BYTES:,} bytes: split it.")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# --- before it runs ----------------------------------------------------------------------------------------


class RefusedError(Exception):
    """The pickle asks for something that is not plain data; the text says what."""


# Instructions whose argument is a length, of so many bytes, and then the value.
_LENGTH_BYTES = {
    ord(code): width for width, codes in ((1, "\x8a\x8cUC"), (4, "\x8bXTB"), (8, "\x8d\x8e\x96")) for code in codes
}
_REFUSED = {
    b"PQ": "a persistent id",
    b"\x82\x83\x84": "an extension code",
    b"\x8f\x90\x91": "a set",
    b"\x97\x98": "a buffer beside the file",
    b"012": "a tuple that contains itself",
}
_STOP = ord(".")
_PUT = ord("p")
_PERSISTENT = ord("Q")
_NOT_TUPLES = bytes(set(range(256)) - set(b"t\x85\x86\x87"))
_TEXTS = b"\x8cX"
_LONGEST_RUN = 10_000  # instructions: matching takes a hundred bytes for each


@lru_cache
def _instructions(bits: int, or_texts: bool = False) -> re.Pattern[bytes]:
    """A run of the instructions that need no look at their argument; memo indices have at most `bits`.

    With `or_texts`, also of texts shorter than 256 bytes, value and all, but without tuples.
    """
    whole, rest = divmod(bits, 8)
    index = b"." * whole + b"[\\x00-\\x%02x]" % ((1 << rest) - 1) + b"\\x00" * (3 - whole)
    others = rb"\x8c(?:%s)|X(?:%s)" % (_sized(b""), _sized(b"\0\0\0")) if or_texts else rb"[t\x85-\x87]"
    return re.compile(
        rb"(?:[()\]}N\x88\x89abdelosuR\x81\x92\x93\x94]|[Khq].|M..|r%(index)s|[Jj].{4}|[G\x95].{8}|%(others)s"
        rb"|\x80.|[IFLVSg][^\n]*\n|[ci][^\n]*\n[^\n]*\n){0,%(most)d}"
        % {b"index": index, b"others": others, b"most": _LONGEST_RUN},
        re.DOTALL,
    )


def _sized(padding: bytes) -> bytes:
    """A length of one byte, padded, and as many bytes."""
    return b"|".join(rb"\x%02x%s.{%d}" % (size, padding, size) for size in range(256))


def check_program(data: bytes, persistent: bool = False) -> int:
    """Refuses instructions that plain data does not need, and sizes no pickler writes; counts the tuples.

    Labels are mostly texts: a run that has these, too, is one step. An index of the memo cannot be larger than the
    file, because each entry took a byte to write. `persistent` ids are what checkpoints name their storages by. Raises
    RefusedError, or ValueError or IndexError for damage.
    """
    bits = min(len(data).bit_length(), 31)
    run = _instructions(bits).match
    texts = _instructions(bits - bits % 4, or_texts=True).match  # few of them: each takes 10 ms to make
    at = program = tuples = code = 0
    while code != _STOP:
        start = at
        at = run(data, at).end()  # type: ignore[union-attr]  # it matches an empty run, too
        code, size = data[at], 0
        if at - start < _LONGEST_RUN:  # else it may go on
            at, size = (at + 1, 0) if persistent and code == _PERSISTENT else _argument(data, at)
        same = data[start:at]  # arrays of one list are spelled alike: look at each spelling once
        same_tuples = len(same.translate(None, _NOT_TUPLES))
        at = start
        while data.startswith(same, at):
            at += len(same) + size
            program += len(same)
            tuples += same_tuples
        if program > MAX_PROGRAM or tuples > MAX_TUPLES:
            raise RefusedError("more lists, dicts or tuples than a data file has")
        if code in _TEXTS and len(data) <= MAX_PROGRAM:  # no more than that can be instructions: nothing to count
            at = texts(data, at).end()  # type: ignore[union-attr]
    return tuples


def _argument(data: bytes, at: int) -> tuple[int, int]:
    """Where the instruction at `at` and its argument end, and how many bytes of value follow."""
    code = data[at]
    if code == _STOP:
        return at + 1, 0
    if code in _LENGTH_BYTES:
        end = at + 1 + _LENGTH_BYTES[code]
        return end, int.from_bytes(data[at + 1 : end], "little")
    if code == _PUT:
        end = data.index(b"\n", at)
        if int(data[at + 1 : end]) > len(data):
            raise ValueError("memo index beyond the file")
        return end + 1, 0
    asked = next((what for codes, what in _REFUSED.items() if code in codes), None)
    raise RefusedError(asked) if asked and at else ValueError("not a pickle")


# --- while it runs -----------------------------------------------------------------------------------------


class _Array(list[Any]):
    """Stands for an array: version, shape, dtype, column-major or not, bytes. The state is kept as it comes."""

    __slots__ = ()
    __setstate__ = list.extend


class _DType(list[Any]):
    """Stands for a dtype: its code, then version, byte order and more."""

    __slots__ = ()
    __setstate__ = list.extend


class InertName:
    """Stands for a name. Without attributes, or a pickle could change them for those that are read later."""

    __slots__ = ()


def inert(make: Callable[..., Any]) -> Any:
    """A name that, called, calls `make`."""
    return type("_Name", (InertName,), {"__slots__": (), "__call__": staticmethod(make)})()


class _Budget:
    """What may be copied: as many bytes as the file has, or a short file could ask for one long value many times."""

    def __init__(self, data: bytes) -> None:
        self.left = len(data)

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("more values than the file has bytes")


def _make_ndarray(*_: Any) -> Any:
    raise TypeError("numpy.ndarray is only ever named, as an argument of _reconstruct")


def _make_array(kind: Any, shape: Any, code: Any) -> _Array:  # noqa: ARG001  # they come with the state
    if kind is not _NDARRAY:
        raise TypeError("not an ndarray")
    return _Array()


def _make_array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    """Protocol 5; `axes` goes with the order "K" of newer versions of numpy."""
    return _Array((1, shape, dtype, order == "F", raw, *(() if axes is None else (axes,))))


def _make_dtype(code: Any, *_: Any) -> _DType:
    return _DType((code,))


def _make_complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("not floats")
    return complex(real, imaginary)


def _make_bytes() -> bytes:
    return b""  # protocols 0 to 2 spell all others by _codecs.encode


def _make_encoded(budget: _Budget, text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"_codecs.encode with the codec {ascii(encoding)[:40]}")
    budget.spend(len(text))
    return text.encode("latin-1")


def _make_bytearray(budget: _Budget, raw: Any = b"", encoding: Any = None) -> bytearray:
    if encoding is not None:
        return bytearray(_make_encoded(budget, raw, encoding))
    if type(raw) is not bytes:
        raise TypeError("not bytes")
    budget.spend(len(raw))
    return bytearray(raw)


def _make_scalar(budget: _Budget, dtype: Any, raw: Any) -> Any:
    return _array((1, (), dtype, False, raw), budget)[()]


_CORES = ("numpy.core", "numpy._core")  # numpy 1 and 2
_BUILTINS = ("builtins", "__builtin__")  # protocols 0 to 2 use Python 2's name
_NDARRAY = inert(_make_ndarray)
_NAMES = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): inert(_make_dtype),
    **{(f"{core}.multiarray", "_reconstruct"): inert(_make_array) for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): inert(_make_array_from_buffer) for core in _CORES},
    **{(module, "bytes"): inert(_make_bytes) for module in _BUILTINS},
    **{(module, "complex"): inert(_make_complex) for module in _BUILTINS},
}
_COPYING: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _make_encoded,
    **{(f"{core}.multiarray", "scalar"): _make_scalar for core in _CORES},
    **{(module, "bytearray"): _make_bytearray for module in _BUILTINS},
}


def _make_nothing(*_: Any) -> None:
    return None


# As pickle itself spells a tensor: its storage is a file of torch.save within a bytes value, which is not looked at.
_TENSOR_NAMES = {
    name: inert(_make_nothing)
    for name in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "OrderedDict"),
    )
}


class DataUnpickler(pickle.Unpickler):
    """Python's unpickler, but with stand-ins for the names that plain data needs; raises RefusedError for others."""

    def __init__(self, data: bytes, without_tensors: bool = False) -> None:
        super().__init__(_Whole(data))
        self.budget = _Budget(data)
        self._without_tensors = without_tensors

    def find_class(self, module: str, name: str) -> Any:
        if self._without_tensors and (module, name) in _TENSOR_NAMES:
            return _TENSOR_NAMES[module, name]
        if (module, name) in _COPYING:
            return inert(partial(_COPYING[module, name], self.budget))
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        raise RefusedError(ascii(f"{module}.{name}"[:120])[1:-1])  # the file's words, kept on one line


class _Whole:
    """A file that shows the unpickler all of its bytes at once, so that it copies none of them twice."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def peek(self, _: int) -> bytes:
        return self.data[self.at :]

    def read(self, size: int) -> bytes:
        start, self.at = self.at, self.at + size
        return self.data[start : self.at]

    def readline(self) -> bytes:
        return self.read(self.data.index(b"\n", self.at) + 1 - self.at)


def _unpickle(data: bytes, stack: bool, without_tensors: bool) -> Any:
    return _Finisher(data, stack).finished(DataUnpickler(data, without_tensors).load())


def _on_deep_stack(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function` where nested tuples can be hashed however deep `MAX_TUPLES` allows them to be."""
    usual = threading.stack_size(MAX_TUPLES * HASH_FRAME)
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(function, *arguments).result()
    finally:
        threading.stack_size(usual)


# --- after it ran ------------------------------------------------------------------------------------------

_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,8}")
_FINISHED = frozenset((str, int, float, bool, type(None), bytes, bytearray, complex))


class _Finisher:
    """Puts arrays in place of their stand-ins; lists and dicts are changed in place, each of them once."""

    def __init__(self, data: bytes, stack: bool) -> None:
        self.budget = _Budget(data)
        self.stack = stack
        self.done: dict[int, Any] = {}  # by id: what an object became
        self.alive: list[Any] = []  # those that became another, or their ids would be given again

    def finished(self, value: Any) -> Any:
        kind, number, done = type(value), id(value), self.done
        if kind in _FINISHED:
            return value
        if number in done:
            return done[number]
        if kind is dict or kind is list:
            done[number] = value  # at once, because its items may refer to it
        finished = self._finish(kind, value)
        if finished is not value:
            self.alive.append(value)
        done[number] = finished
        return finished

    def _finish(self, kind: type, value: Any) -> Any:
        if kind is dict:
            return self._finish_dict(value)
        if kind is tuple:
            return tuple(self._finish_items(value))
        if kind is _Array:
            return _array(value, self.budget)
        if kind is _DType:
            return _dtype(value)
        if issubclass(kind, InertName):
            raise RefusedError("a function or a class")
        if kind is not list or _FINISHED.issuperset(map(type, value)):
            return value
        alike = _alike(value, self.budget)
        if alike is not None and self.stack:
            return alike
        value[:] = self._finish_items(value) if alike is None else alike
        return value

    def _finish_items(self, items: Iterable[Any]) -> list[Any]:
        return [item if type(item) in _FINISHED else self.finished(item) for item in items]

    def _finish_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        for key, item in value.items():
            if type(key) is not str:
                self.finished(key)  # stand-ins cannot be hashed, but a key can be a name, or nest too deeply
            if type(item) not in _FINISHED:
                value[key] = self.finished(item)
        return value


def _alike(items: list[Any], budget: _Budget) -> np.ndarray | None:
    """The arrays of a list as one, (n, *shape), if it holds nothing else, none twice, and they are of one kind."""
    first = items[0] if items else None
    if type(first) is not _Array or len(first) != 5 or set(map(type, items)) != {_Array}:
        return None
    _, shape, dtype, fortran, raw = first
    _, shapes, dtypes, orders, raws = zip(*items, strict=True)
    if not shape or fortran or any(column.count(column[0]) < len(items) for column in (shapes, dtypes, orders)):
        return None
    if not set(map(type, raws)) <= {bytes, bytearray} or set(map(len, raws)) != {len(raw)}:
        return None
    if len(set(map(id, items))) < len(items):
        return None
    budget.spend(len(items) * len(raw))
    return _array_over(bytearray().join(raws), (len(items), *shape), dtype, "C")


def _array(state: Iterable[Any], budget: _Budget) -> np.ndarray:
    _, shape, dtype, fortran, raw, *axes = state
    if type(raw) not in (bytes, bytearray) or type(shape) is not tuple:
        raise TypeError("not the state of an array")
    budget.spend(len(raw))
    array = _array_over(bytearray(raw), shape, dtype, "F" if fortran else "C")
    return array.transpose(*axes) if axes else array


def _array_over(buffer: bytearray, shape: tuple[Any, ...], dtype: Any, order: Literal["C", "F"]) -> np.ndarray:
    """A writable array in native byte order, of exactly as many bytes as its shape and type need."""
    element = _dtype(dtype)
    if min(shape, default=0) < 0 or math.prod(shape) * element.itemsize != len(buffer):
        raise ValueError("shape and size disagree")
    return np.ndarray(shape, element, buffer, order=order).astype(element.newbyteorder("="), copy=False)


def _dtype(state: Any) -> np.dtype:
    code, version, order, *structure = state[:6]
    if type(state) is not _DType or type(code) is not str:
        raise TypeError("not a dtype")
    if version != 3 or order not in ("<", ">", "|", "=") or structure != [None, None, None]:
        raise RefusedError(f"a numpy type like {ascii(code)[:40]} with fields or metadata")
    if not _DTYPE.fullmatch(code):
        raise RefusedError(f"numpy data of type {ascii(code)[:40]}")
    return np.dtype(code).newbyteorder(order)
