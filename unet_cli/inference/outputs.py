"""Writing of the output files of one image: its mask, and the requested extras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_cli.config.prediction import PredictConfig
from unet_cli.config.spacing import in_mm
from unet_cli.data.colours import colours_of
from unet_cli.data.formats import is_volume_file
from unet_cli.data.formats.tiff_write import Tags, carried_tags
from unet_cli.data.imagefile import open_bands, read_image
from unet_cli.data.labels import LabelMap
from unet_cli.data.objects import separated
from unet_cli.data.pictures import outlined
from unet_cli.data.planes import crossing_planes
from unet_cli.data.spacing import place_for_nifti, spacing_of
from unet_cli.data.writing import joined, write_pages, write_png, write_rows, write_volume, write_world_file
from unet_cli.inference.cleaning import clean, number_objects, objects_of
from unet_cli.inference.described import Describer
from unet_cli.inference.jobs import Job
from unet_cli.inference.store import Store
from unet_cli.system.files import make_folder

ROWS_AT_ONCE = 256  # rows that are decoded in one call: numpy's index takes 8 bytes a pixel


class Written(NamedTuple):
    """What the files of an image hold: the share of each class, and the number of objects where they are predicted."""

    shares: tuple[float, ...]
    objects: int | None


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

        A mask is copied from the store to a TIFF block by block; for anything else the whole mask, or page, is in
        memory. Objects of a volume extend over its slices, so they need the whole mask.
        """
        job, config = self.job, self.config
        for path in job.outputs:
            make_folder(path.parent)
        masks = partial(self._masks, store)
        if (job.pages == 1 or job.image.is_volume) and (
            self.labels.cores
            or config.changes_masks
            or config.numbers_objects
            or config.overlay
            or config.describes_objects
        ):
            in_memory = [[joined(blocks)] for blocks in masks()]
            masks = partial(iter, in_memory)  # cleaned once for all files
        if config.overlay:
            self._write_overlays(masks())
        if config.numbers_objects:
            for number, extra in enumerate((one for one in job.extras if one.startswith("instances")), 1):
                self._write_file(job.beside(extra), self._numbered(masks(), number))
        if config.describes_objects:
            probabilities = [self._pages(store.rows(plane)) for plane in range(1, 1 + self.stored_probabilities)]
            Describer(job, config, self.labels, self.keep_alpha).write(masks(), probabilities)
        # The mask is written last, so an image that has a mask has all its extras.
        for plane, extra in enumerate(self.maps, 1 + self.stored - len(self.maps)):
            self._write_file(job.beside(extra), self._pages(store.rows(plane)))
        # Classes are counted while the mask is written, since its blocks can be read only in passing.
        counts, objects = np.zeros(len(self.labels.members), np.int64), list[int]()
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
            counts[:] = 0
            self._write_file(job.mask, self._numbered(self._counted(masks(), counts), 1, objects))
        else:
            decoded = (self._decoded(blocks, counts, self.labels.decode) for blocks in masks())
            self._write_file(job.mask, decoded, self.labels.written_palette)
        shares = tuple((counts @ self.labels.members / counts.sum()).tolist())
        return Written(shares, sum(objects) if self.labels.cores else None)

    def _counted(self, masks: Iterator[Iterable[np.ndarray]], counts: np.ndarray) -> Iterator[Iterable[np.ndarray]]:
        """The same masks; the pixels of each index are added to `counts`."""
        for blocks in masks:
            whole = joined(blocks)
            counts += self._count(whole, len(counts))
            yield [whole]

    def _count(self, indices: np.ndarray, length: int) -> np.ndarray:
        return np.bincount(self.labels.without_cores(indices).ravel(), minlength=length)

    def _write_overlays(self, masks: Iterator[Iterable[np.ndarray]]) -> None:
        """Of each page; of a volume one, with three planes."""
        job, colours = self.job, colours_of(self.labels)
        if job.image.is_volume:
            bands = open_bands(job.image, self.keep_alpha)
            stated = self.config.spacing
            spacing = in_mm(stated) if stated else spacing_of(job.image)
            write_png(job.overlays[0], crossing_planes(bands, self._shown(_volume(masks)), colours, spacing))
            return
        for page, blocks in enumerate(masks):
            pixels = read_image(job.page(page), self.keep_alpha)
            write_png(job.overlays[page], outlined(pixels, self._shown(joined(blocks)), colours))

    def _shown(self, indices: np.ndarray) -> np.ndarray:
        """Class indices as an overlay outlines them: touching objects with a line between them."""
        if not self.labels.cores:
            return indices
        return (separated(objects_of(indices, self.config, self.labels)) > 0).astype(np.uint8)

    def _numbered(
        self, masks: Iterator[Iterable[np.ndarray]], number: int, counts: list[int] | None = None
    ) -> Iterator[Iterable[np.ndarray]]:
        """The instance map of each page, or the slices of a volume's; of class `number` where classes overlap. counts:
        list to which the number of objects in each is added."""

        def objects(indices: np.ndarray) -> np.ndarray:
            if self.labels.overlapping:
                return number_objects(self.labels.region(indices, number).astype(np.uint8), self.config)
            numbers = number_objects(indices, self.config, self.labels, is_wide=self.job.mask.suffix == ".tif")
            if counts is not None:
                counts.append(int(numbers.max(initial=0)))
            return numbers

        if self.job.image.is_volume:
            return ([page] for page in objects(_volume(masks)))
        return ([objects(joined(blocks))] for blocks in masks)

    def _masks(self, store: Store) -> Iterator[Iterable[np.ndarray]]:
        """Class indices of each page in blocks, after the requested postprocessing."""
        is_cleaned = self.config.changes_masks or self.labels.cores
        if self.job.image.is_volume and is_cleaned:
            whole = _volume(self._pages(store.rows(0)))
            yield from ([page] for page in clean(whole, self.config, self.labels))
            return
        for blocks in self._pages(store.rows(0)):
            if is_cleaned:
                yield [clean(joined(blocks), self.config, self.labels)]
            else:
                yield blocks

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


def _volume(pages: Iterable[Iterable[np.ndarray]]) -> np.ndarray:
    """The blocks of each slice -> (D, H, W)."""
    return np.stack([joined(blocks) for blocks in pages])
