"""Read and write images and masks: files on one side, numpy arrays of a few kinds on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from unet_cli.console import counted
from unet_cli.data.class_files import where_marked
from unet_cli.data.formats import EXTENSIONS, Decoded, decode, decode_bands, outline
from unet_cli.data.formats.decoded import explained, from_array
from unet_cli.data.formats.pillow import from_pillow
from unet_cli.data.formats.tiff_write import SOFTWARE, Tags, carried_tags, software_of, write_stack
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.files import whole_file

__all__ = [
    "EXTENSIONS",
    "NAN_FILLED",
    "SIGNATURE",
    "TIFF_EXTENSIONS",
    "TRANSPARENT",
    "Bands",
    "MaskPixels",
    "Tags",
    "carried_tags",
    "filled",
    "image_pixels",
    "is_image_file",
    "is_ours",
    "joined",
    "missing_pixels",
    "one_band",
    "open_bands",
    "read_image",
    "read_mask",
    "read_stack",
    "stretched",
    "to_rgb",
    "write_mask",
    "write_pages",
    "write_png",
    "write_rows",
]

SIGNATURE = ("Software", SOFTWARE)  # a text chunk of every PNG, and a tag of every TIFF, that we write
TIFF_EXTENSIONS = (".tif", ".tiff")
FLOAT_EXTENSIONS = (*TIFF_EXTENSIONS, ".npy", ".npz", ".pfm")  # of files that may hold NaN

NO_DATA = 1e30  # values beyond are no measurement: -3.4e38 and the like mark pixels without any
UNLABELLED = -1  # of a mask's pixels
STAND_FOR_NOTHING = (-9999, -128, -32768, -(2**31))  # in masks, the last three being the lowest of a type
TRANSPARENT = 0x1000000  # the colour of a mask's pixels that no eye sees: beside all others
NAN_FILLED = "NaN was filled in for the network and counts nowhere"
# What was done to an image, and what can be done about it in a data set.
ALPHA_DROPPED = "alpha was dropped"
HIDDEN_COLOURS = "colours hidden under transparent pixels show"
TURNED = "turned upright as the EXIF orientation says"
TURNED_IN_PLACE = "turned upright, to the same size, as the EXIF orientation says"
REMEDIES = {
    ALPHA_DROPPED: "the last band; --keep-alpha keeps it",
    HIDDEN_COLOURS: "--keep-alpha tells the network which these are",
    TURNED_IN_PLACE: "if the masks were drawn on the pixels as stored, they don't fit: take the orientation out of "
    "copies of the images, with exiftool -Orientation= -o stored/ IMAGES, and give these",
}


@dataclass(frozen=True)
class MaskPixels:
    """A mask as its file has it.

    values: (P, H, W) uint8, uint16 or int32, contiguous. palette: r, g, b, r, g, b ... where the values are its
    indices. colour: the values are colours, 0xRRGGBB, or TRANSPARENT. planes: how many a one-hot mask has, whose values
    are the number of the plane that marks a pixel, from 1 on; 0 of all others. nodata: the value that the file calls
    so. UNLABELLED pixels are where the file has NaN, -1 or another number that stands for nothing. is_blank: there is
    no file, and all is background, whatever its value. overlap: pixels that the files of several classes claim; there
    the last of these counts.
    """

    values: np.ndarray
    palette: list[int] | None = None
    colour: bool = False
    planes: int = 0
    nodata: int | None = None
    is_blank: bool = False
    overlap: int = 0


@dataclass(frozen=True)
class Bands:
    """An image that is read from top to bottom, some rows at a time.

    dtype: uint8, uint16 or float32. notes: for the user. read: see `rows`.
    """

    channels: int
    height: int
    width: int
    dtype: np.dtype[Any]
    notes: tuple[str, ...]
    read: Callable[[int], Iterator[tuple[int, np.ndarray]]] = field(repr=False)

    def rows(self, top: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, (C, h, W) pixels) blocks, in order and without gaps, from the one that holds row `top` downwards.

        The pixels are contiguous and writable. The file is open until the last block, or until the generator is
        closed. Raises UserError where the file is damaged or holds infinite values.
        """
        return self.read(top)


