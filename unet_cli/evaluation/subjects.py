"""What is evaluated: networks, each on images that it was not trained on, or masks that any tool predicted."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from unet_cli.checkpoint import DIVIDED, LEARNED, VALIDATED, Checkpoint
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.config.prediction import Cleaning, Inference
from unet_cli.data.check.card import Card
from unet_cli.data.class_names import file_names
from unet_cli.data.folder.name_rules import Matching
from unet_cli.data.folder.pairing import find_rule
from unet_cli.data.folder.walk import stem, walk
from unet_cli.data.formats import count_pages, is_volume_file
from unet_cli.data.imagefile import NAN_FILLED
from unet_cli.data.labels import LabelMap, ValueStats, value_stats
from unet_cli.data.maskfile import one_mask, read_mask
from unet_cli.data.samples.blocks import ranges_in
from unet_cli.data.source import Pair, Source, page_name
from unet_cli.errors import UserError
from unet_cli.evaluation.answers import Answer, of_masks, of_network, size_text
from unet_cli.evaluation.same_classes import as_classes, values_or_objects
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.runtime import compute_for
from unet_cli.system.console import Console, counted, few
from unet_cli.system.prefetch import prefetch

SCORED_BY_THEMSELVES = (
    "they were not trained on, but they chose the best epoch and the temperature; on images that played no part, "
    "scores may be a little lower"
)

BESIDE = re.compile(
    r"_(overlay|classes|(instances|probability)(_[^/]*)?|attention_\d+)$"
)  # other outputs of unet predict

Group = tuple[tuple[Checkpoint, ...], list[Pair]]  # ensemble members, and pairs that none of them was trained on


class Subject(Protocol):
    """The source of the predictions under evaluation."""

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that give an unbiased evaluation: none of them was trained on."""

    @property
    def notes(self) -> list[str]:
        """Remarks for the user about the evaluation."""

    def answers(self, pairs: Sequence[Pair], labels: LabelMap, console: Console) -> Iterator[Answer]:
        """The predictions for these of its pairs, in any order; labels: the label map of the ground truth. Raises
        UserError."""


@dataclass(frozen=True)
class Networks:
    """Predictions of networks; cleaning: postprocessing of their masks."""

    groups: list[Group]
    inference: Inference
    cleaning: Cleaning
    notes: list[str]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for _, pairs in self.groups for pair in pairs]

    def answers(self, pairs: Sequence[Pair], labels: LabelMap, console: Console) -> Iterator[Answer]:
        wanted = set(pairs)
        compute = compute_for([member for members, _ in self.groups for member in members], self.inference)
        for members, known in self.groups:
            part = [pair for pair in known if pair in wanted]
            if not part:
                continue
            predictor = Predictor(members, compute, self.inference)
            yield from of_network(predictor, part, labels, self.cleaning, self.inference.workers, console)


@dataclass(frozen=True)
class Masks:
    """Predictions read from mask files.

    of: the mask file of each pair. labels: the label map that decodes them. lacking: pairs whose image has missing
    pixels, stored as NaN.
    """

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


def judged_by(card: Card) -> list[Pair]:
    """The test part if the data have one, else all pairs."""
    return card.pairs("test") or [pair for pair, _ in card.everything]


