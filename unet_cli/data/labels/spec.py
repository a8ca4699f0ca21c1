"""Classes given by the user: --classes and --ignore-index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_cli.errors import UserError, explain
from unet_cli.system.schema import toml_of

# Words of class names that a mirror image exchanges.
OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l", "lh": "rh", "rh": "lh"}

# The question for masks that look like photographs.
SWAPPED = "Are images and masks swapped? --images DIR --masks DIR say which is which"


@dataclass(frozen=True)
class ClassSpec:
    """The classes given by the user (--classes, --ignore-index).

    names: background first. values: the mask value of each class, if given. ignore: the ignored mask value; -1 for none
    unless masks contain -1, None to detect it. unlabelled_is_background: whether unlabelled pixels (NaN, -1), like 0,
    belong to the first class. is_exact: whether every value in the masks is intended, since their format, of volumes,
    knows neither soft edges nor JPEG; then a rare and thin one is a class too. overlapping: whether a pixel may be of
    several classes; None to detect it.
    """

    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    colour: bool = False
    ignore: int | None = None
    unlabelled_is_background: bool = False
    is_exact: bool = False
    overlapping: bool | None = None


FOUND = ClassSpec()  # everything is detected


def parse_classes(text: str | None, ignore: int | None = None) -> ClassSpec:
    """Parse --classes: names separated by commas, or each with its value (`background=0,cell=7`), or a TOML file of
    `name = value`, a value being a number, '#rrggbb' or [r, g, b], and `ignore` the name of the ignored value. The
    first class is the background; its value may be -1 for unlabelled pixels. Raises UserError."""
    if text is None:
        return ClassSpec(ignore=ignore)
    if not text.lower().endswith(".toml"):
        if "=" in text:
            return spec_of(_written_out(text), f"--classes '{text}'", ignore)
        names = tuple(name.strip() for name in text.split(","))
        if len(names) < 2 or "" in names or len(set(names)) < len(names):
            raise UserError(
                f"--classes is '{text}': give different names with commas between them, background first, "
                "such as background,weed,crop; or a .toml file"
            )
        return ClassSpec(names, ignore=ignore)
    try:
        content = toml_of(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise explain(error, text) from error
    except ValueError as error:  # invalid TOML or invalid encoding
        raise UserError(f"{text} is not TOML: {error}") from error
    table = content.pop("classes", {})
    if not isinstance(table, dict):
        raise UserError(f"{text}: write a line `name = value` for each class, background first")
    return spec_of(content | table, text, ignore)


def _written_out(text: str) -> dict[str, Any]:
    """`background=0,cell=7` or `background=#000000,cell=#ff0000` -> values by name, as in TOML."""
    pairs = [[side.strip() for side in part.split("=", 1)] for part in text.split(",")]
    if any(len(pair) < 2 for pair in pairs) or len({name for name, _ in pairs}) < len(pairs):
        raise UserError(f"--classes is '{text}': give each class once and with its value: background=0,cell=7")
    return {name: int(value) if value.removeprefix("-").isdecimal() else value for name, value in pairs}


def spec_of(content: dict[str, Any], text: str, ignore: int | None) -> ClassSpec:
    """The specification from values by name. text: their origin, for messages. Raises UserError."""
    background = next((name for name in content if name != "ignore"), None)
    values = {name: _parse_value(text, name, value, name == background) for name, value in content.items()}
    colour = any(not isinstance(value, int) for value in content.values())
    if colour and any(isinstance(value, int) for value in content.values()):
        raise UserError(f"{text} mixes numbers and colours: give all classes as one of them")
    if "ignore" in values and ignore not in (None, values["ignore"]):
        raise UserError(f"{text} says ignore = {content['ignore']}, but --ignore-index {ignore}: leave one of them out")
    ignore = values.pop("ignore", ignore)
    if len(values) < 2 or len(set(values.values())) < len(values):
        raise UserError(f"{text} has to name at least two classes, each with a value of its own: background = 0")
    unlabelled = -1 in values.values()
    if unlabelled and (0 in values.values() or ignore == -1):
        raise UserError(f"{text}: {background} = -1 has the pixels without a value, and 0: give no other class these")
    return ClassSpec(tuple(values), tuple(max(value, 0) for value in values.values()), colour, ignore, unlabelled)


def _parse_value(path: str, name: str, value: Any, is_background: bool) -> int:
    lowest = -1 if name == "ignore" or is_background else 0
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= 65535:
        return value
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return int(value[1:], 16)
        except ValueError:
            pass  # reported below with other invalid values
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return value[0] << 16 | value[1] << 8 | value[2]
    raise UserError(f"{path}: {name} is {value!r}: give a mask value of 0 to 65535, or a colour as '#ff0000'")


def named(spec: ClassSpec, usual: list[str], kind: str) -> tuple[str, ...]:
    """The names of the classes: the user's, or else the usual ones. kind: a noun for the content of masks. Raises
    UserError if their numbers differ."""
    if not spec.names:
        return tuple(usual)
    if len(spec.names) != len(usual):
        found = ", ".join(usual if len(usual) <= 20 else [*usual[:20], "..."])
        raise UserError(
            f"--classes names {len(spec.names)} classes ({', '.join(spec.names)}), "
            f"but the masks hold {len(usual)} {kind} ({found}): "
            "name as many, background first, or say in a .toml file which value is which class"
        )
    return spec.names


def has_sides(names: Sequence[str]) -> bool:
    """Whether two of the classes differ in left and right alone, so that a mirror image exchanges them."""
    told = {tuple(re.split(r"[\W_]+", name.casefold())) for name in names}
    swapped = {words: tuple(OTHER_SIDE.get(word, word) for word in words) for words in told}
    return any(other != words and other in told for words, other in swapped.items())
