"""Validation of plain values from a file against types.

The annotations of a dataclass are its schema, so that the allowed content of a file is defined once.
"""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

MAX_ITEMS = 2_000_000  # of all lists and tables of a value together
MAX_DEPTH = 12  # of nested lists
SHOWN = 40  # maximum characters of a value in a message

AnyFloat = Annotated[float, "infinite ones and no numbers too"]
T = TypeVar("T")


class Misfit(ValueError):
    """A value of the wrong type, such as 'labels.values[2] is 'x', and no int'."""


def parsed(kind: type[T], value: object, where: str = "") -> T:
    """`value` as a `kind`: a dataclass from a table with its fields, a tuple from a list, numbers, strings, None, and
    nested types of these. `float` accepts integers, but no infinity or NaN; AnyFloat accepts those too. Path accepts
    strings.

    A missing field has its default. where: the path of the value, for messages. Raises Misfit.
    """
    return cast("T", _parsed(kind, value, where))


def plain(value: object, where: str = "") -> Any:
    """The value itself, if it consists of numbers, strings, lists and tables only, within MAX_ITEMS and MAX_DEPTH.
    Raises Misfit."""
    left = MAX_ITEMS

    def look(value: object, where: str, depth: int) -> None:
        nonlocal left
        if isinstance(value, (bool, int, float, str, NoneType)):
            return
        if not isinstance(value, (list, tuple, dict)) or depth > MAX_DEPTH:
            raise Misfit(f"{where} is {_shown(value)}")
        left -= len(value)
        if left < 0:
            raise Misfit(f"{where} holds too much")
        named = value.items() if isinstance(value, dict) else enumerate(value)
        for name, one in named:
            look(one, f"{where}.{name}" if isinstance(value, dict) else where, depth + 1)

    look(value, where, 0)
    return value


def json_of(text: bytes | str) -> Any:
    """Parse JSON. Raises ValueError for invalid JSON, too deep nesting included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("too many lists in lists") from error


def toml_of(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError for invalid TOML, too deep nesting included."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("too many lists in lists") from error


def _parsed(kind: Any, value: object, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return plain(value, where)
    if kind is AnyFloat:
        return value if isinstance(value, float) else _atom(float, value, where)
    if origin in (Union, UnionType):
        return _first_that_fits(inner, value, where)
    if origin is Literal:
        if type(value) not in (str, int, bool) or value not in inner:
            raise Misfit(f"{where} is {_shown(value)}, and none of {', '.join(map(str, inner))}")
        return value
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (tuple, list):
        return _sequence(origin, inner, value, where)
    if origin is dict:
        return _table(inner, value, where)
    return _atom(kind, value, where)


def _first_that_fits(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    failed = None
    for kind in kinds:
        try:
            return _parsed(kind, value, where)
        except Misfit as misfit:
            # For 'a tuple or None', the error within the tuple is more specific.
            failed = misfit if failed is None or kind is not NoneType else failed
    assert failed is not None
    raise failed


def _record(kind: Any, value: object, where: str) -> Any:
    table = _table((str, object), value, where)
    hints, specs = _hints(kind), {spec.name: spec for spec in fields(kind)}
    if unknown := table.keys() - specs.keys():
        raise Misfit(f"{where} has {_shown(min(unknown))}, which is not known")
    for name, spec in specs.items():
        if name not in table and spec.default is MISSING and spec.default_factory is MISSING:
            raise Misfit(f"{_below(where, name)} is missing")
    return kind(**{name: _parsed(hints[name], one, _below(where, name)) for name, one in table.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Type hints of all fields; cached, since a run has a record for each epoch."""
    return get_type_hints(kind, include_extras=True)


def _sequence(kind: Any, inner: tuple[Any, ...], value: object, where: str) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_ITEMS:
        raise Misfit(f"{where} is {_shown(value)}, and no list")
    kinds = inner if kind is tuple and inner[-1:] != (...,) else inner[:1] * len(value)
    if len(kinds) != len(value):
        raise Misfit(f"{where} holds {len(value)} values, and not {len(kinds)}")
    return kind(_parsed(of, one, f"{where}[{place}]") for place, (of, one) in enumerate(zip(kinds, value, strict=True)))


def _table(inner: tuple[Any, ...], value: object, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise Misfit(f"{where or 'it'} is {_shown(value)}, and no table of names and values")
    key, of = inner
    return {
        _parsed(key, name, f"a name in {where}"): one if of is object else _parsed(of, one, _below(where, name))
        for name, one in value.items()
    }


def _atom(kind: Any, value: object, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and isinstance(value, int) and abs(value) >= 2**63:
        raise Misfit(f"{where} is a very large number")
    if kind is float and isinstance(value, int) and is_number:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise Misfit(f"{where} is {_shown(value)}, and no {getattr(kind, '__name__', kind)}")
    return value


def _below(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _shown(value: object) -> str:
    """A value in a message: short and printable."""
    if isinstance(value, (bool, float, str, NoneType)):
        return ascii(value[:SHOWN] if isinstance(value, str) else value)
    if isinstance(value, int):
        return str(value) if abs(value) < 2**63 else "a very large number"
    return f"a {type(value).__name__}"
