"""Who is evaluated: networks, each on images that it did not learn from, or masks that any tool made."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from unet_cli.checkpoint import LEARNED, VALIDATED, Checkpoint, describe_unfinished, find_checkpoints, load_checkpoint
from unet_cli.config.data import DataConfig
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.config.prediction import Cleaning, Inference
from unet_cli.config.training import RUN_SETTINGS
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import STRANGE_VALUES, examine
from unet_cli.data.check.problems import Problem
from unet_cli.data.folder.layout import Layout, layout_of
from unet_cli.data.folder.name_rules import Matching
from unet_cli.data.folder.pairing import find_rule
from unet_cli.data.folder.roles import stem, walk
from unet_cli.data.imagefile import NAN_FILLED
from unet_cli.data.labels import ClassSpec, LabelMap, ValueStats, find_labels, value_stats
from unet_cli.data.labels.numbering import could_be_objects
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.evaluation.answers import Answer, of_masks, of_network
from unet_cli.inference.predictor import Predictor
from unet_cli.system.console import Console, counted, few
from unet_cli.system.device import choose_compute
from unet_cli.system.prefetch import ahead

NOTHING_TO_LEARN = "one class"  # a problem of training alone
SCORED_BY_THEMSELVES = (
    "they were not trained on, but they chose the best epoch and the temperature; on images that played no part, "
    "scores may be a little lower"
)

BESIDE = re.compile(r"_(overlay|instances|probability(_[^/]*)?|attention_\d+)$")  # that predict writes beside a mask

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
            if not part:
                continue
            predictor = Predictor(members, compute, self.inference)
            yield from of_network(predictor, part, labels, self.cleaning, self.inference.workers, console)


@dataclass(frozen=True)
class Masks:
    """of: the mask of each pair. labels: how they are read. lacking: pairs whose image lacks pixels, as NaN."""

    of: dict[Pair, Source]
    labels: LabelMap
    cleaning: Cleaning
    workers: int | None
    notes: list[str]
    lacking: frozenset[Pair]

    @property
    def pairs(self) -> list[Pair]:
        return list(self.of)

    def answers(self, pairs: Sequence[Pair], labels: LabelMap, console: Console) -> Iterator[Answer]:
        wanted = {pair: self.of[pair] for pair in pairs}
        return of_masks(wanted, labels, self.labels, self.cleaning, self.workers, console, self.lacking)


@dataclass(frozen=True)
class Case:
    """What is to be evaluated on what. pairs: that both can honestly be judged by; other: what it is compared with."""

    card: Card
    labels: LabelMap
    pairs: list[Pair]
    subject: Subject
    other: Subject | None
    notes: list[str]


def case_of(config: EvaluateConfig, console: Console) -> Case:
    """As the settings say. Raises UserError that says all that stops the evaluation, before anything is computed."""
    named: Mapping[Path, Checkpoint] | Path
    if config.pred is not None:
        named, known, spec = config.pred, None, None
        layout = layout_of(config)
    else:
        named = _loaded(config.weights)
        first = next(iter(named.values()))
        known, spec, layout = first.labels, spec_of(first), _paired_as(first, config)
        config = replace(config, keep_alpha=config.keep_alpha or first.preprocessing.keep_alpha)
    card, labels, notes = examine_for_evaluation(layout, config, known, console, spec)
    subject = _subject(named, card, labels, config)
    pairs, other = subject.pairs, None
    if config.compare is not None:
        try:
            other = _subject(_named(config.compare), card, labels, config)
        except UserError as error:
            raise UserError(f"--compare: {error}") from error
        new_to_other = set(other.pairs)
        pairs = [pair for pair in pairs if pair in new_to_other]
        if not pairs:
            raise UserError(
                "--compare: no image is new to both, since one or the other was trained on it: give other data"
            )
    notes += [*_unseen(card, labels, pairs), *describe_unfinished(config.weights), *subject.notes]
    every = [*notes, *(other.notes if other else ())]
    return Case(card, labels, pairs, subject, other, list(dict.fromkeys(every)))


def _paired_as(trained: Checkpoint, config: EvaluateConfig) -> Layout:
    """By the rule that the network was trained with, where the settings give none and it fits here too. Raises
    UserError."""
    rule = trained.training.get("pair")
    if rule and config.images is None and config.masks is None and config.pair is None:
        try:
            return layout_of(replace(config, pair=rule))
        except UserError:  # of data that are laid out in another way
            pass
    return layout_of(config)


def _unseen(card: Card, labels: LabelMap, pairs: Sequence[Pair]) -> list[str]:
    """A line for classes that none of the masks holds."""
    facts_of = dict(card.everything)
    contents = labels.count_classes([facts_of[pair].values for pair in pairs])[0].sum(0)
    unseen = [
        name for name, pixels in zip(labels.scored_names, contents[labels.scored.start :], strict=True) if not pixels
    ]
    if not unseen or not contents.any() or labels.num_classes == 2:
        return []
    return [f"no mask holds {few(unseen)}: left out of the mean over classes"]


def _loaded(paths: Iterable[Path]) -> dict[Path, Checkpoint]:
    """The checkpoints by their files. Raises UserError."""
    return {path: load_checkpoint(path) for path in find_checkpoints(paths)}


def _named(path: Path) -> dict[Path, Checkpoint] | Path:
    """The checkpoints that --compare names, or the folder of masks. Raises UserError."""
    is_run = any((path / name).exists() for name in (RUN_SETTINGS, "best.pth")) or any(path.glob("*/best.pth"))
    return path if path.is_dir() and not is_run else _loaded([path])


def _subject(named: Mapping[Path, Checkpoint] | Path, card: Card, labels: LabelMap, config: EvaluateConfig) -> Subject:
    if isinstance(named, Path):
        return masks(named, card, labels, config)
    return networks(named, card, labels, config, config)


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
    if labels is not None and labels.num_classes == 2 and card.labels.could_be_objects(stats):
        card = examine(layout, replace(config, classes="background,object"), console)
    replace(card, problems=_refusals(card)).refuse()
    if labels is None:
        return card, card.labels, []
    said = config.classes is not None or config.ignore_index is not None
    return card, *_like(stats, card.labels, labels, f"{layout.root}: the masks", said)


def _refusals(card: Card) -> list[Problem]:
    """What stops an evaluation."""
    return [one for one in card.refusals if one.kind != NOTHING_TO_LEARN]


def judged_by(card: Card) -> list[Pair]:
    """The test part where the data have one, else all pairs."""
    return card.pairs("test") or [pair for pair, _ in card.everything]


def networks(
    weights: Mapping[Path, Checkpoint], card: Card, labels: LabelMap, inference: Inference, cleaning: Cleaning
) -> Networks:
    """Each of the pairs goes to those networks that did not learn from its image, by whatever name. weights: by their
    files. labels: of the truth.

    Raises UserError where there is no such pair, and for networks of other classes.
    """
    pairs, notes = judged_by(card), []
    checkpoints = list(weights.values())
    for path, checkpoint in weights.items():
        if checkpoint.labels.num_classes != labels.num_classes:
            raise UserError(f"{path} knows {checkpoint.labels.describe()}, and the truth has {labels.describe()}")
        if LEARNED not in checkpoint.training:
            notes.append(
                f"{path} doesn't say which images it was trained on: if these are among them, scores are too good"
            )
    learned, validated = (
        [frozenset(checkpoint.training.get(part, ())) for checkpoint in checkpoints] for part in (LEARNED, VALIDATED)
    )
    groups: dict[tuple[int, ...], list[Pair]] = {}
    chose = 0
    for pair, mark in zip(pairs, card.image_marks(pairs), strict=True):
        fresh = tuple(number for number, marks in enumerate(learned) if mark not in marks)
        groups.setdefault(fresh, []).append(pair)
        chose += any(mark in validated[number] for number in fresh)
    known = groups.pop((), [])
    if not groups:
        raise UserError(
            f"{card.layout.root}: these weights were trained on every one of the {counted(len(known), 'image')}, and "
            "what a network has learned by heart says nothing: give other data"
        )
    if known:
        notes.append(f"{counted(len(known), 'image')} that the weights were trained on are left out")
    if any(len(fresh) < len(weights) for fresh in groups):
        notes.append(f"each image is predicted by those of the {len(weights)} networks that did not see it")
    if chose:
        notes.append(f"{counted(chose, 'image')} of the validation part: {SCORED_BY_THEMSELVES}")
    members = [(tuple(checkpoints[number] for number in fresh), part) for fresh, part in groups.items()]
    return Networks(members, inference, cleaning, notes)


def masks(folder: Path, card: Card, labels: LabelMap, config: EvaluateConfig) -> Masks:
    """The masks in a folder, paired with the truth by their names. labels: of the truth.

    Raises UserError that lists what has no mask or one that can't be used, unless that is to be left out, and masks
    that can't be read as these classes.
    """
    facts_of = dict(card.everything)
    pairs = {pair.name: pair for pair in judged_by(card)}
    matching, files = _matched(folder, list(pairs))
    of = {pairs[name]: Source((files[mask],)) for name, mask in matching.pairs}
    read = dict(zip(of, ahead(_stats, of.values(), config.workers), strict=True))
    problems = [f"image without a mask: {pairs[name].image}" for name in matching.images_left]
    for pair, found in list(read.items()):
        facts = facts_of[pair]
        if isinstance(found, UserError):
            problems.append(str(found))
            del read[pair]
        elif found[1] != (facts.height, facts.width):
            problems.append(
                f"{of[pair]} is {found[1][1]}x{found[1][0]} but its truth {pair.mask} is {facts.width}x{facts.height}"
            )
            del read[pair]
    if problems and (not config.skip_bad or not read):
        hint = "Put these right" + ("" if config.skip_bad else ", or leave them out with --skip-bad")
        raise UserError("\n".join([f"{folder}: {counted(len(problems), 'problem')} with the masks:", *problems, hint]))
    stats = [found[0] for found in read.values() if not isinstance(found, UserError)]
    values = _values_or_objects(stats, labels)
    theirs, more = _like(stats, values, labels, f"{folder}: the masks")
    notes = [f"{folder}: {counted(len(read), 'mask')}, {matching.rule.describe()}"]
    notes += [f"left out: {problem}" for problem in problems]
    if matching.masks_left:
        notes.append(f"{counted(len(matching.masks_left), 'other file')} not used, such as {matching.masks_left[0]}")
    if theirs.kind == "instances" and labels.kind != "instances":
        notes.append(f"{folder}: the masks number their objects: any object is {labels.names[1]}")
    lacking = frozenset(pair for pair in read if NAN_FILLED in facts_of[pair].notes)
    return Masks({pair: of[pair] for pair in read}, theirs, config, config.workers, notes + more, lacking)


def _values_or_objects(stats: Sequence[ValueStats], labels: LabelMap) -> LabelMap:
    """How masks that are compared with these classes are read: with objects or two classes, many numbers are objects
    if they can be, however few the masks. Raises UserError."""
    objects = ClassSpec(labels.names)
    if labels.kind == "instances":
        return find_labels(stats, objects)
    try:
        values = find_labels(stats)
    except UserError:  # a few masks of many small objects look like photographs
        if labels.num_classes != 2 or not could_be_objects(stats, None):
            raise
        return find_labels(stats, objects)
    return find_labels(stats, objects) if labels.num_classes == 2 and values.could_be_objects(stats) else values


def _matched(folder: Path, names: list[str]) -> tuple[Matching, dict[str, Path]]:
    """Which of the masks, by their names, belongs to which name. Raises UserError where that isn't clear."""
    found: dict[str, Path] = {}
    for path in walk(folder) if folder.is_dir() else ():
        name = stem(path.relative_to(folder).as_posix())
        if name in found:
            raise UserError(f"{path} and {found[name]} differ in their extension alone: keep one of them")
        found[name] = path
    if not found:
        raise UserError(f"{folder} holds no masks: give the folder that masks were predicted into")
    files = {name: path for name, path in found.items() if _is_mask(name, found)}
    try:
        return find_rule(names, list(files)), files
    except UserError as error:
        raise UserError(
            f"{folder}: it isn't clear which mask is of which image: give the masks the names of the images, such as "
            f"{names[0]}.png, one file an image, and nothing else beside them"
        ) from error


