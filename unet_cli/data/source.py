"""References to an image and its mask, before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from unet_cli.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Item = TypeVar("Item")
Turn = tuple[tuple[int, int], ...]

# Keys in a checkpoint's training record: see path_rules.rules_beside, Paired.channels, and Layout.class_folders.
MASKS_BESIDE, CHANNEL_WORDS, CLASS_FOLDERS = "masks_beside", "channel_words", "class_folders"


@dataclass(frozen=True)
class Entry:
    """What a mask is drawn from: the entry of its image in an annotation file.

    tool: the format, a key of annotations.parsed.PARSERS. name: of the image in the file. classes: names by class
    index, from 1 on. numbered: names of the classes that the file numbers, from 0 on. colours: 0xRRGGBB of background
    and classes, where the tool has them. digest: of the file's content.
    is_one_of_many: the file has entries of several images.
    """

    tool: str
    name: str
    classes: tuple[str, ...]
    numbered: tuple[str, ...] = ()
    colours: tuple[int, ...] = ()
    digest: str = ""
    is_one_of_many: bool = False


@dataclass(frozen=True)
class Source:
    """The location of an image's or a mask's pixels: one file, several files, a page of a stack, or a volume.

    paths: several files are the channels of an image, or the objects of a mask, one a file. page: index from 0; None
    for the whole file. classes: the class index of each file, if each class has a file of its own. is_blank: there is
    no mask, and the image at `paths` is all background. size: (H, W) that a mask is resized to, if it has another.
    entry: what a drawn mask is drawn from; the annotation file is at `paths`. is_volume: the pages of the file are the
    slices of one volume; of several files with one page each, the files in their order are its slices. turn: of such
    files, how their axes are brought to those of NIfTI volumes, see `turned`. slices: the first and the end, from 0, of
    those that are taken; None for all. around: number of pages on either side that are read with a page, as channels of
    one image.
    """

    paths: tuple[Path, ...]
    page: int | None = None
    classes: tuple[int, ...] = ()
    is_blank: bool = False
    size: tuple[int, int] | None = None
    entry: Entry | None = None
    is_volume: bool = False
    turn: Turn = ()
    slices: tuple[int, int] | None = None
    around: int = 0

    @property
    def path(self) -> Path:
        """The file, or the first of several."""
        return self.paths[0]

    def __str__(self) -> str:
        if self.is_blank:
            return f"no mask of {self.path}"
        if self.entry is not None and self.entry.is_one_of_many:
            return f"{self.entry.name} in {self.path}"
        more = f" (and {len(self.paths) - 1} more)" if len(self.paths) > 1 else ""
        page = "" if self.page is None else f", page {self.page + 1}"
        slices = "" if self.slices is None else f", slices {self.slices[0] + 1} to {self.slices[1]}"
        return f"{self.path}{more}{page}{slices}"

    def chosen(self, pages: np.ndarray) -> np.ndarray:
        """Of (P, ...) all pages of the files, those of `slices`. Raises UserError where there are no such slices."""
        if self.slices is None:
            return pages
        first, end = self.slices
        if end > len(pages):
            raise UserError(f"{self.path} has {len(pages)} slices, so none of number {end}: was it replaced?")
        return pages[first:end]

    def named(self, error: UserError) -> UserError:
        """The error with the source's name in front, unless its message contains it already."""
        text = str(error)
        return error if any(str(path) in text for path in self.paths) else UserError(f"{self} {text}")


@dataclass(frozen=True)
class Pair:
    """An image and its mask. `name` is unique in its split, and identifies the pair in lists."""

    name: str
    image: Source
    mask: Source


def page_name(name: str, page: int) -> str:
    """The name of the pair of a page, counted from 0, of files whose pair has that name."""
    return f"{name}#{page + 1}"


def turned(volume: np.ndarray, turn: Turn) -> np.ndarray:
    """(..., D, H, W) with other axes; a view. turn: for each axis of the result the axis it comes from, 0 to 2, and -1
    if it is reversed, else 1; () for none."""
    if not turn:
        return volume
    leading = volume.ndim - 3
    moved = volume.transpose(*range(leading), *(leading + axis for axis, _ in turn))
    slices, rows, columns = (slice(None, None, step) for _, step in turn)
    return moved[..., slices, rows, columns]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """All items, or `most` of them, evenly spaced."""
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]
