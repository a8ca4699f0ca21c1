"""The record in a run's folder: settings, split, commands, versions, machine, data."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unet_cli.config.base import marked
from unet_cli.config.data import DataConfig
from unet_cli.config.training import RUN_SETTINGS, TrainConfig
from unet_cli.data.samples.split import Split, write_split
from unet_cli.errors import UserError, explain
from unet_cli.system.distributed import elastic_identity
from unet_cli.system.files import make_folder, whole_file, writable_folder
from unet_cli.system.schema import json_of, parsed, toml_of
from unet_cli.version import __version__

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "tifffile", "imagecodecs")


@dataclass(frozen=True)
class Record:
    """A run's folder with its config.toml, split.json and run.json.

    config: resolved settings, with the choices made for 'auto'. device: description of the device. fingerprint: that of
    the data set.
    """

    folder: Path
    config: TrainConfig
    split: Split
    device: str
    fingerprint: str

    def is_written(self) -> bool:
        return (self.folder / RUN_SETTINGS).exists()

    def write(self) -> None:
        """Write the three files, and recreate the folder where it was deleted. Raises UserError."""
        if self.folder.parent.is_dir():  # else its disk was unmounted, and must not be replaced by a folder
            make_folder(self.folder)
        # The split of a run never changes, even if the data do.
        if not (self.folder / "split.json").exists():
            write_split(self.folder / "split.json", self.split)
        calls = calls_of(self.folder)
        calls.append(
            {
                "command": shlex.join(["unet", *sys.argv[1:]]),
                "folder": str(Path.cwd()),
                "unet": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in LIBRARIES},
                "system": platform.platform(),
                "device": self.device,
                "data_fingerprint": self.fingerprint,
                "elastic": elastic_identity(),
            }
        )
        write_json(self.folder / "run.json", {"calls": calls})
        write_settings(self.folder, self.config)  # last, since its presence means that the run can be resumed


def data_of(training: Mapping[str, Any], run: Path, workers: int | None = None, data: Path | None = None) -> DataConfig:
    """The settings by which a run's data are found again. training: what its checkpoint says of it. data: the folder
    that they have moved to. Raises UserError where it is of no run."""
    settings: dict[str, Any] = {spec.name: training.get(spec.name) for spec in fields(DataConfig)}
    if not settings["data"] and not settings["images"]:
        raise UserError(f"{run} is no run of unet train: give the folder of one, such as checkpoints/cells-1")
    if data is not None:
        settings |= {"data": data, "images": None, "masks": None}
    settings["missing_masks"] = settings["missing_masks"] or "stop"  # runs of older versions lack these
    flags = {name: bool(settings[name]) for name in ("volume_folders", "skip_bad", "keep_alpha")}
    return DataConfig(**settings | flags | {"workers": workers, "background": "auto"})


def independent(config: TrainConfig) -> TrainConfig:
    """The settings with absolute paths, so that they are valid in any working directory."""
    paths = {name: getattr(config, name) for name in marked(config, "is_path")}
    return replace(
        config,
        **{name: type(path)(Path(path).absolute()) for name, path in paths.items() if path and os.path.exists(path)},
    )


def new_run_folder(output: Path, name: str | None, data: Path) -> Path:
    """Create OUTPUT/<name>, or OUTPUT/<data folder>-1, -2, ..., never an existing folder.

    Raises UserError where the name is taken or the folder can't be written.
    """
    writable_folder(output)
    stem = data.resolve().name or "run"
    candidates = [name] if name else (f"{stem}-{number}" for number in range(1, 1_000_000))
    for candidate in candidates:
        try:
            (output / candidate).mkdir()  # fails where it exists, so that two processes can't get the same folder
            return output / candidate
        except FileExistsError:
            continue
        except OSError as error:
            raise explain(error, output / candidate) from error
    raise UserError(
        f"{output / str(name)} exists: choose another --name, or leave it out to get a number; "
        f"{shlex.join(['--resume', str(output / str(name))])} resumes that run"
    )


def elastic_run(output: Path) -> Path | None:
    """The folder of the run that this torchrun job started before its restart, None where there is none."""
    identity = elastic_identity()
    # The newest first: an identity may have been used by an earlier job too.
    records = sorted(output.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in records:
        calls = calls_of(path.parent)
        if identity is not None and calls and calls[-1].get("elastic") == identity:
            return path.parent
    return None


def settings_as_toml(config: TrainConfig, folder: Path) -> str:
    """All settings with a value, under the flags' names; a path that is not Unicode can't be written, and is left
    out."""
    lines = [
        f"# Settings of the run in {folder.name}, with the choices made for 'auto'.",
        "# unet train --config FILE starts another run like it; --resume FOLDER resumes this one.",
    ]
    for spec in fields(config):
        value = getattr(config, spec.name)
        if value is None or spec.metadata["once"]:
            continue
        spell = spec.metadata["spell"]
        line = f"{spec.name.replace('_', '-')} = {_toml(spell(value) if spell else value)}"
        lines.append(line if _is_unicode(line) else f"# {spec.name.replace('_', '-')} is not Unicode")
    return "\n".join(lines) + "\n"


def write_settings(folder: Path, config: TrainConfig) -> None:
    """Write the folder's config.toml. Raises UserError."""
    with whole_file(folder / RUN_SETTINGS) as file:
        file.write(settings_as_toml(config, folder).encode())


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings in the folder's config.toml, by name, as spelled there. Raises UserError."""
    path = folder / RUN_SETTINGS
    try:
        return _from_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise explain(error, path) from error
    except ValueError as error:  # both TOMLDecodeError and UnicodeDecodeError
        raise UserError(f"{path} is not TOML: {error}") from error


def changed_settings(folder: Path, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from the folder's config.toml: name -> (value in the file or None, value now), both spelled
    as in the file. Raises UserError."""
    then, now = read_settings(folder), _from_toml(settings_as_toml(independent(config), folder))
    return {name: (then.get(name), value) for name, value in now.items() if value != then.get(name)}


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write the values as JSON. Raises UserError."""
    with whole_file(path) as file:
        file.write(json.dumps(values, indent=1, default=str).encode("ascii") + b"\n")


def _toml(value: Any) -> str:
    """A plain value as TOML, whose strings, integers and booleans are those of JSON."""
    if isinstance(value, float):
        return repr(value)  # TOML has inf, JSON doesn't
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _from_toml(text: str) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in toml_of(text).items()}


def _is_unicode(text: str) -> bool:
    return text.encode(errors="ignore").decode() == text


def calls_of(folder: Path) -> list[dict[str, Any]]:
    """The calls in run.json, one for each command that has worked on the run; empty where it can't be read."""
    try:
        content = json_of((folder / "run.json").read_bytes())
        return parsed(dict[str, list[dict[str, Any]]], content, "it")["calls"]
    except (OSError, ValueError, KeyError):  # missing, or not written by unet
        return []
