"""The data set card: what is in this data set, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from unet_cli.config import DataConfig, Preprocessing, least_std
from unet_cli.console import Console, counted
from unet_cli.data.facts import Facts, Known, read_all
from unet_cli.data.labels import LabelMap, find_labels, parse_classes
from unet_cli.data.layout import Layout
from unet_cli.data.problems import Problem, listed, odd_things
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError

MOST_ODD = 10  # problems of a kind that don't stop training are listed
MOST_IMAGES = 50  # of a problem, for a program
MOST_CLASSES = 12  # shown in a line
RANGES = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class Card:
    """A data set. known: the pairs that can be used, by split; a page of a stack is a pair of its own.

    problems: the worst first. contents: pixels of each class in each mask, ignored ones left out, in the order of
    `everything`. left_out: pairs and files that can't be used, where the user said to leave them out.
    """

    layout: Layout
    known: dict[str, list[Known]]
    labels: LabelMap
    problems: list[Problem]
    contents: np.ndarray
    in_channels: int
    dtype: Literal["uint8", "uint16", "float32"]
    keep_alpha: bool
    left_out: list[Problem] = field(default_factory=list)

    @property
    def everything(self) -> list[Known]:
        return [one for part in self.known.values() for one in part]

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
        """Raises UserError that lists everything that stops training, at once."""
        if self.refusals:
            raise _refusal(self.layout, self.refusals, skip_bad=False)

    def describe(self) -> list[str]:
        """The card in a few lines."""
        everything = self.everything
        pairs = ", ".join(f"{split} {len(part)}" for split, part in self.known.items())
        sizes = Counter(facts.size for _, facts in everything)
        shown = ", ".join(f"{size} ({count:,})" for size, count in sizes.most_common(4))
        if len(sizes) > 4:
            sides = [side for _, facts in everything for side in (facts.width, facts.height)]
            shown = f"{len(sizes)} sizes, sides of {min(sides)} to {max(sides)} pixels"
        low, high = self._range()
        return [
            f"{self.layout.root}: {counted(len(everything), 'pair')} ({pairs}), {self.layout.rule}",
            f"  images   {shown}; {self._colour()}, {self._depth()}, values {low:g} to {high:g}",
            f"  masks    {self.labels.describe()}{self._between()}",
            f"  pixels   {', '.join(f'{name} {share:.1%}' for name, share in self._shares()[:MOST_CLASSES])}"
            + ", ..." * (self.labels.num_classes > MOST_CLASSES),
            *(f"  note     {note}" for note in self._notes()),
        ]

    def details(self) -> list[str]:
        """What describe() leaves out: all sizes, and a table of the classes."""
        sizes = Counter(facts.size for _, facts in self.everything)
        images = (self.contents > 0).sum(0)
        width = max(10, *(len(name) for name in self.labels.names))
        empty = self.empty_masks()
        return [
            *(f"  size     {size}: {counted(count, 'image')}" for size, count in sizes.most_common(8)),
            *([f"  size     and {len(sizes) - 8} more"] if len(sizes) > 8 else []),
            f"  {'class':{width}}   pixels   in images",
            *(
                f"  {name:{width}} {share:8.2%}   {count:,} of {len(self.contents):,}"
                for (name, share), count in zip(self._shares(), images, strict=True)
            ),
            f"  empty masks: {len(empty):,}" + (f", such as {empty[0].mask}" if empty else ""),
        ]

    def empty_masks(self) -> list[Pair]:
        return [pair for (pair, _), row in zip(self.everything, self.contents, strict=True) if not row[1:].any()]

    def plain(self) -> dict[str, Any]:
        """The card for a program."""
        everything = self.everything
        low, high = self._range()
        labels = self.labels
        return {
            "data": str(self.layout.root),
            "rule": self.layout.rule,
            "pairs": {split: len(part) for split, part in self.known.items()},
            "sizes": dict(Counter(facts.size for _, facts in everything).most_common()),
            "dtype": self.dtype,
            "in_channels": self.in_channels,
            "lowest": low,
            "highest": high,
            "kind": labels.kind,
            "ignored_value": labels.ignore,
            "classes": [
                {"name": name, "value": value, "pixels": int(pixels), "share": share, "images": int(images)}
                for (name, share), value, pixels, images in zip(
                    self._shares(), labels.values, self.contents.sum(0), (self.contents > 0).sum(0), strict=True
                )
            ],
            "empty_masks": [str(pair.mask) for pair in self.empty_masks()],
            "notes": self._notes(),
            "problems": [_plain(problem) for problem in self.problems],
            "left_out": [_plain(problem) for problem in self.left_out],
            "can_train": not self.refusals and bool(self.known.get("train")),
        }

    def preprocessing(
        self, train: Sequence[Pair], size: int, normalize: str = "auto", in_channels: int | None = None
    ) -> Preprocessing:
        """How images of this set become network input; the statistics are those of the training part.

        normalize: see TrainConfig. in_channels: as many as the network has, where it has more than the images.

        'auto' is 'image' where images differ more from each other in brightness than their pixels do within an image
        (dark and bright backgrounds mixed, exposures that vary), and else 'dataset', which keeps what absolute
        intensity says. Neither cares for the depth of the files or for the part of it that they fill.

        Compared on the validation parts of ISBI 2012 (electron microscopy, evenly exposed, 16 epochs) and of the 2018
        Data Science Bowl (nuclei, backgrounds mixed, 5 epochs), in gray, as 8 bits and squeezed into 33,000 to 37,000
        of 16 bits; Dice at original size of one run each (size 256, width 12, lr 4e-3):

                        ISBI 8 bits   16 bits   DSB 8 bits   16 bits
            dataset     0.936         0.935     0.767        0.714
            image       0.934         0.936     0.873        0.878
            percentile  0.937         0.936     0.878        0.874
            range       0.936         0.873     0.674        0.000

        So the rule chooses among the first two by what is there; 'range' depends on the depth, and 'percentile', which
        takes no notice of a few hot pixels, won nothing beyond the noise of a run.
        """
        facts_of = dict(self.everything)
        facts = [facts_of[pair] for pair in train]
        in_channels = in_channels or self.in_channels
        pixels = sum(one.height * one.width for one in facts)
        mean: np.ndarray = np.sum([_as_channels(one.sums, in_channels) for one in facts], axis=0) / pixels
        squares = np.sum([_as_channels(one.squares, in_channels) for one in facts], axis=0) / pixels
        variance = squares - mean**2
        intensity: Any = normalize
        if normalize == "auto":
            between, within = _spread(facts)
            intensity = "image" if between > within else "dataset"
        elif normalize == "range":
            low, high = min(one.low for one in facts), max(one.high for one in facts)
            low, high = (0.0, RANGES[self.dtype]) if self.dtype in RANGES else (low, high)
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
            pages="channels" if any(one.layered for one in facts) else "images",
        )

    def _range(self) -> tuple[float, float]:
        facts = [facts for _, facts in self.everything]
        return min(one.low for one in facts), max(one.high for one in facts)

    def _depth(self) -> str:
        return {"uint8": "8 bits", "uint16": "16 bits", "float32": "floating point"}[self.dtype]

    def _colour(self) -> str:
        channels = self.in_channels - self.keep_alpha
        alpha = " and alpha" * self.keep_alpha
        return {1: "gray", 3: "RGB"}.get(channels, f"{channels} channels") + alpha

    def _between(self) -> str:
        """The share of pixels between the two values of masks with soft borders."""
        if self.labels.kind != "soft":
            return ""
        total = Counter[int]()
        for _, facts in self.everything:
            total.update(facts.values.counts)
        ends = sum(total[value] for value in (*self.labels.values, self.labels.ignore) if value is not None)
        return f"; {1 - ends / total.total():.2%} of the pixels lie between {self.labels.values[0]} and " + (
            f"{self.labels.values[1]}, as at soft edges or in JPEG"
        )

    def _shares(self) -> list[tuple[str, float]]:
        counts = self.contents.sum(0)
        return list(zip(self.labels.names, (counts / max(counts.sum(), 1)).tolist(), strict=True))

    def _notes(self) -> list[str]:
        """What was decided or converted, and can be decided otherwise."""
        facts = [facts for _, facts in self.everything]
        notes = list(self.layout.notes)
        notes += [
            f"{note} in {counted(count, 'image')}" for note, count in Counter(n for f in facts for n in f.notes).items()
        ]
        gray = sum(one.channels < 3 for one in facts)
        if self.in_channels < 3 and any(one.stored >= 3 and one.channels < one.stored for one in facts):
            notes.append("gray images stored as RGB are trained on as one channel")
        elif self.in_channels >= 3 and gray:
            notes.append(f"{counted(gray, 'gray image')} among {len(facts):,}: gray is repeated to three channels")
        if any(one.layered for one in facts):
            notes.append("the pages of an image's file are its channels, since its mask has one page")
        if self.labels.kind == "instances":
            most = max((len(one.values.counts) for one in facts), default=1) - 1
            notes.append(
                f"the masks number their objects (up to {most:,} in one): trained as foreground against background"
            )
        if self.labels.may_be_objects([one.values for one in facts]):
            notes.append("if the masks number their objects, --classes background,NAME trains them as one class")
        ignored = self.labels.ignore
        if ignored is not None:
            pixels = sum(one.values.counts.get(ignored, 0) for one in facts)
            share = pixels / sum(one.height * one.width for one in facts)
            notes.append(
                f"{self.labels.spell(ignored)} counts nowhere in the masks ({share:.1%} of the pixels); "
                "--ignore-index or --classes FILE.toml decides otherwise"
            )
        notes += [f"left out: {problem.text}" for problem in self.left_out]
        return notes


def examine(layout: Layout, config: DataConfig, console: Console) -> Card:
    """Read every pair once, or remember it, and say what the set is.

    Raises UserError that lists every problem at once where nothing is left that a card could be made of.
    """
    spec = parse_classes(config.classes, config.ignore_index)
    problems: list[Problem] = []
    known: dict[str, list[Known]] = {split: [] for split in layout.splits}
    todo = [(split, pair) for split, pairs in layout.splits.items() for pair in pairs]
    if "val" in layout.splits:  # names tell pairs apart in split.json
        todo = [(split, replace(pair, name=f"{split}/{pair.name}")) for split, pair in todo]
    read = read_all([pair for _, pair in todo], layout.root, config.keep_alpha, console, config.workers)
    for (split, pair), found in zip(todo, read, strict=True):
        if isinstance(found, UserError):
            problems.append(Problem("bad file", str(found), (pair,), refuses=True))
        else:
            known[split] += found
    problems += [Problem("no partner", text, refuses=True) for text in layout.left]  # damage stands before these
    misfits = [*_other_kinds(known, config.keep_alpha)]
    problems += misfits
    known = _without(known, misfits)
    if not known.get("train"):
        raise _refusal(layout, problems, config.skip_bad)
    try:
        labels = find_labels([facts.values for _, facts in known["train"]], spec)
    except UserError as error:
        if not problems:
            raise
        raise _refusal(layout, [*problems, Problem("classes", str(error), refuses=True)], config.skip_bad) from error
    everything = [one for part in known.values() for one in part]
    contents, strangers = labels.count_classes([facts.values for _, facts in everything])
    strange = [*_strange_values(everything, strangers, labels)]
    problems += strange
    known = _without(known, strange)
    if not known.get("train"):
        raise _refusal(layout, problems, config.skip_bad)

    if config.skip_bad and known.get("val") == []:  # another validation part than the user's must not be drawn
        raise _refusal(layout, problems, config.skip_bad, "No pair of the val folder is left without them.")
    contents = np.delete(contents, sorted({row for row, *_ in strangers}), axis=0)
    everything = [one for part in known.values() for one in part]
    facts = known["train"][0][1]
    refusals = [problem for problem in problems if problem.refuses]
    return Card(
        layout=layout,
        known=known,
        labels=labels,
        problems=([] if config.skip_bad else refusals)
        + [
            *_not_found(contents, labels, any(labels.ignore in one.values.counts for _, one in everything)),
            *odd_things(known, labels, config.keep_alpha),
        ],
        contents=contents,
        in_channels=max(facts.channels for _, facts in known["train"]),
        dtype=facts.dtype,  # type: ignore[arg-type]
        keep_alpha=config.keep_alpha and facts.channels in (2, 4),
        left_out=refusals if config.skip_bad else [],
    )


def _not_found(contents: np.ndarray, labels: LabelMap, ignored: bool) -> Iterable[Problem]:
    """Classes that no mask shows."""
    if not contents[:, 1:].any() or not np.delete(contents, 1, axis=1).any():
        only = labels.names[int(not contents[:, 0].any())]
        yield Problem(
            "one class",
            f"no mask holds anything but {only}: there is nothing to learn. Look at the masks",
            refuses=True,
        )
        return
    for name, pixels in zip(labels.names, contents.sum(0), strict=True):
        if not pixels:
            yield Problem("unseen class", f"no mask holds the class {name}: is its value right?")
    if labels.ignore is not None and not ignored:
        yield Problem("unseen class", f"no mask holds {labels.spell(labels.ignore)}, which is ignored: is it right?")


def _other_kinds(known: dict[str, list[Known]], keep_alpha: bool) -> Iterable[Problem]:
    """Images of another depth, or with channels that can't be converted to those of most training images."""
    everything = [one for part in known.values() for one in part]
    usual = known.get("train") or everything
    if not usual:
        return
    depths = Counter(facts.dtype for _, facts in usual)
    families = Counter(_family(facts, keep_alpha) for _, facts in usual)
    depth, family = depths.most_common(1)[0][0], families.most_common(1)[0][0]
    for pair, facts in everything:
        if facts.dtype != depth:
            yield Problem(
                "depth", f"{pair.image} holds {facts.dtype} where most images hold {depth}: convert it, "
                "or leave it out with --skip-bad", (pair,), refuses=True,
            )  # fmt: skip
        elif _family(facts, keep_alpha) != family:
            yield Problem(
                "channels", f"{pair.image} has {counted(facts.channels, 'channel')}, other than most images: convert "
                "it, or leave it out with --skip-bad", (pair,), refuses=True,
            )  # fmt: skip


