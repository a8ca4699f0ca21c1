"""Preparation of a run up to its first step: folder -> card -> samples -> network, new or restored."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unet_cli.checkpoint import Checkpoint, load_checkpoint
from unet_cli.config.base import plain
from unet_cli.config.data import Orientation
from unet_cli.config.model import ModelConfig
from unet_cli.config.spacing import in_mm, spell_spacing
from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.described import how_read
from unet_cli.data.check.examine import examine
from unet_cli.data.check.orientation import way_up
from unet_cli.data.check.stretching import Mode
from unet_cli.data.folder.layout import Layout
from unet_cli.data.samples.blocks import are_few_stacks, hold_out_fold, hold_out_pages
from unet_cli.data.samples.split import Split, draw_fold, draw_split, group_names, read_split
from unet_cli.data.source import spread
from unet_cli.data.spacing import in_space
from unet_cli.data.truth import numbers_objects
from unet_cli.errors import UserError, is_out_of_memory
from unet_cli.models import build_model, weightless
from unet_cli.models.trainable import check_trainable
from unet_cli.run_folder import Record, independent, new_run_folder
from unet_cli.runs.build import build_run, class_shares, template_of
from unet_cli.runs.describe import (
    data_warnings,
    describe_plan,
    describe_resampling,
    describe_resumed,
    unvalidated_classes,
)
from unet_cli.runs.division import Division, divide
from unet_cli.runs.modes import chosen_mode
from unet_cli.runs.network import load_encoder, model_name, network_of
from unet_cli.runs.patch import sides_for
from unet_cli.runs.plan import planned
from unet_cli.runs.resume import AlreadyFinished, Call
from unet_cli.runs.saving import Saver
from unet_cli.system.console import Console, counted, duration
from unet_cli.training.plan import Plan
from unet_cli.training.progress import Progress
from unet_cli.training.run import Run
from unet_cli.training.step import Learner
from unet_cli.training.validation import validate

MAX_READING = 0.5  # share of --max-time spent on reading the data, above which there is a message
MASKS_LOOKED_AT = 64  # to find whether they tell objects apart
# Exceptions that torch raises for a state that is not an optimizer's or a network's.
LOADING_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)


def prepare(call: Call) -> tuple[Run, Saver]:
    """Everything up to the first step. Raises UserError where data, settings and the resumed run don't fit together."""
    config, console = call.config, call.console
    call.check_lasting()
    init = call.restart_from or config.init
    initial = call.saved or (load_checkpoint(init) if init else None)
    config, division = divided_for(config, call.layout, call.folder, initial)
    call = replace(call, config=config, layout=division.layout, divided=division.marks)
    with call.world.first_before_others():  # the first process fills the cache, from which the others read
        card = with_target(examine_for_training(config, call.layout, console), config, initial)
    if call.saved:
        # Older runs took the first class for background, and a resumed run has to go on doing so.
        card = replace(card, labels=replace(card.labels, background=call.saved.labels.background))
        card = replace(card, resample=_resampling_of(call.saved))
    _report_slow_reading(call)
    _check_slices(config, card)
    split = _split(call, card, division)
    if not split.val and (config.patience is not None or config.schedule == "plateau"):
        flag = "--schedule plateau" if config.patience is None else "--patience"
        raise UserError(f"{flag} needs a validation score, and there is no validation part: leave it out")
    network = network_of(call, card, initial)
    # Decisions depend on timing and on files, so the first process decides for all.
    decided = call.world.first(_decided(call, card, split, *network) if call.world.is_first else None)
    assert decided is not None  # in other processes it is the first one's
    (mode, orientation), reasons, plan, network_config = decided
    config = replace(config, orientation=orientation)
    call = replace(call, config=config, compute=replace(call.compute, channels_last=plan.channels_last))
    if plan.threads:
        torch.set_num_threads(min(plan.threads, torch.get_num_threads()))
    template = template_of(call, card, split, mode, network_config)
    torch.manual_seed(config.seed)  # decisions may have drawn random numbers
    model = build_model(template.model, config.gradient_checkpointing)
    if initial:  # also with --resume: the averaged weights and the optimizer are restored below
        model.load_state_dict(initial.weights)
    else:
        model.start_at(class_shares(card, split.train), card.labels.cores)
        if config.encoder_weights:
            load_encoder(call, model, config.encoder_weights)
    run = build_run(call, card, split, template, plan, model)
    if call.state:
        _load_learner(call, run.learner)
        run.course.resume_from(Progress.from_plain(call.state["progress"]), run.learner.step)
        if run.course.progress.lacks_score:
            assert call.folder is not None
            rescore_best(run, load_checkpoint(call.folder / "best.pth").weights)
    record = _record(call, run, template, split)
    unused = len(card.pairs("train") + card.pairs("val")) - len(split.train + split.val + split.gap)
    template = replace(template, training=template.training | plain(record.config))
    console.say(
        *template.data,
        *how_read(card, config.model),
        f"  split    {len(split.train)} for training, {len(split.val)} for validation ({split.how})",
        *unvalidated_classes(card, split),
        *data_warnings(card),
        *describe_plan(run, template, reasons, record.folder),
        *(describe_resumed(call, run, template, unused) if record.is_written() else []),
    )
    return run, Saver(record, template, config.save_every, console)


