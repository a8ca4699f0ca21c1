"""Examine a data folder: read every pair once, and find all problems at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from unet_cli.config.data import DataConfig
from unet_cli.config.model import IGNORED
from unet_cli.data.check.card import Card, refusal
from unet_cli.data.check.facts import Facts, Known, flat
from unet_cli.data.check.problems import Problem, odd_things
from unet_cli.data.check.reading import size_mismatch
from unet_cli.data.check.recall import read_all
from unet_cli.data.folder.flags import one_class_options, swapped
from unet_cli.data.folder.layout import Layout, holds_volumes, of_volumes, redrawn
from unet_cli.data.formats import is_volume_file
from unet_cli.data.imagefile import read_image
from unet_cli.data.labels import (
    ClassSpec,
    LabelMap,
    Overlap,
    ValueStats,
    find_labels,
    may_overlap,
    objects_or_classes,
    overlaps,
    parse_classes,
    single,
    spec_of,
    with_background,
)
from unet_cli.data.source import Source, spread
from unet_cli.errors import UserError
from unet_cli.system.console import Console, counted

MIN_OF_PHOTOGRAPHS, MAX_OF_MASKS = 64, 16  # distinct values: minimum in photographs, maximum in masks
LOOKS = 4  # images whose values are counted if masks look like photographs
STRANGE_VALUES = "no class"  # a kind of problem: values that no class has
DOUBTFUL = "objects or classes"  # a kind of problem: numbers that may be either


def examine(
    layout: Layout,
    config: DataConfig,
    console: Console,
    spec: ClassSpec | None = None,
    as_volumes: bool | None = None,
) -> Card:
    """Read every pair once, or take it from the cache, and describe the data set.

    spec: class specification that replaces that of the settings. as_volumes: whether each file is a volume, rather than
    an image or a stack of them; by default if its format says so, see `holds_volumes`. Raises a UserError that lists
    all problems if no pair is usable.
    """
    spec = spec or parse_classes(config.classes, config.ignore_index)
    layout, spec = _with_classes(layout, spec)
    masks = [pair.mask for pairs in layout.splits.values() for pair in pairs if not pair.mask.is_blank]
    spec = replace(spec, is_exact=all(is_volume_file(mask.path) for mask in masks))
    if as_volumes is False and config.volume_folders:
        raise UserError("--volume-folders makes volumes, which take a network for volumes: --model unet3d")
    if holds_volumes(layout) if as_volumes is None else as_volumes:
        layout = of_volumes(layout)
    known, problems = _read(layout, config, console)
    if as_volumes and not config.volume_folders:
        _refuse_single_slices(flat(known))
    _stop_where_nothing_is_left(known, layout, problems, config.skip_bad)
    layout, spec = _with_names(layout, spec, [facts.values for pair, facts in flat(known) if not pair.mask.is_blank])
    if not spec.names:
        _refuse_swapped(known["train"], layout)
    held = [facts.values for pair, facts in known["train"] if not pair.mask.is_blank]
    try:
        labels = find_labels([single(stats) for stats in held], spec)
    except UserError as error:
        if not problems:
            raise
        raise refusal(layout, [*problems, Problem("classes", str(error), refuses=True)], config.skip_bad) from error

    shared = overlaps(held, len(layout.classes))
    if may_overlap(labels, shared) if spec.overlapping is None else spec.overlapping:
        labels = replace(labels, overlapping=True)
    known = {split: [_as_background(one, labels) for one in part] for split, part in known.items()}
    everything = flat(known)
    contents, strangers = labels.count_classes([facts.values for _, facts in everything])
    is_train = np.array([split == "train" for split, part in known.items() for _ in part])
    is_blank = np.array([pair.mask.is_blank for pair, _ in everything])
    labels = with_background(labels, contents[is_train & ~is_blank].sum(0), config.background)
    if not labels.background and is_blank.any():
        raise UserError(
            f"--missing-masks background: none of the classes {', '.join(labels.names)} is background, which missing "
            "masks would be: say that the first one is with --background first, or draw these masks"
        )
    strange = [*_strange_values(everything, strangers, labels)]
    problems += strange
    known = _without(known, strange)
    _stop_where_nothing_is_left(known, layout, problems, config.skip_bad)

    contents = np.delete(contents, sorted({row for row, *_ in strangers}), axis=0)
    doubts = []
    if not spec.names and labels.may_be_objects([facts.values for _, facts in known["train"]]):
        doubts.append(Problem(DOUBTFUL, objects_or_classes(labels), refuses=True))
    if config.classes is None and not layout.tool:
        doubts += _versions(known, layout, shared)
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


def _with_classes(layout: Layout, spec: ClassSpec) -> tuple[Layout, ClassSpec]:
    """Where masks have a file for each class, or are drawn, their names and values; they get the numbers of the classes
    that are asked for, as those of a network, by their names."""
    if not layout.classes:
        return layout, spec
    if spec.names and set(layout.classes) <= set(spec.names[1:]):
        layout = redrawn(layout, spec.names)
        spec = replace(spec, values=tuple(range(len(spec.names))), colour=False)
    if layout.ignores and spec.ignore is None:
        spec = replace(spec, ignore=IGNORED)
    if not spec.names:
        values = tuple(range(len(layout.classes) + 1))
        spec = replace(spec, names=("background", *layout.classes), values=values)
    return layout, spec


def _with_names(layout: Layout, spec: ClassSpec, masks: list[ValueStats]) -> tuple[Layout, ClassSpec]:
    """The names of a labelmap.txt with their colours, or of a dataset.json with their values, where the masks hold no
    others."""
    if spec.names or not (len(layout.colours) > 1 or layout.numbers):
        return layout, spec
    if layout.numbers:
        file, what, told = "dataset.json", "values", spec_of(dict(layout.numbers), "dataset.json", spec.ignore)
    else:
        names, values = zip(*layout.colours, strict=True)
        file, what, told = "labelmap.txt", "colours", replace(spec, names=names, values=values, colour=True)
    with suppress(UserError):
        if not find_labels(masks, told).count_classes(masks)[1]:
            return layout, told
    note = f"{file} is not used: the masks hold other {what}"
    return replace(layout, notes=(*layout.notes, note)), spec


def _read(layout: Layout, config: DataConfig, console: Console) -> tuple[dict[str, list[Known]], list[Problem]]:
    """The facts of all readable and consistent pairs, by split, and the problems of the others."""
    problems: list[Problem] = []
    known: dict[str, list[Known]] = {split: [] for split in layout.splits}
    todo = [(split, pair) for split, pairs in layout.splits.items() for pair in pairs]
    if "val" in layout.splits:  # names must be unique in split.json
        todo = [(split, replace(pair, name=f"{split}/{pair.name}")) for split, pair in todo]
    read = read_all([pair for _, pair in todo], layout.root, config.keep_alpha, console, config.workers)
    for (split, pair), found in zip(todo, read, strict=True):
        if isinstance(found, UserError):
            problems.append(Problem("bad file", str(found), (pair,), refuses=True))
        else:
            known[split] += found
    problems += [Problem("no partner", text, refuses=True) for text in layout.left]  # after damaged files
    misfits = [*_other_sizes(known), *_other_kinds(known, config.keep_alpha)]
    return _without(known, misfits), problems + misfits


def _refuse_single_slices(known: list[Known]) -> None:
    """Raises UserError where volumes are wanted and all files are images."""
    if known and all(facts.depth == 1 and not is_volume_file(pair.image.path) for pair, facts in known):
        raise UserError(
            f"{known[0][0].image} is an image, as all others are, and a network for volumes takes NIfTI, or TIFF and "
            ".npy with several slices. If each folder holds the slices of one volume, say so with --volume-folders; "
            "else take a network for images"
        )


def _stop_where_nothing_is_left(
    known: dict[str, list[Known]], layout: Layout, problems: list[Problem], skip_bad: bool
) -> None:
    """Raises UserError if no training pair, or no pair of a given val split, is usable."""
    if all(pair.mask.is_blank for pair, _ in known.get("train", [])):
        raise refusal(layout, problems, skip_bad)
    if skip_bad and known.get("val") == []:  # else a validation part would be drawn from the training part
        raise refusal(layout, problems, skip_bad, "No pair of the val folder is left without them.")


def _not_found(known: dict[str, list[Known]], contents: np.ndarray, labels: LabelMap) -> Iterable[Problem]:
    """Problems of classes that no mask contains."""
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


def _refuse_swapped(train: list[Known], layout: Layout) -> None:
    """Raises UserError if images have as few values as masks, and masks as many as photographs."""
    shades = [len(facts.values.counts) for pair, facts in train if not pair.mask.is_blank]
    if not shades or sorted(shades)[len(shades) // 2] <= MIN_OF_PHOTOGRAPHS:
        return
    levels = [len(np.unique(read_image(pair.image))) for pair, _ in spread(train, LOOKS)]
    if max(levels) > MAX_OF_MASKS:
        return
    pair, facts = train[0]
    raise UserError(
        f"{layout.root}: are images and masks swapped? {pair.image} holds {counted(levels[0], 'value')}, as masks do, "
        f"and {pair.mask} {len(facts.values.counts):,}, as photographs do. If so, say it with {swapped(layout)}; if "
        "the masks number their objects, with --classes background,object"
    )


def _as_background(one: Known, labels: LabelMap) -> Known:
    """A pair without a mask, as if it had one with the background value only."""
    pair, facts = one
    if not pair.mask.is_blank:
        return one
    value = labels.values[0] + (labels.reading == "planes from 0")
    count = {value: facts.pixels}
    return pair, replace(facts, values=ValueStats(count, {}, colour=labels.kind == "colours"))


def _other_sizes(known: dict[str, list[Known]]) -> Iterable[Problem]:
    """Masks of another size than their image, unless all of the set have the same scale factor."""
    everything = [one for one in flat(known) if not one[0].mask.is_blank]
    scales = Counter(facts.mask_scale for _, facts in everything)
    is_one = 1.0 not in scales and len(everything) > 1
    usual = scales.most_common(1)[0][0] if is_one else 1.0
    for pair, facts in everything:
        if facts.mask_scale != usual:
            yield Problem("bad file", size_mismatch(pair, facts), (pair,), refuses=True)


def _versions(known: dict[str, list[Known]], layout: Layout, shared: Sequence[Overlap]) -> Iterable[Problem]:
    """Classes in separate files that mark nearly the same pixels."""
    for one in shared:
        if one.are_versions:
            names = [layout.classes[number - 1] for number in one.numbers]
            pair, _ = max(flat(known), key=lambda each: each[1].overlap / each[1].pixels)
            lines = "".join(f"\n    {option}" for option in one_class_options(layout))
            yield Problem(
                "overlap", f"{' and '.join(names)} mark {one.pixels / one.union:.0%} of their pixels both, most in "
                f"{pair.mask}: are they two versions of one mask? If so, take one of them:{lines}\nIf they are "
                f"different classes, name them: --classes background,{','.join(layout.classes)}", refuses=True,
            )  # fmt: skip


def _other_kinds(known: dict[str, list[Known]], keep_alpha: bool) -> Iterable[Problem]:
    """Images of another bit depth, or with channels that can't be converted to those of most training images."""
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
    """A key for compatible numbers of channels: gray and colour are compatible (1), with alpha as well (2); other
    numbers only with themselves."""
    together = {1: 1, 3: 1, 2: 2, 4: 2} if keep_alpha else {1: 1, 3: 1}
    return facts.channels if facts.layered else together.get(facts.channels, facts.channels)


