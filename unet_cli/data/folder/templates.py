"""Learn rules on names from examples: some names are aligned, word by word, with the names that share their rarest
words.

The common parts of two names become placeholders, the others constants. The templates that most examples agree on are
then tried on all names, see pairing.py.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from heapq import nlargest
from itertools import pairwise
from math import log

from unet_cli.data.folder.name_rules import Rule, escaped, keys_of
from unet_cli.data.folder.words import tokens

EXAMPLES = 24  # names from which templates are learned
RIVALS = 3  # candidate partners that each example is aligned with
TEMPLATES = 6  # tried on all names
PLACEHOLDERS = 3  # maximum in a template; more are a coincidence
Block = tuple[int, int, int]  # run of equal tokens: start in the image, start in the mask, length


def learned_rules(images: Sequence[str], masks: Sequence[str]) -> list[Rule]:
    """The strict rules that most examples of the shorter list agree on."""
    swapped = len(masks) < len(images)
    few, many = (masks, images) if swapped else (images, masks)
    # A random sample, since every n-th name may have something in common; seeded, to be reproducible.
    generator = random.Random(0)
    examples = generator.sample(few, min(EXAMPLES, len(few)))
    probe = generator.sample(few, min(10 * EXAMPLES, len(few)))
    votes: Counter[tuple[str, str]] = Counter()
    for name, rivals in _rivals(examples, many):
        votes.update({pair for rival in rivals for pair in templates(name, rival)})
    ranked = sorted(votes, key=lambda pair: (-votes[pair], len(pair[0]) + len(pair[1])))
    # A template that fits a third of this sample may pair half of all names.
    plausible = (pair for pair in ranked if 3 * len(keys_of(pair[0], probe, loose=True)) >= len(probe))
    chosen = [pair for pair, _ in zip(plausible, range(TEMPLATES), strict=False)]
    return [Rule(theirs, ours) if swapped else Rule(ours, theirs) for ours, theirs in chosen]


def _rivals(examples: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """For each example, the few names that share most words with it, weighted by their rarity (inverse document
    frequency)."""
    words = [words_of(name) for name in names]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for index, found in enumerate(words):
        for word in found:
            holders[word].append(index)
    weight = {word: log(1 + len(names) / len(found)) for word, found in holders.items()}
    for example in examples:
        wanted = words_of(example)
        rarest = sorted((word for word in wanted if word in holders), key=lambda word: (len(holders[word]), word))
        near = dict.fromkeys(index for word in rarest[:3] for index in holders[word][:2000])

        def likeness(index: int, wanted: frozenset[str] = wanted) -> float:
            shared = words[index] & wanted
            return sum(weight[word] for word in shared) - 0.01 * (len(words[index]) - len(shared))

        rivals = [names[index] for index in nlargest(RIVALS, near, key=likeness)]
        yield example, rivals or [name for name in names if example in name or name in example][:RIVALS]


def templates(image: str, mask: str) -> Iterator[tuple[str, str]]:
    """The pairs of templates that match these two names."""
    ours, theirs = tokens(image), tokens(mask)
    if not words_of(image) & words_of(mask):
        if image in mask:
            yield "{id}", "{id}".join(map(escaped, mask.split(image, 1)))
        elif mask in image:
            yield "{id}".join(map(escaped, image.split(mask, 1))), "{id}"
        return
    plain = [_plain(token) for token in ours], [_plain(token) for token in theirs]
    # Also with numbers alone: a word at different positions in the two names would hide the tokens between.
    numbers = [
        [other if token.isalpha() else token for token in side] for side, other in zip(plain, ("a", "b"), strict=True)
    ]
    for left, right in (plain, numbers):
        matcher = SequenceMatcher(None, left, right, autojunk=False)
        blocks = _trimmed([(a, b, size) for a, b, size in matcher.get_matching_blocks()], ours, theirs)
        # Without a constant between two placeholders, the end of the first one is ambiguous.
        apart = all(a + size < c and b + size < d for (a, b, size), (c, d, _) in pairwise(blocks))
        if apart and 0 < len(blocks) <= PLACEHOLDERS:
            yield (
                _filled(ours, [(a, size) for a, _, size in blocks]),
                _filled(theirs, [(b, size) for _, b, size in blocks]),
            )


def _trimmed(blocks: list[Block], ours: list[str], theirs: list[str]) -> list[Block]:
    """Blocks that contain a word or number, without separators next to a constant."""
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
        template += escaped("".join(parts[end:start])) + f"{{{name}}}"
        end = start + size
    return template + escaped("".join(parts[end:]))


def _plain(token: str) -> str:
    return token.lstrip("0") or "0" if token.isdecimal() else token.casefold()


def _has_word(parts: list[str]) -> bool:
    return any(part.isalnum() for part in parts)


@lru_cache(maxsize=1 << 17)
def words_of(name: str) -> frozenset[str]:
    """The words and numbers of a name, ignoring case and leading zeros."""
    return frozenset(_plain(token) for token in tokens(name) if token.isalnum())
