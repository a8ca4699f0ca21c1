"""Volumes divided into slices to train on and held-out ones, where there are too few to hold out whole volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet_cli.config.training import TrainConfig
from unet_cli.data.check.card import mark_of
from unet_cli.data.check.reading import read_facts
from unet_cli.data.folder.layout import Layout, of_volumes
from unet_cli.data.maskfile import read_mask
from unet_cli.data.samples.blocks import (
    MIN_VOLUMES,
    Range,
    apart,
    block_of,
    block_of_fold,
    divided,
    is_divisible,
    part_name,
    ranges_for,
    ranges_in,
)
from unet_cli.data.samples.split import Split, names_in
from unet_cli.data.source import Pair
from unet_cli.errors import UserError

GAP = 1  # slices
MAX_VALUES = 64  # of a mask, beyond which it numbers objects


@dataclass(frozen=True)
class Division:
    """The pairs of a run. held: names of those that are validated on, where volumes were divided now; how: into what,
    in words. marks: for each part of a divided volume '<mark of the volume>#<first>-<last slice>', see
    Card.image_marks."""

    layout: Layout
    held: frozenset[str] = frozenset()
    how: str = ""
    marks: tuple[str, ...] = ()

    def split(self, pairs: Sequence[Pair]) -> Split:
        """Where volumes were divided now, the parts of these pairs."""
        train, val = ([pair for pair in pairs if (pair.name in self.held) == is_val] for is_val in (False, True))
        return Split(train, val, self.how)


def divide(config: TrainConfig, layout: Layout, folder: Path | None) -> Division:
    """The pairs for a network for volumes: divided as in the run `folder`, or in --split; else where they are fewer
    than MIN_VOLUMES and a validation part, or a fold, is to be drawn. Raises UserError for an unreadable split, and
    where there are too few slices for the folds."""
    train = of_volumes(layout).splits["train"]
    path = folder or config.split
    if path is not None and (path.is_file() or (path / "split.json").exists()):
        stored = ranges_in(set().union(*names_in(path / "split.json" if path.is_dir() else path)))
        return _division(layout, {pair: stored[pair.name] for pair in train if pair.name in stored}, {}, config)
    is_drawn = "val" not in layout.splits and (config.folds or config.val_fraction > 0) and not config.group_by
    if path is not None or not is_drawn or len(train) >= MIN_VOLUMES:
        return Division(layout)
    try:
        contents = {pair: _content(pair) for pair in train}
    except UserError:  # reported when all pairs are examined
        return Division(layout)
    blocks = {
        pair: _block(pair, content, config)
        for pair, content in contents.items()
        if config.folds or is_divisible(len(content), GAP)
    }
    ranges = {pair: ranges_for(len(contents[pair]), block, GAP) for pair, block in blocks.items()}
    return _division(layout, ranges, blocks, config)


def _division(
    layout: Layout, ranges: dict[Pair, list[Range]], blocks: dict[Pair, Range], config: TrainConfig
) -> Division:
    """The layout with volumes divided into ranges. blocks: those that are held out."""
    marks = []
    try:
        for pair, parts in ranges.items():
            ((_, facts),) = read_facts(pair, config.keep_alpha)
            marks += [part_name(mark_of(facts), part) for part in parts]
    except UserError:  # reported when all pairs are examined
        return Division(layout)
    shown = [f"slices {first + 1} to {end} of {pair.image.path.name}" for pair, (first, end) in blocks.items()]
    fold = f"fold {config.fold} of {config.folds}, " if config.folds else ""
    return Division(
        divided(layout, {pair.image.paths: parts for pair, parts in ranges.items()}),
        frozenset(part_name(pair.name, block) for pair, block in blocks.items()),
        f"{fold}{' and '.join(shown)}, {apart(GAP, 'slice')}" if shown else "",
        tuple(marks),
    )


def _block(pair: Pair, content: np.ndarray, config: TrainConfig) -> Range:
    """The slices of a volume that are held out. content: see block_of."""
    if config.folds is None:
        return block_of(content, config.val_fraction, GAP)
    assert isinstance(config.fold, int)  # 'all' is split up into a run for each fold
    return block_of_fold(len(content), config.folds, config.fold, pair.image.path, "slices")


def _content(pair: Pair) -> np.ndarray:
    """(D, values): how often each slice of a mask has each of its values; of one that numbers objects, any of them.
    Raises UserError."""
    mask = read_mask(pair.mask).values
    values = np.unique(mask)
    if len(values) > MAX_VALUES:
        mask, values = mask != values[0], np.array([False, True])
    return np.stack([np.count_nonzero(mask == value, axis=(1, 2)) for value in values], axis=1)
