"""The label map: mapping between class indices and mask values, to read and to write masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np

from unet_cli.config.model import CORE, IGNORED, MAX_CLASSES, MAX_OVERLAPPING, outputs_for, pixels_of
from unet_cli.data.labels.noise import MIN_AREA, nearest_sure
from unet_cli.data.labels.numbering import are_objects, could_be_objects
from unet_cli.data.labels.readings import NUMBERS_IN_COLOURS, Reading, mask_as, stats_as
from unet_cli.data.labels.sets import last_of_sets, sets_of, single, without_sets
from unet_cli.data.labels.spec import ClassSpec
from unet_cli.data.labels.stats import ValueStats, unpacked
from unet_cli.data.maskfile import TRANSPARENT, UNLABELLED, MaskPixels
from unet_cli.errors import UserError
from unet_cli.system.console import few

MAX_NAME = 200  # characters of a class's name
SMALL_INTEGERS = 15  # masks of values up to this are nearly black in gray, and so written with a palette
NEAR_COLOURS = 24.0  # maximum Euclidean distance in RGB from the colour of a class
MAX_SETS_OF = MAX_OVERLAPPING + 1  # background included
MAX_STRAYS = 0.5  # maximum fraction of a mask's pixels that may be noise; else all of them are unknown values

# Paul Tol's 'bright' and 'light' schemes, distinguishable for colour-blind people. Background is black.
CLASS_COLOURS = (
    (0, 0, 0), (102, 204, 238), (238, 102, 119), (34, 136, 51), (204, 187, 68), (68, 119, 170), (170, 51, 119),
    (187, 187, 187), (119, 170, 221), (238, 136, 102), (238, 221, 136), (255, 170, 187), (153, 221, 255),
    (68, 187, 153), (187, 204, 51), (170, 170, 0),
)  # fmt: skip


@dataclass(frozen=True)
class LabelMap:
    """The mapping between class indices and mask values.

    values: the mask value of each class index, background first. names: of the classes. ignore: the mask value of
    ignored pixels; their index is IGNORED. palette: (r, g, b, r, g, ...) if the masks have one. kind: how values are
    interpreted. 'values': each value is a class. 'soft': binary masks with intermediate values at borders
    (anti-aliased, JPEG); values from the midpoint on are foreground. 'instances': object numbers; all but 0 are
    foreground. 'colours': 0xRRGGBB; colours within NEAR_COLOURS of a class belong to it. background: whether the first
    class is background. reading: how files become values; colours always as such. strays: whether values without a
    class that cover no area are noise, replaced by the class of the nearest intended pixel. reach: maximum distance
    from a class's value that JPEG causes; such values belong to the class. unlabelled_is_background: whether unlabelled
    pixels (NaN, -1) belong to the first class; else they are ignored. overlapping: whether a pixel may be of several
    classes; its index is then a set of them, see config.model.pixels_of. values are the numbers of the classes' files.
    cores: whether the network learns the cores of objects too, to tell them apart; indices may then be marked as in a
    core, see data/cores.py.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    kind: Literal["values", "soft", "instances", "colours"] = "values"
    ignore: int | None = None
    palette: tuple[int, ...] | None = None
    background: bool = True
    reading: Reading = "stored"
    strays: bool = False
    reach: int = 0
    unlabelled_is_background: bool = False
    overlapping: bool = False
    cores: bool = False

    def __post_init__(self) -> None:
        """Raises UserError if the fields are inconsistent."""
        highest = TRANSPARENT if self.kind == "colours" else 65535
        # In masks of numbered objects 255 is the value for writing, and a normal number when reading.
        ignored = [] if self.ignore is None or self.kind == "instances" else [self.ignore]
        every = [*self.values, *ignored]
        if not 2 <= len(self.values) <= MAX_CLASSES or len(self.names) != len(self.values):
            raise UserError(
                f"there are {len(self.values)} classes with {len(self.names)} names: 2 to {MAX_CLASSES} can be"
            )
        lowest = -1 if self.ignore == -1 else 0
        if len(set(every)) < len(every) or min(self.values) < 0 or not lowest <= min(every) <= max(every) <= highest:
            raise UserError(f"the values of the classes are {few(every)}: each has its own, from 0 to {highest:,}")
        if not all(name.isprintable() and 0 < len(name) <= MAX_NAME for name in self.names):
            raise UserError(
                f"classes are called {few(map(ascii, self.names))}: use up to {MAX_NAME} printable characters"
            )
        if len(set(self.names)) < len(self.names):
            raise UserError(f"classes are called {few(self.names)}: give each a name of its own")
        if len(self.values) == 2 and not self.background:
            raise UserError("of two classes the first is always background")
        if self.overlapping and not (self.background and self.kind == "values" and len(self.values) <= MAX_SETS_OF):
            raise UserError(f"at most {MAX_OVERLAPPING} classes may overlap, beside a background")
        if self.cores and (self.overlapping or not self.background or len(self.values) > CORE - 1):
            raise UserError(f"only objects of up to {CORE - 2} classes have cores, beside a background and apart")
        if len(self.palette or ()) not in range(0, 769, 3) or not all(0 <= part < 256 for part in self.palette or ()):
            raise UserError("the palette has to hold up to 256 colours of red, green and blue, each from 0 to 255")

    @property
    def num_classes(self) -> int:
        return len(self.values)

    @property
    def outputs(self) -> int:
        """The number of a network's logits, or probabilities, for each pixel."""
        return outputs_for(self.num_classes, self.overlapping) + self.cores

    @property
    def pictured(self) -> LabelMap:
        """The map for pictures of what a network learns: itself, or with cores as one more class."""
        if not self.cores:
            return self
        core = "core" if "core" not in self.names else "core of an object"
        return LabelMap(tuple(range(self.num_classes + 1)), (*self.names, core))

    def as_pictured(self, indices: np.ndarray) -> np.ndarray:
        """Class indices in which cores may be marked -> those of `pictured`."""
        is_core = (indices >= CORE) & (indices != IGNORED)
        return np.where(is_core, np.uint8(self.num_classes), indices) if self.cores else indices

    @property
    def has_threshold(self) -> bool:
        """Whether a threshold decides of each class by itself: with one foreground class, or several that overlap."""
        return self.overlapping or self.num_classes == 2

    @property
    def members(self) -> np.ndarray:
        """(indices, num_classes) bool: which classes an index that a mask may have is of; its own where none
        overlap."""
        indices = np.arange(2 ** (self.num_classes - 1) if self.overlapping else self.num_classes)
        return np.stack([self.region(indices, number) for number in range(self.num_classes)], axis=1)

    @property
    def scored(self) -> range:
        """The classes that count in scores and region losses: all but the background, if there is one."""
        return range(int(self.background), self.num_classes)

    @property
    def scored_names(self) -> tuple[str, ...]:
        return self.names[self.scored.start :]

    @property
    def spec(self) -> ClassSpec | None:
        """The class specification by which masks are read in this way; None if there is none."""
        if self.kind == "soft":
            return None
        if self.kind == "instances":
            return ClassSpec(self.names, ignore=self.ignore)
        ignore = -1 if self.ignore is None else self.ignore
        unlabelled, overlapping = self.unlabelled_is_background, self.overlapping
        return ClassSpec(self.names, self.values, self.kind == "colours", ignore, unlabelled, overlapping=overlapping)

    def encode(self, mask: MaskPixels) -> np.ndarray:
        """Mask values (P, H, W) -> uint8 class indices of the same shape. Raises UserError for a value of no class."""
        if mask.is_blank:
            return np.zeros(mask.values.shape, np.uint8)
        if mask.colour and not self._takes_colours:
            raise UserError(f"holds colours, but the classes are {self._classes()}")
        values = mask_as(self._reading, mask)
        indices = self.indices_of(values)
        if self.strays and (indices < 0).any():
            light = values if self.kind != "colours" else np.sum(unpacked(values), axis=0)
            step = 3 * NEAR_COLOURS if self.kind == "colours" else max(self.reach, 1)
            indices = np.stack(
                [nearest_sure(page, *rest) for page, *rest in zip(indices, light, [step] * len(values), strict=True)]
            )
        if (indices < 0).any():
            strangers, counts = np.unique(values[indices < 0], return_counts=True)
            shown = self.spell(int(strangers[counts.argmax()]))
            raise UserError(f"holds {shown}, but the classes are {self._classes()}")
        return indices.astype(np.uint8)

    def indices_of(self, values: np.ndarray) -> np.ndarray:
        """Mask values of any shape -> class indices as int16; -1 for values of no class."""
        if self.kind in ("soft", "instances"):
            threshold = (self.values[0] + self.values[1]) / 2 if self.kind == "soft" else 1
            indices = (values >= threshold).astype(np.int16)
            if self.ignore is not None:
                indices[values == self.ignore] = IGNORED
            indices[values == UNLABELLED] = IGNORED
            return indices
        if self.overlapping:
            alone = replace(self, overlapping=False)
            return sets_of(values, self.values[1:], alone.indices_of(without_sets(values)))
        values = last_of_sets(values)
        known, index_of = self._known()
        places = np.searchsorted(known, values).clip(max=len(known) - 1)
        indices = np.where(known[places] == values, index_of[places], np.int16(-1))
        indices[values == UNLABELLED] = 0 if self.unlabelled_is_background else IGNORED
        strange = indices < 0
        if (self.kind == "colours" or self.reach) and strange.any():
            strangers, inverse = np.unique(values[strange], return_inverse=True)
            if self.kind == "colours":
                pairs = zip(unpacked(strangers), unpacked(known), strict=True)
                distances = np.sqrt(sum((a[:, None] - b) ** 2 for a, b in pairs))
                distances[strangers == TRANSPARENT] = np.inf  # its channels are meaningless
            else:
                distances = np.abs(strangers[:, None].astype(np.int64) - known)
            reach = NEAR_COLOURS if self.kind == "colours" else self.reach
            is_near = distances.min(1) <= reach
            indices[strange] = np.where(is_near, index_of[distances.argmin(1)], np.int16(-1))[inverse.ravel()]
        return indices

    def count_classes(self, masks: Sequence[ValueStats]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        """Pixels of each class in each mask without ignored ones and noise, (masks, num_classes) int64; and the values
        of no class: index of the mask, value, number of pixels."""
        if not self.overlapping:
            masks = self.read(masks)
        # One array for all masks is much faster than one each: there may be tens of thousands.
        row = np.repeat(np.arange(len(masks)), [len(stats.counts) for stats in masks])
        values = np.fromiter(chain.from_iterable(stats.counts for stats in masks), np.int64, len(row))
        counts = np.fromiter(chain.from_iterable(stats.counts.values() for stats in masks), np.int64, len(row))
        indices = self.indices_of(values).astype(np.int64)
        if not self._takes_colours:
            indices[np.array([stats.colour for stats in masks], bool)[row]] = -1
        known, strange = (indices >= 0) & (indices != IGNORED), indices < 0
        of_class = [known & self.region(indices, number) for number in range(self.num_classes)]
        pixels = np.stack([np.bincount(row[one], counts[one], len(masks)) for one in of_class], axis=1).astype(np.int64)
        if self.kind == "instances":
            pixels[:, 1] += [stats.rest for stats in masks]
        if self.strays and strange.any():
            noise = np.bincount(row[strange], counts[strange], len(masks))
            whole = np.maximum(np.bincount(row, counts, len(masks)), 1)
            is_noise = (noise / whole <= MAX_STRAYS)[row] & strange
            for at in np.flatnonzero(is_noise):
                shape = masks[row[at]].shapes.get(int(values[at]))
                is_noise[at] = shape is not None and shape.cores < MIN_AREA
            strange &= ~is_noise
        found = (row[strange].tolist(), values[strange].tolist(), counts[strange].tolist())
        return pixels, list(zip(*found, strict=True))

    def may_be_objects(self, masks: Sequence[ValueStats]) -> bool:
        """Whether the classes might be the numbers of a few objects: the masks are ambiguous."""
        if self.kind != "values" or self.num_classes < 3 or self.palette is not None:
            return False
        return are_objects(self.read(masks), self.ignore) == "doubtful"

    def could_be_objects(self, masks: Sequence[ValueStats]) -> bool:
        """Whether the classes, compared with two classes, are best read as object numbers."""
        return self.kind == "values" and self.num_classes > 2 and could_be_objects(self.read(masks), self.ignore)

    def read(self, masks: Sequence[ValueStats]) -> Sequence[ValueStats]:
        """The statistics for the values as this map reads them, of several classes of a pixel the last."""
        return [stats_as(self._reading, single(stats)) for stats in masks]

    @property
    def _reading(self) -> Reading:
        return "colours" if self.kind == "colours" else self.reading

    @property
    def _takes_colours(self) -> bool:
        return self.kind == "colours" or self.reading in NUMBERS_IN_COLOURS

    def region(self, indices: np.ndarray, number: int) -> np.ndarray:
        """Where class `number` is in an array of class indices: bool, of the same shape."""
        return pixels_of(self.without_cores(indices), number, self.overlapping)

    def without_cores(self, indices: np.ndarray) -> np.ndarray:
        """Class indices without marks of cores."""
        return np.where(indices == IGNORED, indices, indices & (CORE - 1)) if self.cores else indices

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """(H, W) class indices -> the user's values: (H, W) uint8 or uint16, or (H, W, 3) uint8 colours."""
        if self.kind == "colours":
            hidden = 0xFFFFFF if 0 in self.values else 0  # the colour that replaces transparency
            shown = [hidden if value == TRANSPARENT else value for value in self.values]
            return np.stack(unpacked(np.asarray(shown)), axis=-1).astype(np.uint8)[indices]
        kind = np.uint8 if max(self.values) < 256 else np.uint16
        return np.asarray(self.values, dtype=kind)[self.without_cores(indices)]

    @property
    def written_palette(self) -> list[int] | None:
        """The palette for writing masks: the user's own, or visible colours for small integers, or None."""
        if self.kind == "colours" or max(self.values) > 255:
            return None
        highest = max(self.values)
        if self.palette is None and highest > SMALL_INTEGERS:
            return None
        if self.palette is None and self.num_classes == 2 and self.values[0] < self.values[1]:
            return [0, 0, 0] * highest + [255, 255, 255]
        own = list(self.palette or ())
        # The masks' palette ends at the highest value found, which later classes may exceed.
        further = [part for value in range(highest + 1) for part in CLASS_COLOURS[value % len(CLASS_COLOURS)]]
        return own + further[len(own) :]

    def describe(self) -> str:
        """A description of the map, for the log."""
        if self.kind == "instances":
            rule = "numbered objects are foreground, 0 is background"
        elif self.kind == "soft":
            rule = f"values from {(self.values[0] + self.values[1]) / 2:g} on are {self.names[1]}"
        elif self.overlapping:
            rule = f"{', '.join(self.names[1:])}, which may overlap"
        elif self.num_classes == 2:
            rule = f"{self.spelled(0)} is {self.names[0]}, {self.spelled(1)} {self.names[1]}"
        else:
            rule = self._classes()
        ignored = "" if self.ignore is None else f"; {self.spell(self.ignore)} is ignored"
        return f"{self.num_classes} classes ({rule}{ignored}{'' if self.background else '; none is background'}" + (
            "; each object is learned by itself)" if self.cores else ")"
        )

    def spell(self, value: int) -> str:
        """A mask value as text: 'the value 7', 'the colour #ff0000'."""
        return f"the colour {spelled(value)}" if self.kind == "colours" else f"the value {value}"

    def plain(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> LabelMap:
        parts: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
        return cls(**parts)

    def alone(self, number: int) -> LabelMap:
        """The map of masks that hold this class alone, as overlapping classes are written."""
        return LabelMap((0, 255), (self.names[0], self.names[number]))

    def mask_of(self, indices: np.ndarray, number: int) -> np.ndarray:
        """Class indices -> the mask of one class, in its own values."""
        return self.alone(number).decode(self.region(indices, number).astype(np.uint8))

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """All values of classes and the ignored one, ascending, and the class index of each."""
        index_of = {value: index for index, value in enumerate(self.values)}
        if self.ignore is not None:
            index_of[self.ignore] = IGNORED
        known = sorted(index_of)
        return np.array(known), np.array([index_of[value] for value in known], dtype=np.int16)

    def spelled(self, index: int) -> str:
        """The mask value of a class as text, which is also its default name."""
        return spelled(self.values[index]) if self.kind == "colours" else str(self.values[index])

    def _classes(self) -> str:
        named = [
            value if value == name else f"{name} {value}"
            for name, value in zip(self.names, map(self.spelled, range(self.num_classes)), strict=True)
        ]
        return ", ".join(named if len(named) <= 12 else [*named[:11], "...", named[-1]])


def spelled(colour: int) -> str:
    """A colour as text in names and messages."""
    return "transparent" if colour == TRANSPARENT else f"#{colour:06x}"
