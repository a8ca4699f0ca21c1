"""The data set card in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from unet_cli.config.spacing import describe_spacing
from unet_cli.data.check.facts import value_range
from unet_cli.data.formats import is_volume_file
from unet_cli.data.imagefile import REMEDIES
from unet_cli.data.labels import count_strays, describe_overlaps, overlaps, remarks
from unet_cli.system.console import counted

if TYPE_CHECKING:
    from unet_cli.data.check.card import Card

MAX_CLASSES = 12  # in a line


def summary(card: Card) -> list[str]:
    """A summary in a few lines."""
    everything = card.everything
    image, pixel = words_of(card)
    pairs = ", ".join(f"{split} {len(part)}" for split, part in card.known.items())
    sizes = Counter(facts.size for _, facts in everything)
    shown = ", ".join(f"{size} ({count:,})" for size, count in sizes.most_common(4))
    if len(sizes) > 4:
        sides = [side for _, facts in everything for side in facts.sides]
        shown = f"{len(sizes)} sizes, sides of {min(sides)} to {max(sides)} {pixel}s"
    shown += _spacings(card) if card.is_volumetric else ""
    low, high = value_range([facts for _, facts in everything])
    return [
        f"{card.layout.root}: {counted(len(everything), 'pair')} ({pairs}), {card.layout.rule}",
        f"  {image + 's':8} {shown}; {_colour(card)}, {_depth(card)}, values {low:g} to {high:g}",
        f"  masks    {card.labels.describe()}{_between(card)}",
        f"  {pixel + 's':8} {', '.join(f'{name} {share:.1%}' for name, share in card.shares()[:MAX_CLASSES])}"
        + ", ..." * (card.labels.num_classes > MAX_CLASSES),
        *(f"  note     {note}" for note in notes_on(card)),
    ]


def tables(card: Card) -> list[str]:
    """What describe() omits: all sizes, and a table of the classes."""
    image, pixel = words_of(card)
    sizes = Counter(facts.size for _, facts in card.everything)
    images = (card.contents > 0).sum(0)
    width = max(10, *(len(name) for name in card.labels.names))
    empty = card.empty_masks()
    return [
        *(f"  size     {size}: {counted(count, image)}" for size, count in sizes.most_common(8)),
        *([f"  size     and {len(sizes) - 8} more"] if len(sizes) > 8 else []),
        f"  {'class':{width}}   {pixel}s   in {image}s",
        *(
            f"  {name:{width}} {share:8.2%}   {count:,} of {len(card.contents):,}"
            for (name, share), count in zip(card.shares(), images, strict=True)
        ),
        f"  empty masks: {len(empty):,}" + (f", such as {empty[0].mask}" if empty else ""),
    ]


def notes_on(card: Card) -> list[str]:
    """Decisions and conversions that the user can change."""
    image, pixel = words_of(card)
    facts = [facts for _, facts in card.everything]
    notes = list(card.layout.notes)
    notes += [
        f"{note} in {counted(count, image)}" + (f" ({REMEDIES[note]})" if note in REMEDIES else "")
        for note, count in Counter(n for f in facts for n in f.notes).items()
    ]
    gray = sum(one.channels < 3 for one in facts)
    if card.in_channels < 3 and any(one.stored >= 3 and one.channels < one.stored for one in facts):
        notes.append("gray images stored as RGB are trained on as one channel")
    elif card.in_channels >= 3 and gray:
        notes.append(f"{counted(gray, 'gray image')} among {len(facts):,}: gray is repeated to three channels")
    if any(one.layered for one in facts):
        notes.append("the pages of an image's file are its channels, since its mask has one page")
    if len(card.layout.classes) > 1 and not any(one.overlap for one in facts):
        notes.append(f"{', '.join(card.layout.classes)} overlap nowhere")
    if shared := describe_overlaps(card.labels, overlaps([one.values for one in facts], len(card.layout.classes))):
        notes.append(shared)
    scaled = [one for one in facts if one.mask_size is not None]
    if scaled:
        mask_height, mask_width = scaled[0].mask_size or (0, 0)
        notes.append(
            f"masks differ in size from their images by a constant factor, such as {mask_width}x{mask_height} "
            f"for {scaled[0].size}: resized to the image's size by nearest neighbour"
        )
    axes = Counter(one.axes for one in facts if one.axes)
    if len(axes) > 1:
        shown = ", ".join(f"{name} ({count:,})" for name, count in axes.most_common())
        notes.append(f"volumes are stored in different orientations, {shown}: all are read as LPS, slices going up")
    told = sum(one.spacing is not None for one in facts)
    if card.is_volumetric and 0 < told < len(facts):
        untold = counted(len(facts) - told, "volume")
        notes.append(f"spacing of voxels is unknown in {untold} of {len(facts):,}")
    notes += [line.replace("pixel", pixel) for line in remarks(card.labels, [one.values for one in facts])]
    notes += [f"left out: {problem.text}" for problem in card.left_out]
    return notes


def how_read(card: Card, model: str = "unet3d") -> list[str]:
    """A line on whether a file of several pages or slices is one volume or several images, and how to have it
    otherwise; none where there is no choice. model: the network for volumes."""
    are_nifti = any(is_volume_file(pair.image.path) for pair, _ in card.everything)
    if card.is_volumetric:
        return [f"  network  NIfTI files are volumes: {model}; --model unet trains on their slices"] * are_nifti
    if not any(pair.image.page is not None for pair, _ in card.everything):
        return []
    pages = "Slices of NIfTI files" if are_nifti else "Pages of a file"
    return [f"  network  {pages} are images; --model unet3d takes each file as a volume"]


def words_of(card: Card) -> tuple[str, str]:
    """What an image and its smallest part are called, in the singular."""
    return ("volume", "voxel") if card.is_volumetric else ("image", "pixel")


def _spacings(card: Card) -> str:
    """The spacing of voxels, or its range, after a comma; '' where no file tells it."""
    found = Counter(describe_spacing(facts.spacing) for _, facts in card.everything if facts.spacing)
    if not found:
        return ""
    if len(found) == 1:
        return f", voxels of {next(iter(found))}"
    steps = np.array([facts.spacing for _, facts in card.everything if facts.spacing])
    middle = tuple(np.median(steps, axis=0).tolist())
    low, high = (describe_spacing(tuple(ends.tolist())) for ends in (steps.min(0), steps.max(0)))
    return f", voxels of {describe_spacing(middle)} in the median ({low} to {high})"


def _depth(card: Card) -> str:
    return {"uint8": "8 bits", "uint16": "16 bits", "float32": "floating point"}[card.dtype]


def _colour(card: Card) -> str:
    channels = card.in_channels - card.keep_alpha
    alpha = " and alpha" * card.keep_alpha
    usual = {1: "gray"} if card.is_volumetric else {1: "gray", 3: "RGB"}
    return usual.get(channels, f"{channels} channels") + alpha


def _between(card: Card) -> str:
    """The share of pixels between the two values of soft masks."""
    if card.labels.kind != "soft":
        return ""
    strays, _ = count_strays(card.labels, [facts.values for _, facts in card.everything])
    share = strays / sum(facts.pixels for _, facts in card.everything)
    return f"; {share:.2%} of the pixels lie between {card.labels.values[0]} and " + (
        f"{card.labels.values[1]}, from soft edges or JPEG"
    )