def _is_mask(name: str, names: Container[str]) -> bool:
    """Not what unet predict writes beside a mask."""
    mask = BESIDE.sub("", name)
    return mask == name or mask not in names


def _like(
    stats: Sequence[ValueStats], found: LabelMap, wanted: LabelMap, what: str, said: bool = False
) -> tuple[LabelMap, list[str]]:
    """How masks of these values are read as the wanted classes, and what is to be said of that: by value where all
    values are known, by name where the user has named the same classes, else in their order.

    said: the user has decided how the masks are read. Raises UserError where there are more or fewer classes, and where
    some values are known and others not.
    """
    if said and sorted(found.names) == sorted(wanted.names):
        order = [found.names.index(name) for name in wanted.names]
        values = tuple(found.values[place] for place in order)
        return replace(found, names=wanted.names, values=values, background=wanted.background), []
    alike = (wanted.kind, found.kind) in (("values", "values"), ("values", "soft"), ("colours", "colours"))
    alike &= wanted.reading == found.reading or found.reading != "gray"  # of palettes that say other than indices
    alike |= wanted.kind == "colours" and any(one.palette is not None for one in stats)
    by_palette = _by_palette(found, wanted)
    if by_palette is not None and not said and not by_palette.count_classes(stats)[1]:
        return by_palette, [f"{what} are read by the colours of the palette that they are compared with"]
    told_by_value = alike and not said and wanted.ignore not in found.values and not _fall_together(found, wanted)
    if told_by_value and not wanted.count_classes(stats)[1]:
        return wanted, []
    some_known = wanted.num_classes > 2 and set(found.values[1:]) & set(wanted.values[1:])
    if found.num_classes != wanted.num_classes or (some_known and not said):
        raise UserError(
            f"{what} have other classes than they are compared with, {found.describe()} and not {wanted.describe()}: "
            "say which value is which class with --classes FILE.toml, by the same names, or give masks of the same "
            "classes"
        )
    note = (
        [] if found.values == wanted.values else [f"{what} are read in the order of their values: {found.describe()}"]
    )
    return replace(found, names=wanted.names, background=wanted.background), note


