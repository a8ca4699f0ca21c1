"""What is evaluated on: the data set card, and how its masks are read."""

from __future__ import annotations

from dataclasses import replace

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.data import DataConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import STRANGE_VALUES, examine
from unet_cli.data.check.problems import Problem
from unet_cli.data.folder.layout import Layout
from unet_cli.data.labels import ClassSpec, LabelMap
from unet_cli.errors import UserError
from unet_cli.evaluation.same_classes import as_classes
from unet_cli.system.console import Console

NOTHING_TO_LEARN = "one class"  # a problem of training alone


def examine_for_evaluation(
    layout: Layout, config: DataConfig, labels: LabelMap | None, console: Console, spec: ClassSpec | None = None
) -> tuple[Card, LabelMap, list[str]]:
    """The card of what is evaluated on, how its masks are read, and what is to be said of that: by the classes of the
    weights, whose `labels` these are, or by their own. spec: see spec_of, which is tried before the masks' looks.

    Raises UserError that lists everything that stops the evaluation, at once.
    """
    card = _by_spec(layout, config, spec, console)
    if card is not None and labels is not None:
        found, notes = replace(card.labels, names=labels.names, background=labels.background), list[str]()
    else:
        card, found, notes = _by_looks(layout, config, labels, console)
    if config.background != "auto" and found.num_classes > 2:
        found = replace(found, background=config.background == "first")
    if card.labels.num_classes > 2:  # of two, one is always background
        card = replace(card, labels=replace(card.labels, background=found.background))
    return card, found, notes


def spec_of(trained: Checkpoint) -> ClassSpec | None:
    """The classes as the network was told to read them, or had to decide: a few masks may look like another kind. None
    where two values were found, so that the masks' own looks decide there and here."""
    told = trained.training.get("classes") is not None or trained.training.get("ignore_index") is not None
    decided = trained.labels.kind == "instances" or trained.labels.num_classes > 2
    return trained.labels.spec if told or decided else None


def _by_spec(layout: Layout, config: DataConfig, spec: ClassSpec | None, console: Console) -> Card | None:
    """By these classes, where the settings give none and the masks hold no others; else None."""
    if spec is None or config.classes is not None or config.ignore_index is not None:
        return None
    try:
        card = examine(layout, config, console, spec)
    except UserError:  # they are not these masks' classes: their looks have to tell
        return None
    # 255 that is ignored there may be all the foreground here; and what is left out may be all but the empty masks.
    only_ignored = card.labels.ignore is not None and not card.contents[:, 1:].any()
    is_other = any(one.kind == STRANGE_VALUES for one in card.left_out)
    return None if _refusals(card) or only_ignored or is_other else card


def _by_looks(
    layout: Layout, config: DataConfig, labels: LabelMap | None, console: Console
) -> tuple[Card, LabelMap, list[str]]:
    """As `examine_for_evaluation`, by what the masks themselves look like."""
    card = examine(layout, config, console)
    stats = [facts.values for _, facts in card.everything]
    if labels is not None and labels.num_classes == 2 and not layout.tool and card.labels.could_be_objects(stats):
        card = examine(layout, replace(config, classes="background,object"), console)
    replace(card, problems=_refusals(card)).refuse()
    if labels is None:
        return card, card.labels, []
    said = config.classes is not None or config.ignore_index is not None
    return card, *as_classes(stats, card.labels, labels, f"{layout.root}: the masks", said)


def _refusals(card: Card) -> list[Problem]:
    """What stops an evaluation."""
    return [one for one in card.refusals if one.kind != NOTHING_TO_LEARN]