def is_image_file(path: Path) -> bool:
    """By its name: a known extension, and not one of the hidden files that systems leave in folders."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def read_stack(source: Source, keep_alpha: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """An image's pages, (P, C, H, W) uint8, uint16 or float32, contiguous and writable; and notes for the user.

    NaN stays, and stands for pixels that are missing: see `filled` and `missing_pixels`. C is 1 for gray and 3 for
    colour, palettes being resolved; one more with alpha; several files are the channels of one image. Numbers of other
    types become float32.
    Raises UserError where a file can't be read, holds infinite values, or doesn't fit the others.
    """
    parts = []
    notes: dict[str, None] = {}
    for path in source.paths:
        decoded = decode(path, source.page)
        notes |= dict.fromkeys(_conversions(decoded, keep_alpha))
        parts.append(_image_pixels(decoded, path, keep_alpha))
        if parts[-1].dtype != parts[0].dtype or _size(parts[-1]) != _size(parts[0]):
            raise UserError(
                f"{path} is {_describe(parts[-1])} but {source.path} is {_describe(parts[0])}: "
                "channels of one image must be alike"
            )
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return _our_own(joined), tuple(notes)


def read_image(source: Source, keep_alpha: bool = False) -> np.ndarray:
    """As `read_stack`, (C, H, W): the pages of a whole file become channels, P * C of them."""
    pixels, _ = read_stack(source, keep_alpha)
    return pixels.reshape(-1, *pixels.shape[2:])


def missing_pixels(source: Source, image: np.ndarray | None = None) -> np.ndarray | None:
    """(H, W) where an image has NaN in any channel; None where it has none. image: (C, H, W), if it is read already."""
    if image is None:
        if source.path.suffix.lower() not in FLOAT_EXTENSIONS:
            return None
        image = read_image(source)
    missing = np.isnan(image).any(0) if image.dtype == np.float32 else None
    return missing if missing is not None and missing.any() else None


def filled(image: np.ndarray, values: Sequence[float] | None = None) -> tuple[np.ndarray, bool]:
    """(C, H, W) with each channel's NaN replaced by its value, by its mean unless given; and whether there was any."""
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
    """The pixels of `read_image` from top to bottom, in memory that depends on a block of rows and not on the image.

    That is for a page of a TIFF which isn't compressed, or has several rows of tiles or strips: of any size, unless
    one row of tiles is too large. All else is read here, and is one block.
    Raises UserError as `read_image`; for what is wrong with the pixels of a TIFF, when they are read.
    """
    known = outline(source.path, source.page) if len(source.paths) == 1 else None
    if known is None:
        pixels, notes = read_stack(source, keep_alpha)
        image = pixels.reshape(-1, *pixels.shape[2:])
        return one_band(image, notes)

    def read(top: int) -> Iterator[tuple[int, np.ndarray]]:
        for start, decoded in decode_bands(source.path, source.page, top):
            yield start, _our_own(_image_pixels(decoded, source.path, keep_alpha)[0])

    sample = _image_pixels(known.sample, source.path, keep_alpha)
    notes = (ALPHA_DROPPED,) if known.sample.alpha and not keep_alpha else ()
    return Bands(sample.shape[1], known.height, known.width, sample.dtype, notes, read)


def one_band(image: np.ndarray, notes: tuple[str, ...] = ()) -> Bands:
    """(C, H, W) pixels in memory as a single band."""
    channels, height, width = image.shape
    return Bands(channels, height, width, image.dtype, notes, lambda top: iter([(0, image)]))


