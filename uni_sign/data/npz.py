""".npz files from strangers: plain arrays alone, of bounded size."""

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.data.safe_pickle import check_file
from uni_sign.errors import InputError


def read_npz(path: Path, names: Collection[str], max_bytes: int, advice: str = "get it anew") -> dict[str, np.ndarray]:
    """Those arrays of ``names`` that the file holds.

    Raises InputError, naming the file, where it is damaged, unpacks to more than ``max_bytes``, or holds under a name
    anything but an array of plain values.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > max_bytes:
                raise InputError(f"{path} unpacks to more than {max_bytes:,} bytes: split it.")
        with np.load(path, allow_pickle=False) as arrays:
            found: dict[str, Any] = {name: arrays[name] for name in names if name in arrays.files}
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            raise ValueError("something else than arrays")
        return found
    except InputError:
        raise
    except Exception:  # zip, zlib and numpy raise a dozen types for damaged files
        raise InputError(f"{path} is not an .npz file of plain arrays, or is damaged: {advice}.") from None