def divided_for(
    config: TrainConfig, layout: Layout, folder: Path | None, initial: Checkpoint | None
) -> tuple[TrainConfig, Division]:
    """The settings with the name of the network and what it sees at once, and the pairs. folder: of the run, if it has
    one. Raises UserError."""
    config = replace(config, model=model_name(config, layout, initial), slices=_slices(config, initial))
    sees_volumes = weightless(ModelConfig(name=config.model)).spatial_dims == 3
    return config, divide(config, layout, folder) if sees_volumes else Division(layout)


def rescore_best(run: Run, weights: dict[str, Tensor]) -> None:
    """Validate the best weights so far of a run that an older version started, which chose them by another score."""
    model, rows = run.learner.model, run.course.progress.rows
    own = {name: value.clone() for name, value in model.state_dict().items()}  # state_dict shares memory with the model
    model.load_state_dict(weights)
    scores = validate(run.learner, run.val_data, run.loader.batch_size)
    model.load_state_dict(own)
    assert scores
    (index,) = [index for index, row in enumerate(rows) if row.is_best][-1:]
    rows[index] = replace(rows[index], val_set_dice=scores["set_dice"])


def _report_slow_reading(call: Call) -> None:
    """Say where reading the data, which is never cut short, has taken much of --max-time."""
    limit, elapsed = call.config.max_time, time.monotonic() - call.started
    if limit and not call.saved and elapsed > MAX_READING * limit:
        call.console.say(
            f"Reading the data has taken {duration(elapsed)} of the {duration(limit)} that --max-time allows, and is "
            "never cut short: the next run on the same data starts immediately, since the result is cached"
        )


def _load_learner(call: Call, learner: Learner) -> None:
    """Restore the saved optimizer and averaged weights. Raises UserError."""
    try:
        learner.load_state(call.state["learner"])
    except LOADING_ERRORS as error:
        if is_out_of_memory(error):
            raise
        assert call.folder is not None
        raise UserError(
            f"{call.folder / 'last.pth'} is damaged: its optimizer's state is not that of this network ({error}): "
            f"restore it, or start a new run from its best weights with --init {call.folder / 'best.pth'}"
        ) from error


def examine_for_training(config: TrainConfig, layout: Layout, console: Console) -> Card:
    """The data set card, of volumes where the network is one for volumes. Raises UserError where the data can't be
    trained on."""
    is_chosen = config.model != "auto"
    as_volumes = weightless(ModelConfig(name=config.model)).spatial_dims == 3 if is_chosen else None
    card = examine(layout, config, console, as_volumes=as_volumes)
    card.refuse()
    if not card.contents[:, 1:].any():
        raise UserError(
            f"{card.layout.root}: no mask has a pixel of foreground, so there is nothing to learn: check the masks, or "
            "assign their values to classes with --classes FILE.toml"
        )
    return _with_spacing(card, config)


