"""Which image an entry of an annotation file is about: no path is followed, only files in the data folder are meant."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet_cli.data.folder.roles import File, located
from unet_cli.data.folder.walk import stem
from unet_cli.data.folder.words import SPLIT_WORDS, tokens
from unet_cli.errors import UserError


@dataclass(frozen=True)
class Link:
    """An image and the entry that its mask is drawn from. split: of the pair, None where nothing tells. page: of a
    stack, from 0; None for the whole image."""

    image: File
    path: Path
    entry: str
    split: str | None
    page: int | None = None


class Images:
    """The images of a data folder, by what annotation files may call them."""

    def __init__(self, root: Path, files: Sequence[File]) -> None:
        self.root, self.files = root, files
        self._by_name: defaultdict[str, list[File]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[File]] = defaultdict(list)
        self._by_place = {(file.split, file.name): file for file in files}
        for file in files:
            self._by_name[file.path.name].append(file)
            self._by_stem[stem(file.path.name)].append(file)

    def called(self, name: str, path: Path, split: str | None = None) -> File | None:
        """The image that a file means by this name: of those that end like it, the one that does so longest, then the
        one nearest to the annotation file, then the one of the same split. Any path before is that of another machine.
        Raises UserError where several remain."""
        parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]
        if not parts:
            return None
        found = self._by_name.get(parts[-1]) or self._by_stem.get(stem(parts[-1]), [])
        for nearness in (
            lambda file: _common_end(file.path.relative_to(self.root).parts[:-1], parts[:-1]),
            lambda file: file.path.is_relative_to(path.parent),
            lambda file: split is not None and file.split == split,
        ):
            if len(found) > 1:
                best = max(map(nearness, found))
                found = [file for file in found if nearness(file) == best]
        if len(found) > 1:
            raise UserError(
                f"{path} has annotations of {name}, which may be {found[0].path} or {found[1].path}: give one of them "
                "another name"
            )
        return found[0] if found else None

    def beside(self, path: Path) -> File | None:
        """The image of the same name as an annotation file, in its folder, or where folders have the same meaning: of
        train/labels/7.txt, train/images/7.jpg."""
        [place] = located(self.root, [path])
        own = stem(place.name.removesuffix(path.suffix))
        here = [file for file in self._by_stem.get(stem(path.stem), []) if file.path.parent == path.parent]
        return here[0] if len(here) == 1 else self._by_place.get((place.split, own))

    def named_in(self, path: Path) -> File | None:
        """The only image that an annotation file's name begins or ends with, where the rest is words without numbers:
        of 7_RoiSet.zip, 7.tif."""
        words = re.split(r"([^\W_]+)", path.stem)
        for count in range(len(words) - 1, 0, -1):
            for name, rest in ((words[:count], words[count:]), (words[-count:], words[:-count])):
                found = self._by_stem.get("".join(name), [])
                if found and not re.search(r"\d", "".join(rest)):
                    beside = [file for file in found if file.path.parent == path.parent] or found
                    return beside[0] if len(beside) == 1 else None
        return None


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            break
        count += 1
    return count


def split_of_file(path: Path) -> str | None:
    """The split that an annotation file's own name speaks of: instances_train2017.json."""
    words = [word.casefold() for word in tokens(path.stem)]
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return splits[-1] if splits else None


def named_apart(root: Path, links: Iterable[Link]) -> list[Link]:
    """The same, with names that tell images of one split apart. Raises UserError where an image is linked twice."""
    every = list(links)
    seen: dict[tuple[Path, int | None], Link] = {}
    count: defaultdict[tuple[str | None, str, int | None], int] = defaultdict(int)
    for link in every:
        other = seen.setdefault((link.image.path, link.page), link)
        if other is not link:
            raise UserError(
                f"{link.image.path} is annotated twice, {_stated(other)} and {_stated(link)}: keep one of them"
            )
        count[link.split, link.image.name, link.page] += 1
    return [
        link
        if count[link.split, link.image.name, link.page] == 1
        else replace(link, image=replace(link.image, name=link.image.path.relative_to(root).as_posix()))
        for link in every
    ]


def _stated(link: Link) -> str:
    return f"as {link.entry} in {link.path}" if link.entry else f"in {link.path}"