def _fall_together(found: LabelMap, wanted: LabelMap) -> bool:
    """Whether values that no JPEG has blurred are one class only because JPEG has blurred those that are wanted: 0, 1
    and 2 are all background within the reach of 0, 128 and 255."""
    if not wanted.reach or found.reach or found.kind != "values":
        return False
    known = [index for index in wanted.indices_of(np.array(found.values)).tolist() if index >= 0]
    return len(set(known)) < len(known)


def _by_palette(found: LabelMap, wanted: LabelMap) -> LabelMap | None:
    """Masks in the colours that the wanted classes have in their palette."""
    if found.kind != "colours" or not wanted.palette or max(wanted.values) >= len(wanted.palette) // 3:
        return None
    shown = [int.from_bytes(bytes(wanted.palette[3 * value : 3 * value + 3])) for value in wanted.values]
    if len(set(shown)) < len(shown) or not set(found.values) <= set(shown):
        return None
    return replace(found, values=tuple(shown), names=wanted.names, background=wanted.background, ignore=None)


def _stats(source: Source) -> tuple[ValueStats, tuple[int, int]] | UserError:
    """The values of a mask, and its height and width; or why it can't be read."""
    try:
        found = read_mask(source)
        return value_stats(found), (found.values.shape[1], found.values.shape[2])
    except UserError as error:
        return source.named(error)
