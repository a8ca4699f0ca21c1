"""Suspicious pairs of a readable data set: found in their statistics, and verified by reading the files again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from unet_cli.data.check.facts import Known, flat
from unet_cli.data.check.thumbnails import THUMBNAIL
from unet_cli.data.imagefile import filled, read_image
from unet_cli.data.labels import LabelMap
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Pair

NEARLY = 0.995  # minimum correlation of thumbnails, then of pixels, of nearly identical images
MASKS_DIFFER = 0.01  # minimum fraction of differing pixels; five times as much for nearly identical images
MAX_ALIKE = 100_000  # maximum pairs in a block; the frames of a movie may all be alike
MAX_LOOKS, MAX_LOOKS_AT_VOLUMES = 100, 10  # maximum pairs of images, or of volumes, that are read again
MIN_FOR_INVERTED = 8  # minimum pairs for a comparison of each mask with the others
INVERTED_ODDS = 6.0  # minimum log likelihood ratio of the inverted mask against the mask


@dataclass(frozen=True)
class Problem:
    """A problem of the data that the user should know.

    refuses: whether training can't use the pairs. kind: a short name, for programs and for counting.
    """

    kind: str
    text: str
    pairs: tuple[Pair, ...] = ()
    refuses: bool = False


def odd_things(known: dict[str, list[Known]], labels: LabelMap, keep_alpha: bool) -> Iterator[Problem]:
    """Suspicious pairs of a data set, by split, the worst problems first."""
    everything = flat(known)
    splits = [split for split, part in known.items() for _ in part]
    if labels.num_classes == 2 and labels.kind in ("values", "soft") and labels.ignore is None:
        yield from _inverted(everything)  # only for these is the upper half of the values the foreground
    groups = _identical(everything)
    for group in groups:
        yield from _repeated([everything[row] for row in group], {splits[row] for row in group}, labels)
    yield from _nearly_identical(everything, splits, groups, labels, keep_alpha)
    for pair, facts in everything:
        if facts.low == facts.high:
            yield Problem("constant image", f"{pair.image} is {facts.low:g} everywhere: replace it", (pair,))


def _repeated(group: list[Known], splits: set[str], labels: LabelMap) -> Iterator[Problem]:
    """Problems of a group of identical images: leaks between splits, differing masks, or else the repetition itself."""
    pairs = tuple(pair for pair, _ in group)
    (first, facts), *others = group
    shown = " and ".join(str(pair.image) for pair in pairs[:3]) + (f" and {len(pairs) - 3} more" if pairs[3:] else "")
    if len(splits) > 1:
        yield Problem("leak", f"{shown} are the same image in {' and '.join(sorted(splits))}: keep it in one", pairs)
    for other, other_facts in others:
        alike = facts.values == other_facts.values and facts.mask_thumbnail == other_facts.mask_thumbnail
        share = 0.0 if alike else _difference(first, other, labels)
        if share:
            yield _different_masks(first, other, share, "the same image")
            return
    if len(splits) == 1:
        yield Problem("same image", f"{shown} are the same image: keep one", pairs)


def _identical(everything: list[Known]) -> list[list[int]]:
    """Groups of rows whose images agree in size, sums and checksum; constant images are left out."""
    groups = defaultdict(list)
    for row, (_, facts) in enumerate(everything):
        if facts.low < facts.high:
            groups[facts.sides, facts.sums, facts.checksum].append(row)
    return [group for group in groups.values() if len(group) > 1]


def _nearly_identical(
    everything: list[Known], splits: list[str], groups: list[list[int]], labels: LabelMap, keep_alpha: bool
) -> Iterator[Problem]:
    """Images that differ only in noise, compression or brightness, but have different masks or splits."""
    repeated = {row for group in groups for row in group[1:]}
    rows = [row for row, one in enumerate(everything) if row not in repeated and one[1].low < one[1].high]
    if len(rows) < 2:
        return
    thumbnails = _standardised(everything[row][1].thumbnail for row in rows)
    masks = np.array([np.frombuffer(everything[row][1].mask_thumbnail, np.uint8) for row in rows]) / np.float32(255)
    parts = np.unique(splits, return_inverse=True)[1][rows]
    looks = 0
    most = MAX_LOOKS_AT_VOLUMES if everything[0][1].depth else MAX_LOOKS
    for first, second in _alike(thumbnails):
        differ = np.abs(masks[first] - masks[second]).mean(1) >= 5 * MASKS_DIFFER
        leaks = parts[first] != parts[second]
        for at in np.flatnonzero(differ | leaks):
            looks += 1
            if looks > most:
                return
            one, other = everything[rows[first[at]]][0], everything[rows[second[at]]][0]
            found = {splits[rows[first[at]]], splits[rows[second[at]]]}
            yield from _second_look(one, other, found, labels, keep_alpha)


def _alike(points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(n, 64) unit vectors -> the first and second rows of all pairs with a correlation above NEARLY, in blocks."""
    # Close vectors are close along any direction: sorted along the first principal axis, each needs comparison with its
    # neighbours only, not with all others.
    along = points @ np.linalg.eigh(points.T @ points)[1][:, -1]
    order = np.argsort(along, kind="stable")
    points, along = points[order], along[order]
    reach = (2 - 2 * NEARLY) ** 0.5  # maximum distance of unit vectors with that correlation
    for start in range(0, len(points), 512):
        rows = points[start : start + 512]
        end = np.searchsorted(along, along[start + len(rows) - 1] + reach, side="right")
        likeness = rows @ points[start:end].T
        found = np.flatnonzero(likeness.ravel() > NEARLY)[:MAX_ALIKE]
        row, column = found // likeness.shape[1], found % likeness.shape[1]
        apart = column > row  # each pair once, without self-pairs
        first, second = order[start + row[apart]], order[start + column[apart]]
        yield np.minimum(first, second), np.maximum(first, second)


