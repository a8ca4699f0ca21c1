"""Blocks of neighbouring pages or slices that are held out, where there are too few files to hold out whole ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unet_cli.data.folder.layout import Layout
from unet_cli.data.samples.split import Split
from unet_cli.data.series import stack_of
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.system.console import counted

MIN_STACKS, MIN_VOLUMES = 4, 3  # from which on whole files are held out
MIN_SHARE = 0.5  # of the pages with a class, relative to the whole file, for a block to stand for it
MIN_SLICES = 3  # of a volume's part to train on, beside a longer one
PART = re.compile(r"(?P<name>.*)#(?P<first>\d+)-(?P<last>\d+)", re.DOTALL)  # the name of some slices of a volume

Range = tuple[int, int]  # first and end, from 0


def are_few_stacks(pairs: Sequence[Pair], gap: int = 1) -> bool:
    """Whether these pairs are pages of so few files that blocks of their pages are held out."""
    pages = _by_stack(pairs).values()
    return len(pages) < MIN_STACKS and any(is_divisible(len(rows), gap) for rows in pages)


def hold_out_pages(pairs: Sequence[Pair], content: np.ndarray, val_fraction: float, gap: int = 1) -> Split:
    """Hold out a block of each file's pages, see `block_of`; files of few pages are trained on. content: (pairs,
    classes) pixels of each class in each mask. gap: number of pages beside a block that are in neither part."""
    parts = np.zeros(len(pairs), np.int64)
    shown = []
    for (path, _), rows in _by_stack(pairs).items():
        if not is_divisible(len(rows), gap):
            continue
        first, end = block_of(content[rows], val_fraction, gap)
        parts[rows] = parts_of(len(rows), first, end, gap)
        shown.append(f"pages {first + 1} to {end} of {path.name}")
    return _split(pairs, parts, f"{' and '.join(shown)}, {apart(gap)}")


def hold_out_fold(pairs: Sequence[Pair], folds: int, fold: int, gap: int = 1) -> Split:
    """Divide each file's pages into `folds` blocks, of which the `fold`th, counted from 1, is held out; so each page is
    in the validation part of exactly one fold. Raises UserError if there is no such fold or there are too few pages."""
    parts = np.zeros(len(pairs), np.int64)
    for (path, _), rows in _by_stack(pairs).items():
        parts[rows] = parts_of(len(rows), *block_of_fold(len(rows), folds, fold, path), gap)
    return _split(pairs, parts, f"fold {fold} of {folds}, a block of each file's pages, {apart(gap)}")


def block_of_fold(pages: int, folds: int, fold: int, path: Path, what: str = "pages") -> Range:
    """The first and the end of the block of a file's pages that is held out in a fold, counted from 1. Raises UserError
    if there is no such fold or there are too few pages."""
    if folds < 2 or not 1 <= fold <= folds:
        raise UserError(f"--fold is {fold}, of --folds {folds}: give 1 to {max(folds, 2)}, and at least 2 folds")
    if pages < 2 * folds:
        raise UserError(f"--folds {folds}: {path} has only {pages} {what}, and each fold needs two: give fewer folds")
    return pages * (fold - 1) // folds, pages * fold // folds


def is_divisible(pages: int, gap: int) -> bool:
    """Whether so many pages are enough for both parts."""
    return pages >= gap + 2


def block_of(content: np.ndarray, val_fraction: float, gap: int = 1) -> Range:
    """The first and the end of the block of about that share of a file's pages which is held out.

    At its end; or as close to it as possible where a block there would have too few pages of some classes, or leave
    none for training. content: (pages, classes) of a divisible file.
    """
    pages = len(content)
    count = min(max(1, round(pages * val_fraction)), pages - gap - 1)
    holds = content > 0

    def cost(first: int) -> tuple[int, int, int]:
        part = parts_of(pages, first, first + count, gap)
        missing = holds.any(0) & ~holds[part == 0].any(0)
        rare = holds[part == 1].mean(0) < MIN_SHARE * holds.mean(0)
        return int(missing.sum()), int(rare.sum()), -first

    block = min(range(pages - count + 1), key=cost)
    return block, block + count


def parts_of(pages: int, first: int, end: int, gap: int) -> np.ndarray:
    """(pages,) 0 for training, 1 for validation, 2 for the pages between them."""
    place = np.arange(pages)
    distance = np.maximum(first - place, place - (end - 1))
    return np.where(distance <= 0, 1, np.where(distance <= gap, 2, 0))


def apart(gap: int, what: str = "page") -> str:
    return f"{counted(gap, what)} beside them left out, since neighbours are nearly identical"


# --- volumes ---------------------------------------------------------------------------------------------------------


def ranges_in(names: Iterable[str]) -> dict[str, list[Range]]:
    """The ranges of slices in names of pairs, as `divided` gives them, by the volume's name."""
    found: defaultdict[str, list[Range]] = defaultdict(list)
    for name in names:
        if match := PART.fullmatch(name):
            found[match["name"]].append((int(match["first"]) - 1, int(match["last"])))
    return {name: sorted(ranges) for name, ranges in found.items()}


def ranges_for(depth: int, block: Range, gap: int = 1) -> list[Range]:
    """The slices of a volume to train on, before and after the held-out block, and the block itself, in order."""
    train = [(0, max(block[0] - gap, 0)), (block[1] + gap, depth)]
    longest = max(end - first for first, end in train)
    kept = [(first, end) for first, end in train if end - first >= min(MIN_SLICES, longest)]
    return sorted([*kept, block])


def divided(layout: Layout, ranges: Mapping[tuple[Path, ...], Sequence[Range]]) -> Layout:
    """The layout with volumes divided into these ranges of slices, each a pair of its own. ranges: by the files of the
    image."""
    splits = {
        split: [part for pair in pairs for part in _parts(pair, ranges.get(pair.image.paths, ()))]
        for split, pairs in layout.splits.items()
    }
    return replace(layout, splits=splits)


def part_name(name: str, part: Range) -> str:
    return f"{name}#{part[0] + 1}-{part[1]}"


def _parts(pair: Pair, ranges: Sequence[Range]) -> list[Pair]:
    return [
        Pair(
            part_name(pair.name, part),
            replace(pair.image, is_volume=True, slices=part),
            replace(pair.mask, is_volume=True, slices=part),
        )
        for part in ranges
    ] or [pair]


def _by_stack(pairs: Sequence[Pair]) -> dict[tuple[Path, str], list[int]]:
    """The rows of each file's pages, or of the slices of a DICOM series, in order; by `stack_of`."""
    rows: defaultdict[tuple[Path, str], list[int]] = defaultdict(list)
    places = [stack_of(pair.image) for pair in pairs]
    for row, (stack, _) in enumerate(places):
        rows[stack].append(row)
    return {stack: sorted(some, key=lambda row: places[row][1]) for stack, some in rows.items()}


def _split(pairs: Sequence[Pair], parts: np.ndarray, how: str) -> Split:
    train, val, gap = ([pair for pair, part in zip(pairs, parts, strict=True) if part == one] for one in range(3))
    return Split(train, val, how, gap)
