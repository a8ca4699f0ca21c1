"""The data set card: what is in this data set, and what is wrong with it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet_cli.ahead import ahead
from unet_cli.config import Preprocessing
from unet_cli.console import Console, counted
from unet_cli.data.imagefile import read_image, read_mask
from unet_cli.data.labels import LabelMap, ValueStats, find_labels, value_stats
from unet_cli.data.layout import Layout, Pair
from unet_cli.data.preprocess import LEAST_STD, bits_of
from unet_cli.errors import UserError

MOST_LISTED = 50


@dataclass(frozen=True)
class Facts:
    """What one pair holds. sums and squares: of each channel's values (three, equal where the image is gray)."""

    pair: Pair
    height: int
    width: int
    bits: int
    gray: bool
    sums: np.ndarray
    squares: np.ndarray
    values: ValueStats
    palette: list[int] | None


@dataclass(frozen=True)
class Card:
    """A data set that can be trained on. facts: of each pair, by split."""

    layout: Layout
    facts: dict[str, list[Facts]]
    labels: LabelMap
    in_channels: int
    bits: int
    seconds_per_pair: float

    def describe(self) -> list[str]:
        """The card in a few lines."""
        everything = [fact for facts in self.facts.values() for fact in facts]
        pairs = ", ".join(f"{split} {len(facts)}" for split, facts in self.facts.items())
        sizes = Counter(f"{fact.width}x{fact.height}" for fact in everything)
        shown = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(4))
        if len(sizes) > 4:
            sides = [side for fact in everything for side in (fact.width, fact.height)]
            shown = f"{len(sizes)} sizes, sides of {min(sides)} to {max(sides)} pixels"
        return [
            f"{self.layout.root}: {counted(len(everything), 'pair')} ({pairs}), {self.layout.rule}",
            f"  images   {shown}; {self._colour(everything)}, {self.bits} bits",
            f"  masks    {self.labels.describe()}",
            f"  pixels   {', '.join(self._shares(everything))}",
        ]

    def preprocessing(self, train: list[Pair], size: int, in_channels: int | None = None) -> Preprocessing:
        """How images of this set become network input; the statistics are those of the training part.

        in_channels: as many as the network has, where it has more than the images.

        Where images differ more from each other in brightness than their pixels do within an image (dark and bright
        backgrounds mixed, exposures that vary), each image is normalised by itself; elsewhere all by the same numbers,
        which keep what absolute intensity says.
        """
        in_channels = in_channels or self.in_channels
        wanted = {pair.image for pair in train}
        facts = [fact for part in self.facts.values() for fact in part if fact.pair.image in wanted]
        pixels = sum(fact.height * fact.width for fact in facts)
        mean = np.sum([fact.sums for fact in facts], axis=0) / pixels
        variance = np.sum([fact.squares for fact in facts], axis=0) / pixels - mean**2
        between, within = _spread(facts)
        std = np.sqrt(np.maximum(variance, LEAST_STD**2))
        return Preprocessing(
            size=size,
            in_channels=in_channels,
            bits=self.bits,
            intensity="image" if between > within else "dataset",
            mean=tuple(float(value) for value in mean[:in_channels]),
            std=tuple(float(value) for value in std[:in_channels]),
        )

    def _colour(self, facts: list[Facts]) -> str:
        if self.in_channels == 1:
            return "gray"
        gray = sum(fact.gray for fact in facts)
        return f"RGB ({counted(gray, 'gray image')} among {len(facts)})" if gray else "RGB"

    def _shares(self, facts: list[Facts]) -> Iterator[str]:
        counts = np.zeros(self.labels.num_classes)
        for fact in facts:
            values = np.array(list(fact.values.counts))
            np.add.at(counts, self.labels.encode(values), list(fact.values.counts.values()))
        names = ["background", "foreground"] if self.labels.num_classes == 2 else [f"{v}:" for v in self.labels.values]
        for name, share in zip(names, counts / counts.sum(), strict=True):
            yield f"{name} {share:.1%}"


