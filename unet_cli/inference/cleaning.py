"""Postprocessing of a predicted mask: objects are filled and removed.

Objects are defined in data/objects.py. As their pixels are connected at corners too, those of the background are only
at sides (4-connected, in volumes 6-connected): an outline whose pixels touch only at their corners is closed. Masks
have any number of dimensions, and in all of them pixels count as equally long. They come in slabs, and what becomes of
them is the same however they are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet_cli.config.prediction import Cleaning
from unet_cli.data.cores import cores_in, marked
from unet_cli.data.labels import LabelMap
from unet_cli.data.numbered import Links, components_in
from unet_cli.data.objects import look_up, neighbours, steps_to_neighbours
from unet_cli.data.slabs import Slabs, in_slabs
from unet_cli.inference.numbering import grown_objects, numbered_objects
from unet_cli.system.scratch import Scratch

NO_CLASS = 255


def clean(pred: np.ndarray, cleaning: Cleaning, labels: LabelMap | None = None) -> np.ndarray:
    """Like `cleaned`, of an array in memory, and to a new one."""
    return np.array(cleaned(in_slabs(pred), cleaning, labels).whole())


def cleaned(pred: Slabs, cleaning: Cleaning, labels: LabelMap | None = None, scratch: Scratch | None = None) -> Slabs:
    """Uint8 class indices ([D,] H, W), 0 being background, after fill_holes, remove_smaller and keep_largest.

    A hole is background that doesn't reach the image's border and is surrounded by a single class: it gets that class.
    Removed objects become background. Classes that overlap are cleaned each by itself. Of several largest objects of a
    class, the first in reading order is kept. An object with a core gets the class of most of its pixels. Raises
    UserError where there is no space left for what is put aside.
    """
    scratch = scratch or Scratch()
    if labels is not None and labels.cores:
        settled = _of_one_class_each(pred, cleaning, labels, scratch) if labels.num_classes > 2 else pred
        return _with_whole_objects(settled, cleaning, labels, scratch) if cleaning.changes_masks else settled
    if not cleaning.changes_masks:
        return pred
    if labels is not None and labels.overlapping:
        of_each = []
        for number in labels.scored:
            regions = Slabs(scratch, (labels.region(slab, number).astype(np.uint8) for slab in pred))
            of_each.append(cleaned(regions, cleaning, scratch=scratch))
        sets = (
            np.bitwise_or.reduce([one << number for number, one in enumerate(regions)])
            for regions in zip(*of_each, strict=True)
        )
        return Slabs(scratch, sets)
    filled = _filled(pred, scratch) if cleaning.fill_holes else pred
    if cleaning.remove_smaller > 1 or cleaning.keep_largest:
        return _without_objects(filled, cleaning, scratch)
    return filled


def _of_one_class_each(pred: Slabs, cleaning: Cleaning, labels: LabelMap, scratch: Scratch) -> Slabs:
    """Objects with cores, whatever the classes of their pixels, get the class of most of them."""
    objects = grown_objects(pred, cleaning, lambda slab: (slab > 0).astype(np.uint8), scratch)
    [layer], count = objects.layers, labels.num_classes
    votes = np.zeros((len(objects) + 1) * count, np.int64)
    for slab, numbers in zip(pred, layer, strict=True):
        pairs = numbers.astype(np.int64) * count + labels.without_cores(slab)
        votes += np.bincount(pairs.ravel(), minlength=len(votes))
    winners = votes.reshape(-1, count).argmax(1).astype(np.uint8)
    winners[0] = 0
    settled = zip(pred, layer.mapped(winners), strict=True)
    return Slabs(scratch, (marked(own, cores_in(slab) > 0) for slab, own in settled))


def _with_whole_objects(pred: Slabs, cleaning: Cleaning, labels: LabelMap, scratch: Scratch) -> Slabs:
    """Objects with cores after filling and removing, where each counts by itself, however it touches others."""
    if cleaning.fill_holes:
        plain = _filled(Slabs(scratch, map(labels.without_cores, pred)), scratch)
        pred = Slabs(scratch, (marked(own, cores_in(slab) > 0) for own, slab in zip(plain, pred, strict=True)))
    objects = numbered_objects(pred, cleaning, labels, scratch)
    kept = np.append(False, objects.areas >= cleaning.remove_smaller)
    for index in np.unique(objects.classes) if cleaning.keep_largest else ():
        own = np.flatnonzero(objects.classes == index)
        kept[own + 1] &= own == own[objects.areas[own].argmax()]
    [layer] = objects.layers
    removed = (np.where(own, slab, np.uint8(0)) for slab, own in zip(pred, layer.mapped(kept), strict=True))
    return Slabs(scratch, removed)


@dataclass(frozen=True)
class _Surroundings:
    """Of regions of background: the lowest and highest class beside each, and whether it reaches the border."""

    lowest: np.ndarray
    highest: np.ndarray
    is_open: np.ndarray

    @classmethod
    def none(cls, count: int) -> _Surroundings:
        return cls(np.full(count, NO_CLASS, np.uint8), np.zeros(count, np.uint8), np.zeros(count, bool))

    def see(self, regions: np.ndarray, classes: np.ndarray) -> None:
        """Regions, from 1, and the classes beside them."""
        edge = (regions > 0) & (classes > 0)
        np.minimum.at(self.lowest, regions[edge] - 1, classes[edge])
        np.maximum.at(self.highest, regions[edge] - 1, classes[edge])

    def open(self, regions: np.ndarray) -> None:
        self.is_open[regions[regions > 0] - 1] = True

    @classmethod
    def joined(cls, parts: Sequence[_Surroundings], ids: Sequence[np.ndarray], count: int) -> _Surroundings:
        """Those of `count` regions that consist of these. ids: for the regions of each part which, from 0."""
        one = cls.none(count)
        for part, own in zip(parts, ids, strict=True):
            np.minimum.at(one.lowest, own, part.lowest)
            np.maximum.at(one.highest, own, part.highest)
            np.logical_or.at(one.is_open, own, part.is_open)
        return one

    @property
    def filling(self) -> np.ndarray:
        """The class of each region after filling, 0 where it stays."""
        return np.where((self.lowest == self.highest) & ~self.is_open, self.lowest, np.uint8(0))


def _filled(pred: Slabs, scratch: Scratch) -> Slabs:
    from scipy.ndimage import label

    regions, links, found = Slabs(scratch), Links(corners=False), list[_Surroundings]()
    last: tuple[np.ndarray, np.ndarray] | None = None
    for number, slab in enumerate(pred):
        own, count = label(slab == 0)
        around = _Surroundings.none(count)
        for step in steps_to_neighbours(slab.ndim)[: slab.ndim]:  # those at sides
            before, after = neighbours(step)
            around.see(own[before], slab[after])
            around.see(own[after], slab[before])
        for axis in range(1, slab.ndim):
            around.open(own.take((0, -1), axis))
        if last is None:
            around.open(own[0])
        else:
            around.see(own[0], last[1])
            found[-1].see(last[0], slab[0])
        if number == len(pred) - 1:
            around.open(own[-1])
        found.append(around)
        links.add(own, count, (slab == 0).view(np.uint8))
        regions.append(own)
        last = own[-1].copy(), slab[-1].copy()
    ids, count = links.ids()
    filling = _Surroundings.joined(found, ids, count).filling
    tables = (np.append(np.uint8(0), filling[own]) for own in ids)
    return Slabs(scratch, (slab + look_up(*both) for slab, *both in zip(pred, tables, regions, strict=True)))


def _without_objects(pred: Slabs, cleaning: Cleaning, scratch: Scratch) -> Slabs:
    numbered = components_in(pred, scratch, len(pred.shape))
    facts = numbered.facts
    kept = facts.areas >= cleaning.remove_smaller
    if cleaning.keep_largest:
        order = np.lexsort((facts.first, -facts.areas))
        _, largest = np.unique(facts.classes[order], return_index=True)
        kept &= np.isin(np.arange(len(kept)), order[largest])
    stay = (numbered.mapped(number, kept) for number in range(len(pred)))
    return Slabs(scratch, (np.where(own, slab, np.uint8(0)) for slab, own in zip(pred, stay, strict=True)))