def image_pixels(
    image: Image.Image | np.ndarray, channels: int, keep_alpha: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What `read_stack` would give for the image's file, (C, H, W), and notes for the user.

    image: of Pillow, or an array (H, W) or (H, W, C). Of 2 or 4 channels the last is alpha, unless as many are wanted
    in an array. Raises UserError.
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


def read_mask(source: Source) -> MaskPixels:
    """A mask's pages. Palettes give indices, colours are packed unless they are gray, transparent ones are TRANSPARENT.

    Several files are the objects of one mask: the largest value counts where they overlap; or a class each, whose
    values are the indices of the classes. What has another size is brought to the source's, each pixel the nearest.
    Raises UserError where a file can't be read, its values are no whole numbers from 0 (or UNLABELLED), or sizes
    differ.
    """
    if source.is_blank:
        pixels = decode(source.path, source.page).pixels
        return MaskPixels(np.zeros((len(pixels), *pixels.shape[2:]), np.uint8), is_blank=True)
    mask = _joined_mask(source)
    if source.size is None or mask.values.shape[1:] == source.size:
        return mask
    sides = zip(source.size, mask.values.shape[1:], strict=True)
    rows, columns = ((2 * np.arange(to) + 1) * of // (2 * to) for to, of in sides)
    return replace(mask, values=np.ascontiguousarray(mask.values[:, rows[:, None], columns]))


def _joined_mask(source: Source) -> MaskPixels:
    """Of one file, or of several."""
    parts = []
    for path in source.paths:
        with explained(path):
            parts.append(_mask_pixels(decode(path, source.page), path))
    if len(parts) == 1 and not source.classes:
        return parts[0]
    for path, part in zip(source.paths, parts, strict=True):
        if part.values.shape != parts[0].values.shape:
            raise UserError(
                f"{path} is {_describe(part.values)} but {source.path} is {_describe(parts[0].values)}: "
                "files of one mask must be of one size"
            )
    if source.classes:
        return _classes_joined(parts, source)
    colour = any(part.colour for part in parts)
    # among coloured objects a gray one is a colour too
    layers = [part.values.astype(np.int32) * 0x010101 if colour and not part.colour else part.values for part in parts]
    same_palette = all(part.palette == parts[0].palette for part in parts)
    return MaskPixels(np.maximum.reduce(layers), parts[0].palette if same_palette else None, colour)


def _classes_joined(parts: list[MaskPixels], source: Source) -> MaskPixels:
    """A binary mask for each class -> the indices of the classes, 0 where none is, UNLABELLED where files say so."""
    values = np.zeros(parts[0].values.shape, np.uint8)
    unlabelled = np.zeros(values.shape, bool)
    overlap = 0
    for part, index, path in zip(parts, source.classes, source.paths, strict=True):
        nothing = np.isin(part.values, [UNLABELLED, part.nodata or UNLABELLED])  # 0 is background whatever files say
        of_class = where_marked(_channels(part, nothing), path)
        overlap += int(np.count_nonzero(values[of_class]))
        values[of_class] = index
        unlabelled |= nothing
    unlabelled &= values == 0
    if unlabelled.any():
        return MaskPixels(np.where(unlabelled, np.int32(UNLABELLED), values), overlap=overlap)
    return MaskPixels(values, overlap=overlap)


def _channels(part: MaskPixels, nothing: np.ndarray) -> np.ndarray:
    """(1 or 3, P, H, W) as an eye sees it, and black where there is nothing to be seen."""
    values = np.where(nothing | (part.colour & (part.values == TRANSPARENT)), 0, part.values)
    if part.palette is not None:
        palette = np.zeros((256, 3), np.uint8)
        palette.reshape(-1)[: len(part.palette)] = part.palette
        shown = np.where(nothing, 0, np.moveaxis(palette[np.minimum(values, 255)], -1, 0))
        if _is_constant(values[:, None]) or not _is_constant(shown.swapaxes(0, 1)):  # else it lacks entries
            return shown
    if part.colour:
        return np.stack([values >> 16, values >> 8 & 255, values & 255])
    return values[None]


def write_mask(path: Path, mask: np.ndarray, palette: list[int] | None = None, tags: Tags = ()) -> None:
    """Write (H, W) uint8 or uint16 values, with a palette where one is given; (H, W, 3) uint8 as RGB.

    A TIFF with these tags where the path ends in .tif or .tiff, else a PNG. Raises UserError.
    """
    write_rows(path, [mask], len(mask), palette, tags)


def write_rows(
    path: Path, blocks: Iterable[np.ndarray], height: int, palette: list[int] | None = None, tags: Tags = ()
) -> None:
    """As `write_mask`, from blocks of rows, from top to bottom: to a TIFF one after the other, to a PNG at once."""
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
    """Write a TIFF of as many pages as there are tags, from the blocks of rows of each, which are used up before the
    next page is asked for. Raises UserError."""
    upcoming = (_of_palette(blocks, palette) for blocks in pages)
    rows = next(upcoming)
    first = next(rows)
    with whole_file(path) as file:
        everything = chain([chain([first], rows)], upcoming)
        write_stack(file, everything, (height, *first.shape[1:]), first.dtype, palette, tags)


def _of_palette(blocks: Iterable[np.ndarray], palette: list[int] | None) -> Iterator[np.ndarray]:
    return (block if palette is None else block.astype(np.uint8, copy=False) for block in blocks)


def joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks of rows as one array; a single one is not copied."""
    parts = list(blocks)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def write_png(path: Path, image: Image.Image) -> None:
    """Write losslessly and whole, with our name in it. Raises UserError."""
    signature = PngInfo()
    signature.add_text(*SIGNATURE)
    with whole_file(path) as file:
        image.save(file, format="PNG", compress_level=3, pnginfo=signature)


def is_ours(path: Path) -> bool:
    """Whether unet made this PNG or TIFF, so that it may be replaced: anything else belongs to the user.

    From the header alone, whatever the size of the image.
    """
    try:
        if path.suffix.lower() in TIFF_EXTENSIONS:
            return software_of(path) == SIGNATURE[1]
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(SIGNATURE[0]) == SIGNATURE[1]
    except (UserError, OSError, SyntaxError, ValueError):
        return False


def stretched(pixels: np.ndarray, cut: float) -> np.ndarray:
    """Pixels of any depth -> uint8 that spans their own range, from the `cut` percentile to that far from the top."""
    low, high = np.percentile(pixels, [cut, 100 - cut])
    return (np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(1 or 3, H, W) uint8 -> (H, W, 3), to draw on."""
    return np.moveaxis(np.broadcast_to(pixels, (3, *pixels.shape[1:])), 0, -1).copy()


def _conversions(decoded: Decoded, keep_alpha: bool) -> list[str]:
    """What is said of how an image was read."""
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


def _image_pixels(decoded: Decoded, path: Path, keep_alpha: bool) -> np.ndarray:
    """(P, C, H, W) as the rest of the program knows images: colours, few types, no alpha unless it is kept."""
    with explained(path):
        pixels = _resolved(decoded).pixels
        return _image_numbers(pixels[:, :-1] if decoded.alpha and not keep_alpha else pixels, path)


def _our_own(pixels: np.ndarray) -> np.ndarray:
    """A copy where it isn't ours alone: arrays of Pillow's are read-only, which torch warns of."""
    return np.require(pixels, requirements=["C", "W"])


def _resolved(decoded: Decoded) -> Decoded:
    """Indices -> the colours of their palette."""
    if decoded.palette is None:
        return decoded
    palette = np.zeros((256, 3), np.uint8)  # a damaged file may use more colours than it lists
    palette.reshape(-1)[: len(decoded.palette)] = decoded.palette
    colours = np.moveaxis(palette[decoded.pixels[:, 0]], -1, 1)
    return replace(decoded, pixels=np.concatenate([colours, decoded.pixels[:, 1:]], axis=1), palette=None)


def _image_numbers(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    with np.errstate(over="ignore", invalid="ignore"):  # found below
        numbers = pixels.astype(np.float32)
    if np.isinf(numbers).any():
        raise UserError(f"{path} holds infinite values: replace them, or leave the file out")
    if np.isnan(numbers).all():
        raise UserError(f"{path} holds nothing but NaN: replace it, or leave it out")
    if (extreme := np.abs(numbers) > NO_DATA).any():
        value, number = float(numbers[extreme][0]), counted(int(extreme.sum()), "value")
        raise UserError(
            f"{path} holds {number} like {value:.3g}, which stand for no data and no image: replace them with a value "
            "that images have, such as their mean, or leave the file out"
        )
    return numbers


def _mask_pixels(decoded: Decoded, path: Path) -> MaskPixels:
    planes = _marked_planes(decoded)
    if planes is not None:
        return MaskPixels(planes, planes=decoded.pixels.shape[1])
    is_alone = decoded.alpha and _is_constant(decoded.pixels[:, :-1])
    if is_alone and not _is_constant(decoded.pixels[:, -1:]):
        raise UserError(f"{path} holds its mask in the alpha channel alone: save that channel as gray")
    pixels = decoded.pixels[:, :-1] if decoded.alpha or decoded.pixels.shape[1] == 4 else decoded.pixels
    if decoded.turned_at is not None:
        pixels = np.uint8(decoded.turned_at) - pixels
    hidden = _transparent(decoded, is_alone)
    channels = pixels.shape[1]
    if channels == 3 and (hidden is not None or not is_gray(pixels.swapaxes(0, 1))):
        if pixels.dtype != np.uint8:
            raise UserError(f"{path} is a mask in colours of type {pixels.dtype}: save it as gray, or as 8-bit RGB")
        red, green, blue = (pixels[:, channel].astype(np.int32) for channel in range(3))
        colours = red << 16 | green << 8 | blue
        if hidden is not None:
            colours[hidden] = TRANSPARENT
        return MaskPixels(colours, colour=True)
    if channels not in (1, 3):
        raise UserError(f"{path} has {channels} channels: save masks as gray, with a palette, or as 8-bit RGB")
    values = _whole_numbers(np.ascontiguousarray(pixels[:, 0]), path)
    if hidden is not None and decoded.palette is None:
        values[hidden] = 0
    nodata = decoded.nodata
    is_whole = nodata is not None and np.isfinite(nodata) and nodata == int(nodata)
    return MaskPixels(values, decoded.palette, nodata=int(nodata) if is_whole and nodata is not None else None)


def _transparent(decoded: Decoded, is_alone: bool) -> np.ndarray | None:
    """(P, H, W) where no eye sees a mask's pixels; None where all can be seen, or alpha can't be meant."""
    if not decoded.alpha:
        return None
    alpha = decoded.pixels[:, -1]
    if _is_constant(decoded.pixels[:, -1:]):
        return alpha == 0 if is_alone and not alpha.flat[0] else None
    whole = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else alpha.max()
    return alpha < whole / 2


def _marked_planes(decoded: Decoded) -> np.ndarray | None:
    """Of a one-hot mask the number of the plane that marks each pixel, from 1 on, 0 where none does, (P, H, W); None
    for all else. Of three planes of 0 and 255 an eye sees colours; more than four channels of 0 mark nothing."""
    pixels = decoded.pixels
    if pixels.shape[1] < 3 or pixels.dtype.kind not in "ui":
        return None
    top = pixels.max()
    if pixels.shape[1] > 4 and not pixels.any():
        return np.zeros(pixels.shape[:1] + pixels.shape[2:], np.uint8)
    if top not in (1, 255) or (top == 255 and pixels.shape[1] == 3):
        return None
    marks = pixels == top
    if decoded.alpha and not marks[:, :-1].any():
        return None
    if not (marks | (pixels == 0)).all() or (marks.sum(1) > 1).any():
        return None
    return np.where(marks.any(1), marks.argmax(1) + 1, 0).astype(np.uint8)


def _is_constant(pixels: np.ndarray) -> bool:
    """Whether each channel of (P, C, H, W) is the same everywhere."""
    return bool((pixels == pixels[:1, :, :1, :1]).all())


def is_gray(image: np.ndarray) -> bool:
    """Whether the first three channels of (C, ...) are equal."""
    middle = image.shape[1] // 2  # colour mostly shows in any row
    return all(bool((image[0, middle] == other[middle]).all() and (image[0] == other).all()) for other in image[1:3])


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Any numbers -> uint8 and uint16 as they are, others uint16 or int32 by the largest and the lowest."""
    if values.dtype in (np.uint8, np.uint16):
        return np.require(values, requirements=["W"])
    nothing = np.zeros(values.shape, bool)
    if values.dtype.kind in "if" and not values.min() >= 0:  # NaN is not either
        nothing = np.isin(values, STAND_FOR_NOTHING) | np.isnan(values)
        nothing |= (values < 0) & np.isfinite(values) & (values.astype(np.float64) < -NO_DATA)
    if nothing.any():
        values = np.where(nothing, values.dtype.type(UNLABELLED), values)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
        raise UserError(f"{path} holds numbers that are not whole: save masks as whole numbers, 0 being background")
    if low < UNLABELLED:
        raise UserError(
            f"{path} has negative values, down to {low:g}: save masks as whole numbers, 0 being background, and -1 "
            "what is not labelled"
        )
    if high > np.iinfo(np.int32).max:
        raise UserError(f"{path} has values up to {high:.0f}: number the classes or objects from 0")
    return values.astype(np.uint16 if low >= 0 and high <= 65535 else np.int32)


def _size(pixels: np.ndarray) -> tuple[int, int, int]:
    return pixels.shape[0], pixels.shape[-2], pixels.shape[-1]


def _describe(pixels: np.ndarray) -> str:
    """What must agree between files: `512x256 uint8`, or `3 pages of 512x256 uint8`."""
    pages, height, width = _size(pixels)
    return (f"{pages} pages of " if pages > 1 else "") + f"{width}x{height} {pixels.dtype}"
