"""What looks odd in a set of pairs that can all be read: seen in their facts, and made sure of by a second look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from unet_cli.console import counted
from unet_cli.data.facts import THUMBNAIL, Facts
from unet_cli.data.imagefile import read_image, read_mask
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair

NEARLY = 0.995  # correlation of thumbnails, then of pixels, from which two images are nearly the same
MASKS_DIFFER = 0.01  # share of pixels; for images that are nearly the same five times as many
MOST_LOOKS = 100  # pairs of images that are read a second time
LEAST_FOR_INVERTED = 8  # pairs without which there is no 'rest' to compare a mask with
INVERTED_ODDS = 6.0  # how much better the mask has to fit the rest when it is inverted, in log likelihood

Known = tuple[Pair, Facts]


@dataclass(frozen=True)
class Problem:
    """Something about the data that a person should know.

    refuses: training can't use the pairs. kind: a word for programs. files: the first few that are concerned.
    """

    kind: str
    text: str
    pairs: tuple[Pair, ...] = ()
    refuses: bool = False


def odd_things(known: dict[str, list[Known]], labels: LabelMap, keep_alpha: bool) -> Iterator[Problem]:
    """Every pair of a set by split -> what looks odd, the worst first."""
    everything = [one for part in known.values() for one in part]
    splits = [split for split, part in known.items() for _ in part]
    if labels.num_classes == 2:
        yield from _inverted(everything)
    groups = _identical(everything)
    for group in groups:
        yield from _repeated([everything[row] for row in group], {splits[row] for row in group}, labels)
    yield from _nearly_identical(everything, groups, labels, keep_alpha)
    for pair, facts in everything:
        if facts.low == facts.high:
            yield Problem("constant image", f"{pair.image} is {facts.low:g} everywhere: replace it", (pair,))


def _repeated(group: list[Known], splits: set[str], labels: LabelMap) -> Iterator[Problem]:
    """Of identical images: masks that differ, parts that they leak between, or just that they are the same."""
    pairs = tuple(pair for pair, _ in group)
    (first, facts), *others = group
    for other, other_facts in others:
        alike = facts.values == other_facts.values and facts.mask_thumbnail == other_facts.mask_thumbnail
        share = 0.0 if alike else _difference(first, other, labels)
        if share:
            yield Problem(
                "different masks",
                f"{first.image} and {other.image} are the same image, but {share:.1%} of the pixels of "
                f"{first.mask} and {other.mask} differ: keep the right one",
                (first, other),
            )
            return
    shown = " and ".join(str(pair.image) for pair in pairs[:3]) + (f" and {len(pairs) - 3} more" if pairs[3:] else "")
    if len(splits) > 1:
        yield Problem("leak", f"{shown} are the same image in {' and '.join(sorted(splits))}: keep it in one", pairs)
    else:
        yield Problem("same image", f"{shown} are the same image: keep one", pairs)


def _identical(everything: list[Known]) -> list[list[int]]:
    """Groups of rows, of images whose size, sums and thumbnails are all the same; constant ones are left out."""
    groups = defaultdict(list)
    for row, (_, facts) in enumerate(everything):
        if facts.low < facts.high:
            groups[facts.height, facts.width, facts.sums, facts.squares, facts.thumbnail].append(row)
    return [group for group in groups.values() if len(group) > 1]


def _nearly_identical(
    everything: list[Known], groups: list[list[int]], labels: LabelMap, keep_alpha: bool
) -> Iterator[Problem]:
    """Images that are the same but for noise, compression or size, with masks that are not."""
    repeated = {row for group in groups for row in group[1:]}
    singles = [one for row, one in enumerate(everything) if row not in repeated and one[1].low < one[1].high]
    if len(singles) < 2:
        return
    thumbnails = _standardised(facts.thumbnail for _, facts in singles)
    masks = np.array([np.frombuffer(facts.mask_thumbnail, np.uint8) for _, facts in singles]).astype(np.float32) / 255
    looks = 0
    for first, second in _alike(thumbnails):
        if np.abs(masks[first] - masks[second]).mean() >= 5 * MASKS_DIFFER:
            looks += 1
            if looks > MOST_LOOKS:
                return
            yield from _second_look(singles[first][0], singles[second][0], labels, keep_alpha)


def _alike(points: np.ndarray) -> Iterator[tuple[int, int]]:
    """(n, 64) of length 1 -> pairs of rows whose product is above NEARLY.

    Such points lie so close that along any one direction they do too: sorted along the one in which they are spread
    most, each is compared with its neighbours only.
    """
    along = points @ np.linalg.eigh(points.T @ points)[1][:, -1]
    order = np.argsort(along, kind="stable")
    points, along = points[order], along[order]
    reach = (2 - 2 * NEARLY) ** 0.5
    for start in range(0, len(points), 512):
        rows = points[start : start + 512]
        end = np.searchsorted(along, along[start + len(rows) - 1] + reach, side="right")
        likeness = rows @ points[start:end].T
        found = np.flatnonzero(likeness.ravel() > NEARLY)
        row, column = found // likeness.shape[1], found % likeness.shape[1]
        apart = column > row  # each pair once, and none with itself
        first, second = order[start + row[apart]], order[start + column[apart]]
        yield from zip(np.minimum(first, second).tolist(), np.maximum(first, second).tolist(), strict=True)


def _second_look(first: Pair, second: Pair, labels: LabelMap, keep_alpha: bool) -> Iterator[Problem]:
    a, b = (read_image(pair.image, keep_alpha)[0].astype(np.float32) for pair in (first, second))
    if a.shape != b.shape or np.corrcoef(a.ravel(), b.ravel())[0, 1] < NEARLY:
        return
    share = _difference(first, second, labels)
    if share > 5 * MASKS_DIFFER:
        yield Problem(
            "different masks",
            f"{first.image} and {second.image} are nearly the same image, but {share:.1%} of the pixels of "
            f"{first.mask} and {second.mask} differ: keep the right one",
            (first, second),
        )


def _difference(first: Pair, second: Pair, labels: LabelMap) -> float:
    """The share of pixels that the masks of two pairs have in different classes."""
    a, b = (labels.encode(read_mask(pair.mask)) for pair in (first, second))
    return float((a != b).mean()) if a.shape == b.shape else 1.0


def _inverted(everything: list[Known]) -> Iterator[Problem]:
    """Masks that fit the rest better with foreground and background exchanged.

    Three figures of each mask (share of foreground, the same along the border, and how much brighter the foreground is
    than the background), each compared with the median and the spread of all.
    """
    if len(everything) < LEAST_FOR_INVERTED:
        return
    masks = np.array([np.frombuffer(facts.mask_thumbnail, np.uint8) for _, facts in everything]) / 255
    images = _standardised(facts.thumbnail for _, facts in everything)
    share = masks.mean(1)
    edge = np.ones((THUMBNAIL, THUMBNAIL), bool)
    edge[1:-1, 1:-1] = False
    border = masks[:, edge.ravel()].mean(1)
    inside = (images * masks).sum(1) / np.maximum(masks.sum(1), 1e-6)
    outside = (images * (1 - masks)).sum(1) / np.maximum((1 - masks).sum(1), 1e-6)
    contrast = inside - outside
    odds = np.zeros(len(everything))
    for figure, inverted, least in ((share, 1 - share, 0.08), (border, 1 - border, 0.08), (contrast, -contrast, 0.03)):
        centre = np.median(figure)
        spread = max(1.5 * float(np.median(np.abs(figure - centre))), least)
        # Cut at three deviations, so that no figure decides alone.
        distances = [np.minimum(np.abs(values - centre) / spread, 3.0) for values in (figure, inverted)]
        odds += (distances[0] ** 2 - distances[1] ** 2) / 2
    partly = (share > 0) & (share < 1)
    for index in np.flatnonzero((odds > INVERTED_ODDS) & partly):
        pair = everything[index][0]
        yield Problem(
            "inverted mask",
            f"{pair.mask} looks inverted: {share[index]:.0%} of it is foreground, where half of the masks have less "
            f"than {np.median(share):.0%}; look at it, and exchange its values",
            (pair,),
        )


def _standardised(thumbnails: Iterable[bytes]) -> np.ndarray:
    """(n, 64) float32 of mean 0 and length 1 each, so that a product is a correlation."""
    values = np.array([np.frombuffer(one, np.uint8) for one in thumbnails], dtype=np.float32)
    values -= values.mean(1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def listed(problems: list[Problem], most: int) -> list[str]:
    """The problems a line each, the first few of each kind, and how many more there are."""
    by_kind = defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append(problem)
    lines = []
    for kind, some in by_kind.items():
        lines += [f"  {problem.text}" for problem in some[:most]]
        if len(some) > most:
            lines.append(f"  ... and {counted(len(some) - most, f'more {kind}')}")
    return lines
