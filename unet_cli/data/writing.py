"""Write masks and pictures as lossless PNG or TIFF, atomically, signed with our name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unet_cli.data.formats import TIFF_EXTENSIONS, extension_of, is_volume_file
from unet_cli.data.formats.geo import WORLD_FILES, Affine, world_file, world_text
from unet_cli.data.formats.nifti import Geometry, description_of
from unet_cli.data.formats.nifti_write import write_nifti
from unet_cli.data.formats.tiff_write import SOFTWARE, Tags, software_of, write_stack
from unet_cli.data.slabs import joined
from unet_cli.errors import UserError
from unet_cli.system.files import whole_file

SIGNATURE = ("Software", SOFTWARE)  # text chunk of every PNG, and tag of every TIFF, that we write; NIfTI: descrip


def write_mask(path: Path, mask: np.ndarray, palette: list[int] | None = None, tags: Tags = ()) -> None:
    """Write (H, W) uint8 or uint16 values, with a palette if given; or (H, W, 3) uint8 as RGB.

    A TIFF with these tags if the path ends in .tif or .tiff, else a PNG. Raises UserError.
    """
    write_rows(path, [mask], len(mask), palette, tags)


def write_rows(
    path: Path, blocks: Iterable[np.ndarray], height: int, palette: list[int] | None = None, tags: Tags = ()
) -> None:
    """Like `write_mask`, from blocks of rows from top to bottom: streamed to a TIFF, joined in memory for a PNG."""
    if path.suffix.lower() in TIFF_EXTENSIONS:
        write_pages(path, [blocks], height, palette, [tags])
        return
    image = Image.fromarray(joined(_of_palette(blocks, palette)))
    if palette is not None:
        image.putpalette(palette)
    write_png(path, image)


def write_pages(
    path: Path, pages: Iterable[Iterable[np.ndarray]], height: int, palette: list[int] | None, tags: Sequence[Tags]
) -> None:
    """Write a TIFF with as many pages as there are tags, each from its blocks of rows, which are consumed before the
    next page is requested. Raises UserError."""
    upcoming = (_of_palette(blocks, palette) for blocks in pages)
    rows = next(upcoming)
    first = next(rows)
    with whole_file(path) as file:
        everything = chain([chain([first], rows)], upcoming)
        write_stack(file, everything, (height, *first.shape[1:]), first.dtype, palette, tags)


def write_volume(path: Path, pages: Iterable[Iterable[np.ndarray]], like: Path | Geometry) -> None:
    """Write a NIfTI that lies in space as the volume `like` (see write_nifti), from the blocks of rows of each slice;
    compressed if the path says so. Raises UserError."""
    slices = (joined(blocks) for blocks in pages)
    first = next(slices)
    if first.ndim > 2:
        raise UserError(f"{path} can't hold the colours of these classes: write --format tif")
    with whole_file(path) as file:
        write_nifti(file, chain([first], slices), like, first.dtype, extension_of(path) == ".nii.gz")


def write_world_file(mask: Path, transform: Affine) -> None:
    """Write the world file of a mask beside it. Raises UserError."""
    with whole_file(world_file(mask)) as file:
        file.write(world_text(transform).encode())


def _of_palette(blocks: Iterable[np.ndarray], palette: list[int] | None) -> Iterator[np.ndarray]:
    return (block if palette is None else block.astype(np.uint8, copy=False) for block in blocks)


def write_png(path: Path, image: Image.Image) -> None:
    """Write a lossless PNG atomically, with our signature. Raises UserError."""
    signature = PngInfo()
    signature.add_text(*SIGNATURE)
    with whole_file(path) as file:
        image.save(file, format="PNG", compress_level=3, pnginfo=signature)


def is_ours(path: Path) -> bool:
    """Whether unet wrote this PNG, TIFF or NIfTI, so that it may be overwritten: anything else belongs to the user. A
    world file belongs to whom its image does.

    Reads only the header, whatever the size of the image.
    """
    masks = [path.with_suffix(suffix) for suffix, own in WORLD_FILES.items() if own == path.suffix]
    if masks:
        return is_ours(masks[0])
    try:
        if path.suffix.lower() in TIFF_EXTENSIONS:
            return software_of(path) == SIGNATURE[1]
        if is_volume_file(path):
            return description_of(path) == SIGNATURE[1]
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(SIGNATURE[0]) == SIGNATURE[1]
    except (UserError, OSError, SyntaxError, ValueError):
        return False
