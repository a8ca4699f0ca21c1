"""What the page of a run or an evaluation shows: plain values, in the order in which they stand there."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from unet_cli.data.colours import Colours
from unet_cli.evaluation.panels import Panels
from unet_cli.evaluation.scores import Score
from unet_cli.metrics.calibration import Reliability


@dataclass(frozen=True)
class Entry:
    """One image in the gallery.

    score: its mean Dice over the foreground classes, 0 to 1. missed, false, wrong: shares of its pixels: foreground
    that was not found, background that was taken for foreground, foreground of one class taken for another.
    """

    name: str
    score: float
    missed: float
    false: float
    wrong: float
    panels: Panels


@dataclass(frozen=True)
class Curve:
    """The log of a run, or of one of its folds: a value an epoch; NaN where there is none."""

    name: str
    epoch: list[int]
    train_loss: list[float]
    val_loss: list[float]
    val_dice: list[float]


@dataclass(frozen=True)
class Sizes:
    """Areas of objects in pixels: of the truth's that were found and missed, and of the prediction's that are false."""

    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray


NO_SIZES = Sizes(*[np.zeros(0, np.int64)] * 3)


@dataclass(frozen=True)
class Suspect:
    """A training image whose mask looks wrong.

    share, pixels: of what the mask or the network takes for foreground, where the network is sure of another class than
    the mask says; see suspects.Doubt. given, seen: names of the classes that most of these have in the mask, and for
    the network.
    """

    name: str
    share: float
    pixels: int
    given: str
    seen: str
    panels: Panels


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    facts: label and text of each, as people read them. colours: of the classes, with their names. temperatures: of each
    network; before, after: the reliability without and with them; after is None where there are none. images: that were
    evaluated, of which the gallery holds some; kind: what they are. strip: a few of them to begin with, and what each
    is among all. confusion: (classes, classes) pixels, [truth, prediction]. notes: what the reader has to know.
    suspects: None where they were not looked for.
    """

    title: str
    facts: list[tuple[str, str]]
    command: str
    colours: Colours
    temperatures: tuple[float, ...] = ()
    curves: list[Curve] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    units: str = "px"
    images: int = 0
    kind: str = "images"
    strip: list[tuple[str, Entry]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    sizes: Sizes = NO_SIZES
    before: Reliability | None = None
    after: Reliability | None = None
    confusion: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    suspects: list[Suspect] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.colours.names

    @property
    def first(self) -> int:
        """Of the classes that are scored: 0 where none is background."""
        return int(self.colours.background)