def _strange_values(
    everything: list[Known], strangers: list[tuple[int, int, int]], labels: LabelMap
) -> Iterable[Problem]:
    """Values or colours that belong to no class: all in one message, with counts, an example file and the pairs."""
    counts, example = Counter[int](), dict[int, Source]()
    pairs = dict.fromkeys(everything[row][0] for row, *_ in strangers)
    for row, value, count in strangers:
        counts[value] += count
        example.setdefault(value, everything[row][0].mask)
    if counts:
        unit = "voxel" if everything[0][1].depth else "pixel"
        shown = [
            f"{labels.spell(value)} ({counted(count, unit)}, as in {example[value]})"
            for value, count in counts.most_common(10)
        ]
        more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
        soft = ", as soft edges and JPEG make them: save masks as PNG, without smoothing" if len(counts) > 100 else ""
        yield Problem(
            STRANGE_VALUES, f"{counted(len(pairs), 'mask')} with values of no class: {', '.join(shown)}{more}{soft}. "
            f"The {labels.describe()}. Correct the masks, name all classes in a --classes FILE.toml, or leave the "
            "pairs out with --skip-bad", tuple(pairs), refuses=True,
        )  # fmt: skip


def _without(known: dict[str, list[Known]], problems: Iterable[Problem]) -> dict[str, list[Known]]:
    bad = {pair for problem in problems for pair in problem.pairs}
    if not bad:
        return known
    return {split: [one for one in part if one[0] not in bad] for split, part in known.items()}