def with_target(card: Card, config: TrainConfig, initial: Checkpoint | None = None) -> Card:
    """The card with what is learned: objects or classes, by --target, else as the initial weights, else objects where
    the masks tell those of one class apart. Raises UserError where classes can't have objects."""
    labels = card.labels
    if config.target == "objects" and (labels.overlapping or not labels.background):
        why = "overlap" if labels.overlapping else "none of them is background"
        raise UserError(
            f"--target objects is for classes that exclude each other beside a background, and of "
            f"{', '.join(labels.names[int(labels.background) :])} {why}: leave it out"
        )
    if config.target == "auto" and initial is not None:
        is_target = initial.labels.cores
    elif config.target == "auto":
        masks = spread([pair.mask for pair in card.pairs("train") if not pair.mask.is_blank], MASKS_LOOKED_AT)
        several = [mask for mask in masks if numbers_objects(mask, labels)]
        is_target = labels.num_classes == 2 and not labels.overlapping and 4 * len(several) >= len(masks)
    else:
        is_target = config.target == "objects"
    return replace(card, labels=replace(labels, cores=is_target))


def _with_spacing(card: Card, config: TrainConfig) -> Card:
    """The card with what --spacing and --resample say. Raises UserError where these can't be followed."""
    is_resampled = config.resample not in ("median", "native")
    if not card.is_volumetric:
        if config.spacing is not None or config.resample != "median":
            flag = "--resample" if config.spacing is None else "--spacing"
            raise UserError(f"{flag} is for volumes, and the network is trained on images: leave it out")
        return card
    if config.spacing is not None:
        card = card.with_spacing(in_mm(config.spacing))
    untold = [pair for pair, facts in card.everything if facts.spacing is None]
    if untold and is_resampled:
        raise UserError(
            f"--resample: {counted(len(untold), 'file')} of {len(card.everything):,} don't tell the spacing of their "
            f"voxels, such as {untold[0].image}: state it with --spacing SLICES,ROWS,COLUMNS, or leave --resample out"
        )
    return replace(card, resample=config.resample)


def _resampling_of(saved: Checkpoint) -> str:
    """--resample for the very spacing of a resumed run, whose network is used to it."""
    spacing = saved.preprocessing.spacing
    return spell_spacing((spacing, "")) if spacing else "native"


def _slices(config: TrainConfig, initial: Checkpoint | None) -> int | None:
    """How many slices are seen at once: by --slices, else as the initial weights do."""
    stored = initial.preprocessing.slices if initial else 1
    return config.slices or (stored if stored > 1 else None)


def _check_slices(config: TrainConfig, card: Card) -> None:
    """Raises UserError where there are no neighbouring slices to see, or the network sees them anyway."""
    if (config.slices or 1) == 1:
        return
    if card.is_volumetric:
        raise UserError(f"--slices is for networks for images, and {config.model} sees volumes: leave it out")
    if not any(pair.image.page is not None for pair in card.pairs("train")):
        raise UserError(
            f"--slices {config.slices}: no file of {card.layout.root} has several pages that are images, so there are "
            "no neighbouring slices: leave it out"
        )


def _split(call: Call, card: Card, division: Division) -> Split:
    """The split from the resumed run, from --split, from the folders, or drawn. Raises UserError where flags and data
    don't fit together."""
    config, pairs = call.config, card.pairs("train") + card.pairs("val")
    if call.folder is not None:
        return read_split(call.folder, pairs, leave_out=False, may_be_more=True)
    if config.split is not None:
        return read_split(config.split, pairs, config.skip_bad)
    if division.held:
        return division.split(pairs)
    return drawn_split(config, card)


