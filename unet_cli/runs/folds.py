"""Cross-validation: a run for each fold of a data set, one after the other, all in one folder.

The folder holds a config.toml, from which it can be resumed, and from the start a folder for each fold with its
split.json. So the folds stay the same if the data change meanwhile, and a fold that hasn't started is simply a run
without a checkpoint.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.base import marked
from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.folder.layout import Layout
from unet_cli.data.samples.split import Split, read_split, write_split
from unet_cli.errors import UserError, explain
from unet_cli.evaluation.scores import summary
from unet_cli.evaluation.tally import Tally
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
from unet_cli.runs.prepare import divided_for, drawn_split, examine_for_training
from unet_cli.runs.resume import AlreadyFinished, refuse_changes
from unet_cli.runs.train import train, with_resume_hint
from unet_cli.system.console import Console
from unet_cli.system.distributed import this_process
from unet_cli.system.files import alone_in, make_folder, sweep
from unet_cli.system.schema import json_of, parsed

BUDGET = {"epochs", "max_time", "patience"}  # a finished run continues when one of these is raised


@dataclass(frozen=True)
class Folds:
    """The outcome of a cross-validation: its folder, the reports of its runs, and the command to run next.

    scores, objects: over all pairs, each predicted by the network that was not trained on it; see Report. page: file of
    the report.
    """

    folder: str
    folds: list[Report]
    scores: dict[str, float]
    page: str
    next: str
    objects: Tally | None = None


def is_for_all_folds(config: TrainConfig) -> bool:
    """Whether the call, or the run that it resumes, is a cross-validation. Raises UserError."""
    return config.fold == "all" or (config.resume is not None and read_settings(config.resume).get("fold") == "all")


def train_folds(config: TrainConfig, layout: Layout, console: Console, started: float) -> Folds:
    """Train on each fold of the pairs of `layout`, one after the other, with an equal share of --max-time for each.

    Finished folds are left as they are, interrupted ones are resumed. At the end all are evaluated together. started:
    see runs.train. Raises UserError, and Stopped after saving where a signal requested a stop.
    """
    if this_process() != (1, 1):
        raise UserError("--fold all trains in one process: start it without torchrun, or give it one fold at a time")
    if config.resume is not None:
        refuse_changes(changed_settings(config.resume, config), marked(config, "lasting"))
    splits = _splits(config, layout, console)
    folder = config.resume or new_run_folder(config.output, config.name, layout.root)
    runs = [folder / f"fold{number:0{len(str(len(splits)))}}" for number in range(1, len(splits) + 1)]
    reports = []
    # The lock keeps a second call away from the whole folder, not only from the fold that is being trained.
    with with_resume_hint(shlex.join(["unet", "train", "--resume", str(folder)])), alone_in(folder):
        sweep(folder)
        (folder / METRICS).unlink(missing_ok=True)  # that of an earlier call: its presence means finished
        write_settings(folder, independent(config))
        _write_splits(runs, splits)
        for number, run in enumerate(runs, 1):
            console.say("", f"== fold {number} of {len(runs)}")
            share = config.max_time and config.max_time / len(runs)
            fold_config = replace(config, fold=number, output=folder, name=None, resume=run, max_time=share)
            # The first fold's plan holds for all, so that their scores are comparable.
            reports.append(_trained(fold_config, run, layout, console, started, like=runs[0] if number > 1 else None))
            started = time.monotonic()
        return _together(folder, reports, config, console)


def _together(folder: Path, reports: list[Report], config: TrainConfig, console: Console) -> Folds:
    """Evaluate all folds together and write their report and scores. Raises UserError."""
    console.say("", "== all folds together")
    evaluation, _ = report_run(folder, folder / REPORT, config, console, config.data)
    assert evaluation is not None  # each fold has a validation part
    objects = evaluation.tally if evaluation.is_of_objects else None
    following = _with_all(reports[0].next, folder)
    folds = Folds(str(folder), reports, summary(evaluation), str(folder / REPORT), following, objects)
    write_json(folder / METRICS, asdict(folds))
    return folds


def _with_all(command: str, folder: Path) -> str:
    """The command of a prediction with the weights of one fold -> the same with those of all, an ensemble."""
    words = shlex.split(command)
    words[words.index("--weights") + 1] = str(folder)
    return shlex.join(words)


def _splits(config: TrainConfig, layout: Layout, console: Console) -> list[Split]:
    """The split of each fold, from the data as they are now. Raises UserError where they can't be split or trained
    on."""
    assert config.folds is not None
    init = load_checkpoint(config.init) if config.init else None
    drawn: list[Split] = []
    for number in range(1, config.folds + 1):
        one, division = divided_for(replace(config, fold=number), layout, None, init)
        if number == 1 or division.held:  # of divided volumes each fold has other parts
            card = examine_for_training(one, division.layout, console)
        drawn.append(division.split(card.pairs("train")) if division.held else drawn_split(one, card))
    return drawn


def _write_splits(runs: Sequence[Path], splits: Sequence[Split]) -> None:
    """Write the split of each run that has none. Raises UserError where it would no longer fit those of the others."""
    drawn = dict(zip(runs, splits, strict=True))
    missing = [run for run in runs if not (run / "split.json").exists()]
    # Folds are disjoint only if all were drawn from the same data: the stored ones have to equal today's draw.
    if missing and not all(_is_as_drawn(run, split) for run, split in drawn.items() if run not in missing):
        raise UserError(
            f"{missing[0]} has no split.json, and one that fits the other folds can't be drawn, since the data or the "
            "--seed have changed: restore them, or start anew without --resume"
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
    """Report of the run of one fold, trained by the plan of the run `like` unless it is finished. Raises UserError, and
    Stopped."""
    if (run / METRICS).exists() and not BUDGET & changed_settings(run, config).keys():
        console.say(f"{run} has finished training")
        return stored_report(run)
    try:
        train(config, layout, console, started, is_part=True, like=like)
    except AlreadyFinished as finished:
        console.say(str(finished))
    return stored_report(run)


def stored_report(run: Path) -> Report:
    """The stored report of a finished run, with the paths of its present location. Raises UserError."""
    path = run / METRICS
    try:
        values = parsed(dict[str, Any], json_of(path.read_bytes()), "it")
        names = {spec.name for spec in fields(Report)}
        report = parsed(Report, {name: value for name, value in values.items() if name in names})
    except OSError as error:
        raise explain(error, path) from error
    except ValueError as error:
        raise UserError(f"{path} is not what train wrote at the end of a run: remove it, and resume") from error
    return replace(report, run=str(run), best=str(run / "best.pth"), last=str(run / "last.pth"), page=str(run / REPORT))