def networks(
    weights: Mapping[Path, Checkpoint],
    card: Card,
    labels: LabelMap,
    inference: Inference,
    cleaning: Cleaning,
    volumes: Mapping[tuple[Path, ...], str] = MappingProxyType({}),
) -> Networks:
    """Assign each pair to those networks that were not trained on its image, whatever its file name. weights: the
    checkpoints by file. labels: the label map of the ground truth. volumes: marks of the volumes that are divided, by
    their files: a network that was trained on a part of one sees only those parts for the first time that it was
    validated on, since those of other networks overlap.

    Raises UserError if no pair is left, and for networks of other classes or dimensions.
    """
    pairs, notes = judged_by(card), []
    checkpoints = list(weights.values())
    for path, checkpoint in weights.items():
        if checkpoint.labels.num_classes != labels.num_classes:
            raise UserError(f"{path} predicts {checkpoint.labels.describe()}, but the truth has {labels.describe()}")
        if checkpoint.preprocessing.is_volumetric != card.is_volumetric:
            sees, are = ("volumes", "images") if checkpoint.preprocessing.is_volumetric else ("images", "volumes")
            raise UserError(
                f"{path} was trained on {sees}, but these data are read as {are}, as the first of the weights sees "
                "them: predict masks with each, and compare their folders with --pred and --compare"
            )
        if LEARNED not in checkpoint.training:
            notes.append(
                f"{path} doesn't say which images it was trained on: if these are among them, scores are too high"
            )
    learned, validated = (
        [frozenset(checkpoint.training.get(part, ())) for checkpoint in checkpoints] for part in (LEARNED, VALIDATED)
    )
    divided = [frozenset(ranges_in(one.training.get(DIVIDED, ()))) for one in checkpoints]
    # Images are compared by content hash, since copies of a training image may have another name.
    groups: dict[tuple[int, ...], list[Pair]] = {}
    chose = 0
    for pair, mark in zip(pairs, card.image_marks(pairs), strict=True):
        in_part = [volumes.get(pair.image.paths) in known for known in divided]
        fresh = tuple(
            number
            for number, marks in enumerate(learned)
            if mark not in marks and (not in_part[number] or mark in validated[number])
        )
        groups.setdefault(fresh, []).append(pair)
        chose += any(mark in validated[number] for number in fresh)
    known = groups.pop((), [])
    if not groups:
        raise UserError(
            f"{card.layout.root}: these weights were trained on every one of the {counted(len(known), 'image')}, so "
            "scores on them say nothing about new images: give other data"
        )
    if known:
        notes.append(f"{counted(len(known), 'image')} that the weights were trained on are left out")
    if any(pair.image.page is not None and is_volume_file(pair.image.path) for pair in pairs):
        notes.append("each slice is scored as an image; unet predict, then unet evaluate --pred, score whole volumes")
    if any(len(fresh) < len(weights) for fresh in groups):
        notes.append(f"each image is predicted by those of the {len(weights)} networks that were not trained on it")
    if chose:
        notes.append(f"{counted(chose, 'image')} of the validation part: {SCORED_BY_THEMSELVES}")
    members = [(tuple(checkpoints[number] for number in fresh), part) for fresh, part in groups.items()]
    return Networks(members, inference, cleaning, notes)


def masks(folder: Path, card: Card, labels: LabelMap, config: EvaluateConfig) -> Masks:
    """The masks in a folder, paired with the ground truth by file name. labels: the label map of the ground truth.

    Raises UserError that lists all images without a usable mask, unless --skip-bad leaves them out, and if the masks
    can't be read as these classes.
    """
    facts_of = dict(card.everything)
    pairs = {pair.name: pair for pair in judged_by(card)}
    has_pages = any(pair.image.page is not None for pair in pairs.values())
    matching, sources = _matched(folder, list(pairs), has_pages, labels)
    of = {pairs[name]: replace(sources[mask], is_volume=pairs[name].image.is_volume) for name, mask in matching.pairs}
    read = dict(zip(of, prefetch(_stats, of.values(), config.workers), strict=True))
    problems = [f"image without a mask: {pairs[name].image}" for name in matching.images_left]
    for pair, found in list(read.items()):
        facts = facts_of[pair]
        if isinstance(found, UserError):
            problems.append(str(found))
            del read[pair]
        elif found[1] != facts.sides:
            problems.append(f"{of[pair]} is {size_text(found[1])} but its truth {pair.mask} is {facts.size}")
            del read[pair]
    if problems and (not config.skip_bad or not read):
        hint = "Put these right" + ("" if config.skip_bad else ", or leave them out with --skip-bad")
        raise UserError("\n".join([f"{folder}: {counted(len(problems), 'problem')} with the masks:", *problems, hint]))
    stats = [found[0] for found in read.values() if not isinstance(found, UserError)]
    if labels.overlapping:
        theirs, more = replace(labels, values=tuple(range(labels.num_classes)), ignore=None), list[str]()
    else:
        theirs, more = as_classes(stats, values_or_objects(stats, labels), labels, f"{folder}: the masks")
    notes = [f"{folder}: {counted(len(read), 'mask')}, {matching.rule.describe()}"]
    notes += [f"left out: {problem}" for problem in problems]
    if matching.masks_left:
        notes.append(f"{counted(len(matching.masks_left), 'other file')} not used, such as {matching.masks_left[0]}")
    if theirs.kind == "instances" and labels.kind != "instances":
        notes.append(f"{folder}: the masks number their objects: any object is {labels.names[1]}")
    lacking = frozenset(pair for pair in read if NAN_FILLED in facts_of[pair].notes)
    return Masks({pair: of[pair] for pair in read}, theirs, config, config.workers, notes + more, lacking)


