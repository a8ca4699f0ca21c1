"""The contents of a report: plain values, in the order in which it shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from unet_cli.data.colours import Colours
from unet_cli.evaluation.object_panels import ObjectPanels
from unet_cli.evaluation.panels import Panels
from unet_cli.evaluation.scores import Score
from unet_cli.evaluation.tally import Tally
from unet_cli.metrics.calibration import Reliability


@dataclass(frozen=True)
class Entry:
    """One image in the gallery.

    score: its mean Dice over the foreground classes, 0 to 1, on a page of objects their F1. missed, false, wrong:
    fractions of its pixels: foreground predicted as background, background predicted as foreground, foreground
    predicted as another foreground class. objects: pictures of its objects, on a page of objects; tally: how many.
    """

    name: str
    score: float
    missed: float
    false: float
    wrong: float
    panels: Panels
    objects: ObjectPanels | None = None
    tally: Tally | None = None


@dataclass(frozen=True)
class Curve:
    """The learning curves of a run, or of one fold: a value an epoch; NaN where there is none."""

    name: str
    epoch: list[int]
    train_loss: list[float]
    val_loss: list[float]
    val_dice: list[float]


@dataclass(frozen=True)
class Sizes:
    """Areas of objects in pixels, or volumes in voxels: true objects that were found and missed, and predicted objects
    that are false."""

    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray


NO_SIZES = Sizes(*[np.zeros(0, np.int64)] * 3)


@dataclass(frozen=True)
class Suspect:
    """A training image whose mask looks wrong.

    share, pixels: of the foreground of mask or prediction, the part where the network confidently contradicts the mask;
    see suspects.Doubt. given, seen: the most frequent class of these pixels in the mask and in the prediction.
    """

    name: str
    share: float
    pixels: int
    given: str
    seen: str
    panels: Panels


@dataclass(frozen=True)
class Page:
    """All contents of the report.

    facts: label and text of each. colours: the class colours, with names. temperatures: one for each network; before,
    after: reliability before and after temperature scaling; after is None without scaling. images: number of evaluated
    images, of which the gallery shows some; kind: a noun for them; noun: 'images' or 'volumes'. strip: a few of them at
    the top, each with its rank. confusion: (classes, classes) pixels, [target, pred]. notes: remarks for the reader.
    suspects: None if not searched for. tally: the objects of all images, on a page where their scores come first, else
    None.
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
    noun: str = "images"
    strip: list[tuple[str, Entry]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    sizes: Sizes = NO_SIZES
    before: Reliability | None = None
    after: Reliability | None = None
    confusion: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    suspects: list[Suspect] | None = None
    tally: Tally | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.colours.names

    @property
    def pixels(self) -> str:
        """What images consist of."""
        return "pixels" if self.noun == "images" else "voxels"

    @property
    def first(self) -> int:
        """The first scored class: 0 where there is no background."""
        return int(self.colours.background)
