"""All that a run needs before its first step: folder -> card -> samples -> network, fresh or as it was saved."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from unet_cli.checkpoint import Checkpoint, load_checkpoint
from unet_cli.config.base import plain
from unet_cli.config.data import Orientation
from unet_cli.config.model import MODEL_SETTINGS, ModelConfig
from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import examine
from unet_cli.data.check.orientation import way_up
from unet_cli.data.check.stretching import Mode
from unet_cli.data.folder.layout import Layout
from unet_cli.data.samples.split import Split, draw_fold, draw_split, group_names, read_split
from unet_cli.errors import UserError, is_out_of_memory
from unet_cli.foreign.torchvision import encoder_state
from unet_cli.models import MODELS, Network, build_model, resolved
from unet_cli.models.encoders import EncoderUNet
from unet_cli.models.trainable import check_trainable
from unet_cli.run_folder import Record, independent, new_run_folder
from unet_cli.runs.build import Run, build_run, class_shares, template_of
from unet_cli.runs.describe import describe_plan, describe_resumed, unheld_classes, worth_a_look
from unet_cli.runs.modes import chosen_mode
from unet_cli.runs.plan import planned
from unet_cli.runs.resume import Call, TrainedToItsEnd
from unet_cli.runs.saving import Saver
from unet_cli.system.console import Console, counted, duration
from unet_cli.training.loop import may_continue
from unet_cli.training.plan import Plan
from unet_cli.training.progress import Progress
from unet_cli.training.step import Learner
from unet_cli.training.validation import validate

MAX_READING = 0.5  # of --max-time, beyond which it is said
# By which torch refuses a state that is not an optimizer's or a network's.
LOADING_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)


def prepare(call: Call) -> tuple[Run, Saver]:
    """Everything up to the first step. Raises UserError where data, settings and saved run don't go together."""
    config, console = call.config, call.console
    call.check_lasting()
    with call.world.first_before_others():
        card = examine_for_training(config, call.layout, console)
    if call.saved:
        card = replace(card, labels=replace(card.labels, background=call.saved.labels.background))
    _say_where_reading_took_long(call)
    split = _split(call, card)
    if not split.val and (config.patience is not None or config.schedule == "plateau"):
        waits = "--schedule plateau" if config.patience is None else "--patience"
        raise UserError(f"{waits} waits for a better validation score, and there is no validation part: leave it out")
    begin_with = call.again or config.init
    initial = call.saved or (load_checkpoint(begin_with) if begin_with else None)
    network = _network(call, card, initial)
    decided = call.world.first(_decided(call, card, split, *network) if call.world.is_first else None)
    assert decided is not None
    (mode, orientation), reasons, plan, network_config = decided
    config = replace(config, orientation=orientation)
    call = replace(call, config=config, compute=replace(call.compute, channels_last=plan.channels_last))
    if plan.threads:
        torch.set_num_threads(min(plan.threads, torch.get_num_threads()))
    template = template_of(call, card, split, mode, network_config)
    torch.manual_seed(config.seed)
    model = build_model(template.model, config.gradient_checkpointing)
    if initial:
        model.load_state_dict(initial.weights)
    else:
        model.start_at(class_shares(card, split.train))
        if config.encoder_weights:
            _load_encoder(call, model, config.encoder_weights)
    run = build_run(call, card, split, template, plan, model)
    if call.state:
        _load_learner(call, run.learner)
        run.course.resume_from(Progress.from_plain(call.state["progress"]), run.learner.step)
        if run.course.progress.lacks_score:
            assert call.folder is not None
            rescore_best(run, load_checkpoint(call.folder / "best.pth").weights)
    record = _record(call, run, template, split)
    unused = len(card.pairs("train") + card.pairs("val")) - len(split.train + split.val)
    template = replace(template, training=template.training | plain(record.config))
    console.say(
        *template.data,
        f"  split    {len(split.train)} for training, {len(split.val)} for validation ({split.how})",
        *unheld_classes(card, split),
        *worth_a_look(card),
        *describe_plan(run, template, reasons, record.folder),
        *(describe_resumed(call, run, template, unused) if record.is_written() else []),
    )
    return run, Saver(record, template, config.save_every, console)


def rescore_best(run: Run, weights: dict[str, Tensor]) -> None:
    """Validate the best weights so far, of a run that was begun when another score chose them."""
    model, rows = run.learner.model, run.course.progress.rows
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    scores = validate(run.learner, run.val_data, run.loader.batch_size)
    model.load_state_dict(own)
    assert scores
    (place,) = [place for place, row in enumerate(rows) if row.is_best][-1:]
    rows[place] = replace(rows[place], val_set_dice=scores["set_dice"])


def _say_where_reading_took_long(call: Call) -> None:
    """Of the time that --max-time allows: intake is never cut short."""
    limit, took = call.config.max_time, time.monotonic() - call.started
    if limit and not call.saved and took > MAX_READING * limit:
        call.console.say(
            f"Reading the data has taken {duration(took)} of the {duration(limit)} that --max-time allows, and is "
            "never cut short: a run on the same data begins at once now, since what was read is remembered"
        )


def _load_learner(call: Call, learner: Learner) -> None:
    """Go on with the optimizer and the averaged weights that were saved. Raises UserError."""
    try:
        learner.load_state(call.state["learner"])
    except LOADING_ERRORS as error:
        if is_out_of_memory(error):
            raise
        assert call.folder is not None
        raise UserError(
            f"{call.folder / 'last.pth'} is damaged: its optimizer's state is not that of this network ({error}): "
            f"restore it, or begin a new run from its best weights with --init {call.folder / 'best.pth'}"
        ) from error


