"""Read image files into numpy arrays of a few kinds. Masks are read by maskfile.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from unet_cli.data.formats import (
    EXTENSIONS,
    TIFF_EXTENSIONS,
    VOLUME_EXTENSIONS,
    Decoded,
    count_pages,
    decode_bands,
    extension_of,
    is_volume_file,
    outline,
    reads_single_pages,
)
from unet_cli.data.formats.decoded import explained, from_array
from unet_cli.data.formats.pillow import from_pillow
from unet_cli.data.mirror import mirrored
from unet_cli.data.series import decode_of
from unet_cli.data.source import Source, turned
from unet_cli.errors import UserError
from unet_cli.system.console import counted
from unet_cli.system.prefetch import default_workers, prefetch

FLOAT_EXTENSIONS = (*TIFF_EXTENSIONS, *VOLUME_EXTENSIONS, ".npy", ".npz", ".pfm")  # formats that can store NaN

NO_DATA = 1e30  # larger absolute values are no measurements: -3.4e38 and the like mark missing pixels
SLICES_AHEAD = 2**26  # bytes of a volume's slices that are read ahead
ALIKE = "files and slices of one volume must have the same size and type"
ALL_NAN = "holds nothing but NaN: replace it, or leave it out"
NAN_FILLED = "NaN was replaced for the network and is ignored in loss and scores"
# Notes on the conversion of an image, and remedies.
ALPHA_DROPPED = "alpha was dropped"
HIDDEN_COLOURS = "colours hidden under transparent pixels show"
TURNED = "rotated upright according to the EXIF orientation"
TURNED_IN_PLACE = "rotated upright, to the same size, according to the EXIF orientation"
REMEDIES = {
    ALPHA_DROPPED: "the last channel; --keep-alpha keeps it",
    HIDDEN_COLOURS: "--keep-alpha shows the network which these are",
    TURNED_IN_PLACE: "if the masks were drawn on the pixels as stored, they don't fit: remove the orientation from "
    "copies of the images, with exiftool -Orientation= -o stored/ IMAGES, and use these",
}


@dataclass(frozen=True)
class Bands:
    """An image that is read in bands of rows, from top to bottom, or a volume in slabs of slices, from first to last.

    spatial: (H, W) or (D, H, W). dtype: uint8, uint16 or float32. notes: conversions, for the user. read: see `rows`.
    """

    channels: int
    spatial: tuple[int, ...]
    dtype: np.dtype[Any]
    notes: tuple[str, ...]
    read: Callable[[int], Iterator[tuple[int, np.ndarray]]] = field(repr=False)

    def rows(self, top: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, (C, h, W) pixels) bands, contiguous and in order, from the one that contains row `top` to the
        bottom; of a volume (first slice, (C, d, H, W)), from the one that contains slice `top`.

        The arrays are contiguous and writable. The file is open until the last band, or until the generator is closed.
        Raises UserError if the file is damaged or contains infinite values.
        """
        return self.read(top)


def is_image_file(path: Path) -> bool:
    """By name: a known extension, and no hidden file."""
    return extension_of(path) in EXTENSIONS and not path.name.startswith(".")


def read_stack(source: Source, keep_alpha: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """The pages of an image, (P, C, H, W) uint8, uint16 or float32, contiguous and writable; and notes for the user.

    NaN is kept and marks missing pixels: see `filled` and `missing_pixels`. C is 1 for gray and 3 for colour, with
    palettes resolved; one more with alpha; several files are the channels of one image or volume, or the slices of a
    volume, P of them, see `Source`. Other number types become float32. Raises UserError if a file can't be read,
    contains infinite values, or doesn't match the others.
    """
    if source.around:
        return _with_neighbours(source, keep_alpha)
    parts = []
    notes: dict[str, None] = {}
    for path in source.paths:
        decoded = decode_of(source, path, source.page)
        notes |= dict.fromkeys(_conversions(decoded, keep_alpha))
        parts.append(_image_pixels(decoded, path, keep_alpha))
        if parts[-1].dtype != parts[0].dtype or _size(parts[-1]) != _size(parts[0]):
            raise UserError(
                f"{path} is {describe_pixels(parts[-1])} but {source.path} is {describe_pixels(parts[0])}: "
                f"{'files' if source.is_volume else 'channels'} of one image must have the same size and type"
            )
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=0 if are_slices(len(parts[0]), source) else 1)
    return _our_own(source.chosen(turned(joined.swapaxes(0, 1), source.turn).swapaxes(0, 1))), tuple(notes)