def _spread(facts: list[Facts]) -> tuple[float, float]:
    """Variance of the images' mean intensities, and mean variance of the pixels within an image."""
    pixels = np.array([3 * fact.height * fact.width for fact in facts])
    means = np.array([fact.sums.sum() for fact in facts]) / pixels
    squares = np.array([fact.squares.sum() for fact in facts]) / pixels
    return float(means.var()), float((squares - means**2).mean())


def examine(layout: Layout, console: Console, workers: int | None = None) -> Card:
    """Read every pair once and say what the set is.

    Raises UserError that lists every unreadable file and every pair whose sizes differ, at once.
    """
    start = time.monotonic()
    facts: dict[str, list[Facts]] = {split: [] for split in layout.splits}
    problems: list[str] = []
    todo = [(split, pair) for split, pairs in layout.splits.items() for pair in pairs]
    read = ahead(_facts_or_problem, [pair for _, pair in todo], workers)
    for (split, _), found in zip(todo, console.progress(read, len(todo), "reading", "pairs"), strict=True):
        if isinstance(found, Facts):
            facts[split].append(found)
        else:
            problems.append(found)
    everything = [fact for part in facts.values() for fact in part]
    depths = Counter(fact.bits for fact in everything)
    if len(depths) > 1:
        rare, common = depths.most_common()[-1][0], depths.most_common()[0][0]
        problems += [
            f"{fact.pair.image} has {rare} bits where most images have {common}: convert it"
            for fact in everything
            if fact.bits == rare
        ]
    problems += _palette_problems(everything)
    if problems:
        shown = [f"  {problem}" for problem in problems[:MOST_LISTED]]
        if len(problems) > MOST_LISTED:
            shown.append(f"  ... and {len(problems) - MOST_LISTED} more")
        raise UserError("\n".join([f"{layout.root}: {counted(len(problems), 'problem')} with the files:", *shown]))

    palettes = [fact.palette for fact in everything if fact.palette is not None]
    labels = find_labels(
        [fact.values for fact in everything], palettes[0] if len(palettes) == len(everything) else None
    )
    return Card(
        layout=layout,
        facts=facts,
        labels=labels,
        in_channels=1 if all(fact.gray for fact in everything) else 3,
        bits=everything[0].bits,
        seconds_per_pair=(time.monotonic() - start) / len(everything),
    )


def _palette_problems(facts: list[Facts]) -> list[str]:
    """Masks whose palettes give an index that they use another colour than earlier masks do."""
    colours: dict[int, tuple[list[int], Path]] = {}
    problems = []
    for fact in facts:
        palette = fact.palette or []
        for index in fact.values.counts if palette else ():
            colour = palette[3 * index : 3 * index + 3]
            known, first = colours.setdefault(index, (colour, fact.pair.mask))
            if known != colour:
                problems.append(
                    f"{fact.pair.mask} has colour {colour} for its value {index}, where {first} has {known}: "
                    "save all masks with one palette"
                )
                break
    return problems


def _facts_or_problem(pair: Pair) -> Facts | str:
    try:
        return _facts(pair)
    except UserError as error:
        return str(error)


def _facts(pair: Pair) -> Facts:
    image = read_image(pair.image)
    mask, palette = read_mask(pair.mask)
    if mask.shape != image.shape[1:]:
        (height, width), (mask_height, mask_width) = image.shape[1:], mask.shape
        raise UserError(
            f"{pair.mask} is {mask_width}x{mask_height} but its image {pair.image} is {width}x{height}: "
            "resize one, or take the pair out"
        )
    gray = image.shape[0] == 1 or bool((image[0] == image[1]).all() and (image[0] == image[2]).all())
    channels = image[:1] if gray else image
    sums = channels.sum(axis=(1, 2), dtype=np.float64)
    squares = np.array([np.square(channel, dtype=np.float64).sum() for channel in channels])
    return Facts(
        pair=pair,
        height=mask.shape[0],
        width=mask.shape[1],
        bits=bits_of(image),
        gray=gray,
        sums=np.resize(sums, 3),
        squares=np.resize(squares, 3),
        values=value_stats(mask),
        palette=palette,
    )
