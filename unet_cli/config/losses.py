"""What --loss and --class-weights say, read without torch: config/training.py checks it before there is a network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from unet_cli.errors import UserError


@dataclass(frozen=True)
class LossTerm:
    """A loss by its name in --loss: one row here and a function in training/losses are all that a new one takes.

    kind: what the function makes of what: 'pixel', logits to a value of each pixel (pixel.py); 'image', logits to a
    value of each image (pixel.py); 'region', probabilities of the foreground classes to a value of each image and class
    (region.py). function: its name there, by default the loss's own with underscores.
    """

    name: str
    kind: Literal["pixel", "image", "region"]
    help: str
    function: str = ""

    @property
    def is_weighted(self) -> bool:
        """Whether class weights apply: regions are averaged over classes, whatever their size."""
        return self.kind != "region"


LOSSES = {
    term.name: term
    for term in (
        LossTerm(
            "bce", "pixel", "cross-entropy of each pixel: binary for two classes, else of the softmax", "cross_entropy"
        ),
        LossTerm("ce", "pixel", "the same as bce", "cross_entropy"),
        LossTerm("dice", "region", "1 - Dice of each image and class"),
        LossTerm("jaccard", "region", "1 - intersection over union of each image and class"),
        LossTerm("focal", "pixel", "cross-entropy that counts hard pixels more (Lin 2017)"),
        LossTerm("tversky", "region", "Dice in which a miss counts more than a false alarm (Salehi 2017)"),
        LossTerm("focal-tversky", "region", "tversky that counts hard images more (Abraham 2019)"),
        LossTerm("lovasz", "region", "intersection over union, smoothed by sorting the errors (Berman 2018)"),
        LossTerm(
            "boundary",
            "region",
            "how far what is predicted lies from the true object (Kervadec 2019), as in dice+0.01*boundary",
        ),
        LossTerm("top-k", "image", "cross-entropy of the hardest 10 % of each image's pixels"),
        LossTerm("cldice", "region", "centre lines of thin structures, and Dice, half and half (Shit 2021)"),
        LossTerm("paper", "pixel", "cross-entropy that counts the gaps between objects more (Ronneberger 2015)"),
    )
}
FORMER = {"bce-dice": "bce+dice"}  # spellings that are read and no longer written
EXAMPLE = "names joined by +, with factors where wanted, such as bce+dice or 0.5*bce+dice"

MIN_FACTOR, MAX_FACTOR = 1e-6, 1e6  # which float32 can tell from nothing, and from infinity

TERM = re.compile(r"(?:(?P<factor>[0-9.]+(?:e-?[0-9]+)?)\s*\*)?\s*(?P<name>[a-z][a-z-]*)")


def spelled_now(text: str) -> str:
    """'bce-dice' -> 'bce+dice'; what has no former spelling, or can't be read, as it is."""
    return "+".join(FORMER.get(word.strip().lower(), word) for word in text.split("+"))


def parse_loss(text: str) -> tuple[tuple[float, str], ...]:
    """'0.5*bce+dice' -> ((0.5, 'bce'), (1.0, 'dice')). Former spellings are read too.

    Raises UserError at an unknown name, at a factor that isn't above 0, and where boundary stands alone.
    """
    terms = tuple(_term(word.strip().lower(), text) for word in spelled_now(text).split("+"))
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
    if not all(weight == 0 or MIN_FACTOR <= weight <= MAX_FACTOR for weight in weights) or not any(weights):
        raise UserError(
            f"--class-weights {text}: these have to be 0, or from {MIN_FACTOR:g} to {MAX_FACTOR:g}, and not all 0"
        )
    return weights


def check_loss(loss: str, class_weights: str) -> None:
    """Raises UserError where one of the two can't be read, or they don't go together."""
    terms, weights = parse_loss(loss), parse_class_weights(class_weights)
    if weights is not None and not any(LOSSES[name].is_weighted for _, name in terms):
        weighted = ", ".join(name for name, term in LOSSES.items() if term.is_weighted)
        raise UserError(
            f"--class-weights applies to {weighted}, of which --loss {loss} has none: leave it out, or add "
            f"one, such as bce+{loss}"
        )


def _term(word: str, text: str) -> tuple[float, str]:
    match = TERM.fullmatch(word)
    if match is None:
        raise UserError(f"--loss {text}: '{word}' can't be read: write {EXAMPLE}")
    name = match["name"]
    if name == "balanced":
        raise UserError(f"--loss {text}: balanced is now --loss bce+dice --class-weights auto")
    if name not in LOSSES:
        near = get_close_matches(name, LOSSES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(LOSSES)}"
        raise UserError(f"--loss {text}: there is no loss '{name}': {hint}")
    return _factor(match["factor"], text), name


def _factor(digits: str | None, text: str) -> float:
    try:
        factor = 1.0 if digits is None else float(digits)
    except ValueError:
        raise UserError(f"--loss {text}: '{digits}' is no number: write {EXAMPLE}") from None
    if not MIN_FACTOR <= factor <= MAX_FACTOR:
        raise UserError(f"--loss {text}: a factor has to be from {MIN_FACTOR:g} to {MAX_FACTOR:g}, but {digits} is not")
    return factor
