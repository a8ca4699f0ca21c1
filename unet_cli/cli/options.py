"""Turn settings dataclasses into command-line options, and exceptions into messages and exit codes."""

from __future__ import annotations

import inspect
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin

import typer

from unet_cli.config.base import Output, flag_of, types_of
from unet_cli.errors import Stopped, UserError, explain, is_out_of_memory
from unet_cli.system.signals import stop_at_once, stop_on
from unet_cli.system.streams import make_streams_unbreakable, printable, unprinted_result

PANELS = (
    "Files",
    "Data",
    "Split",
    "Masks",
    "Scores",
    "Training",
    "Network",
    "8 bits",
    "bioimage.io",
    "Benchmark",
    "Output",
    "Hardware",
    "Messages",
)  # in the order of --help
REMEDIES = {  # hints for out of memory, by setting
    "batch_size": "--batch-size 1",
    "size": "a smaller --size",
    "gradient_checkpointing": "--gradient-checkpointing",
    "width": "a smaller --width",
    "workers": "fewer --workers",
}
DONE, USER_ERROR, USAGE_ERROR, SOME_FAILED, DEFECT = 0, 1, 2, 3, 70


def command(app: typer.Typer, name: str, *settings: type, example: str) -> Callable[[Callable[..., int]], None]:
    """Register a function that takes instances of the settings classes, and an Output, and returns the exit code.

    Its docstring is the command's help; the example is shown below it.
    """

    def register(function: Callable[..., int]) -> None:
        def run(**values: Any) -> None:
            raise typer.Exit(_exit_code(function, (*settings, Output), values))

        specs = [(cls, spec) for cls in (*settings, Output) for spec in fields(cls)]
        specs.sort(key=lambda pair: PANELS.index(pair[1].metadata["panel"]))
        parameters = [_parameter(cls, spec) for cls, spec in specs] + [_config_parameter()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__doc__ = f"{inspect.getdoc(function)}\n\nExample: {example}"
        app.command(name)(run)

    return register


def _exit_code(function: Callable[..., int], settings: tuple[type, ...], values: dict[str, Any]) -> int:
    """Call the function; print one message for any error. The only place that turns exceptions into exit codes."""
    make_streams_unbreakable()
    stop_on(stop_at_once)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about a read-only home directory
    debug = values["debug"]
    try:
        instances = [cls(**{spec.name: _value(values[spec.name]) for spec in fields(cls)}) for cls in settings]
    except UserError as error:
        return _complain(str(error), USAGE_ERROR)
    _fit_threads(values)
    try:
        code = function(*instances)
    except BaseException as error:
        if debug:
            _show_traceback()
        code = _explained(error, settings)
    return _complain_of_stdout() if code == DONE and unprinted_result() else code


def _fit_threads(values: dict[str, Any]) -> None:
    """Compute in one thread where the system allows few, and say so."""
    if "workers" not in values:  # a command that doesn't compute
        return
    from unet_cli.system.threads import compute_alone_where_limited  # not on the way to --help

    if compute_alone_where_limited(values["workers"]) and not values["quiet"]:
        print(
            "Computing in one thread: the system allows no more here (ulimit -u, or the container's process limit)",
            file=sys.stderr,
        )


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _show_traceback() -> None:
    import traceback  # not on the way to --help

    traceback.print_exc()


def _explained(error: BaseException, settings: tuple[type, ...]) -> int:
    """Print one message for the error; returns its exit code. settings: the command's classes."""
    if isinstance(error, UserError):
        return _complain(str(error), USER_ERROR)
    if isinstance(error, OSError):
        return _complain(str(explain(error)), USER_ERROR)
    if isinstance(error, KeyboardInterrupt):
        return _complain("stopped", 128 + signal.SIGINT)
    if isinstance(error, Stopped):
        return _complain(f"stopped{error.hint}", 128 + error.signum)
    if isinstance(error, Exception):
        return _complain(_out_of_memory(settings), USER_ERROR) if is_out_of_memory(error) else _report_defect()
    raise error


def _out_of_memory(settings: tuple[type, ...]) -> str:
    known = {spec.name for cls in settings for spec in fields(cls)}
    remedies = [remedy for name, remedy in REMEDIES.items() if name in known]
    return f"out of memory: try {', '.join(remedies) or 'a machine with more'}, or end other programs"


def _complain(message: str, code: int) -> int:
    print(f"unet: {printable(message)}", file=sys.stderr)
    return code


def _complain_of_stdout() -> int:
    """The work is done, but its result could not be printed."""
    failed = unprinted_result()
    if isinstance(failed, BrokenPipeError):  # the reader closed the pipe on purpose: `unet info FILE | head -1`
        return USER_ERROR
    return _complain(f"the result could not be printed: {failed}", USER_ERROR)


def _report_defect() -> int:
    """Write the traceback of the current exception to a log file, and ask for a report."""
    import tempfile
    import traceback

    trace = traceback.format_exc()
    last = trace.strip().splitlines()[-1]
    what = f"this is a defect of unet, not of your data ({last}).\nPlease report it with "
    try:
        with tempfile.NamedTemporaryFile("w", prefix="unet-defect-", suffix=".log", delete=False) as log:
            log.write(f"{' '.join(sys.argv)}\n{sys.version}\n{trace}")
    except OSError:
        return _complain(f"{what}this:\n{trace}", DEFECT)
    return _complain(f"{what}the log file {log.name}", DEFECT)


def _parameter(settings: type, spec: Any) -> inspect.Parameter:
    metadata = spec.metadata
    kind = types_of(settings)[spec.name]
    extra: dict[str, Any] = {}
    if get_origin(kind) is tuple and not metadata["parse"]:  # given several times
        kind = GenericAlias(list, get_args(kind)[:1])
    if metadata["parse"]:
        extra["parser"] = _parser(metadata["parse"])
        kind = str | None if spec.default is None else str
    # An explicit flag has no --no-... counterpart in Typer; a boolean that can be None needs one.
    flag = flag_of(spec.name)
    flag += f"/--no-{flag[2:]}" if bool in get_args(kind) else ""
    declare, flags = (typer.Argument, ()) if metadata["positional"] else (typer.Option, (flag,))
    if metadata["settings_file"]:
        extra |= {"is_eager": True, "callback": _loader_from_folder(metadata["settings_file"])}
    option = declare(
        *flags,
        help=_help(metadata),
        rich_help_panel=metadata["panel"],
        metavar=metadata["metavar"],
        show_default=_shown_default(spec),
        **extra,
    )
    default = inspect.Parameter.empty if spec.default is MISSING else spec.default
    return inspect.Parameter(
        spec.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _shown_default(spec: Any) -> bool | str:
    """Whether help shows the default, or its text."""
    if spec.default is None or spec.default is False:
        return False
    return spec.metadata["spell"](spec.default) if spec.metadata["spell"] and spec.default is not MISSING else True


def _help(metadata: Any) -> str:
    low, high = metadata["minimum"], metadata["maximum"]
    is_range = low is not None and high is not None and high < 2**62
    return metadata["help"] + (f"  [{low:g} to {high:g}]" if is_range else "")


def _parser(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except UserError as error:
            raise typer.BadParameter(str(error)) from error

    return parsed


def _config_parameter() -> inspect.Parameter:
    option = typer.Option(
        "--config",
        help="TOML file with options, the flags' names as keys. Flags on the command line win.",
        rich_help_panel="Messages",
        metavar="FILE",
        is_eager=True,
        callback=_load_config,
    )
    return inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, option]
    )


def _loader_from_folder(name: str) -> Callable[[typer.Context, Path | None], Path | None]:
    """Like _load_config, for the file of that name in a run folder; a file beside it may be given instead of the
    folder."""

    def load(context: typer.Context, folder: Path | None) -> Path | None:
        if folder is None:
            return None
        given, folder = folder, folder.parent if folder.is_file() else folder
        if not (folder / name).is_file():
            reason = f"holds no {name}" if given == folder and folder.is_dir() else "is not in the folder of a run"
            reason = reason if given.exists() else "does not exist"
            raise typer.BadParameter(f"{given} {reason}: give the folder of a run, such as checkpoints/cells-1")
        _load_config(context, folder / name)
        return folder

    return load


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of this command. An unknown key suggests the nearest known one."""
    if path is None:
        return None
    from difflib import get_close_matches

    from unet_cli.system.schema import toml_of

    try:
        content = toml_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(str(explain(error, path))) from error
    except ValueError as error:  # wrong syntax or wrong encoding
        raise typer.BadParameter(f"{path} is not TOML: {error}") from error
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name}
    del known["config"]
    defaults = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0].replace('_', '-')}?" if near else f"see unet {context.command.name} --help"
            raise typer.BadParameter(f"{path} sets '{key}', which this command doesn't know: {hint}")
        repeated = isinstance(value, str) and known[name].multiple
        defaults[name] = [value] if repeated else value
    # Click's default map has lower priority than command-line flags, as --config should.
    context.default_map = {**(context.default_map or {}), **defaults}
    return path