def _with_neighbours(source: Source, keep_alpha: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """A page with those around it, from the first to the last, as channels; beyond the ends of the file mirrored."""
    page, pages = source.page or 0, count_pages(source.path)
    alone = replace(source, around=0)
    if source.page is None and pages > 1:  # a whole file, whose pages are channels
        return read_stack(alone, keep_alpha)
    places = mirrored(page - source.around, page + source.around + 1, pages).tolist()
    read = {place: read_stack(replace(alone, page=place) if pages > 1 else alone, keep_alpha) for place in set(places)}
    notes = dict.fromkeys(note for place in places for note in read[place][1])
    return np.concatenate([read[place][0] for place in places], axis=1), tuple(notes)


def are_slices(pages: int, source: Source) -> bool:
    """Whether the files of a volume, the first of which has so many pages, are its slices."""
    return source.is_volume and pages == 1 and not is_volume_file(source.path)


def read_image(source: Source, keep_alpha: bool = False) -> np.ndarray:
    """The pixels of `read_stack` as one image: see `image_of`."""
    pixels, _ = read_stack(source, keep_alpha)
    return image_of(pixels, source)


def image_of(stack: np.ndarray, source: Source) -> np.ndarray:
    """The pages (P, C, H, W) of a file as one image: (C, P, H, W) if they are the slices of a volume, else (P * C, H,
    W), as channels."""
    if source.is_volume:
        return np.ascontiguousarray(stack.swapaxes(0, 1))
    return stack.reshape(-1, *stack.shape[2:])


def missing_pixels(source: Source, image: np.ndarray | None = None) -> np.ndarray | None:
    """(*spatial) bool, True where any channel is NaN; None if there is no NaN. image: (C, *spatial), if read
    already."""
    if image is None:
        if extension_of(source.path) not in FLOAT_EXTENSIONS:
            return None
        image = read_image(source)
    missing = np.isnan(image).any(0) if image.dtype == np.float32 else None
    return missing if missing is not None and missing.any() else None


def filled(image: np.ndarray, values: Sequence[float] | None = None) -> tuple[np.ndarray, bool]:
    """(C, *spatial) with the NaN of each channel replaced by its value in `values`, by default its mean; and whether
    there were any."""
    if image.dtype != np.float32 or not np.isnan(image).any():
        return image, False
    image = image.copy()
    for place, channel in enumerate(image):
        missing = np.isnan(channel)
        known = channel[~missing]
        own = known.mean(dtype=np.float64) if known.size else 0
        channel[missing] = own if values is None else values[place]
    return image, True


def open_bands(source: Source, keep_alpha: bool = False) -> Bands:
    """The pixels of `read_image` in bands, with memory for one band instead of the image.

    This applies to a page of a TIFF that is uncompressed or has several rows of tiles or strips: of any size, unless
    one row of tiles is too large; and to the slices of a volume in several files, or in a format that reads each on its
    own. Other files are read whole and form one band. Raises UserError as `read_image` does; for damaged pixels of a
    TIFF, or of any slice but the first, when these are read.
    """
    if source.is_volume and not source.turn and (len(source.paths) > 1 or reads_single_pages(source.path)):
        return _open_slices(source, keep_alpha)
    is_plain = len(source.paths) == 1 and not source.is_volume and not source.around
    known = outline(source.path, source.page) if is_plain else None
    if known is None:
        stack, notes = read_stack(source, keep_alpha)
        return one_band(image_of(stack, source), notes)

    def read(top: int) -> Iterator[tuple[int, np.ndarray]]:
        for start, decoded in decode_bands(source.path, source.page, top):
            yield start, _our_own(_image_pixels(decoded, source.path, keep_alpha, is_part=True)[0])

    sample = _image_pixels(known.sample, source.path, keep_alpha, is_part=True)
    notes = (ALPHA_DROPPED,) if known.sample.alpha and not keep_alpha else ()
    spatial = (known.height, known.width)
    return Bands(sample.shape[1], spatial, sample.dtype, notes, lambda top: _with_numbers(read(top), source))


def one_band(image: np.ndarray, notes: tuple[str, ...] = ()) -> Bands:
    """(C, *spatial) pixels in memory as a single band."""
    return Bands(image.shape[0], image.shape[1:], image.dtype, notes, lambda top: iter([(0, image)]))


def _open_slices(source: Source, keep_alpha: bool) -> Bands:
    """A volume whose slices are read one by one, ahead in threads."""
    counts = [count_pages(path) for path in source.paths]
    if are_slices(counts[0], source):
        places = [[(path, 0)] for path in source.paths]
    elif len(set(counts)) == 1:  # files are channels
        places = [[(path, page) for path in source.paths] for page in range(counts[0])]
    else:
        raise UserError(f"{source} have {' and '.join(map(str, counts))} slices: {ALIKE}")
    places = places[slice(*source.slices or (None,))]

    def read(place: list[tuple[Path, int]]) -> tuple[np.ndarray, list[str]]:
        decoded = [(path, decode_of(source, path, page)) for path, page in place]
        parts = [_image_pixels(part, path, keep_alpha, is_part=True) for path, part in decoded]
        for (path, _), part in zip(place, parts, strict=True):
            if part.dtype != kind or part.shape[2:] != spatial:
                raise UserError(f"{path} has slices of {describe_pixels(part)} and others of {shown}: {ALIKE}")
        return _our_own(np.concatenate(parts, axis=1).swapaxes(0, 1)), _conversions(decoded[0][1], keep_alpha)

    sample = _image_pixels(decode_of(source, *places[0][0]), source.path, keep_alpha, is_part=True)
    kind, spatial, shown = sample.dtype, sample.shape[2:], describe_pixels(sample)
    first, notes = read(places[0])

    def slices(top: int) -> Iterator[tuple[int, np.ndarray]]:
        depth = max(1, min(2 * default_workers(), SLICES_AHEAD // first.nbytes))
        return enumerate((pixels for pixels, _ in prefetch(read, places[top:], depth=depth)), top)

    sides = (len(places), *spatial)
    return Bands(len(first), sides, kind, tuple(notes), lambda top: _with_numbers(slices(top), source))


def _with_numbers(bands: Iterator[tuple[int, np.ndarray]], source: Source) -> Iterator[tuple[int, np.ndarray]]:
    """The same bands. Raises UserError after the last if all bands, from the first on, are nothing but NaN."""
    is_blank = None
    for start, pixels in bands:
        is_blank = (start == 0 if is_blank is None else is_blank) and is_all_nan(pixels)
        yield start, pixels
    if is_blank:
        raise UserError(f"{source.path} {ALL_NAN}")


def image_pixels(
    image: Image.Image | np.ndarray, channels: int, keep_alpha: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The pixels that `read_stack` would give for this image's file, (C, H, W), and notes for the user.

    image: a Pillow image, or an array (H, W) or (H, W, C). The last of 2 or 4 channels is alpha, unless the network
    takes as many channels. Raises UserError.
    """
    if isinstance(image, Image.Image):
        decoded = from_pillow(ImageOps.exif_transpose(image))
    elif not isinstance(image, np.ndarray):
        raise UserError(f"{type(image).__name__} is no image: give a path, an image of Pillow or an array")
    elif image.ndim in (2, 3) and image.size and image.dtype.kind in "buif":
        decoded = from_array(image * np.uint8(255) if image.dtype == bool else image)
        decoded = replace(decoded, alpha=decoded.alpha and image.shape[-1] != channels)
    else:
        raise UserError(f"the array is {image.dtype} of shape {image.shape}: give numbers, (H, W) or (H, W, C)")
    pixels = _image_pixels(decoded, Path("the image"), keep_alpha)[0]
    return _our_own(pixels), (ALPHA_DROPPED,) if decoded.alpha and not keep_alpha else ()


def volume_pixels(
    volume: np.ndarray | Image.Image, channels: int, keep_alpha: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Like `image_pixels`, of a volume: an array (D, H, W) or (D, H, W, C) -> (C, D, H, W), and notes."""
    if not (isinstance(volume, np.ndarray) and volume.ndim in (3, 4) and volume.size and volume.dtype.kind in "buif"):
        found = f"{volume.dtype} of shape {volume.shape}" if isinstance(volume, np.ndarray) else type(volume).__name__
        raise UserError(f"{found} is no volume: give a path, or an array of numbers, (D, H, W) or (D, H, W, C)")
    slices = volume[:, None] if volume.ndim == 3 else np.moveaxis(volume, -1, 1)
    slices = slices * np.uint8(255) if slices.dtype == bool else slices
    decoded = Decoded(slices, alpha=slices.shape[1] in (2, 4) and slices.shape[1] != channels)
    pixels = _image_pixels(decoded, Path("the volume"), keep_alpha)
    return _our_own(pixels.swapaxes(0, 1)), tuple(_conversions(decoded, keep_alpha))


def _conversions(decoded: Decoded, keep_alpha: bool) -> list[str]:
    """Notes on how an image was read."""
    notes = []
    if decoded.alpha and not keep_alpha:
        notes.append(ALPHA_DROPPED)
        hidden = decoded.pixels[:, -1] == 0
        colours = decoded.pixels[:, :-1].swapaxes(0, 1)[:, hidden]
        if colours.size and (colours != colours[:, :1]).any():
            notes.append(HIDDEN_COLOURS)
    if decoded.orientation in range(2, 9):
        height, width = decoded.pixels.shape[-2:]
        notes.append(TURNED_IN_PLACE if decoded.orientation < 5 or height == width else TURNED)
    return notes


def _image_pixels(decoded: Decoded, path: Path, keep_alpha: bool, is_part: bool = False) -> np.ndarray:
    """(P, C, H, W) in the program's representation: palette resolved, uint8, uint16 or float32, no alpha unless
    kept. is_part: of an image, which may be all NaN."""
    with explained(path):
        pixels = _resolved(decoded).pixels
        chosen = pixels[:, :-1] if decoded.alpha and not keep_alpha else pixels
        return _image_numbers(chosen, path, decoded, is_part)


def _our_own(pixels: np.ndarray) -> np.ndarray:
    """A writable copy if necessary: Pillow's arrays are read-only, which torch warns about."""
    return np.require(pixels, requirements=["C", "W"])


def _resolved(decoded: Decoded) -> Decoded:
    """Replace palette indices by colours."""
    if decoded.palette is None:
        return decoded
    palette = np.zeros((256, 3), np.uint8)  # a damaged file may use more colours than it lists
    palette.reshape(-1)[: len(decoded.palette)] = decoded.palette
    colours = np.moveaxis(palette[decoded.pixels[:, 0]], -1, 1)
    return replace(decoded, pixels=np.concatenate([colours, decoded.pixels[:, 1:]], axis=1), palette=None)


def is_all_nan(pixels: np.ndarray) -> bool:
    return pixels.dtype == np.float32 and bool(np.isnan(pixels).all())


def _image_numbers(pixels: np.ndarray, path: Path, decoded: Decoded, is_part: bool) -> np.ndarray:
    if pixels.dtype in (np.uint8, np.uint16) and not decoded.is_measured:
        return pixels
    with np.errstate(over="ignore", invalid="ignore"):  # overflow becomes infinity, which is reported below
        numbers = pixels.astype(np.float32)
        if decoded.nodata is not None:
            numbers[numbers == np.float32(decoded.nodata)] = np.nan
    if pixels.dtype.kind in "biu" and decoded.nodata is None:
        return numbers
    if np.isinf(numbers).any():
        raise UserError(f"{path} holds infinite values: replace them, or leave the file out")
    if not is_part and is_all_nan(numbers):
        raise UserError(f"{path} {ALL_NAN}")
    if (extreme := np.abs(numbers) > NO_DATA).any():
        value, number = float(numbers[extreme][0]), counted(int(extreme.sum()), "value")
        raise UserError(
            f"{path} holds {number} like {value:.3g}, which mark missing data: replace them with a value "
            "that images have, such as their mean, or leave the file out"
        )
    return numbers


def is_gray(image: np.ndarray) -> bool:
    """Whether the first three channels of (C, ...) are equal."""
    middle = image.shape[1] // 2  # a cheap test first: colour mostly shows in any row
    return all(bool((image[0, middle] == other[middle]).all() and (image[0] == other).all()) for other in image[1:3])


def _size(pixels: np.ndarray) -> tuple[int, int, int]:
    return pixels.shape[0], pixels.shape[-2], pixels.shape[-1]


def describe_pixels(pixels: np.ndarray) -> str:
    """The properties that must agree between files: `512x256 uint8`, or `3 pages of 512x256 uint8`."""
    pages, height, width = _size(pixels)
    return (f"{pages} pages of " if pages > 1 else "") + f"{width}x{height} {pixels.dtype}"