def _family(facts: Facts, keep_alpha: bool) -> int:
    """Gray and colour go together, and with alpha as well; 1 and 2 stand for them, else the number of channels."""
    together = {1: 1, 3: 1, 2: 2, 4: 2} if keep_alpha else {1: 1, 3: 1}
    return facts.channels if facts.layered else together.get(facts.channels, facts.channels)


def _strange_values(
    everything: list[Known], strangers: list[tuple[int, int, int]], labels: LabelMap
) -> Iterable[Problem]:
    """Values or colours that no class has: all of them in one message, with counts and a file, and the pairs."""
    counts, example = Counter[int](), dict[int, Source]()
    pairs = dict.fromkeys(everything[row][0] for row, *_ in strangers)
    for row, value, count in strangers:
        counts[value] += count
        example.setdefault(value, everything[row][0].mask)
    if counts:
        shown = [
            f"{labels.spell(value)} ({counted(count, 'pixel')}, as in {example[value]})"
            for value, count in counts.most_common(10)
        ]
        more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
        soft = ", as soft edges and JPEG make them: save masks as PNG, without smoothing" if len(counts) > 100 else ""
        yield Problem(
            "no class", f"{counted(len(pairs), 'mask')} with what is no class: {', '.join(shown)}{more}{soft}. The "
            f"{labels.describe()}. Correct the masks, name all classes in a --classes FILE.toml, or leave the pairs "
            "out with --skip-bad", tuple(pairs), refuses=True,
        )  # fmt: skip


