"""What --loss and --class-weights say, read without torch: config.py checks it long before there is a network."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Literal

from unet_cli.errors import UserError

LOSS_NAMES = {
    "bce": "cross-entropy of each pixel: binary for two classes, else of the softmax",
    "ce": "the same as bce",
    "dice": "1 - Dice of each image and class",
    "jaccard": "1 - intersection over union of each image and class",
    "focal": "cross-entropy that counts hard pixels more (Lin 2017)",
    "tversky": "Dice in which a miss counts more than a false alarm (Salehi 2017)",
    "focal-tversky": "tversky that counts hard images more (Abraham 2019)",
    "lovasz": "intersection over union, smoothed by sorting the errors (Berman 2018)",
    "boundary": "how far what is predicted lies from the true object (Kervadec 2019), as in dice+0.01*boundary",
    "top-k": "cross-entropy of the hardest 10 % of each image's pixels",
    "cldice": "centre lines of thin structures, and Dice, half and half (Shit 2021)",
    "paper": "cross-entropy that counts the gaps between objects more (Ronneberger 2015)",
}
WEIGHTED = ("bce", "ce", "focal", "top-k", "paper")  # those that class weights apply to
FORMER = {"bce-dice": "bce+dice"}
EXAMPLE = "names joined by +, with factors where wanted, such as bce+dice or 0.5*bce+dice"

LEAST_FACTOR, MOST_FACTOR = 1e-6, 1e6  # which float32 can tell from nothing, and from infinity

TERM = re.compile(r"(?:(?P<factor>[0-9.]+(?:e-?[0-9]+)?)\s*\*)?\s*(?P<name>[a-z][a-z-]*)")


def parse_loss(text: str) -> tuple[tuple[float, str], ...]:
    """'0.5*bce+dice' -> ((0.5, 'bce'), (1.0, 'dice')). 'bce-dice' is read as what it is called now, bce+dice.

    Raises UserError at an unknown name, at a factor that isn't above 0, and where boundary stands alone.
    """
    words = [word.strip().lower() for word in text.split("+")]
    terms = tuple(_term(word, text) for part in words for word in FORMER.get(part, part).split("+"))
    if all(name == "boundary" for _, name in terms):
        raise UserError(
            f"--loss {text}: boundary is no loss of its own, since it is 0 where a class is absent, and below 0 where "
            "objects are found: add it to another one, such as dice+0.01*boundary"
        )
    return terms


def parse_class_weights(text: str) -> tuple[float, ...] | Literal["auto"] | None:
    """'1,5,2' -> (1.0, 5.0, 2.0); 'auto' as it is; 'none' -> None. Raises UserError."""
    word = text.strip().lower()
    if word == "none":
        return None
    if word == "auto":
        return "auto"
    try:
        weights = tuple(float(number) for number in word.split(","))
    except ValueError:
        raise UserError(
            f"--class-weights {text}: write none, auto, or a number for each class, background first, such as 1,5,2"
        ) from None
    if not all(weight == 0 or LEAST_FACTOR <= weight <= MOST_FACTOR for weight in weights) or not any(weights):
        raise UserError(
            f"--class-weights {text}: these have to be 0, or from {LEAST_FACTOR:g} to {MOST_FACTOR:g}, and not all 0"
        )
    return weights


def check_loss(loss: str, class_weights: str) -> None:
    """Raises UserError where one of the two can't be read, or they don't go together."""
    terms, weights = parse_loss(loss), parse_class_weights(class_weights)
    if weights is not None and not any(name in WEIGHTED for _, name in terms):
        raise UserError(
            f"--class-weights applies to {', '.join(WEIGHTED)}, of which --loss {loss} has none: leave it out, or add "
            f"one, such as bce+{loss}"
        )


def _term(word: str, text: str) -> tuple[float, str]:
    match = TERM.fullmatch(word)
    if match is None:
        raise UserError(f"--loss {text}: '{word}' can't be read: write {EXAMPLE}")
    name = match["name"]
    if name == "balanced":
        raise UserError(f"--loss {text}: balanced is now --loss bce+dice --class-weights auto")
    if name not in LOSS_NAMES:
        near = get_close_matches(name, LOSS_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(LOSS_NAMES)}"
        raise UserError(f"--loss {text}: there is no loss '{name}': {hint}")
    return _factor(match["factor"], text), name


def _factor(digits: str | None, text: str) -> float:
    try:
        factor = 1.0 if digits is None else float(digits)
    except ValueError:
        raise UserError(f"--loss {text}: '{digits}' is no number: write {EXAMPLE}") from None
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        raise UserError(
            f"--loss {text}: a factor has to be from {LEAST_FACTOR:g} to {MOST_FACTOR:g}, but {digits} is not"
        )
    return factor