def drawn_split(config: TrainConfig, card: Card) -> Split:
    """The split by train and val folders, or drawn. Raises UserError where flags and data don't fit together."""
    train, val = card.pairs("train"), card.pairs("val")
    if val:
        if config.folds is not None or config.group_by is not None:
            raise UserError(
                f"{card.layout.root} has a val folder, which is the split: "
                "leave out --folds, --fold and --group-by, or move its pairs to train"
            )
        return Split(train, val, "a folder of its own")
    groups, contents = group_names(train, config.group_by), card.contents_of(train)
    gap = max(1, (config.slices or 1) // 2)  # so that training sees no page that is held out
    in_blocks = config.group_by is None and are_few_stacks(train, gap)
    if config.folds is not None:
        assert isinstance(config.fold, int)  # 'all' is split up into a run for each fold
        if in_blocks:
            return hold_out_fold(train, config.folds, config.fold, gap)
        return draw_fold(train, contents, groups, config.folds, config.fold, config.seed)
    if in_blocks and config.val_fraction > 0:
        return hold_out_pages(train, contents, config.val_fraction, gap)
    return draw_split(train, contents, groups, config.val_fraction, config.seed)


def _decided(
    call: Call, card: Card, split: Split, model: ModelConfig, is_free: bool
) -> tuple[tuple[Mode, Orientation], list[str], Plan, ModelConfig]:
    """Mode and orientation, the reasons for them, the plan, and the network with the planned width. is_free: see
    `planned`.

    Raises UserError where the network can't be trained on such samples, before anything is timed.
    """
    orientation, why_orientation = _orientation(call, card)
    call = replace(call, config=replace(call.config, orientation=orientation))
    mode, why_mode = chosen_mode(call, card, split, model, is_free)
    check_trainable(model, sides_for(card, split.train, model, call.config.size, call.compute.kind), mode)
    reasons = [reason for reason in (why_mode, why_orientation) if reason]
    reasons += describe_resampling(card, split.train + split.val, call.config.resample)
    return (mode, orientation), reasons, *planned(call, card, split, mode, model, is_free)


def _orientation(call: Call, card: Card) -> tuple[Orientation, str]:
    """The orientation, from the flag, the resumed run, the first of all folds, or measured; and the reason. Runs of
    older versions without that setting have images of any orientation."""
    if call.config.orientation != "auto":
        return call.config.orientation, ""
    earlier = call.saved or call.like
    if earlier:
        return earlier.preprocessing.orientation, ""
    files = {pair.image.paths: pair.image for pair in card.pairs("train")}
    if all(in_space(image) for image in files.values()):
        return "upright", (
            "The volumes' files say which way they lie: of all flips and turns, augmentation only exchanges left and "
            "right; --orientation any has them all"
        )
    measured = way_up(card.known["train"])
    return measured.orientation, measured.describe()


def _record(call: Call, run: Run, template: Checkpoint, split: Split) -> Record:
    """The record of the run, in a new folder or that of the resumed run. Raises AlreadyFinished where that has finished
    training."""
    config, world = call.config, call.world
    folder = call.folder
    if folder is None:
        folder = world.first(new_run_folder(config.output, config.name, call.layout.root) if world.is_first else None)
    elif world.first((folder / METRICS).exists()) and not run.may_continue():
        raise AlreadyFinished(
            f"{folder} has finished training, {counted(run.course.progress.epoch - 1, 'epoch')} in "
            f"{duration(call.state.get('seconds', 0))}: to train longer, raise the total of --epochs, --max-time or "
            "--patience beside --resume"
        )
    assert folder is not None
    # What was chosen automatically is recorded, so that a resumed run doesn't choose again.
    resolved = replace(
        independent(config),
        width=template.model.base_channels,
        batch_size=run.loader.batch_size,
        precision=call.compute.precision,
        mode=template.preprocessing.mode,
        lr=run.learner.lr,
        weight_decay=run.learner.weight_decay,
        epochs=config.epochs,
    )
    return Record(folder, resolved, split, call.compute.describe(), template.training["data_fingerprint"])