def _second_look(first: Pair, second: Pair, splits: set[str], labels: LabelMap, keep_alpha: bool) -> Iterator[Problem]:
    a, b = (filled(read_image(pair.image, keep_alpha))[0][0].astype(np.float32) for pair in (first, second))
    if a.shape != b.shape or np.corrcoef(a.ravel(), b.ravel())[0, 1] < NEARLY:
        return
    if len(splits) > 1:
        where = " and ".join(sorted(splits))
        text = f"{first.image} and {second.image} are nearly the same image in {where}: keep it in one"
        yield Problem("leak", text, (first, second))
    share = _difference(first, second, labels)
    if share > 5 * MASKS_DIFFER:
        yield _different_masks(first, second, share, "nearly the same image")


def _different_masks(first: Pair, second: Pair, share: float, alike: str) -> Problem:
    return Problem(
        "different masks",
        f"{first.image} and {second.image} are {alike}, but {share:.1%} of the pixels of "
        f"{first.mask} and {second.mask} differ: keep the right one",
        (first, second),
    )


def _difference(first: Pair, second: Pair, labels: LabelMap) -> float:
    """The fraction of pixels with different classes in the masks of two pairs."""
    a, b = (labels.encode(read_mask(pair.mask)) for pair in (first, second))
    return float((a != b).mean()) if a.shape == b.shape else 1.0


def _inverted(everything: list[Known]) -> Iterator[Problem]:
    """Masks that fit the rest better with foreground and background exchanged.

    Three figures of each mask (share of foreground, the same along the border, and how much brighter the foreground is
    than the background), each compared with the median and the spread of all.
    """
    if len(everything) < MIN_FOR_INVERTED:
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
        # Clipped at three deviations, so that no single feature decides.
        distances = [np.minimum(np.abs(values - centre) / spread, 3.0) for values in (figure, inverted)]
        odds += (distances[0] ** 2 - distances[1] ** 2) / 2
    partly = (share > 0) & (share < 1)
    for index in np.flatnonzero((odds > INVERTED_ODDS) & partly):
        pair = everything[index][0]
        yield Problem(
            "inverted mask",
            f"{pair.mask} looks inverted: {share[index]:.0%} of it is foreground, where half of the masks have less "
            f"than {np.median(share):.0%}; check it, and exchange its values",
            (pair,),
        )


def _standardised(thumbnails: Iterable[bytes]) -> np.ndarray:
    """(n, 64) float32, each of mean 0 and length 1, so that dot products are correlations."""
    values = np.array([np.frombuffer(one, np.uint8) for one in thumbnails], dtype=np.float32)
    values -= values.mean(1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def listed(problems: list[Problem], most: int | None = None) -> list[str]:
    """A line for each problem; at most `most` of each kind, and the number of the others."""
    by_kind = defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append(problem)
    lines = []
    for kind, some in by_kind.items():
        lines += [f"  {problem.text}" for problem in some[:most]]
        if most is not None and len(some) > most:
            lines.append(f"  ... and {len(some) - most:,} more of this kind ({kind})")
    return lines
