"""Writing of the output files of one image: its mask, and the requested extras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_cli.config.prediction import PredictConfig
from unet_cli.config.spacing import in_mm
from unet_cli.data.colours import colours_of
from unet_cli.data.formats import is_volume_file
from unet_cli.data.formats.tiff_write import Tags, carried_tags
from unet_cli.data.found import Objects
from unet_cli.data.imagefile import open_bands, read_image
from unet_cli.data.labels import LabelMap
from unet_cli.data.objects import separated
from unet_cli.data.pictures import outlined
from unet_cli.data.planes import crossing_planes
from unet_cli.data.slabs import Slabs, joined, regrouped, slab_height
from unet_cli.data.spacing import place_for_nifti, spacing_of
from unet_cli.data.writing import write_pages, write_png, write_rows, write_volume, write_world_file
from unet_cli.inference.cleaning import cleaned
from unet_cli.inference.described import Describer
from unet_cli.inference.jobs import Job
from unet_cli.inference.numbering import map_type, numbered_objects
from unet_cli.inference.store import Store
from unet_cli.system.console import counted
from unet_cli.system.files import make_folder
from unet_cli.system.scratch import Scratch

ROWS_AT_ONCE = 256  # rows that are decoded in one call: numpy's index takes 8 bytes a pixel

Pages = Callable[[], Iterator[Iterable[np.ndarray]]]


class Written(NamedTuple):
    """What the files of an image hold: the share of each class, the number of objects where they are predicted, and
    what else is to be said."""

    shares: tuple[float, ...]
    objects: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """Writer of the output files of an image of `size` (H, W), or of a stack or volume whose pages have that size."""

    job: Job
    size: tuple[int, int]
    config: PredictConfig
    labels: LabelMap
    keep_alpha: bool
    planes: int  # probability maps of the predictor, see Predictor

    @property
    def maps(self) -> list[str]:
        """The extras that are maps with values in 0 to 1: probability maps in the order of the classes, then attention
        maps."""
        return [extra for extra in self.job.extras if extra.startswith(("probability", "attention"))]

    @property
    def stored_probabilities(self) -> int:
        """Number of probability maps in the store, which are its first ones after the classes."""
        return self.planes if self.config.probabilities or self.config.describes_objects else 0

    @property
    def stored(self) -> int:
        """Number of all maps in the store."""
        unwritten = 0 if self.config.probabilities else self.stored_probabilities
        return unwritten + len(self.maps)

    def write(self, store: Store) -> Written:
        """Write the files, the mask last. Plane 0 of the store holds the class indices, the next planes the maps; the
        pages of a stack lie one below the other. Raises UserError.

        A mask goes from the store to a TIFF block by block. What has to be known of the whole mask, as for cleaning and
        numbering, is found slab by slab and put aside, once for all files. For anything but a TIFF the whole mask, or
        page, is in memory.
        """
        job, config = self.job, self.config
        for path in job.outputs:
            make_folder(path.parent)
        if not (self._counts_objects or config.changes_masks or config.overlay):
            return self._write_all(store, partial(self._masks, store), ())
        with Scratch(job.mask.parent) as scratch:
            sheets = [
                cleaned(self._slabs(blocks, scratch), config, self.labels, scratch)
                for blocks in ([self._slices(store)] if job.image.is_volume else self._masks(store))
            ]
            found = [numbered_objects(one, config, self.labels, scratch) for one in sheets if self._counts_objects]
            return self._write_all(store, partial(self._pages_of, sheets), found)

    @property
    def _counts_objects(self) -> bool:
        return self.labels.cores or self.config.numbers_objects or self.config.describes_objects

    def _slabs(self, blocks: Iterator[np.ndarray], scratch: Scratch) -> Slabs:
        sides = self.size if self.job.image.is_volume else self.size[1:]
        return Slabs(scratch, regrouped(blocks, slab_height(sides)))

    def _slices(self, store: Store) -> Iterator[np.ndarray]:
        """Those of a volume, (1, H, W) each."""
        return (joined(blocks)[None] for blocks in self._masks(store))

    def _pages_of(self, sheets: Iterable[Iterable[np.ndarray]]) -> Iterator[Iterable[np.ndarray]]:
        """Slabs of pages, or of the one volume -> blocks of rows of each page, or slice."""
        if self.job.image.is_volume:
            return ([page] for volume in sheets for slab in volume for page in slab)
        return iter(sheets)

    def _write_all(self, store: Store, masks: Pages, found: Sequence[Objects]) -> Written:
        """masks: gives the class indices of each page in blocks. found: the objects of each page, or of the one
        volume, where they are asked for."""
        job, config = self.job, self.config
        if config.overlay:
            self._write_overlays(masks(), found)
        if config.numbers_objects:
            for place, extra in enumerate(one for one in job.extras if one.startswith("instances")):
                self._write_file(job.beside(extra), self._numbers(found, place))
        if config.describes_objects:
            probabilities = [self._pages(store.rows(plane)) for plane in range(1, 1 + self.stored_probabilities)]
            Describer(job, config, self.labels, self.keep_alpha).write(found, probabilities)
        # The mask is written last, so an image that has a mask has all its extras.
        for plane, extra in enumerate(self.maps, 1 + self.stored - len(self.maps)):
            self._write_file(job.beside(extra), self._pages(store.rows(plane)))
        # Classes are counted while the mask is written, since its blocks can be read only in passing.
        counts = np.zeros(len(self.labels.members), np.int64)
        if job.by_class:
            for number, path in enumerate(job.by_class, 1):
                counts[:] = 0
                mask_of = partial(self.labels.mask_of, number=number)
                decoded = (self._decoded(blocks, counts, mask_of) for blocks in masks())
                self._write_file(path, decoded, self.labels.alone(number).written_palette)
        elif self.labels.cores:
            if "classes" in job.extras:
                decoded = (self._decoded(blocks, counts, self.labels.decode) for blocks in masks())
                self._write_file(job.beside("classes"), decoded, self.labels.written_palette)
            else:
                for block in chain.from_iterable(masks()):
                    counts += self._count(block, len(counts))
            self._write_file(job.mask, self._numbers(found, 0))
        else:
            decoded = (self._decoded(blocks, counts, self.labels.decode) for blocks in masks())
            self._write_file(job.mask, decoded, self.labels.written_palette)
        shares = tuple((counts @ self.labels.members / counts.sum()).tolist())
        return Written(shares, sum(map(len, found)) if self.labels.cores else None, _notes(found))

    def _count(self, indices: np.ndarray, length: int) -> np.ndarray:
        return np.bincount(self.labels.without_cores(indices).ravel(), minlength=length)

    def _write_overlays(self, masks: Iterator[Iterable[np.ndarray]], found: Sequence[Objects]) -> None:
        """Of each page; of a volume one, with three planes. Touching objects that were learned as such have a line
        between them."""
        job, colours = self.job, colours_of(self.labels)
        if job.image.is_volume:
            bands = open_bands(job.image, self.keep_alpha)
            stated = self.config.spacing
            spacing = in_mm(stated) if stated else spacing_of(job.image)
            shown = self._apart(np.stack([joined(blocks) for blocks in masks]), found, 0)
            write_png(job.overlays[0], crossing_planes(bands, shown, colours, spacing))
            return
        for page, blocks in enumerate(masks):
            shown = self._apart(joined(blocks), found, page)
            write_png(job.overlays[page], outlined(read_image(job.page(page), self.keep_alpha), shown, colours))

    def _apart(self, indices: np.ndarray, found: Sequence[Objects], page: int) -> np.ndarray:
        if not self.labels.cores:
            return indices
        inside = separated(found[page].layers[0].whole()) > 0
        return np.where(inside, self.labels.without_cores(indices), np.uint8(0))

    def _numbers(self, found: Sequence[Objects], place: int) -> Iterator[Iterable[np.ndarray]]:
        """The instance map of each page, or slice, in blocks; of one class where classes overlap. place: its layer."""
        highest = max(int(one.in_map[one.on == place].max(initial=0)) for one in found)
        kind = map_type(highest, is_wide=self.job.mask.suffix == ".tif")  # one for all pages
        return self._pages_of(one.map_of(place, kind) for one in found)

    def _masks(self, store: Store) -> Iterator[Iterator[np.ndarray]]:
        """Class indices of each page in blocks, as they were predicted."""
        return self._pages(store.rows(0))

    def _pages(self, blocks: Iterator[np.ndarray]) -> Iterator[Iterator[np.ndarray]]:
        """Blocks of rows, of which those that extend over several pages hold whole ones -> the blocks of each page, to
        be consumed in order."""
        height = self.size[0]
        parts = (block[top : top + height] for block in blocks for top in range(0, len(block), height))
        for _ in range(self.job.pages):
            yield self._page(parts)

    def _page(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        remaining = self.size[0]
        while remaining:
            block = next(blocks)
            remaining -= len(block)
            yield block

    def _decoded(
        self, blocks: Iterable[np.ndarray], counts: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Class indices -> the user's mask values; the pixels of each index are added to `counts`."""
        for block in blocks:
            for top in range(0, len(block), ROWS_AT_ONCE):
                rows = block[top : top + ROWS_AT_ONCE]
                counts += self._count(rows, len(counts))
                yield decode(rows)

    def _write_file(self, path: Path, pages: Iterable[Iterable[np.ndarray]], palette: list[int] | None = None) -> None:
        self._write_pixels(path, pages, palette)
        if self.job.world is not None:
            write_world_file(path, self.job.world)

    def _write_pixels(self, path: Path, pages: Iterable[Iterable[np.ndarray]], palette: list[int] | None) -> None:
        if is_volume_file(path):
            write_volume(path, pages, place_for_nifti(self.job.image))
            return
        if path.suffix != ".tif":
            (blocks,) = pages
            write_rows(path, blocks, self.size[0], palette)
            return
        if self.job.image.is_volume and len(self.job.image.paths) > 1:
            tags: list[Tags] = [()] * self.job.pages
        else:
            sources = [self.job.page(page) for page in range(self.job.pages)]
            tags = [carried_tags(source.path, source.page) for source in sources]
        write_pages(path, pages, self.size[0], palette, tags)


def _notes(found: Sequence[Objects]) -> tuple[str, ...]:
    """What is to be said of the objects of the pages."""
    unsplit = sum(one.unsplit for one in found)
    return (f"{counted(unsplit, 'object')} too large to be separated at necks",) if unsplit else ()
