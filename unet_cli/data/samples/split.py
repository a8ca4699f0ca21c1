"""Split of the pairs into training and validation part: drawn at random, or read from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path

import numpy as np

from unet_cli.data.series import stack_of
from unet_cli.data.source import Pair
from unet_cli.errors import UserError, explain
from unet_cli.system.files import whole_file
from unet_cli.system.schema import json_of

MAX_DRAWS, MIN_DRAWS = 400, 100
DRAWN_GROUPS = 1_000_000  # in all draws together: a split of 20,000 pairs then takes less than a second
MAX_LISTED = 20  # names in a message
MAX_NEAREST = 3  # names with a suggestion; each takes half a second among 20,000


@dataclass(frozen=True)
class Split:
    """The two parts, each in the order of the data set. how: a description of their origin. gap: pages that are in
    neither part, since they lie between the two."""

    train: list[Pair]
    val: list[Pair]
    how: str
    gap: list[Pair] = field(default_factory=list)


def draw_split(
    pairs: Sequence[Pair], content: np.ndarray, groups: Sequence[str], val_fraction: float, seed: int
) -> Split:
    """Draw the validation part: at least one group, with at least one left for training.

    content: (pairs, classes) pixels of each class in each mask. groups: a name for each pair; pairs with the same name
    stay together. If each pair is a group, exactly round(pairs * val_fraction) are drawn, at least 1 and not all. See
    `_draw_parts` for the criterion; a class that is in one group only goes to training, as long as groups are left for
    validation. Raises UserError if there are too few groups for both parts.
    """
    if val_fraction == 0:
        return Split(list(pairs), [], "no validation part")
    if len(set(groups)) < 2:
        available = "one pair" if len(pairs) < 2 else f"one group ({len(pairs):,} pairs of group '{groups[0]}')"
        raise UserError(
            f"{available} can't be both trained on and validated: add {'pairs' if len(pairs) < 2 else 'groups'}, "
            "or give --val-fraction 0 to train without validation"
        )
    count = min(max(1, round(len(pairs) * val_fraction)), len(pairs) - 1)
    part = _draw_parts(content, groups, [count], seed)
    return _split(pairs, part == 0, _how_drawn(pairs, groups, seed))


def draw_fold(
    pairs: Sequence[Pair], content: np.ndarray, groups: Sequence[str], folds: int, fold: int, seed: int
) -> Split:
    """Divide the pairs into `folds` parts, of which the `fold`th, counted from 1, is the validation part.

    The parts depend on the seed but not on `fold`, so that each pair is in the validation part of exactly one fold. If
    each pair is a group, the sizes of the parts differ by at most one. content, groups: see `draw_split`. Raises
    UserError if there is no such fold or there are fewer groups than folds.
    """
    if folds < 2 or not 1 <= fold <= folds:
        raise UserError(f"--fold is {fold}, of --folds {folds}: give 1 to {max(folds, 2)}, and at least 2 folds")
    available = len(set(groups))
    if folds > available:
        what = "pairs" if available == len(pairs) else "groups"
        raise UserError(
            f"--folds {folds}: there are only {available} {what}, and each fold needs one of its own: give fewer folds"
        )
    sizes = [len(pairs) // folds + (index < len(pairs) % folds) for index in range(folds)]
    part = _draw_parts(content, groups, sizes, seed)
    return _split(pairs, part == fold - 1, f"fold {fold} of {folds}, {_how_drawn(pairs, groups, seed)}")


def group_names(pairs: Sequence[Pair], pattern: str | None) -> list[str]:
    """The group of each pair, extracted from its name by a regular expression.

    The group is the content of the pattern's parentheses, joined by '/' if there are several, or the whole match.
    Without a pattern each pair is its own group, and so are the pages of a file and the slices of a DICOM series, since
    adjacent ones are nearly identical. Raises UserError for an invalid regular expression, and for names without a
    match.
    """
    if pattern is None:
        return [_own_group(pair) for pair in pairs]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group-by '{pattern}' is no regular expression: {error}") from error
    names = [_group_name(expression.search(pair.name)) for pair in pairs]
    strangers = [pair.name for pair, name in zip(pairs, names, strict=True) if not name]
    if strangers:
        raise UserError(
            f"--group-by '{pattern}' finds no group in {_listed(strangers)}: "
            "change the pattern so that it matches every name"
        )
    return names


def _own_group(pair: Pair) -> str:
    stack = stack_of(pair.image)[0]
    is_alone = stack == (pair.image.path, "") and pair.image.page is None
    return pair.name if is_alone else "/".join(map(str, stack)).rstrip("/")


def write_split(path: Path, split: Split) -> None:
    """Write the names of both parts as JSON, to be read by `read_split`. Raises UserError."""
    plain = {
        "how": split.how,
        "train": [pair.name for pair in split.train],
        "val": [pair.name for pair in split.val],
        **({"gap": [pair.name for pair in split.gap]} if split.gap else {}),
    }
    with whole_file(path) as file:
        # ASCII with escapes preserves file names that are invalid Unicode.
        file.write(json.dumps(plain, indent=1).encode("ascii") + b"\n")


def read_split(path: Path, pairs: Sequence[Pair], leave_out: bool, may_be_more: bool = False) -> Split:
    """Read the file of `write_split`; the parts are in the order of `pairs`.

    leave_out: ignore pairs that the file doesn't name, and names that are not in the data (any more). may_be_more:
    ignore pairs that the file doesn't name.

    Raises UserError for another kind of file, unknown names, a name in both parts, unnamed pairs, or an empty training
    part.
    """
    path = path / "split.json" if path.is_dir() else path
    train, val, gap = names_in(path)
    if both := sorted(train & val):
        raise UserError(f"{path} names {_listed(both)} in both train and val: keep each name in one of them")
    known = [pair.name for pair in pairs]
    named = train | val | gap
    if not leave_out and (unknown := sorted(named.difference(known))):
        raise UserError(
            f"{path} names pairs that are not in the data: {_listed(_with_nearest(unknown, known))}: "
            "change or remove these names, or give the data that the split was made for"
        )
    unnamed = [name for name in known if name not in named]
    if unnamed and not (leave_out or may_be_more):
        raise UserError(
            f"{path} doesn't assign {_listed(unnamed)} to a part: add to train or val, or leave out with --skip-bad"
        )
    if not train:
        raise UserError(f"{path} names no pair to train on: move some names from val to train")
    return Split(
        [pair for pair in pairs if pair.name in train],
        [pair for pair in pairs if pair.name in val],
        f"read from {path}",
        [pair for pair in pairs if pair.name in gap - train - val],
    )


def _draw_parts(content: np.ndarray, groups: Sequence[str], val_sizes: Sequence[int], seed: int) -> np.ndarray:
    """(pairs,) int: the part of each pair. Part i, of about val_sizes[i] pairs, is a validation part.

    The rest, if val_sizes leaves one, is a further part that is always trained on. The best of some hundred random
    partitions is chosen: the one whose validation parts are most similar to the rest of the data, see `_cost`.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    content = content.astype(np.int64)  # integer sums are exact in any order
    features = np.concatenate([content, content > 0, np.ones((len(content), 1), np.int64)], axis=1)
    of_group = np.zeros((len(names), features.shape[1]), np.int64)  # pixels of each class, pairs with it, pairs
    np.add.at(of_group, group_of, features)

    needed = np.zeros(len(names), bool)
    has_rest = sum(val_sizes) < len(groups)
    if has_rest:
        holds = of_group[:, : content.shape[1]] > 0
        needed |= holds[:, holds.sum(0) == 1].any(1)  # the only groups of a class come last, in the training part

    draw = np.random.default_rng(seed)

    def partition() -> tuple[tuple[int, int, float], np.ndarray, np.ndarray]:
        order = draw.permutation(len(names))
        order = order[np.argsort(needed[order], kind="stable")]
        part = _fill(of_group[order, -1], val_sizes, has_rest)
        sums = np.add.reduceat(of_group[order], np.searchsorted(part, np.arange(part[-1] + 1)))
        return _cost(sums[: len(val_sizes)], sums.sum(0), val_sizes), order, part

    draws = min(max(DRAWN_GROUPS // len(names), MIN_DRAWS), MAX_DRAWS)
    _, order, part = min((partition() for _ in range(draws)), key=itemgetter(0))
    return part[np.argsort(order)][group_of]


def _fill(sizes: np.ndarray, val_sizes: Sequence[int], has_rest: bool) -> np.ndarray:
    """Fill the parts with groups of `sizes` pairs, in order -> (groups,) int, the part of each, ascending.

    A group belongs to the part in which its midpoint lies. No part stays empty, however large the groups are.
    """
    parts = len(val_sizes) + has_rest
    position = np.arange(len(sizes))
    middle = np.cumsum(sizes) - sizes / 2
    part = np.minimum(np.searchsorted(np.cumsum(val_sizes), middle, side="right"), parts - 1)
    part = position + np.minimum.accumulate(np.minimum(part - position, 0))  # no part is skipped
    return np.maximum(part, position + parts - len(sizes))  # and each of the last parts gets a group


def _cost(val: np.ndarray, everything: np.ndarray, val_sizes: Sequence[int]) -> tuple[int, int, float]:
    """Dissimilarity of the parts, compared lexicographically: number of classes missing in training, number missing in
    validation, and the sum of the relative differences of class frequencies, by pixels and by pairs, and of the wanted
    sizes.

    val: (parts, 2 * classes + 1) pixels of each class, pairs with it, and pairs; everything: the same of all data.
    """
    train = everything - val
    classes = len(everything) // 2
    unlike = _relative_differences(_shares(val), _shares(train)).sum()
    unlike += _relative_differences(val[:, -1], np.asarray(val_sizes)).sum()
    # Rounded, so that equal partitions have the same cost in any order of floating-point summation.
    return int((train[:, :classes] == 0).sum()), int((val[:, :classes] == 0).sum()), round(float(unlike), 9)


def _shares(sums: np.ndarray) -> np.ndarray:
    """(parts, 2 * classes + 1) as in `_cost` -> (parts, 2 * classes): class frequencies by pixels, then by pairs."""
    classes = sums.shape[1] // 2
    pixels, pairs = sums[:, :classes], sums[:, classes:-1]
    return np.concatenate([pixels / np.maximum(pixels.sum(1, keepdims=True), 1), pairs / sums[:, -1:]], axis=1)


def _relative_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| / (a + b): 0 for equal values, 1 if one is 0, so that rare classes count as much as frequent ones."""
    return np.abs(a - b) / np.maximum(a + b, 1e-12)


def _split(pairs: Sequence[Pair], is_val: np.ndarray, how: str) -> Split:
    train = [pair for pair, kept in zip(pairs, is_val, strict=True) if not kept]
    return Split(train, [pair for pair, kept in zip(pairs, is_val, strict=True) if kept], how)


def _how_drawn(pairs: Sequence[Pair], groups: Sequence[str], seed: int) -> str:
    number = len(set(groups))
    return ("" if number == len(pairs) else f"by {number:,} groups, ") + f"drawn with --seed {seed}"


def _group_name(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    return "/".join(part for part in match.groups() if part) if match.groups() else match[0]


def names_in(path: Path) -> tuple[set[str], set[str], set[str]]:
    """The names in train, val and gap of a file of `write_split`. Raises UserError."""
    try:
        plain = json_of(path.read_bytes())
    except OSError as error:
        raise explain(error, path) from error
    except ValueError as error:  # invalid JSON or invalid encoding
        raise UserError(f"{path} is not JSON ({error}): give the split.json of a run") from error
    parts = (
        [plain.get(key, [] if key == "gap" else None) for key in ("train", "val", "gap")]
        if isinstance(plain, dict)
        else [None]
    )
    if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in parts):
        raise UserError(
            f'{path} is not a split: it has to hold {{"train": [names], "val": [names]}}, like the split.json of a run'
        )
    train, val, gap = (set(part or ()) for part in parts)
    return train, val, gap


def _with_nearest(unknown: Sequence[str], known: Sequence[str]) -> list[str]:
    """Unknown names, the first few with a suggestion."""
    nearest = [get_close_matches(name, known, n=1) for name in unknown[:MAX_NEAREST]]
    hints = [f" (did you mean '{near[0]}'?)" if near else "" for near in nearest]
    return [name + hint for name, hint in zip(unknown, hints, strict=False)] + list(unknown[MAX_NEAREST:])


def _listed(names: Sequence[str]) -> str:
    """All names, or the first few and the number of the others."""
    shown = ", ".join(names[:MAX_LISTED])
    return shown + (f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else "")
