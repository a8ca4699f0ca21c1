"""Cross-validation: a run for each fold of a data set, one after the other, all in one folder.

The folder holds a config.toml, with which it can be gone on with, and from the beginning a folder for each fold with
its split.json. So the folds stay the same whatever happens to the data meanwhile, and a fold that hasn't begun yet is
nothing but a run that has saved nothing yet.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from unet_cli.config.base import marked
from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.folder.layout import Layout
from unet_cli.data.samples.split import Split, read_split, write_split
from unet_cli.errors import UserError, explain
from unet_cli.report.runs import REPORT, report_run
from unet_cli.run_folder import (
    changed_settings,
    independent,
    new_run_folder,
    read_settings,
    write_json,
    write_settings,
)
from unet_cli.runs.finish import Report
from unet_cli.runs.prepare import drawn_split, examine_for_training
from unet_cli.runs.resume import TrainedToItsEnd, refuse_changes
from unet_cli.runs.train import train, with_resume_hint
from unet_cli.system.console import Console
from unet_cli.system.distributed import this_process
from unet_cli.system.files import alone_in, make_folder, sweep
from unet_cli.system.schema import json_of, parsed

BUDGET = {"epochs", "max_time", "patience"}  # with more of them a run that has come to its end goes on


@dataclass(frozen=True)
class Folds:
    """What a finished cross-validation leaves: its folder, the reports of its runs, and the command to run next.

    scores: over all pairs, each predicted by the network that did not see it; see metrics.summarize. page: the file.
    """

    folder: str
    folds: list[Report]
    scores: dict[str, float]
    page: str
    next: str


def is_for_all_folds(config: TrainConfig) -> bool:
    """Whether the call, or what it goes on with, is a cross-validation. Raises UserError."""
    return config.fold == "all" or (config.resume is not None and read_settings(config.resume).get("fold") == "all")


def train_folds(config: TrainConfig, layout: Layout, console: Console, started: float) -> Folds:
    """Train on each fold of the pairs of `layout`, one after the other; each has its even share of --max-time.

    Folds that have come to their end are left as they are, those that have begun are gone on with. In the end all are
    evaluated together. started: see run.train. Raises UserError, and Stopped after saving where a signal asked to stop.
    """
    if this_process() != (1, 1):
        raise UserError("--fold all trains in one process: start it without torchrun, or give it one fold at a time")
    if config.resume is not None:
        refuse_changes(changed_settings(config.resume, config), marked(config, "lasting"))
    splits = _splits(config, layout, console)
    folder = config.resume or new_run_folder(config.output, config.name, layout.root)
    runs = [folder / f"fold{number:0{len(str(len(splits)))}}" for number in range(1, len(splits) + 1)]
    reports = []
    with with_resume_hint(shlex.join(["unet", "train", "--resume", str(folder)])), alone_in(folder):
        sweep(folder)
        (folder / METRICS).unlink(missing_ok=True)  # of folds that go on
        write_settings(folder, independent(config))
        _write_splits(runs, splits)
        for number, run in enumerate(runs, 1):
            console.say("", f"== fold {number} of {len(runs)}")
            share = config.max_time and config.max_time / len(runs)
            asked = replace(config, fold=number, output=folder, name=None, resume=run, max_time=share)
            reports.append(_trained(asked, run, layout, console, started, like=runs[0] if number > 1 else None))
            started = time.monotonic()
        return _together(folder, reports, config, console)


def _together(folder: Path, reports: list[Report], config: TrainConfig, console: Console) -> Folds:
    """Evaluate all folds together and write their page and scores. Raises UserError."""
    console.say("", "== all folds together")
    found, _ = report_run(folder, folder / REPORT, config, console, config.data)
    assert found is not None  # each fold has a validation part
    folds = Folds(str(folder), reports, found.scores, str(folder / REPORT), _with_all(reports[0].next, folder))
    write_json(folder / METRICS, asdict(folds))
    return folds


def _with_all(command: str, folder: Path) -> str:
    """A prediction with the weights of one fold -> the same with those of all."""
    words = shlex.split(command)
    words[words.index("--weights") + 1] = str(folder)
    return shlex.join(words)


def _splits(config: TrainConfig, layout: Layout, console: Console) -> list[Split]:
    """Of each fold, as the data are now. Raises UserError where they can't be cut or trained on."""
    assert config.folds is not None
    card = examine_for_training(config, layout, console)
    return [drawn_split(replace(config, fold=number), card) for number in range(1, config.folds + 1)]


def _write_splits(runs: Sequence[Path], splits: Sequence[Split]) -> None:
    """Give a split to each run that has none. Raises UserError where it would not fit those of the others any more."""
    drawn = dict(zip(runs, splits, strict=True))
    missing = [run for run in runs if not (run / "split.json").exists()]
    if missing and not all(_is_as_drawn(run, split) for run, split in drawn.items() if run not in missing):
        raise UserError(
            f"{missing[0]} has no split.json, and one that fits the other folds can't be drawn, since the data or the "
            "--seed are not what they were: restore them, or begin anew without --resume"
        )
    for run in missing:
        make_folder(run)
        write_split(run / "split.json", drawn[run])


def _is_as_drawn(run: Path, split: Split) -> bool:
    pairs = split.train + split.val
    return read_split(run, pairs, leave_out=True).val == split.val


def _trained(
    config: TrainConfig, run: Path, layout: Layout, console: Console, started: float, like: Path | None
) -> Report:
    """The run of one fold, brought to its end if it isn't there, by the plan of `like`. Raises UserError and
    Stopped."""
    if (run / METRICS).exists() and not BUDGET & changed_settings(run, config).keys():
        console.say(f"{run} has been trained to its end")
        return _report(run)
    try:
        train(config, layout, console, started, is_part=True, like=like)
    except TrainedToItsEnd as ended:
        console.say(str(ended))
    return _report(run)


def _report(run: Path) -> Report:
    """What train said of a run that has come to its end; of where it is now. Raises UserError."""
    path = run / METRICS
    try:
        values = parsed(dict[str, Any], json_of(path.read_bytes()), "it")
        names = {spec.name for spec in fields(Report)}
        report = parsed(Report, {name: value for name, value in values.items() if name in names})
    except OSError as error:
        raise explain(error, path) from error
    except ValueError as error:
        raise UserError(f"{path} is not what train wrote at the end of a run: remove it, and go on") from error
    return replace(report, run=str(run), best=str(run / "best.pth"), last=str(run / "last.pth"), page=str(run / REPORT))
