"""Reads YAML of plain values that may come from strangers, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml

from uni_sign.errors import InputError

MAX_BYTES = 100_000  # PyYAML takes seconds for a megabyte
MAX_DIGITS = 100  # Python itself refuses to write numbers of thousands of digits


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's own, without what makes a short file long: references to values, and endless numbers."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"a reference (*) in line {mark.line + 1}, where the value itself is due")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number of {len(node.value)} digits in line {node.start_mark.line + 1}")
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def read_mapping(path: Path) -> dict[str, Any]:
    """A mapping from a YAML or JSON file; raises InputError where it is missing, broken, too long or not a mapping."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{path} is longer than {MAX_BYTES:,} bytes, which no list of names and values needs.")
        values = yaml.load(content.decode("utf-8-sig"), _PlainLoader)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    # Beside its own errors PyYAML lets those of int() and datetime through, e.g. for month 13.
    except (ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold names and values, one a line, but holds {type(values).__name__}.")
    return {str(key): value for key, value in values.items()}
