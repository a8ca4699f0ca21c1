"""Which image name goes with which mask name: a one-to-one rule that is found in the names, or given by the user.

Names are stems: paths below their folder, with '/', without extension. Nothing here looks at a disk.

A rule is found by example: a sample of names is aligned, word by word, with the names that share its rarest words. What
two names have in common becomes a placeholder, what tells them apart a constant. The templates that most examples agree
on are then tried on all names.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from heapq import nlargest
from itertools import pairwise
from math import log
from string import Formatter

from unet_cli.data.folder.words import MASK_HINTS, MASK_WORDS
from unet_cli.errors import UserError

HOW_TO_SAY = "paths are below the data folder, {id} is what the two have in common, * is anything"

# Numbers, words (also thoseThatHumpsTellApart), and every other character by itself.
TOKEN = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+|[\W_]")
# Not those of a fraction: 0.05 is not 0.5.
LEADING_ZEROS = re.compile(r"(?<!\d)(?<!\d\.)0+(?=\d)")

EXAMPLES = 24  # names to learn templates from
RIVALS = 3  # names that each example is aligned with
TEMPLATES = 6  # tried on all names
PLACEHOLDERS = 3  # more than these in one template are a coincidence

Key = tuple[str, ...]
Block = tuple[int, int, int]  # of equal tokens: where in the image, where in the mask, how many


@dataclass(frozen=True)
class Rule:
    """A template each for images and masks: those whose placeholders have the same values belong together.

    Placeholders stand in braces as in `str.format`: '{id}_image'; '{}' is anything, and not compared.
    loose: case, leading zeros of numbers, and the ways to write an accent are not told apart.
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
        """What is left of the image's and of the mask's template without the placeholders."""
        image, mask = ("".join(text for text, *_ in Formatter().parse(side)) for side in (self.image, self.mask))
        return image, mask


SAME_NAME = Rule("{id}", "{id}")


class SeveralRules(UserError):
    """Rules that fit equally well, with the (image, mask) pairs of each; no two make the same pairs."""

    def __init__(self, choices: Sequence[tuple[Rule, list[tuple[str, str]]]]) -> None:
        super().__init__(_two_rules(*choices[:2]))
        self.choices = choices


@dataclass(frozen=True)
class Matching:
    """What a rule makes of two lists of names: (image, mask) pairs in the order of the images, and those left over."""

    rule: Rule
    pairs: list[tuple[str, str]]
    images_left: list[str]
    masks_left: list[str]

    @property
    def complete(self) -> bool:
        """Whether every name has its partner."""
        return bool(self.pairs) and not self.images_left and not self.masks_left


def find_rule(images: Sequence[str], masks: Sequence[str]) -> Matching:
    """The rule that pairs most names one to one; at least half of the shorter list, or there is none.

    Of rules that make the same pairs, strict ones come before loose ones, and then those with the shorter constants.
    Raises UserError where there is no rule; SeveralRules where some pair equally many names in different ways.
    """
    if images and set(images) == set(masks):
        return _matching(SAME_NAME, [(image, image) for image in images], images, masks)
    if len(images) == len(masks) == 1 and not _words(images[0]) & _words(masks[0]):
        return _matching(Rule(_escaped(images[0]), _escaped(masks[0])), [(images[0], masks[0])], [], [])
    strict = [SAME_NAME, *_learned(images, masks)]
    found = {rule: pairs for rule in strict if (pairs := _fit(rule, images, masks))}
    if max(map(len, found.values()), default=0) < min(len(images), len(masks)):  # nothing can pair more than all
        loose = [replace(rule, loose=True) for rule in strict]
        found |= {rule: pairs for rule in loose if (pairs := _fit(rule, images, masks))}
    if not found:
        raise UserError(_no_rule(images, masks))
    best = min(found, key=lambda rule: (-len(found[rule]), rule.loose, sum(map(len, rule.constants))))
    choices = {frozenset(found[best]): (best, found[best])}
    for rule, pairs in found.items():
        if len(pairs) == len(found[best]):
            choices.setdefault(frozenset(pairs), (rule, pairs))
    if len(choices) > 1:
        raise SeveralRules([*choices.values()])
    return _matching(best, found[best], images, masks)


def apply_rule(rule: Rule, images: Sequence[str], masks: Sequence[str]) -> Matching:
    """Pair by a given rule; of names that do not fit its template none is left over, for they aren't meant.

    Raises UserError where two names of one side have the same values.
    """
    sides = []
    for template, names in ((rule.image, images), (rule.mask, masks)):
        keys: dict[Key, str] = {}
        for key, name in _keys(template, names, rule.loose):
            if key in keys:
                raise UserError(
                    f"by the rule '{rule.describe()}' {keys[key]} and {name} are the same: "
                    "put what tells them apart into a placeholder"
                )
            keys[key] = name
        sides.append(keys)
    by_image, by_mask = sides
    pairs = [(image, by_mask[key]) for key, image in by_image.items() if key in by_mask]
    return _matching(rule, pairs, list(by_image.values()), list(by_mask.values()))


