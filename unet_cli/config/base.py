"""What all settings share: a field is declared once with its type, default, help, unit and range.

The command line is built from these fields (cli/options.py); a checkpoint stores them as plain values. A value out
of its range raises UserError, whether it comes from a flag, a TOML file or Python.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unet_cli.errors import UserError


def setting(
    default: Any = MISSING,
    *,
    help: str,
    panel: str = "Options",
    minimum: float | None = None,
    maximum: float | None = None,
    parse: Any = None,
    spell: Any = None,
    metavar: str | None = None,
    positional: bool = False,
    settings_file: str | None = None,
    lasting: Literal["run", "folds"] | None = None,
    is_path: bool = False,
    once: bool = False,
) -> Any:
    """A dataclass field and its plain metadata. `minimum` and `maximum` belong to the range.

    parse: turns what the user wrote into the value; spell: the other way round, for a file. settings_file: the option
    names a folder, and this TOML file in it holds settings that flags given beside it win over.

    Of training: lasting: what can't be changed while a run goes on, since another would be another run; 'folds': only
    while a cross-validation goes on, whose next folds have to be like the first, since a run that has begun knows it
    from its checkpoint. is_path: names a file or folder, or may do so; a run's record holds the absolute path. once: is
    of one call or one folder, and stands in no record of how to train.
    """
    metadata = {
        "help": help,
        "panel": panel,
        "minimum": minimum,
        "maximum": maximum,
        "parse": parse,
        "spell": spell,
        "metavar": metavar,
        "positional": positional,
        "settings_file": settings_file,
        "lasting": lasting,
        "is_path": is_path,
        "once": once,
    }
    return field(default=default, metadata=metadata)


def within(minimum: float, maximum: float, default: Any = MISSING) -> Any:
    """A field that is no flag, and its range."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum})


def check_extension(flag: str, path: Path | None, extension: str) -> None:
    """So that no image or mask is written over by a slip. Raises UserError."""
    if path is not None and (path.suffix.lower() != extension or path.is_dir()):
        raise UserError(f"{flag} is '{path}': give the name of a file that ends in {extension}")


def flag_of(name: str) -> str:
    """The flag that sets a field: its name with dashes."""
    return "--" + name.replace("_", "-")


@cache
def types_of(settings: type) -> dict[str, Any]:
    """Of all fields at once: evaluating the annotations takes as long for one."""
    return get_type_hints(settings)


def marked(settings: Any, mark: str) -> dict[str, Any]:
    """The fields whose metadata has this mark, by their names in their order, and what it says."""
    return {spec.name: spec.metadata[mark] for spec in fields(settings) if spec.metadata.get(mark)}


class Checked:
    """Settings that check their own ranges and choices."""

    def __post_init__(self) -> None:
        kind: type = type(self)
        types = types_of(kind)
        for spec in fields(self):  # type: ignore[arg-type]
            value, flag = getattr(self, spec.name), flag_of(spec.name) if "help" in spec.metadata else spec.name
            low, high = spec.metadata.get("minimum"), spec.metadata.get("maximum")
            if value is None:
                continue
            # Written so that a NaN, which no comparison is true of, is refused too.
            if not (low is None or value >= low) or not (high is None or value <= high):
                bounds = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
                raise UserError(f"{flag} is {value:g}: it has to be {bounds}")
            kinds = (types[spec.name], *get_args(types[spec.name]))
            choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
            if choices and value not in choices and type(value) not in kinds:
                raise UserError(f"{flag} is '{value}': choose one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class Output(Checked):
    """How a command speaks. The same in every command."""

    json: bool = setting(False, help="Print the results as JSON on stdout.", panel="Messages")
    quiet: bool = setting(False, help="Print nothing but errors.", panel="Messages")
    debug: bool = setting(False, help="Show tracebacks.", panel="Messages")


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain values that a checkpoint, JSON or TOML can hold."""
    return {
        key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for key, value in asdict(settings).items()
    }