def examine_for_training(config: TrainConfig, layout: Layout, console: Console) -> Card:
    """The data set card. Raises UserError where training can't be."""
    card = examine(layout, config, console)
    card.refuse()
    if not card.contents[:, 1:].any():
        raise UserError(
            f"{card.layout.root}: no mask holds a pixel of foreground, so there is nothing to learn: look at the "
            "masks, or say which value is which with --classes FILE.toml"
        )
    return card


def _split(call: Call, card: Card) -> Split:
    """As a file says, by the folders, or drawn. Raises UserError where what was asked for doesn't go together."""
    config, pairs = call.config, card.pairs("train") + card.pairs("val")
    if call.folder is not None:
        return read_split(call.folder, pairs, leave_out=False, may_be_more=True)
    if config.split is not None:
        return read_split(config.split, pairs, config.skip_bad)
    return drawn_split(config, card)


def drawn_split(config: TrainConfig, card: Card) -> Split:
    """By the folders, or drawn. Raises UserError where what was asked for doesn't go together."""
    train, val = card.pairs("train"), card.pairs("val")
    if val:
        if config.folds is not None or config.group_by is not None:
            raise UserError(
                f"{card.layout.root} has a val folder, which is the split: "
                "leave out --folds, --fold and --group-by, or move its pairs to train"
            )
        return Split(train, val, "a folder of its own")
    groups, contents = group_names(train, config.group_by), card.contents_of(train)
    if config.folds is not None:
        assert isinstance(config.fold, int)  # each of all folds is a run of its own
        return draw_fold(train, contents, groups, config.folds, config.fold, config.seed)
    return draw_split(train, contents, groups, config.val_fraction, config.seed)


def _decided(
    call: Call, card: Card, split: Split, model: ModelConfig, is_free: bool
) -> tuple[tuple[Mode, Orientation], list[str], Plan, ModelConfig]:
    """The mode and the orientation, why they are so, the plan, and the network with the width that it gives. is_free:
    see `planned`.

    Raises UserError where the network can't learn from such samples: before anything is tried on it.
    """
    orientation, why_orientation = _orientation(call, card)
    call = replace(call, config=replace(call.config, orientation=orientation))
    mode, why_mode = chosen_mode(call, card, split, model, is_free)
    check_trainable(model, call.config.size, mode)
    reasons = [reason for reason in (why_mode, why_orientation) if reason]
    return (mode, orientation), reasons, *planned(call, card, split, mode, model, is_free)


def _orientation(call: Call, card: Card) -> tuple[Orientation, str]:
    """As the flag says, as the run that is gone on with or the first of all folds has it, or as is measured; and why.
    Runs of versions that did not ask had images of any orientation."""
    if call.config.orientation != "auto":
        return call.config.orientation, ""
    begun = call.saved or call.like
    if begun:
        return begun.preprocessing.orientation, ""
    found = way_up(card.known["train"])
    return found.orientation, found.describe()


def _network(call: Call, card: Card, initial: Checkpoint | None) -> tuple[ModelConfig, bool]:
    """Flags first, then the weights to begin with, then the network's defaults; and whether its width is left open.

    Raises UserError where there is no such network, it doesn't take what is said, or the weights are of another.
    """
    config = call.config
    asked = config.network_settings
    if initial and initial.model.name == config.model:
        asked = {name: getattr(initial.model, name) if value is None else value for name, value in asked.items()}
    # A network for colour takes gray images too.
    in_channels = max(card.in_channels, initial.model.in_channels) if initial else card.in_channels
    model = ModelConfig(name=config.model, in_channels=in_channels, num_classes=card.labels.num_classes, **asked)
    model = resolved(model, config.size)
    if initial and (found := resolved(initial.model, config.size)) != model:  # an older file says less
        begun_with = f"--resume {call.folder}" if call.saved or call.again else f"--init {config.init}"
        here, there = plain(model), plain(found)
        differing = [key for key in here if here[key] != there[key]]
        if model.name != initial.model.name:
            raise UserError(
                f"{begun_with} holds a network {initial.model.name}, and --model is {model.name}: give --model "
                f"{initial.model.name}"
            )
        differences = [f"{MODEL_SETTINGS.get(key, key)} {there[key]} there, {here[key]} here" for key in differing]
        raise UserError(f"{begun_with} holds another network: {', '.join(differences)}")
    return model, asked["base_channels"] is None


def _load_encoder(call: Call, model: Network, weights: str) -> None:
    """The first process fetches what isn't on this machine yet. Raises UserError where the weights can't be had."""
    if not isinstance(model, EncoderUNet):
        fitting = ", ".join(name for name in MODELS if name.endswith("-unet"))
        raise UserError(
            f"--encoder-weights is for networks with an encoder of torchvision, {fitting}; not for {call.config.model}"
        )
    with call.world.first_before_others():
        model.load_encoder(encoder_state(model.name, weights))


def _record(call: Call, run: Run, template: Checkpoint, split: Split) -> Record:
    """With a new folder, or that of the run that is gone on with. Raises UserError where that has come to its end."""
    config, world = call.config, call.world
    folder = call.folder
    if folder is None:
        folder = world.first(new_run_folder(config.output, config.name, call.layout.root) if world.is_first else None)
    elif world.first((folder / METRICS).exists()) and not may_continue(run.learner, run.course):
        raise TrainedToItsEnd(
            f"{folder} has been trained to its end, {counted(run.course.progress.epoch - 1, 'epoch')} in "
            f"{duration(call.state.get('seconds', 0))}: to train on, give more in all with --epochs, --max-time or "
            "--patience beside --resume"
        )
    assert folder is not None
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
