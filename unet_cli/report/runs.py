"""Write the report of a run folder: its networks are evaluated on their validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet_cli.checkpoint import Checkpoint, describe_unfinished, find_checkpoints, load_checkpoint
from unet_cli.config.evaluation import Scoring
from unet_cli.config.hardware import Hardware
from unet_cli.config.prediction import Cleaning, Inference
from unet_cli.data.folder.layout import layout_of
from unet_cli.data.labels import LabelMap
from unet_cli.data.samples.blocks import divided, ranges_in
from unet_cli.data.samples.split import Split, names_in, read_split
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.evaluation.evaluate import Evaluation, evaluate
from unet_cli.evaluation.subjects import Group, Networks
from unet_cli.evaluation.truth import examine_for_evaluation, spec_of
from unet_cli.report.contents import Suspect
from unet_cli.report.page import write_report
from unet_cli.report.pages import page_of_run, suspects_of
from unet_cli.run_folder import data_of
from unet_cli.system.console import Console
from unet_cli.system.schema import parsed

REPORT = "report.html"  # in a run's folder


@dataclass(frozen=True)
class Trained:
    """A run, or the folds of one: folder, network and data split of each. labels: label map of the masks as they are
    now. notes: remarks for the user."""

    runs: list[Path]
    checkpoints: list[Checkpoint]
    splits: list[Split]
    labels: LabelMap
    notes: list[str]


def report_run(
    run: Path, output: Path, hardware: Hardware, console: Console, data: Path | None = None, suspects: bool = False
) -> tuple[Evaluation | None, list[Suspect] | None]:
    """Write the report of a run, or of the folds in a folder, and return what it shows.

    The evaluation is of the validation part; with folds, of every image by the network that was not trained on it
    (out-of-fold); None without validation. data: the new location of the images. suspects: look for label errors in
    training masks; with folds these are the same images. Raises UserError.
    """
    trained = trained_run(run, data, hardware, console)
    console.say(*trained.notes)
    validated = [split.val for split in trained.splits]
    of_folds = len(trained.runs) > 1
    found = _evaluated(trained, validated, hardware, console, doubts=suspects and of_folds)
    doubted: list[Suspect] | None = None
    if suspects:
        learned = found if of_folds else _evaluated(trained, [trained.splits[0].train], hardware, console, doubts=True)
        doubted = [] if learned is None else suspects_of(learned)
    write_report(output, page_of_run(run, trained.runs, trained.checkpoints, found, doubted, trained.notes))
    return found, doubted


def trained_run(run: Path, data: Path | None, hardware: Hardware, console: Console) -> Trained:
    """Networks and data of a run, or of the folds in a folder. data: the new location of the images. Raises
    UserError."""
    paths = find_checkpoints([run])
    checkpoints = [load_checkpoint(path) for path in paths]
    if len(paths) > 1 and not all(one.training.get("folds") for one in checkpoints):
        raise UserError(
            f"{run} holds {len(paths)} runs, which are not folds of one run: give one, such as {paths[0].parent}"
        )
    training = checkpoints[0].training
    config = data_of(training, run, hardware.workers, data)
    spec = spec_of(checkpoints[0])
    if spec is not None:  # the checkpoint has the classes, and their file may be gone
        config = replace(config, classes=None, ignore_index=None)
    layout, ranges = layout_of(config), {}
    if checkpoints[0].preprocessing.is_volumetric:
        named = [set().union(*names_in(path.parent / "split.json")) for path in paths]
        ranges = ranges_in(set().union(*named))  # each fold has other ones
        train = layout.splits["train"]
        layout = divided(layout, {pair.image.paths: ranges[pair.name] for pair in train if pair.name in ranges})
    card, labels, notes = examine_for_evaluation(
        layout, config, checkpoints[0].labels, console, spec, checkpoints[0].preprocessing.is_volumetric
    )
    pairs = card.pairs("train") + card.pairs("val")
    runs = [path.parent for path in paths]
    splits = [read_split(folder, pairs, leave_out=False, may_be_more=True) for folder in runs]
    validated = [pair for split in splits for pair in split.val]
    if len(set(validated)) < len(validated):
        raise UserError(f"{run} holds {len(runs)} runs, which are not folds of one run: give one, such as {runs[0]}")
    notes += describe_unfinished([run])
    of_first = {*splits[0].train, *splits[0].val, *splits[0].gap} if ranges and len(runs) > 1 else None
    if training.get("data_fingerprint") != card.fingerprint(of_first):
        notes.append("The data have changed since the training.")
    return Trained(runs, checkpoints, splits, labels, notes)


def _evaluated(
    trained: Trained, parts: Sequence[list[Pair]], hardware: Hardware, console: Console, doubts: bool
) -> Evaluation | None:
    """Evaluate each network on its part; None if all parts are empty."""
    groups: list[Group] = [((one,), pairs) for one, pairs in zip(trained.checkpoints, parts, strict=True) if pairs]
    if not groups:
        return None
    stated = trained.checkpoints[0].training.get("spacing")
    spacing = parsed(tuple[tuple[float, ...], str], stated) if stated else None
    inference = Inference(
        device=hardware.device, precision=hardware.precision, workers=hardware.workers, spacing=spacing
    )
    networks = Networks(groups, inference, Cleaning(), [])
    pairs, keep_alpha = networks.pairs, trained.checkpoints[0].preprocessing.keep_alpha
    answers = networks.answers(pairs, trained.labels, console)
    return evaluate(
        answers, trained.labels, pairs, Scoring(spacing=spacing), hardware.workers, True, keep_alpha, doubts
    )
