"""Plain values as YAML: the block style that people read, with strings quoted as in JSON, which all parsers read alike.

Source: YAML 1.2, chapters 7.3.1 and 8.2; JSON's strings and numbers are a subset of its scalars.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PLAIN = re.compile("[A-Za-z][A-Za-z0-9_]*")
WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # that YAML 1.1 takes for other things


def to_yaml(values: Mapping[str, Any]) -> str:
    """Mappings, sequences, strings, numbers, bools and None, nested in any way. Raises ValueError for other values, and
    numbers that aren't finite."""
    return "\n".join(_lines(values)) + "\n"


def _lines(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    """Those of a mapping or sequence that is not empty."""
    is_mapping = isinstance(value, Mapping)
    entries = value.items() if isinstance(value, Mapping) else (("", one) for one in value)
    for key, one in entries:
        mark = f"{_scalar(key)}:" if is_mapping else "-"
        if not isinstance(one, (Mapping, list, tuple)) or not one:
            yield f"{mark} {_scalar(one)}"
            continue
        inner = list(_lines(one))
        if is_mapping:
            yield mark
            yield from (f"  {line}" for line in inner)
        else:
            yield f"- {inner[0]}"
            yield from (f"  {line}" for line in inner[1:])


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number of JSON")
        text = repr(value)
        # YAML 1.1, which many parsers speak, takes 1e-05 for a string.
        return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
    if isinstance(value, str) and value.isascii() and value.replace("_", "a").isalnum() and value[0].isalpha():
        return (
            value
            if value.lower() not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
            else f'"{value}"'
        )
    if value is None or isinstance(value, (str, int)) or not value:
        return json.dumps(value)
    raise ValueError(f"{type(value).__name__} is no plain value")
