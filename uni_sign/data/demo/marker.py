"""A folder that is written once, and known by a marker to be whole."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from uni_sign.errors import InputError


def write_once(folder: Path, claim: Mapping[str, Any], what: str, write: Callable[[Path], None]) -> Path:
    """Have ``folder`` written, unless it is whole already and ``claim`` is what its marker says; returns it.

    Raises InputError, naming ``what`` it holds, where it cannot be written.
    """
    marker = folder / "COMPLETE.json"
    try:
        if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == claim:
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        # First the marker: killed while clearing, other arguments' files would be believed whole.
        marker.unlink(missing_ok=True)
        write(folder)
        draft = marker.with_suffix(".part")
        draft.write_text(json.dumps(claim), encoding="utf-8")
        os.replace(draft, marker)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{what} cannot be written into {folder} ({error}): free space or choose another folder."
        ) from error
    return folder
