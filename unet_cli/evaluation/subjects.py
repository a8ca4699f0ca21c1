"""Who is evaluated: networks, each on images that it did not learn from, or masks that any tool made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from unet_cli.ahead import ahead
from unet_cli.checkpoint import Checkpoint
from unet_cli.config import Cleaning, DataConfig, EvaluateConfig, Inference
from unet_cli.console import Console, counted, few
from unet_cli.data.card import Card
from unet_cli.data.examine import examine
from unet_cli.data.imagefile import read_mask
from unet_cli.data.labels import ClassSpec, LabelMap, ValueStats, find_labels, value_stats
from unet_cli.data.layout import Layout
from unet_cli.data.pairing import find_rule
from unet_cli.data.roles import stem, walk
from unet_cli.data.source import Pair, Source
from unet_cli.data.split import read_split
from unet_cli.device import choose_compute
from unet_cli.errors import UserError
from unet_cli.evaluation.answers import Answer, of_masks, of_network
from unet_cli.inference.predictor import Predictor

NOTHING_TO_LEARN = "one class"  # a problem of training alone

Group = tuple[tuple[Checkpoint, ...], list[Pair]]  # members of one predictor, and pairs that none of them learned from


class Subject(Protocol):
    """What is evaluated."""

    @property
    def pairs(self) -> list[Pair]:
        """Those that it can honestly be judged by."""

    @property
    def notes(self) -> list[str]:
        """What is to be said of it."""

    def answers(self, pairs: Sequence[Pair], labels: LabelMap, console: Console) -> Iterator[Answer]:
        """Of these of its pairs, in any order; labels: of the truth. Raises UserError."""


@dataclass(frozen=True)
class Networks:
    """cleaning: of their masks."""

    groups: list[Group]
    inference: Inference
    cleaning: Cleaning
    notes: list[str]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for _, pairs in self.groups for pair in pairs]

    def answers(self, pairs: Sequence[Pair], labels: LabelMap, console: Console) -> Iterator[Answer]:
        wanted = set(pairs)
        compute = choose_compute(self.inference.device, self.inference.precision)
        for members, known in self.groups:
            part = [pair for pair in known if pair in wanted]
            predictor = Predictor(members, compute, self.inference)
            yield from of_network(predictor, part, labels, self.cleaning, self.inference.workers, console)


@dataclass(frozen=True)
class Masks:
    """of: the mask of each pair. labels: how they are read."""

    of: dict[Pair, Source]
    labels: LabelMap
    cleaning: Cleaning
    workers: int | None
    notes: list[str]

    @property
    def pairs(self) -> list[Pair]:
        return list(self.of)

    def answers(self, pairs: Sequence[Pair], labels: LabelMap, console: Console) -> Iterator[Answer]:
        wanted = {pair: self.of[pair] for pair in pairs}
        return of_masks(wanted, labels, self.labels, self.cleaning, self.workers, console)


def examined(layout: Layout, config: DataConfig, labels: LabelMap | None, console: Console) -> tuple[Card, LabelMap]:
    """The card of what is evaluated on, and how its masks are read: by the classes of the weights, whose `labels` these
    are, or by their own.

    Raises UserError that lists everything that stops the evaluation, at once.
    """
    binary = labels is not None and labels.num_classes == 2 and not any("," in name for name in labels.names)
    if labels is not None and binary and config.classes is None:  # two names tell numbers of objects from classes
        config = replace(config, classes=",".join(labels.names))
    card = examine(layout, config, console)
    replace(card, problems=[one for one in card.problems if one.kind != NOTHING_TO_LEARN]).refuse()
    if labels is None:
        return card, card.labels
    return card, _like([facts.values for _, facts in card.everything], card.labels, labels, f"{layout.root}: the masks")


def judged_by(card: Card) -> list[Pair]:
    """The test part where the data have one, else all pairs."""
    return card.pairs("test") or [pair for pair, _ in card.everything]


def networks(
    paths: Sequence[Path], checkpoints: Sequence[Checkpoint], card: Card, inference: Inference, cleaning: Cleaning
) -> Networks:
    """Each of the pairs goes to those networks that did not learn from it, which the split.json of their runs tells;
    networks that were trained on other data know none of them. Raises UserError where there is no such pair."""
    pairs, notes = judged_by(card), []
    learned = [_learned(path, checkpoint, card, pairs) for path, checkpoint in zip(paths, checkpoints, strict=True)]
    groups: dict[tuple[int, ...], list[Pair]] = {}
    for pair in pairs:
        fresh = tuple(number for number, names in enumerate(learned) if names is None or pair.name not in names)
        groups.setdefault(fresh, []).append(pair)
    known = groups.pop((), [])
    if not groups:
        raise UserError(
            f"{card.layout.root}: these weights were trained on every one of the {counted(len(known), 'pair')}, and "
            "what a network has learned by heart says nothing: give other data"
        )
    if known:
        notes.append(f"{counted(len(known), 'pair')} that the weights were trained on are left out")
    if len(groups) > 1 or (len(checkpoints) > 1 and len(next(iter(groups))) < len(checkpoints)):
        notes.append(f"each image is predicted by those of the {len(checkpoints)} networks that did not see it")
    if None in learned:
        notes.append(
            "the weights were trained on these data, but no split.json beside them says which pairs they were trained "
            "on: scores of these are too good"
        )
    members = [(tuple(checkpoints[number] for number in fresh), part) for fresh, part in groups.items()]
    return Networks(members, inference, cleaning, notes)


def masks(folder: Path, card: Card, labels: LabelMap, config: EvaluateConfig) -> Masks:
    """The masks in a folder, paired with the truth by their names. labels: of the truth.

    Raises UserError that lists pairs without a mask, and masks that can't be read as these classes.
    """
    pairs = {pair.name: pair for pair in judged_by(card)}
    files = {stem(path.relative_to(folder).as_posix()): path for path in walk(folder)} if folder.is_dir() else {}
    if not files:
        raise UserError(f"{folder} holds no masks: give the folder that masks were predicted into")
    matching = find_rule(list(pairs), list(files))
    notes = [f"{folder}: {counted(len(matching.pairs), 'mask')}, {matching.rule.describe()}"]
    if matching.images_left and not config.skip_bad:
        raise UserError(
            f"{folder} has no mask for {counted(len(matching.images_left), 'image')}: {few(matching.images_left)}. "
            "Predict these too, or leave them out with --skip-bad"
        )
    if matching.masks_left:
        notes.append(f"{counted(len(matching.masks_left), 'other file')} not used, such as {matching.masks_left[0]}")
    of = {pairs[name]: Source((files[mask],)) for name, mask in matching.pairs}
    stats = list(ahead(_stats, of.values(), config.workers))
    spec = ClassSpec(labels.names if labels.num_classes == 2 else ())
    theirs = _like(stats, find_labels(stats, spec), labels, f"{folder}: the masks")
    if theirs.values != labels.values or theirs.kind != labels.kind:
        notes.append(f"{folder} has other values than the truth, read in their order: {theirs.describe()}")
    return Masks(of, theirs, config, config.workers, notes)


def _learned(path: Path, checkpoint: Checkpoint, card: Card, pairs: Sequence[Pair]) -> frozenset[str] | None:
    """Names of the pairs that a network was trained on; None where they are among these, but it isn't known which."""
    training = checkpoint.training
    same_files = training.get("data_fingerprint") == card.fingerprint()
    same_folder = training.get("data") == str(card.layout.root.absolute())
    if not (same_files or same_folder):
        return frozenset()
    if not (path.parent / "split.json").is_file():
        return None
    return frozenset(pair.name for pair in read_split(path.parent, pairs, leave_out=True).train)


def _like(stats: Sequence[ValueStats], found: LabelMap, wanted: LabelMap, what: str) -> LabelMap:
    """How masks of these values are read as the wanted classes: by value where all values are known, else in their
    order. Raises UserError where there are more or fewer classes."""
    told_by_value = wanted.kind in ("values", "colours") and found.kind != "instances"
    if told_by_value and not wanted.count_classes(stats)[1]:
        return wanted
    if found.num_classes == wanted.num_classes:
        return replace(found, names=wanted.names)
    raise UserError(
        f"{what} have other classes than they are compared with, {found.describe()} and not {wanted.describe()}: "
        "say which value is which class with --classes FILE.toml, or give masks of the same classes"
    )


def _stats(source: Source) -> ValueStats:
    try:
        return value_stats(read_mask(source))
    except UserError as error:
        raise source.named(error) from error
