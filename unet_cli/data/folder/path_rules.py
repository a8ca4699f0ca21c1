"""Rules on paths, as --pair takes them: to suggest them, and to recognize masks in later commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from unet_cli.data.folder.name_rules import Rule, apply_rule, as_text, parse_pair
from unet_cli.data.folder.roles import stem
from unet_cli.data.folder.templates import templates
from unet_cli.data.source import Pair, spread
from unet_cli.errors import UserError

EXAMPLES = 12  # sample of pairs for a rule on masks beside their images


def with_extensions(rule: Rule) -> Rule:
    """The rule with any extension on sides that give none."""
    return replace(rule, image=_with_extension(rule.image), mask=_with_extension(rule.mask))


def _with_extension(template: str) -> str:
    """The template with any extension, if it gives none."""
    return template if template.endswith(".{}") or stem(template) != template else template + ".{}"


def option_for(root: Path, pairs: Sequence[tuple[Path, Path]], inside: Iterable[Path]) -> str | None:
    """A --pair that gives these pairs of the files inside, and perhaps pairs of other splits."""
    wanted = {(image.relative_to(root).as_posix(), mask.relative_to(root).as_posix()) for image, mask in pairs}
    names = [path.relative_to(root).as_posix() for path in inside]
    for rule in _rules_for(sorted(wanted)):
        with suppress(UserError):
            made = apply_rule(with_extensions(rule), names, names).pairs
            images, masks = ({pair[side] for pair in made} for side in (0, 1))
            if wanted <= set(made) and not images & masks:
                return f"--pair '{as_text(rule)}'"
    return None


def _rules_for(pairs: Sequence[tuple[str, str]]) -> Iterator[Rule]:
    """Rules that may give these pairs of paths: without extensions, then with them, in case only these differ."""
    examples = dict.fromkeys((pairs[0], pairs[-1]))
    rules = [Rule(*both) for image, mask in examples for both in templates(stem(image), stem(mask))]
    yield from rules
    image, mask = pairs[0]
    ends = [name[len(stem(name)) :] for name in (image, mask)]
    yield from (replace(rule, image=rule.image + ends[0], mask=rule.mask + ends[1]) for rule in rules)


def rules_beside(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Rules, as for --pair, by which mask names follow from image names, to recognize masks in the same folder later:
    one, or one for each part of a mask. Empty if masks are elsewhere under the same names."""
    examples = [pair for pair in spread(pairs, EXAMPLES) if not pair.mask.is_blank]
    names = [{(pair.image.path.name, path.name) for path in pair.mask.paths} for pair in examples]
    are_beside = all(path.parent == pair.image.path.parent for pair in examples for path in pair.mask.paths)
    if not are_beside and any(stem(image) == stem(mask) for both in names for image, mask in both):
        return ()
    # A rule must fit most examples, since 12 and 1 match {id}2 and {id} by coincidence; but beside the images one
    # example suffices: an image's third mask may be the only one.
    least = 1 if are_beside else len(names) // 2 + 1
    rules: dict[str, None] = {}
    for made in sorted(set().union(*names)):
        if not any(made in _made(Rule(*_sides(rule)), made) for rule in rules):
            best = max(_rules_for([made]), key=lambda rule: _count(rule, names), default=None)
            if best is not None and _count(best, names) >= least:
                rules[as_text(best)] = None
    return tuple(rules)


def masks_beside(rules: Iterable[str], paths: Sequence[Path]) -> set[Path]:
    """The files that these rules identify as masks of others in their folder."""
    folders: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
    for path in paths:
        folders[path.parent][path.name] = path
    found = set()
    for text in rules:
        rule = with_extensions(parse_pair(text))
        for files in folders.values():
            with suppress(UserError):
                found |= {files[mask] for _, mask in apply_rule(rule, list(files), list(files)).pairs}
    return found


def _sides(text: str) -> tuple[str, str]:
    rule = parse_pair(text)
    return rule.image, rule.mask


def _made(rule: Rule, made: tuple[str, str]) -> list[tuple[str, str]]:
    """The pairs that the rule gives for an image's and a mask's name."""
    with suppress(UserError):
        return apply_rule(with_extensions(rule), made, made).pairs
    return []


def _count(rule: Rule, names: Sequence[set[tuple[str, str]]]) -> int:
    return sum(any(made in _made(rule, made) for made in of_pair) for of_pair in names)
