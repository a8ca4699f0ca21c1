"""Rules that match image names with mask names, and their application to two lists of names.

Names are stems: paths below their folder, with '/', without extension. Nothing here accesses the disk.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from string import Formatter

from unet_cli.errors import UserError

HOW_TO_SAY = "paths are below the data folder, {id} is what the two have in common, * is anything"
# Except in fractions: 0.05 is not 0.5.
LEADING_ZEROS = re.compile(r"(?<!\d)(?<!\d\.)0+(?=\d)")
Key = tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """A template each for images and masks: names whose placeholders have the same values belong together.

    Placeholders are in braces as in `str.format`: '{id}_image'; '{}' matches anything and is not compared. loose:
    whether to ignore case, leading zeros of numbers, and the Unicode form of accents.
    """

    image: str
    mask: str
    loose: bool = False

    def describe(self) -> str:
        """The rule in words."""
        if not _placeholders(self.image):
            return "the only mask for the only image"
        same = self.image == self.mask == "{id}"
        words = (
            "images and masks of the same name" if same else f"mask {_shown(self.mask)} for image {_shown(self.image)}"
        )
        return words + (", whatever the case and the leading zeros" if self.loose else "")

    @cached_property
    def constants(self) -> tuple[str, str]:
        """The constant parts of the image's and of the mask's template."""
        image, mask = ("".join(text for text, *_ in Formatter().parse(side)) for side in (self.image, self.mask))
        return image, mask


SAME_NAME = Rule("{id}", "{id}")


@dataclass(frozen=True)
class Matching:
    """The result of a rule for two lists of names: (image, mask) pairs in the order of the images, and unmatched
    names."""

    rule: Rule
    pairs: list[tuple[str, str]]
    images_left: list[str]
    masks_left: list[str]

    @property
    def complete(self) -> bool:
        """Whether every name is paired."""
        return bool(self.pairs) and not self.images_left and not self.masks_left


def apply_rule(rule: Rule, images: Sequence[str], masks: Sequence[str]) -> Matching:
    """Pair by a given rule; names that don't fit its template are ignored, not reported as unmatched.

    Raises UserError if two names of one side have the same values.
    """
    sides = []
    for template, names in ((rule.image, images), (rule.mask, masks)):
        keys: dict[Key, str] = {}
        for key, name in keys_of(template, names, rule.loose):
            if key in keys:
                raise UserError(
                    f"by the rule '{rule.describe()}' {keys[key]} and {name} are the same: "
                    "put the part that differs into a placeholder"
                )
            keys[key] = name
        sides.append(keys)
    by_image, by_mask = sides
    pairs = [(image, by_mask[key]) for key, image in by_image.items() if key in by_mask]
    return matching_of(rule, pairs, list(by_image.values()), list(by_mask.values()))


def parse_pair(text: str) -> Rule:
    """Parse a rule such as 'images/{id}_image=masks/{id}_annotation'. Raises UserError."""
    image, equals, mask = text.partition("=")
    example = f"write it as --pair 'images/{{id}}.png=masks/{{id}}_mask.png': {HOW_TO_SAY}"
    if not equals:
        raise UserError(f"--pair '{text}' has no '=' between image and mask: {example}")
    rule = Rule(image.strip().replace("*", "{}"), mask.strip().replace("*", "{}"))
    names = []
    for side, template in ((image, rule.image), (mask, rule.mask)):
        if "{}" in side:
            raise UserError(f"--pair '{text}' has a placeholder without a name: {example}")
        try:
            fields = list(Formatter().parse(template))
        except ValueError as error:
            raise UserError(f"--pair '{text}': the braces in '{side}' don't match ({error}): {example}") from error
        if any(spec or conversion for _, _, spec, conversion in fields):
            raise UserError(f"--pair '{text}': a placeholder is a name in braces, no more: {example}")
        names.append(set(_placeholders(template)) - {""})
    if not names[0] and not names[1]:
        raise UserError(f"--pair '{text}' has no placeholder: {example}")
    if names[0] != names[1]:
        here, there = (", ".join(f"{{{name}}}" for name in sorted(side)) or "none" for side in names)
        raise UserError(f"--pair '{text}' has the placeholders {here} for images, but {there} for masks: {example}")
    return rule


def as_text(rule: Rule) -> str:
    """The rule as written for --pair."""
    return f"{rule.image.replace('{}', '*')}={rule.mask.replace('{}', '*')}"


def keys_of(template: str, names: Sequence[str], loose: bool) -> list[tuple[Key, str]]:
    """The placeholders' values, sorted by placeholder, of each name that fits the template."""
    fields = sorted(set(_placeholders(template)) - {""})
    groups: dict[str, int] = {}
    pattern = ""
    for text, field, *_ in Formatter().parse(template):
        pattern += re.escape(unicodedata.normalize("NFC", text) if loose else text)
        if field == "" and text.endswith("."):  # an extension, which may be .nii.gz
            pattern = pattern[:-2] + r"(?<!\.[Nn][Ii][Ii])\."
        if field == "":
            # Non-greedy, since named placeholders should get as much of the name as possible.
            pattern += ".*?"
        elif field in groups:
            pattern += rf"(?:\{groups[field]})"
        elif field is not None:
            groups[field] = len(groups) + 1
            pattern += "(.+)"
    fit = re.compile(pattern, re.DOTALL | (re.IGNORECASE if loose else 0)).fullmatch
    order = [groups[field] for field in fields]
    keys = []
    for name in names:
        if found := fit(unicodedata.normalize("NFC", name) if loose else name):
            values = [found[group] for group in order]
            keys.append((tuple(map(_loosely, values) if loose else values), name))
    return keys


@lru_cache(maxsize=1 << 17)
def _loosely(text: str) -> str:
    return LEADING_ZEROS.sub("", unicodedata.normalize("NFC", text.casefold()))


def matching_of(rule: Rule, pairs: list[tuple[str, str]], images: Sequence[str], masks: Sequence[str]) -> Matching:
    paired_images, paired_masks = {image for image, _ in pairs}, {mask for _, mask in pairs}
    return Matching(
        rule,
        pairs,
        [image for image in images if image not in paired_images],
        [mask for mask in masks if mask not in paired_masks],
    )


def _placeholders(template: str) -> list[str]:
    return [field for _, field, *_ in Formatter().parse(template) if field is not None]


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _shown(template: str) -> str:
    return template.replace("{}", "*").replace("{id}", "NAME")
