"""The ground truth of an image: its classes and its objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from unet_cli.config.model import IGNORED
from unet_cli.data.annotations.parsed import annotated
from unet_cli.data.annotations.polygons import drawn_apart
from unet_cli.data.annotations.shapes import BACKGROUND_LABEL, IGNORED_LABEL
from unet_cli.data.labels import LabelMap, mask_as
from unet_cli.data.maskfile import MaskPixels, one_mask, read_mask
from unet_cli.data.objects import components
from unet_cli.data.source import Entry, Source
from unet_cli.errors import UserError


@dataclass(frozen=True)
class Mask:
    """A semantic and an instance mask of one image, (H, W), or volume, (D, H, W).

    classes: uint8 class indices, 255 for ignored. numbers: object numbers, 0 for none; pixels of one number but
    different classes are different objects. Where classes overlap, each foreground class has numbers of its own, along
    the first axis.
    """

    classes: np.ndarray
    numbers: np.ndarray

    def numbers_of(self, labels: LabelMap, number: int) -> np.ndarray:
        """The object numbers of one class."""
        if labels.overlapping:
            return self.numbers[number - 1]
        return np.where(labels.region(self.classes, number), self.numbers, 0)

    @property
    def all_numbers(self) -> np.ndarray:
        """Of classes that exclude each other, numbers that objects of different classes don't share; 0 for none."""
        inside = (self.classes != 0) & (self.classes != IGNORED) & (self.numbers > 0)
        return np.where(inside, self.numbers.astype(np.int64) * (IGNORED + 1) + self.classes, 0)


def numbers_objects(source: Source, labels: LabelMap) -> bool:
    """Whether a mask tells objects apart that touch: by numbers, or by a file or a shape for each of several."""
    if source.entry is not None:
        return len(annotated(source.path, source.entry.tool, source.entry.name).shapes) > 1
    return labels.kind == "instances" or _has_files(source)


def read_truth(source: Source, labels: LabelMap, missing: np.ndarray | None = None) -> Mask:
    """A mask and its objects: numbered in the file, one in each of several files, the shapes of annotations, or
    connected components, over corners too. missing: bool, missing pixels of the image, which are ignored. Raises
    UserError."""
    try:
        found = read_mask(source)
        classes = _classes(found, source, labels, missing)
        known = np.where(classes == IGNORED, np.uint8(0), classes)
        if labels.kind == "instances" and not source.is_blank:
            numbers = np.where(known == 0, 0, one_mask(mask_as(labels.reading, found), source))
        elif _has_files(source):
            numbers = _numbered_by_file(source, labels)
        elif source.entry is not None:
            of_each = [
                np.where(labels.region(known, number), of_class, 0)
                for number, of_class in enumerate(_numbers_of_shapes(source, source.entry, labels), 1)
            ]
            numbers = np.stack(of_each) if labels.overlapping else np.maximum.reduce(of_each)
        elif labels.overlapping:
            regions = (labels.region(known, number).astype(np.uint8) for number in labels.scored)
            numbers = np.stack([components(region)[0] for region in regions])
        else:
            numbers, _ = components(known)
    except UserError as error:
        raise source.named(error) from error
    return Mask(classes, numbers)


def read_classes(source: Source, labels: LabelMap, missing: np.ndarray | None = None) -> np.ndarray:
    """The classes alone, see read_truth. Raises UserError."""
    try:
        return _classes(read_mask(source), source, labels, missing)
    except UserError as error:
        raise source.named(error) from error


def _classes(found: MaskPixels, source: Source, labels: LabelMap, missing: np.ndarray | None) -> np.ndarray:
    classes = one_mask(labels.encode(found), source)
    if missing is not None and missing.shape == classes.shape:
        classes[missing] = IGNORED
    return classes


def _has_files(source: Source) -> bool:
    return len(source.paths) > 1 and not source.classes and not source.is_volume


def _numbers_of_shapes(mask: Source, entry: Entry, labels: LabelMap) -> Iterator[np.ndarray]:
    """For each class but the background the number of its shape on top, (H, W). Raises UserError."""
    assert mask.size is not None
    one = annotated(mask.path, entry.tool, entry.name)
    value_of = {name: value for value, name in enumerate(entry.classes, 1)}
    drawn_shapes = [shape for shape in one.shapes if shape.label not in (IGNORED_LABEL, BACKGROUND_LABEL)]
    names = [entry.numbered[int(shape.label)] if entry.numbered else shape.label for shape in drawn_shapes]
    for value in labels.values[1:]:
        own = [shape for shape, name in zip(drawn_shapes, names, strict=True) if value_of.get(name) == value]
        yield drawn_apart(replace(one, shapes=tuple(own)), mask.size)


def _numbered_by_file(source: Source, labels: LabelMap) -> np.ndarray:
    """Object numbers from one file an object; where objects overlap, the later file wins."""
    numbers: np.ndarray | None = None
    for number, path in enumerate(source.paths, start=1):
        inside = labels.encode(read_mask(replace(source, paths=(path,))))[0] > 0
        numbers = np.zeros(inside.shape, np.int32) if numbers is None else numbers
        numbers[inside] = number
    assert numbers is not None
    return numbers
