"""Folder -> card: every pair is read once, and everything that is wrong is found at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from unet_cli.config import DataConfig
from unet_cli.console import Console, counted
from unet_cli.data.card import Card, refusal
from unet_cli.data.facts import Facts, Known, flat, read_all
from unet_cli.data.labels import ClassSpec, LabelMap, find_labels, parse_classes, question, with_background
from unet_cli.data.layout import Layout
from unet_cli.data.problems import Problem, odd_things
from unet_cli.data.source import Source
from unet_cli.errors import UserError

STRANGE_VALUES = "no class"  # a kind of problem: values that no class has
DOUBTFUL = "objects or classes"  # a kind of problem: numbers that may be either


def examine(layout: Layout, config: DataConfig, console: Console, spec: ClassSpec | None = None) -> Card:
    """Read every pair once, or remember it, and say what the set is.

    spec: of the classes, in place of what the settings say. Raises UserError that lists every problem at once where
    nothing is left that a card could be made of.
    """
    spec = spec or parse_classes(config.classes, config.ignore_index)
    known, problems = _read(layout, config, console)
    _stop_where_nothing_is_left(known, layout, problems, config.skip_bad)
    try:
        labels = find_labels([facts.values for _, facts in known["train"]], spec)
    except UserError as error:
        if not problems:
            raise
        raise refusal(layout, [*problems, Problem("classes", str(error), refuses=True)], config.skip_bad) from error

    everything = flat(known)
    contents, strangers = labels.count_classes([facts.values for _, facts in everything])
    is_train = np.array([split == "train" for split, part in known.items() for _ in part])
    labels = with_background(labels, contents[is_train].sum(0), config.background)
    strange = [*_strange_values(everything, strangers, labels)]
    problems += strange
    known = _without(known, strange)
    _stop_where_nothing_is_left(known, layout, problems, config.skip_bad)

    contents = np.delete(contents, sorted({row for row, *_ in strangers}), axis=0)
    doubts = []
    if not spec.names and labels.may_be_objects([facts.values for _, facts in known["train"]]):
        doubts.append(Problem(DOUBTFUL, question(labels), refuses=True))
    odd = [*doubts, *_not_found(known, contents, labels), *odd_things(known, labels, config.keep_alpha)]
    facts = known["train"][0][1]
    return Card(
        layout=layout,
        known=known,
        labels=labels,
        problems=odd if config.skip_bad else problems + odd,
        contents=contents,
        in_channels=max(facts.channels for _, facts in known["train"]),
        dtype=facts.dtype,
        keep_alpha=config.keep_alpha and facts.channels in (2, 4),
        left_out=problems if config.skip_bad else [],
    )


def _read(layout: Layout, config: DataConfig, console: Console) -> tuple[dict[str, list[Known]], list[Problem]]:
    """The facts of all pairs that can be read and go together, by split, and why others can't."""
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
    return _without(known, misfits), problems + misfits


def _stop_where_nothing_is_left(
    known: dict[str, list[Known]], layout: Layout, problems: list[Problem], skip_bad: bool
) -> None:
    if not known.get("train"):
        raise refusal(layout, problems, skip_bad)
    if skip_bad and known.get("val") == []:  # another validation part than the user's must not be drawn
        raise refusal(layout, problems, skip_bad, "No pair of the val folder is left without them.")


def _not_found(known: dict[str, list[Known]], contents: np.ndarray, labels: LabelMap) -> Iterable[Problem]:
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
    ignored = any(labels.ignore in facts.values.counts for _, facts in flat(known))
    if labels.ignore is not None and not ignored:
        yield Problem("unseen class", f"no mask holds {labels.spell(labels.ignore)}, which is ignored: is it right?")


def _other_kinds(known: dict[str, list[Known]], keep_alpha: bool) -> Iterable[Problem]:
    """Images of another depth, or with channels that can't be converted to those of most training images."""
    everything = flat(known)
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
            STRANGE_VALUES, f"{counted(len(pairs), 'mask')} with what is no class: {', '.join(shown)}{more}{soft}. The "
            f"{labels.describe()}. Correct the masks, name all classes in a --classes FILE.toml, or leave the pairs "
            "out with --skip-bad", tuple(pairs), refuses=True,
        )  # fmt: skip


def _without(known: dict[str, list[Known]], problems: Iterable[Problem]) -> dict[str, list[Known]]:
    bad = {pair for problem in problems for pair in problem.pairs}
    if not bad:
        return known
    return {split: [one for one in part if one[0] not in bad] for split, part in known.items()}
