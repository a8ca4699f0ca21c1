"""The plain values that stand for an image and its mask before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unet_cli.errors import UserError

Item = TypeVar("Item")

MASKS_BESIDE = "masks_beside"  # of what a checkpoint knows of its training: see path_rules.rules_beside


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
    """Where the pixels of an image or a mask are: one file, or several that make one; of a stack, one page.

    paths: several files are the channels of an image, or the objects of a mask, one a file. page: counted from 0;
    None is the whole file. classes: the class index of each file, where a mask has one for each class. is_blank: there
    is no mask, and all of the image at `paths` is background. size: (H, W) that a mask is brought to, if it has
    another. entry: the mask is drawn from it, and the annotation file is at `paths`.
    """

    paths: tuple[Path, ...]
    page: int | None = None
    classes: tuple[int, ...] = ()
    is_blank: bool = False
    size: tuple[int, int] | None = None
    entry: Entry | None = None

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
        return f"{self.path}{more}" + ("" if self.page is None else f", page {self.page + 1}")

    def named(self, error: UserError) -> UserError:
        """The error, beginning with what it is about unless it says so itself."""
        text = str(error)
        return error if any(str(path) in text for path in self.paths) else UserError(f"{self} {text}")


@dataclass(frozen=True)
class Pair:
    """An image and its mask. `name` is what tells this pair from the others of its split, and names it in lists."""

    name: str
    image: Source
    mask: Source


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """All of them, or that many, evenly spread over their order."""
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]
