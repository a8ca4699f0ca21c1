"""The flags by which a message says how to read a data set otherwise."""

from __future__ import annotations

from unet_cli.data.folder.layout import Layout
from unet_cli.data.folder.name_rules import Rule, as_text, parse_pair
from unet_cli.data.folder.path_rules import option_for
from unet_cli.data.folder.walk import walk


def swapped(layout: Layout) -> str:
    """The flags that exchange images and masks."""
    if layout.beside:
        rule = parse_pair(layout.beside[0])
        return f"--pair '{as_text(Rule(rule.mask, rule.image))}'"
    pair = layout.splits["train"][0]
    return f"--images {pair.mask.path.parent} --masks {pair.image.path.parent}"


def one_class_options(layout: Layout) -> list[str]:
    """For classes in files of their own, the --pair for each single class."""
    inside = list(walk(layout.root))
    options = []
    for number in range(1, len(layout.classes) + 1):
        pairs = [
            (pair.image.path, pair.mask.paths[pair.mask.classes.index(number)])
            for part in layout.splits.values()
            for pair in part
            if number in pair.mask.classes
        ]
        options.append(option_for(layout.root, pairs, inside))
    return [option for option in options if option]