def _matched(folder: Path, names: list[str], has_pages: bool, labels: LabelMap) -> tuple[Matching, dict[str, Source]]:
    """Which mask name belongs to which image name, and the mask of each name. has_pages: whether the pages of a file
    are masks of their own, as those of the images are. Raises UserError where that is ambiguous."""
    # By name without extension, since masks and images mostly differ in it.
    found: dict[str, Path] = {}
    for path in walk(folder) if folder.is_dir() else ():
        name = stem(path.relative_to(folder).as_posix())
        if name in found:
            raise UserError(f"{path} and {found[name]} differ in their extension alone: keep one of them")
        found[name] = path
    if not found:
        raise UserError(f"{folder} holds no masks: give the folder that masks were predicted into")
    files = {name: path for name, path in found.items() if _is_mask(name, found)}
    sources = {name: Source((path,)) for name, path in files.items()}
    if labels.overlapping:
        sources = _by_class(folder, found, labels)
    for name, path in files.items() if has_pages and not labels.overlapping else ():
        if (pages := count_pages(path)) > 1:
            del sources[name]
            sources |= {page_name(name, page): Source((path,), page=page) for page in range(pages)}
    try:
        return find_rule(names, list(sources)), sources
    except UserError as error:
        raise UserError(
            f"{folder}: it isn't clear which mask is of which image: give the masks the names of the images, such as "
            f"{names[0]}.png, one file an image, and nothing else beside them"
        ) from error


def _by_class(folder: Path, found: Mapping[str, Path], labels: LabelMap) -> dict[str, Source]:
    """The files of each mask, one for each class, as `unet predict` names them: CLASS/NAME or NAME_CLASS. Raises
    UserError where there are none."""
    files: defaultdict[str, dict[int, Path]] = defaultdict(dict)
    classes = file_names(labels.scored_names)
    for name, path in found.items():
        for number, called in enumerate(classes, 1):
            if name.startswith(f"{called}/"):
                files[name.removeprefix(f"{called}/")][number] = path
            elif name.endswith(f"_{called}") and not BESIDE.search(name):
                files[name.removesuffix(f"_{called}")][number] = path
    if not files:
        shown = few(f"{folder / name}/" for name in classes)
        raise UserError(f"{folder} has no masks of classes that overlap: give each class a folder, {shown}")
    return {name: Source(tuple(of.values()), classes=tuple(of)) for name, of in files.items()}


def _is_mask(name: str, names: Container[str]) -> bool:
    """Whether this is a mask and no other output of unet predict."""
    mask = BESIDE.sub("", name)
    return mask == name or mask not in names


def _stats(source: Source) -> tuple[ValueStats, tuple[int, ...]] | UserError:
    """The pixel values of a mask, and its sides; or the error that occurred."""
    try:
        found = read_mask(source)
        sides = one_mask(found.values, source).shape
        if source.is_volume:  # counted as one page, the slices one below the other
            found = replace(found, values=found.values.reshape(1, -1, sides[-1]))
        return value_stats(found), sides
    except UserError as error:
        return source.named(error)
