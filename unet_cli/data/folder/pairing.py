"""Find the rule that pairs most image names with mask names, one to one.

Candidate rules are learned from examples, see templates.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unet_cli.data.folder.name_rules import HOW_TO_SAY, SAME_NAME, Matching, Rule, escaped, keys_of, matching_of
from unet_cli.data.folder.templates import learned_rules, words_of
from unet_cli.data.folder.words import MASK_HINTS, MASK_WORDS
from unet_cli.errors import UserError


class SeveralRules(UserError):
    """Rules that fit equally well, with the (image, mask) pairs of each; no two give the same pairs."""

    def __init__(self, choices: Sequence[tuple[Rule, list[tuple[str, str]]]]) -> None:
        super().__init__(_two_rules(*choices[:2]))
        self.choices = choices


def find_rule(images: Sequence[str], masks: Sequence[str]) -> Matching:
    """The rule that pairs most names one to one, at least half of the shorter list.

    Among rules that give the same pairs, strict ones are preferred to loose ones, then those with shorter constants.
    Raises UserError if there is no rule; SeveralRules if several pair the same number of names differently.
    """
    if images and set(images) == set(masks):
        return matching_of(SAME_NAME, [(image, image) for image in images], images, masks)
    if len(images) == len(masks) == 1 and not words_of(images[0]) & words_of(masks[0]):
        return matching_of(Rule(escaped(images[0]), escaped(masks[0])), [(images[0], masks[0])], [], [])
    strict = [SAME_NAME, *learned_rules(images, masks)]
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
    return matching_of(best, found[best], images, masks)


def split_mixed(stems: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate images and masks in one list: masks have a word for masks in their name, unless it is in every name."""
    words = [words_of(stem) & (MASK_WORDS | MASK_HINTS) for stem in stems]
    everywhere = frozenset.intersection(*words) if words else frozenset()
    images = [stem for stem, found in zip(stems, words, strict=True) if found <= everywhere]
    masks = [stem for stem, found in zip(stems, words, strict=True) if not found <= everywhere]
    return images, masks


def _fit(rule: Rule, images: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that a learned rule gives; empty if they are too few to be plausible, or not one to one."""
    image_keys, mask_keys = keys_of(rule.image, images, rule.loose), keys_of(rule.mask, masks, rule.loose)
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
    """Whether a single pair suffices as evidence, though every template fits the pair that it was learned from.

    The rule must fit all other names as well, and must not pair cam1_0001 with cam1_0010.
    """
    numbered = [any(character.isdigit() for character in constant) for constant in rule.constants]
    return rule.image == rule.mask or fits_all and not all(numbered)


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
