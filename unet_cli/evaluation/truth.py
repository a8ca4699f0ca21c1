"""The ground truth of an evaluation: the data set card and the label map of its masks."""

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
    layout: Layout,
    config: DataConfig,
    labels: LabelMap | None,
    console: Console,
    spec: ClassSpec | None = None,
    as_volumes: bool | None = None,
) -> tuple[Card, LabelMap, list[str]]:
    """The card of the evaluated data, the label map that reads its masks, and remarks on it. `labels`, the label map of
    the weights, decides if given, else the masks' own values. spec: see spec_of; tried before detection from the masks.
    as_volumes: see examine.

    Raises a UserError that lists everything that prevents the evaluation.
    """
    card = _by_spec(layout, config, spec, console, as_volumes)
    if card is not None and labels is not None:
        found, notes = replace(card.labels, names=labels.names, background=labels.background), list[str]()
    else:
        card, found, notes = _by_detection(layout, config, labels, console, as_volumes)
    if config.background != "auto" and found.num_classes > 2:
        found = replace(found, background=config.background == "first")
    if card.labels.num_classes > 2:  # with two classes, the first is always background
        card = replace(card, labels=replace(card.labels, background=found.background))
    return card, found, notes


def spec_of(trained: Checkpoint) -> ClassSpec | None:
    """The class specification that the network's masks were read by, if it was given or ambiguous: a few masks may look
    like another kind. None where two values were detected; then they are detected here too."""
    given = trained.training.get("classes") is not None or trained.training.get("ignore_index") is not None
    ambiguous = trained.labels.kind == "instances" or trained.labels.num_classes > 2
    return trained.labels.spec if given or ambiguous else None


def _by_spec(
    layout: Layout, config: DataConfig, spec: ClassSpec | None, console: Console, as_volumes: bool | None
) -> Card | None:
    """The card by this class specification, if the settings give none and the masks have no other values; else None."""
    if spec is None or config.classes is not None or config.ignore_index is not None:
        return None
    try:
        card = examine(layout, config, console, spec, as_volumes)
    except UserError:  # the masks have other classes, which are detected from the masks instead
        return None
    # An ignore index of 255 may be the foreground of these masks; and leaving out masks with other values may leave
    # nothing but empty masks.
    only_ignored = card.labels.ignore is not None and not card.contents[:, 1:].any()
    is_other = any(one.kind == STRANGE_VALUES for one in card.left_out)
    return None if _refusals(card) or only_ignored or is_other else card


def _by_detection(
    layout: Layout, config: DataConfig, labels: LabelMap | None, console: Console, as_volumes: bool | None
) -> tuple[Card, LabelMap, list[str]]:
    """As `examine_for_evaluation`, with the classes detected from the masks themselves."""
    card = examine(layout, config, console, as_volumes=as_volumes)
    stats = [facts.values for _, facts in card.everything]
    if labels is not None and labels.num_classes == 2 and not layout.tool and card.labels.could_be_objects(stats):
        card = examine(layout, replace(config, classes="background,object"), console, as_volumes=as_volumes)
    replace(card, problems=_refusals(card)).refuse()
    if labels is None:
        return card, card.labels, []
    given = config.classes is not None or config.ignore_index is not None
    return card, *as_classes(stats, card.labels, labels, f"{layout.root}: the masks", given)


def _refusals(card: Card) -> list[Problem]:
    """The problems that prevent an evaluation."""
    return [one for one in card.refusals if one.kind != NOTHING_TO_LEARN]