def parse_pair(text: str) -> Rule:
    """The rule that the user wrote as 'images/{id}_image=masks/{id}_annotation'. Raises UserError."""
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
    """As it is written for --pair."""
    return f"{rule.image.replace('{}', '*')}={rule.mask.replace('{}', '*')}"


def split_mixed(stems: Sequence[str]) -> tuple[list[str], list[str]]:
    """Images and masks of one list: masks are those with a word for masks, unless it is in every name."""
    words = [_words(stem) & (MASK_WORDS | MASK_HINTS) for stem in stems]
    everywhere = frozenset.intersection(*words) if words else frozenset()
    images = [stem for stem, found in zip(stems, words, strict=True) if found <= everywhere]
    masks = [stem for stem, found in zip(stems, words, strict=True) if not found <= everywhere]
    return images, masks


def tokens(name: str) -> list[str]:
    """A name cut into numbers, words and single other characters: 'imagesTr_07' -> images Tr _ 07."""
    return TOKEN.findall(unicodedata.normalize("NFC", name))


# --- a rule on all names ---------------------------------------------------------------------------------------------


def _fit(rule: Rule, images: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that a learned rule makes; none where they are too few to believe in it, or it is not one to one."""
    image_keys, mask_keys = _keys(rule.image, images, rule.loose), _keys(rule.mask, masks, rule.loose)
    by_image, by_mask = dict(image_keys), dict(mask_keys)
    if len(by_image) < len(image_keys) or len(by_mask) < len(mask_keys):
        return []
    pairs = [(image, by_mask[key]) for key, image in by_image.items() if key in by_mask]
    if 2 * len(pairs) < min(len(images), len(masks)):
        return []
    if len(pairs) == 1 and not _convincing(rule, len(by_image) == len(images) and len(by_mask) == len(masks)):
        return []
    return pairs


def _convincing(rule: Rule, fits_all: bool) -> bool:
    """Whether one pair is enough: every template fits the pair that it was learned from.

    It has to fit all other names as well, and must not claim that cam1_0001 goes with cam1_0010.
    """
    numbered = [any(character.isdigit() for character in constant) for constant in rule.constants]
    return rule.image == rule.mask or fits_all and not all(numbered)


def _keys(template: str, names: Sequence[str], loose: bool) -> list[tuple[Key, str]]:
    """The values of the placeholders, sorted by placeholder, of each name that fits."""
    fields = sorted(set(_placeholders(template)) - {""})
    groups: dict[str, int] = {}
    pattern = ""
    for text, field, *_ in Formatter().parse(template):
        pattern += re.escape(unicodedata.normalize("NFC", text) if loose else text)
        if field == "":
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


def _matching(rule: Rule, pairs: list[tuple[str, str]], images: Sequence[str], masks: Sequence[str]) -> Matching:
    paired_images, paired_masks = {image for image, _ in pairs}, {mask for _, mask in pairs}
    return Matching(
        rule,
        pairs,
        [image for image in images if image not in paired_images],
        [mask for mask in masks if mask not in paired_masks],
    )


def _placeholders(template: str) -> list[str]:
    return [field for _, field, *_ in Formatter().parse(template) if field is not None]


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _shown(template: str) -> str:
    return template.replace("{}", "*").replace("{id}", "NAME")


# --- rules from examples ---------------------------------------------------------------------------------------------


def _learned(images: Sequence[str], masks: Sequence[str]) -> list[Rule]:
    """The strict rules that most examples of the shorter list agree on."""
    swapped = len(masks) < len(images)
    few, many = (masks, images) if swapped else (images, masks)
    # At random, for every n-th name may have something in common; but the same ones each time.
    chance = random.Random(0)
    examples = chance.sample(few, min(EXAMPLES, len(few)))
    probe = chance.sample(few, min(10 * EXAMPLES, len(few)))
    votes: Counter[tuple[str, str]] = Counter()
    for name, rivals in _rivals(examples, many):
        votes.update({pair for rival in rivals for pair in templates(name, rival)})
    ranked = sorted(votes, key=lambda pair: (-votes[pair], len(pair[0]) + len(pair[1])))
    # What fits a third of the probe may pair half of all.
    plausible = (pair for pair in ranked if 3 * len(_keys(pair[0], probe, loose=True)) >= len(probe))
    chosen = [pair for pair, _ in zip(plausible, range(TEMPLATES), strict=False)]
    return [Rule(theirs, ours) if swapped else Rule(ours, theirs) for ours, theirs in chosen]


def _rivals(examples: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """For each example the few names that share most words with it, each word weighing more the rarer it is."""
    words = [_words(name) for name in names]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for index, found in enumerate(words):
        for word in found:
            holders[word].append(index)
    weight = {word: log(1 + len(names) / len(found)) for word, found in holders.items()}
    for example in examples:
        wanted = _words(example)
        rarest = sorted((word for word in wanted if word in holders), key=lambda word: (len(holders[word]), word))
        near = dict.fromkeys(index for word in rarest[:3] for index in holders[word][:2000])

        def likeness(index: int, wanted: frozenset[str] = wanted) -> float:
            shared = words[index] & wanted
            return sum(weight[word] for word in shared) - 0.01 * (len(words[index]) - len(shared))

        rivals = [names[index] for index in nlargest(RIVALS, near, key=likeness)]
        yield example, rivals or [name for name in names if example in name or name in example][:RIVALS]


def templates(image: str, mask: str) -> Iterator[tuple[str, str]]:
    """The templates that make a pair of these two names."""
    ours, theirs = tokens(image), tokens(mask)
    if not _words(image) & _words(mask):
        if image in mask:
            yield "{id}", "{id}".join(map(_escaped, mask.split(image, 1)))
        elif mask in image:
            yield "{id}".join(map(_escaped, image.split(mask, 1))), "{id}"
        return
    plain = [_plain(token) for token in ours], [_plain(token) for token in theirs]
    # Once more without the words, for one that stands in both names at different places hides what is between.
    numbers = [
        [other if token.isalpha() else token for token in side] for side, other in zip(plain, ("a", "b"), strict=True)
    ]
    for left, right in (plain, numbers):
        matcher = SequenceMatcher(None, left, right, autojunk=False)
        blocks = _trimmed([(a, b, size) for a, b, size in matcher.get_matching_blocks()], ours, theirs)
        # Where nothing stands between two placeholders, there is no telling where the first one ends.
        apart = all(a + size < c and b + size < d for (a, b, size), (c, d, _) in pairwise(blocks))
        if apart and 0 < len(blocks) <= PLACEHOLDERS:
            yield (
                _filled(ours, [(a, size) for a, _, size in blocks]),
                _filled(theirs, [(b, size) for _, b, size in blocks]),
            )


def _trimmed(blocks: list[Block], ours: list[str], theirs: list[str]) -> list[Block]:
    """Blocks with a word in them, less the separators that stand between them and a constant."""
    blocks = [(a, b, size) for a, b, size in blocks if _has_word(ours[a : a + size])]
    trimmed = []
    for n, (a, b, size) in enumerate(blocks):
        end = a + size
        if n or (a and b):
            while not ours[a].isalnum():
                a, b = a + 1, b + 1
        if n < len(blocks) - 1 or (end < len(ours) and b + end - a < len(theirs)):
            while not ours[end - 1].isalnum():
                end -= 1
        trimmed.append((a, b, end - a))
    return trimmed


def _filled(parts: list[str], blocks: list[tuple[int, int]]) -> str:
    """The name as a template: a placeholder for each (start, size)."""
    names = ["id"] if len(blocks) == 1 else ["a", "b", "c"]
    template, end = "", 0
    for name, (start, size) in zip(names, blocks, strict=False):
        template += _escaped("".join(parts[end:start])) + f"{{{name}}}"
        end = start + size
    return template + _escaped("".join(parts[end:]))


def _plain(token: str) -> str:
    return token.lstrip("0") or "0" if token.isdecimal() else token.casefold()


def _has_word(parts: list[str]) -> bool:
    return any(part.isalnum() for part in parts)


@lru_cache(maxsize=1 << 17)
def _words(name: str) -> frozenset[str]:
    """The words and numbers of a name, case and leading zeros ignored."""
    return frozenset(_plain(token) for token in tokens(name) if token.isalnum())


# --- messages --------------------------------------------------------------------------------------------------------


def _no_rule(images: Sequence[str], masks: Sequence[str]) -> str:
    def some(names: Sequence[str]) -> str:
        return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

    return (
        "no rule pairs even half of the names of the images with those of the masks.\n"
        f"  images ({len(images)}): {some(images)}\n"
        f"  masks ({len(masks)}): {some(masks)}\n"
        f"Rename them, or say how they belong together: --pair 'images/{{id}}.png=masks/{{id}}_mask.png' ({HOW_TO_SAY})"
    )


def _two_rules(*rules: tuple[Rule, list[tuple[str, str]]]) -> str:
    (first, pairs), (second, others) = rules
    shown = dict(pairs)
    differing = next((pair for pair in others if shown.get(pair[0]) != pair[1]), others[0])
    same_image = (differing[0], shown[differing[0]]) if differing[0] in shown else pairs[0]
    lines = [
        f"  {rule.describe()}: {image} with {mask}"
        for rule, (image, mask) in ((first, same_image), (second, differing))
    ]
    return "\n".join(
        [f"two rules pair {len(pairs)} names each, with different partners:", *lines]
        + [f"Say which with --masks FOLDER, or as --pair 'images/{{id}}.png=masks/{{id}}_mask.png' ({HOW_TO_SAY})"]
    )
