"""The data set card: content and problems of a data set."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unet_cli.config.data import Dtype
from unet_cli.config.spacing import in_mm, parse_spacing
from unet_cli.data.check.described import notes_on, summary, tables
from unet_cli.data.check.facts import Facts, Known, flat, value_range
from unet_cli.data.check.problems import Problem, listed
from unet_cli.data.folder.layout import Layout
from unet_cli.data.labels import LabelMap
from unet_cli.data.resample import size_at
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.system.console import counted

MAX_ODD = 10  # problems listed of each kind that doesn't prevent training
MAX_IMAGES = 50  # of each problem in JSON


@dataclass(frozen=True)
class Card:
    """An examined data set. known: the usable pairs, by split; each page of a stack is a pair.

    problems: the worst first. contents: (pairs, classes) pixels of each class in each mask without ignored ones, in the
    order of `everything`. left_out: unusable pairs and files that were left out on request. resample: see TrainConfig.
    """

    layout: Layout
    known: dict[str, list[Known]]
    labels: LabelMap
    problems: list[Problem]
    contents: np.ndarray
    in_channels: int
    dtype: Dtype
    keep_alpha: bool
    left_out: list[Problem] = field(default_factory=list)
    resample: str = "median"

    @property
    def everything(self) -> list[Known]:
        return flat(self.known)

    @property
    def refusals(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.refuses]

    def pairs(self, split: str) -> list[Pair]:
        return [pair for pair, _ in self.known.get(split, [])]

    def contents_of(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(pairs, classes) pixel counts of these pairs' masks."""
        rows = {pair: row for row, (pair, _) in enumerate(self.everything)}
        return self.contents[[rows[pair] for pair in pairs]]

    def refuse(self) -> None:
        """Raises a UserError that lists everything that prevents training."""
        if self.refusals:
            raise refusal(self.layout, self.refusals, skip_bad=False)

    def describe(self) -> list[str]:
        """A summary in a few lines."""
        return summary(self)

    def details(self) -> list[str]:
        """What describe() omits: all sizes, and a table of the classes."""
        return tables(self)

    def empty_masks(self) -> list[Pair]:
        return [pair for (pair, _), row in zip(self.everything, self.contents, strict=True) if not row[1:].any()]

    def plain(self) -> dict[str, Any]:
        """The card as JSON values."""
        everything = self.everything
        low, high = value_range([facts for _, facts in everything])
        labels = self.labels
        return {
            "data": str(self.layout.root),
            "rule": self.layout.rule,
            "pairs": {split: len(part) for split, part in self.known.items()},
            "sizes": dict(Counter(facts.size for _, facts in everything).most_common()),
            "volumes": self.is_volumetric,
            "spacing": self.spacing([pair for pair, _ in everything]),
            "dtype": self.dtype,
            "in_channels": self.in_channels,
            "lowest": low,
            "highest": high,
            "kind": labels.kind,
            "ignored_value": labels.ignore,
            "classes": [
                {"name": name, "value": value, "pixels": int(pixels), "share": share, "images": int(images)}
                for (name, share), value, pixels, images in zip(
                    self.shares(), labels.values, self.contents.sum(0), (self.contents > 0).sum(0), strict=True
                )
            ],
            "empty_masks": [str(pair.mask) for pair in self.empty_masks()],
            "notes": notes_on(self),
            "problems": [_plain(problem) for problem in self.problems],
            "left_out": [_plain(problem) for problem in self.left_out],
            "can_train": not self.refusals and bool(self.known.get("train")),
        }

    @property
    def is_volumetric(self) -> bool:
        """Whether images are volumes."""
        return any(facts.depth for _, facts in self.everything)

    def sizes(self, pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
        """(H, W) of each pair, (D, H, W) of volumes."""
        facts_of = dict(self.everything)
        return [facts_of[pair].sides for pair in pairs]

    def spacing(self, pairs: Sequence[Pair]) -> tuple[float, ...] | None:
        """The median spacing of volumes along (D, H, W) in mm, the finer one of two; None where a file doesn't tell
        it."""
        facts_of = dict(self.everything)
        known = [facts_of[pair].spacing for pair in pairs]
        if not known or any(spacing is None for spacing in known):
            return None
        # No mean of two spacings, to which every volume would have to be resampled.
        return tuple(np.quantile(np.array(known, np.float64), 0.5, axis=0, method="lower").tolist())

    def with_spacing(self, spacing: tuple[float, ...]) -> Card:
        """The card of volumes whose voxels are of this size, along (D, H, W) in mm, whatever their files tell."""
        known: dict[str, list[Known]] = {}
        for split, part in self.known.items():
            known[split] = [(pair, replace(facts, spacing=spacing)) for pair, facts in part]
        return replace(self, known=known)

    @property
    def network_spacing(self) -> tuple[float, ...]:
        """Spacing along (D, H, W) in mm to which volumes are resampled for the network: by `resample`, which may be
        'median', of all that a split may be drawn from. Empty where they stay as they are: with 'native', and where a
        file doesn't tell its spacing."""
        pairs = self.pairs("train")
        if self.resample == "native" or self.spacing(pairs + self.pairs("val")) is None:
            return ()
        return self.spacing(pairs) or () if self.resample == "median" else in_mm(parse_spacing(self.resample))

    @property
    def voxel_spacing(self) -> tuple[float, ...] | None:
        """Spacing along (D, H, W) in mm of the voxels that a network sees: `network_spacing`, or the median of volumes
        that stay as they are; None where a file doesn't tell it."""
        return self.network_spacing or self.spacing(self.pairs("train"))

    def network_sizes(self, pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
        """`sizes` after resampling to `network_spacing`. Raises UserError where one would be too large."""
        facts_of, wanted = dict(self.everything), self.network_spacing
        sizes = []
        for pair in pairs:
            try:
                sizes.append(size_at(facts_of[pair].sides, facts_of[pair].spacing, wanted))
            except UserError as error:
                raise pair.image.named(error) from error
        return sizes

    def fingerprint(self, pairs: Container[Pair] | None = None) -> str:
        """16 hexadecimal digits that identify the data set, independent of machine, folder and order: a hash of the
        names and contents of all pairs, or of these.

        Contents as far as the facts cover them: all pixels of an image's first channel, sums of the others; of a mask,
        the number of pixels with each value, and roughly where.
        """
        known = [one for one in self.everything if pairs is None or one[0] in pairs]
        contents = sorted(json.dumps([pair.name, *_contents(facts)]) for pair, facts in known)
        return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16]

    def image_marks(self, pairs: Sequence[Pair]) -> list[str]:
        """For each pair 16 hexadecimal digits that identify its image, whatever its path, name and mask; contents as
        for `fingerprint`."""
        facts_of = dict(self.everything)
        return [mark_of(facts_of[pair]) for pair in pairs]

    def shares(self, pairs: Sequence[Pair] | None = None) -> list[tuple[str, float]]:
        """Name and fraction of the pixels of each class, in all pairs or in these."""
        chosen = [pair for pair, _ in self.everything] if pairs is None else pairs
        counts = self.contents_of(chosen).sum(0)
        # Where classes overlap, a pixel counts for each of its classes.
        pixels = sum(map(math.prod, self.sizes(chosen))) if self.labels.overlapping else counts.sum()
        return list(zip(self.labels.names, (counts / max(pixels, 1)).tolist(), strict=True))


def mark_of(facts: Facts) -> str:
    """See Card.image_marks."""
    return hashlib.sha256(json.dumps(_image_contents(facts)).encode()).hexdigest()[:16]


def refusal(layout: Layout, problems: list[Problem], skip_bad: bool, end: str = "") -> UserError:
    head = f"{layout.root}: {counted(len(problems), 'problem')} with the files:"
    hint = "Nothing is left without them." if skip_bad else "Put these right, or leave them out with --skip-bad."
    return UserError("\n".join([head, *listed(problems), *ask_about_missing(layout), end or hint]))


def ask_about_missing(layout: Layout) -> list[str]:
    """The advice on images without a mask."""
    if not layout.unmasked:
        return []
    these = "image has no mask, or lacks one" if layout.unmasked == 1 else "images have no mask, or lack one"
    return [
        f"{layout.unmasked:,} {these}: if these images show background only, --missing-masks background reads a "
        "missing mask as background"
    ]


def _plain(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "stops_training": problem.refuses,
        "text": problem.text,
        "images": [str(pair.image) for pair in problem.pairs[:MAX_IMAGES]],
    }


def _contents(facts: Facts) -> list[Any]:
    """The facts about the pixels, without values that depend on a processor's rounding."""
    values = facts.values
    return [
        *_image_contents(facts), sorted(values.counts.items()), values.rest, values.colour, values.palette,
        facts.mask_thumbnail.hex(),
    ]  # fmt: skip


def _image_contents(facts: Facts) -> list[Any]:
    sums = () if facts.dtype == "float32" else (*facts.sums, *facts.squares)
    return [facts.stored, *facts.sides, facts.dtype, facts.low, facts.high, sums, facts.checksum]