def _without(known: dict[str, list[Known]], problems: Iterable[Problem]) -> dict[str, list[Known]]:
    bad = {pair for problem in problems for pair in problem.pairs}
    if not bad:
        return known
    return {split: [one for one in part if one[0] not in bad] for split, part in known.items()}


def _refusal(layout: Layout, problems: list[Problem], skip_bad: bool, end: str = "") -> UserError:
    head = f"{layout.root}: {counted(len(problems), 'problem')} with the files:"
    hint = "Nothing is left without them." if skip_bad else "Put these right, or leave them out with --skip-bad."
    return UserError("\n".join([head, *listed(problems), end or hint]))


def _plain(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "stops_training": problem.refuses,
        "text": problem.text,
        "images": [str(pair.image) for pair in problem.pairs[:MOST_IMAGES]],
    }


def _as_channels(values: tuple[float, ...], channels: int) -> np.ndarray:
    """A figure of each channel of an image, repeated as `to_channels` repeats gray; alpha stays the last."""
    colour, alpha = (values[:-1], values[-1:]) if len(values) in (2, 4) else (values, ())
    return np.array([*np.resize(colour, channels - len(alpha)), *alpha])


def _spread(facts: list[Facts]) -> tuple[float, float]:
    """Variance of the images' mean intensities, and mean variance of the pixels within an image."""
    values = np.array([one.height * one.width * len(one.sums) for one in facts])
    means = np.array([sum(one.sums) for one in facts]) / values
    squares = np.array([sum(one.squares) for one in facts]) / values
    return float(means.var()), float((squares - means**2).mean())
