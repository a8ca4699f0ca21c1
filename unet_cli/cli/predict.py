"""`unet predict`: a folder of images into masks."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from unet_cli.cli import app
from unet_cli.cli.options import DONE, SOME_FAILED, command
from unet_cli.config.base import Output, flag_of
from unet_cli.config.prediction import PredictConfig
from unet_cli.system.console import Console, counted, duration, sides, speed
from unet_cli.system.streams import printable

if TYPE_CHECKING:
    from unet_cli.inference.jobs import Outcome
    from unet_cli.inference.predictor import Predictor


ELSEWHERE = (
    "input",
    "output",
    "skip_existing",
    "shard",
    "polygons",
    "simplify",
    "table",
)  # left out of the next command


@command(app, "predict", PredictConfig, example="unet predict --weights checkpoints/data-1/best.pth --input imgs/")
def predict_cli(config: PredictConfig, output: Output) -> int:
    """Predict a mask for every image of a folder.

    With --json, an object for each image: its size, the share of each class, the highest probability, the seconds that
    it took, or the error.
    """
    return predict(config, Console(output.json, output.quiet))


def predict(config: PredictConfig, console: Console) -> int:
    """Run the prediction; returns the exit code: SOME_FAILED where an image could not be read or a mask not written.

    Raises UserError before anything is computed, and Stopped after the current files.
    """
    from unet_cli.checkpoint import describe_unfinished, find_checkpoints, load_checkpoint
    from unet_cli.inference.inputs import listed_paths
    from unet_cli.inference.jobs import find_jobs, is_done, remove_stale_outputs, share_of
    from unet_cli.inference.naming import extras_of
    from unet_cli.inference.pipeline import predict_all
    from unet_cli.inference.predictor import Predictor
    from unet_cli.inference.records import begin_records, check_records, join_records
    from unet_cli.inference.runtime import compute_for, faster_beside
    from unet_cli.system.distributed import this_process, wait_for_all
    from unet_cli.system.files import writable_folder
    from unet_cli.system.signals import StopRequest
    from unet_cli.system.stage_times import StageTimes

    paths = find_checkpoints(config.weights)
    checkpoints = [load_checkpoint(path, exported=True) for path in paths]
    console.say(*describe_unfinished(config.weights))
    predictor = Predictor(checkpoints, compute_for(checkpoints, config), config)
    names = predictor.labels.names
    listed = listed_paths(sys.stdin.buffer.read()) if config.input == "-" else ()
    labels = predictor.labels
    extras = extras_of(config, labels, predictor.gates)
    overlapping = labels.scored_names if labels.overlapping else ()
    everything, folder, unread, notes = find_jobs(
        config, predictor.mode, extras, listed, predictor.preprocessing, checkpoints[0].training, overlapping
    )
    writable_folder(folder)
    check_records(config)
    share = share_of(everything, config.shard)
    jobs = [job for job in share if not (config.skip_existing and is_done(job))]
    skipped = len(share) - len(jobs)
    # Old outputs are removed first, so that no stale mask looks like a result of this run if it fails.
    remove_stale_outputs(jobs, everything)
    begin_records(config, folder, predictor.labels)
    console.say(f"{_of(len(jobs), len(everything))}{_skipped(skipped)}; {_plan(predictor)}")

    console.say(*notes)
    if len(checkpoints) == 1 and checkpoints[0].exported is None and predictor.compute.kind == "CPU":
        console.say(*faster_beside(paths[0], checkpoints[0]))

    outcomes: list[Outcome] = []
    pace = StageTimes("writing")
    with StopRequest() as stop:
        results = predict_all(predictor, config, jobs, pace, lambda: stop.is_requested)
        for outcome in console.progress(results, len(jobs), "predicting", "images", pace.describe):
            if outcome is not None:
                outcomes.append(outcome)
                console.document(outcome.plain(names))
    outcomes = [_still_there(outcome) for outcome in outcomes]
    failures = [outcome for outcome in outcomes if outcome.error]
    written = [outcome for outcome in outcomes if not outcome.error]
    _say_what_was_odd(written, predictor, config, console)
    masks = counted(len(written), "mask")
    if overlapping:
        masks = f"masks of {len(overlapping)} classes for {counted(len(written), 'image')}"
    elif labels.cores:
        masks += f" with {counted(sum(outcome.objects or 0 for outcome in written), 'object')}"
    summary = f"{masks} written to {folder}{_skipped(skipped)}"
    summary += f"; {counted(len(failures), 'image')} failed, see below" if failures else ""
    summary += f"; {counted(len(unread), 'folder')} could not be read" if unread else ""
    if written:
        console.say(f"Took {duration(pace.seconds)}: {speed(len(written), pace.seconds, 'image')}, {pace.describe()}")
    if stop.is_requested:
        console.say(f"{summary}; stopped after {len(outcomes)} of {len(jobs)}; --skip-existing continues")
        _list(failures)
        stop.check()
    # torchrun stops the other shards as soon as one process ends with an error code.
    wait_for_all()
    made = join_records(config, folder, everything, predictor.labels) if this_process()[0] == 1 else []
    console.result(summary, *made, *_next_step(config, written))
    _list(failures)
    for error in unread:
        print(f"unet: {printable(str(error))}", file=sys.stderr)
    return SOME_FAILED if failures or unread else DONE


def _still_there(outcome: Outcome) -> Outcome:
    """Mark a written mask as failed if it has vanished meanwhile, as when its folder was moved away."""
    if outcome.error or all(path.exists() for path in outcome.job.masks):
        return outcome
    what = "was written, but has disappeared: was the folder moved?"
    return replace(outcome, error=f"{outcome.job.image}: its mask {outcome.job.masks[0]} {what}")


def _of(number: int, total: int) -> str:
    return counted(number, "image") + (f" of {total:,}" if number != total else "")


def _skipped(number: int) -> str:
    return f" ({number:,} already done)" if number else ""


def _plan(predictor: Predictor) -> str:
    """A description of the prediction: network, size or tiles, ensemble, threshold, device."""
    from unet_cli.exported import RUNTIMES
    from unet_cli.inference.views import tile_sides

    first = predictor.members[0]
    model = first.checkpoint.model
    network = model.name + (f" of width {model.base_channels}" if model.base_channels else "")
    more = len(predictor.members) - 1
    network += f" and {counted(more, 'other network')}" if more else ""
    runtimes = {member.checkpoint.exported.runtime for member in predictor.members if member.checkpoint.exported}
    network += f" in {' and '.join(RUNTIMES[runtime] for runtime in sorted(runtimes))}" if runtimes else ""
    tile = sides(reversed(tile_sides(predictor.members))) if predictor.mode == "tile" else ""
    way = f"in tiles of {tile}" if tile else f"at {first.preprocessing.describe_size()}"
    threshold = f", threshold {predictor.threshold:g}" if predictor.labels.has_threshold else ""
    symmetries = max((member.symmetries for member in predictor.members), key=len)
    turns = " and quarter turns" if any(turns for turns, _ in symmetries) else ""
    flips = f", averaged over {f'flips{turns}' if len(symmetries) > 2 else 'the mirror image'}"
    return f"{network} {way}{flips * predictor.settings.flips}{threshold}; {predictor.compute.describe()}"


def _list(failures: list[Outcome]) -> None:
    """List the failed images with their errors: the last lines of the output."""
    if failures:
        print(f"unet: {counted(len(failures), 'image')} failed:", file=sys.stderr)
    for outcome in failures:
        print(f"  {printable(str(outcome.error))}", file=sys.stderr)


def _next_step(config: PredictConfig, written: list[Outcome]) -> list[str]:
    """The command that draws the outline over the first image, unless overlays were requested already."""
    job = next((outcome.job for outcome in written), None)
    if config.overlay or job is None or len(job.image.paths) > 1:
        return []
    again = ["unet", "predict", "--input", str(job.image.path), "--output", str(job.mask.parent), "--overlay"]
    for spec in fields(config):
        value = getattr(config, spec.name)
        if spec.name in ELSEWHERE or value == spec.default:
            continue
        if spec.name == "spacing" and not job.image.is_volume:  # which is for the table alone
            continue
        spell = spec.metadata["spell"]
        for one in (spell(value),) if spell else value if isinstance(value, tuple) else (value,):
            again += [flag_of(spec.name)] if one is True else [flag_of(spec.name), str(one)]
    return ["Next, see the outline over an image:", f"  {shlex.join(again)}"]


def _say_what_was_odd(written: list[Outcome], predictor: Predictor, config: PredictConfig, console: Console) -> None:
    """Report conversions, each kind once; and warn if all masks are of one class, which often is a failure."""
    for note, count in Counter(outcome.note for outcome in written if outcome.note).items():
        console.say(f"{note} in {counted(count, 'image')}")
    for index, name in enumerate(predictor.labels.names):
        if written and all(outcome.shares[index] == 1 for outcome in written):
            top = max(outcome.top_probability for outcome in written)
            hint = "Check that these images look like the training images"
            if predictor.labels.has_threshold:
                hint += f", or try a {'higher' if index else 'lower'} --threshold"
                if not index and config.changes_masks and top >= predictor.threshold:
                    hint = "All objects were removed as too small: see --remove-smaller"
            console.say(f"Every mask is all {name}; the highest foreground probability was {top:.3f}. {hint}.")
