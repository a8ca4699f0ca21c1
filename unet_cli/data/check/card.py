"""The data set card: content and problems of a data set."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from unet_cli.config.data import Dtype, Preprocessing, least_std
from unet_cli.data.check.described import notes_on, summary, tables
from unet_cli.data.check.facts import Facts, Known, flat, value_range
from unet_cli.data.check.problems import Problem, listed
from unet_cli.data.folder.layout import Layout
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.system.console import counted

MAX_ODD = 10  # problems listed of each kind that doesn't prevent training
MAX_IMAGES = 50  # of each problem in JSON
RANGES = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class Card:
    """An examined data set. known: the usable pairs, by split; each page of a stack is a pair.

    problems: the worst first. contents: (pairs, classes) pixels of each class in each mask without ignored ones, in the
    order of `everything`. left_out: unusable pairs and files that were left out on request.
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

    def preprocessing(
        self,
        train: Sequence[Pair],
        size: int,
        normalize: str = "auto",
        in_channels: int | None = None,
        mode: Literal["resize", "tile"] = "resize",
        patch: tuple[int, ...] = (),
    ) -> Preprocessing:
        """The preprocessing for this data set, with the statistics of the training part.

        normalize: see TrainConfig. in_channels: input channels of the network, if more than the images have. mode,
        patch: see Preprocessing.

        'auto' is 'image' if the variance of brightness between images exceeds that within them (dark and bright
        backgrounds mixed, varying exposure), else 'dataset', which preserves absolute intensity. Both are independent
        of the bit depth and of the part of the range that is used.

        Compared on the validation parts of ISBI 2012 (electron microscopy, evenly exposed, 16 epochs) and of the 2018
        Data Science Bowl (nuclei, backgrounds mixed, 5 epochs), in gray, as 8 bits and squeezed into 33,000 to 37,000
        of 16 bits; Dice at original size of one run each (size 256, width 12, lr 4e-3):

                        ISBI 8 bits   16 bits   DSB 8 bits   16 bits
            dataset     0.936         0.935     0.767        0.714
            image       0.934         0.936     0.873        0.878
            percentile  0.937         0.936     0.878        0.874
            range       0.936         0.873     0.674        0.000

        So the rule chooses among the first two; 'range' depends on the bit depth, and 'percentile', which is robust
        against a few hot pixels, gained nothing beyond the variation between runs.
        """
        facts_of = dict(self.everything)
        facts = [facts_of[pair] for pair in train]
        in_channels = in_channels or self.in_channels
        pixels = sum(one.pixels for one in facts)
        mean: np.ndarray = np.sum([_as_channels(one.sums, in_channels) for one in facts], axis=0) / pixels
        squares = np.sum([_as_channels(one.squares, in_channels) for one in facts], axis=0) / pixels
        variance = squares - mean**2
        intensity: Any = normalize
        if normalize == "auto":
            between, within = _spread(facts)
            intensity = "image" if between > within else "dataset"
        elif normalize == "range":
            low, high = (0.0, RANGES[self.dtype]) if self.dtype in RANGES else value_range(facts)
            intensity, mean, variance = "dataset", np.full(in_channels, low), np.full(in_channels, (high - low) ** 2)
        return Preprocessing(
            size=size,
            in_channels=in_channels,
            dtype=self.dtype,
            intensity=intensity,
            mean=tuple(mean.tolist()),
            std=tuple(
                max(square, least_std(self.dtype, middle) ** 2) ** 0.5
                for middle, square in zip(mean.tolist(), variance.tolist(), strict=True)
            ),
            keep_alpha=self.keep_alpha,
            files=self.layout.files_per_image,
            pages="slices" if facts[0].depth else "channels" if any(one.layered for one in facts) else "images",
            mode=mode,
            patch=patch,
            spacing=self.spacing(train) or () if patch else (),
        )

    @property
    def is_volumetric(self) -> bool:
        """Whether images are volumes."""
        return any(facts.depth for _, facts in self.everything)

    def sizes(self, pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
        """(H, W) of each pair, (D, H, W) of volumes."""
        facts_of = dict(self.everything)
        return [facts_of[pair].sides for pair in pairs]

    def spacing(self, pairs: Sequence[Pair]) -> tuple[float, ...] | None:
        """The median spacing of volumes along (D, H, W) in mm; None where a file doesn't tell it."""
        facts_of = dict(self.everything)
        known = [facts_of[pair].spacing for pair in pairs]
        if not known or any(spacing is None for spacing in known):
            return None
        return tuple(np.median(np.array(known, np.float64), axis=0).tolist())

    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the data set, independent of machine, folder and order: a hash of the
        names and contents of all pairs.

        Contents as far as the facts cover them: all pixels of an image's first channel, sums of the others; of a mask,
        the number of pixels with each value, and roughly where.
        """
        contents = sorted(json.dumps([pair.name, *_contents(facts)]) for pair, facts in self.everything)
        return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16]

    def image_marks(self, pairs: Sequence[Pair]) -> list[str]:
        """For each pair 16 hexadecimal digits that identify its image, whatever its path, name and mask; contents as
        for `fingerprint`."""
        facts_of = dict(self.everything)
        contents = [json.dumps(_image_contents(facts_of[pair])) for pair in pairs]
        return [hashlib.sha256(text.encode()).hexdigest()[:16] for text in contents]

    def shares(self) -> list[tuple[str, float]]:
        """Name and fraction of the pixels of each class."""
        counts = self.contents.sum(0)
        return list(zip(self.labels.names, (counts / max(counts.sum(), 1)).tolist(), strict=True))


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


def _spread(facts: list[Facts]) -> tuple[float, float]:
    """Variance of the images' mean intensities, and mean variance of the pixels within an image."""
    values = np.array([one.pixels * len(one.sums) for one in facts])
    means = np.array([sum(one.sums) for one in facts]) / values
    squares = np.array([sum(one.squares) for one in facts]) / values
    return float(means.var()), float((squares - means**2).mean())


def _as_channels(values: tuple[float, ...], channels: int) -> np.ndarray:
    """A statistic of each channel, repeated for more channels as `to_channels` repeats gray; alpha stays the last."""
    colour, alpha = (values[:-1], values[-1:]) if len(values) in (2, 4) else (values, ())
    return np.array([*np.resize(colour, channels - len(alpha)), *alpha])
