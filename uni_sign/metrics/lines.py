"""The one precondition that all scores share."""

from collections.abc import Sequence

from uni_sign.errors import InputError


def check_lines(**columns: Sequence[str]) -> None:
    """Refuse to score columns of unequal length, or none at all: a score of nothing looks like a result.

    Raises `InputError` that counts every column by its name.
    """
    counts = " and ".join(f"{len(column)} {name}" for name, column in columns.items())
    if len({len(column) for column in columns.values()}) > 1:
        raise InputError(f"scoring needs one of each per sample, but got {counts}: pair them line by line")
    if not all(columns.values()):
        raise InputError(f"there is nothing to score, got {counts}: choose a split that has samples")
