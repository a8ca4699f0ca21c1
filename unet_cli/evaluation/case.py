"""The setup of an evaluation according to the settings: data, what is evaluated, and what it is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet_cli.checkpoint import DIVIDED, Checkpoint, describe_unfinished, find_checkpoints, load_checkpoint
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.config.training import RUN_SETTINGS
from unet_cli.data.check.card import Card
from unet_cli.data.folder.layout import Layout, layout_of
from unet_cli.data.labels import LabelMap
from unet_cli.data.samples.blocks import Range, divided, ranges_in
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.evaluation.subjects import Subject, masks, networks
from unet_cli.evaluation.truth import examine_for_evaluation, spec_of
from unet_cli.system.console import Console, counted, few


@dataclass(frozen=True)
class Case:
    """A prepared evaluation. pairs: those on which both `subject` and `other` are unbiased; other: what it is compared
    with."""

    card: Card
    labels: LabelMap
    pairs: list[Pair]
    subject: Subject
    other: Subject | None
    notes: list[str]


def case_of(config: EvaluateConfig, console: Console) -> Case:
    """Set up the evaluation. Raises a UserError that lists all problems, before anything is computed."""
    named: Mapping[Path, Checkpoint] | Path
    if config.pred is not None:
        named, known, spec = config.pred, None, None
        layout = layout_of(config)
    else:
        named = _loaded(config.weights)
        first = next(iter(named.values()))
        known, spec, layout = replace(first.labels, cores=False), spec_of(first), _paired_as(first, config)
        config = replace(config, keep_alpha=config.keep_alpha or first.preprocessing.keep_alpha)
    compared = _compared(config)
    as_volumes = next((reads for reads in map(_reads_volumes, (named, compared)) if reads is not None), None)
    card, labels, notes = examine_for_evaluation(layout, config, known, console, spec, as_volumes)
    volumes = _trained_in_part(card, [named, compared])
    ranges = {paths: parts for paths, (_, parts) in volumes.items()}
    marks = {paths: mark for paths, (mark, _) in volumes.items()}
    if ranges:
        parts = divided(layout, ranges)
        card, labels, notes = examine_for_evaluation(parts, config, known, console, spec, as_volumes)
        notes = [
            *notes,
            f"{counted(len(ranges), 'volume')} divided as in training, into slices that were held out or not",
        ]
    subject = _subject(named, card, labels, config, marks)
    pairs, other = subject.pairs, None
    if compared is not None:
        try:
            other = _subject(compared, card, labels, config, marks)
        except UserError as error:
            raise UserError(f"--compare: {error}") from error
        # Paired tests need the same images on both sides, and none that either network was trained on.
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
    """The layout by the pairing rule that the network was trained with, if the settings give none and it fits these
    data. Raises UserError."""
    rule = trained.training.get("pair")
    if rule and config.images is None and config.masks is None and config.pair is None:
        try:
            return layout_of(replace(config, pair=rule))
        except UserError:  # these data have another layout
            pass
    return layout_of(config)


def _unseen(card: Card, labels: LabelMap, pairs: Sequence[Pair]) -> list[str]:
    """A note on classes that none of the masks contains."""
    facts_of = dict(card.everything)
    contents = labels.count_classes([facts_of[pair].values for pair in pairs])[0].sum(0)
    unseen = [
        name for name, pixels in zip(labels.scored_names, contents[labels.scored.start :], strict=True) if not pixels
    ]
    if not unseen or not contents.any() or labels.num_classes == 2:
        return []
    return [f"no mask contains {few(unseen)}: left out of the mean over classes"]


def _loaded(paths: Iterable[Path]) -> dict[Path, Checkpoint]:
    """The checkpoints by file. Raises UserError."""
    return {path: load_checkpoint(path, exported=True) for path in find_checkpoints(paths)}


def _trained_in_part(
    card: Card, named: Sequence[Mapping[Path, Checkpoint] | Path | None]
) -> dict[tuple[Path, ...], tuple[str, list[Range]]]:
    """Of volumes that networks were trained on in part, the mark, and the ranges of slices that were told apart then,
    by any of them; by the files of the image. None beside masks of other tools, which are of whole volumes."""
    if any(isinstance(some, Path) for some in named):
        return {}
    records = [one for some in named if some is not None and not isinstance(some, Path) for one in some.values()]
    ranges = ranges_in({mark for one in records for mark in one.training.get(DIVIDED, ())})
    pairs = [pair for pair, _ in card.everything] if ranges else []
    return {
        pair.image.paths: (mark, ranges[mark])
        for pair, mark in zip(pairs, card.image_marks(pairs), strict=True)
        if pair.image.is_volume and mark in ranges
    }


def _named(path: Path) -> dict[Path, Checkpoint] | Path:
    """The checkpoints that --compare names, or the folder of masks. Raises UserError."""
    is_run = any((path / name).exists() for name in (RUN_SETTINGS, "best.pth")) or any(path.glob("*/best.pth"))
    return path if path.is_dir() and not is_run else _loaded([path])


def _compared(config: EvaluateConfig) -> dict[Path, Checkpoint] | Path | None:
    """What --compare names. Raises UserError."""
    if config.compare is None:
        return None
    try:
        return _named(config.compare)
    except UserError as error:
        raise UserError(f"--compare: {error}") from error


def _reads_volumes(named: Mapping[Path, Checkpoint] | Path | None) -> bool | None:
    """Whether networks see a file as a volume; None of masks."""
    if named is None or isinstance(named, Path):
        return None
    return next(iter(named.values())).preprocessing.is_volumetric


def _subject(
    named: Mapping[Path, Checkpoint] | Path,
    card: Card,
    labels: LabelMap,
    config: EvaluateConfig,
    volumes: Mapping[tuple[Path, ...], str],
) -> Subject:
    if isinstance(named, Path):
        return masks(named, card, labels, config)
    return networks(named, card, labels, config, config, volumes)
