"""Read masks: from one file, several files of objects or of classes, or none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unet_cli.data.annotations.parsed import annotated
from unet_cli.data.annotations.polygons import drawn
from unet_cli.data.annotations.shapes import BACKGROUND_LABEL, IGNORED_LABEL, Annotated, is_background
from unet_cli.data.folder.class_files import where_marked
from unet_cli.data.formats import Decoded, decode
from unet_cli.data.formats.decoded import Refused, explained
from unet_cli.data.imagefile import NO_DATA, are_slices, describe_pixels, is_gray
from unet_cli.data.nearest import nearest
from unet_cli.data.source import Entry, Source, turned
from unet_cli.errors import UserError

UNLABELLED = -1  # value of unlabelled pixels
STAND_FOR_NOTHING = (-9999, -128, -32768, -(2**31))  # nodata values; the last three are the lowest of a type
ROUNDING = 1e-4  # of whole numbers that a file stores with a factor
TRANSPARENT = 0x1000000  # colour of transparent pixels: outside the range of 0xRRGGBB
SETS = 0x2000000  # added to a set of classes: values from here on are pixels of several classes, see MaskPixels
MAX_IN_SETS, LAST_BIT = 24, 32  # classes that a set may be of, and that are told apart


@dataclass(frozen=True)
class MaskPixels:
    """The pixel values of a mask as stored in its file.

    values: (P, H, W) uint8, uint16 or int32, contiguous; UNLABELLED where the file has NaN, -1 or another nodata value.
    palette: r, g, b, r, g, b ... if the values are palette indices. colour: whether values are colours, 0xRRGGBB, or
    TRANSPARENT. planes: number of planes of a one-hot mask, whose values are then the index of the marked plane, from
    1; 0 for other masks. nodata: the file's nodata value. is_blank: there is no file, and all is background, whatever
    its value. overlap: number of pixels marked in the files, or shapes, of several classes. With at most MAX_IN_SETS
    classes their value is SETS plus 1 << k - 1 for each class k; with more it is the last class.
    """

    values: np.ndarray
    palette: list[int] | None = None
    colour: bool = False
    planes: int = 0
    nodata: int | None = None
    is_blank: bool = False
    overlap: int = 0


def read_mask(source: Source) -> MaskPixels:
    """The pages of a mask. Palettes give indices, colours are packed unless they are gray, transparent ones are
    TRANSPARENT.

    Several files are the slices of a volume; the objects of one mask, and the largest value wins where they overlap; or
    one class each, and the values are class indices. A mask of another size than the source's is resized by nearest
    neighbour; a mask that is drawn from annotations needs that size, which is its image's. Raises UserError if a file
    can't be read, its values are no whole numbers from 0 (or UNLABELLED), or sizes differ.
    """
    if source.is_blank:
        pixels = decode(source.path, source.page).pixels
        pages = len(source.paths) if are_slices(len(pixels), source) else len(pixels)
        blank = np.zeros((pages, *pixels.shape[2:]), np.uint8)
        return MaskPixels(np.ascontiguousarray(source.chosen(turned(blank, source.turn))), is_blank=True)
    if source.entry is not None:
        return _drawn_mask(source, source.entry)
    mask = _joined_mask(source)
    if source.slices:
        mask = replace(mask, values=np.ascontiguousarray(source.chosen(mask.values)))
    if source.size is None or mask.values.shape[1:] == source.size:
        return mask
    return replace(mask, values=np.ascontiguousarray(nearest(mask.values, *source.size)))


def one_mask(pages: np.ndarray, source: Source) -> np.ndarray:
    """(P, H, W), of the pages that `read_mask` gives -> (H, W) of an image, (D, H, W) of a volume."""
    return pages if source.is_volume else pages[0]


def _drawn_mask(source: Source, entry: Entry) -> MaskPixels:
    """From the shapes of an annotation file: the values are the indices of the classes, IGNORED where they say so."""
    assert source.size is not None
    found = annotated(source.path, entry.tool, entry.name)
    if found.size is not None and found.size != source.size:
        (own_height, own_width), (height, width) = found.size, source.size
        is_turned = (own_width, own_height) == (height, width)
        turned = " (an orientation in its EXIF data turns an image)" if is_turned else ""
        raise UserError(
            f"{source} is of an image of {own_width}x{own_height}, but the image is {width}x{height}: give the image "
            f"that was annotated{turned}, or leave the pair out with --skip-bad"
        )
    with explained(source.path):
        try:
            values, sets = drawn(found, source.size, _indices(found, entry))
        except UserError as error:
            raise source.named(error) from error
    palette = [part for colour in entry.colours for part in (colour >> 16, colour >> 8 & 255, colour & 255)]
    return _with_sets(MaskPixels(values[None], palette or None), sets[None])


def _indices(found: Annotated, entry: Entry) -> dict[str, int]:
    """The class index of each label. Raises UserError at a class that the file hadn't when it was first read."""
    known = {name: index for index, name in enumerate(entry.classes, 1)}
    indices = {}
    for label in {shape.label for shape in found.shapes} - {IGNORED_LABEL, BACKGROUND_LABEL}:
        name = entry.numbered[int(label)] if entry.numbered else label
        if name not in known and not is_background(name):
            raise UserError(f"holds the class {name}, but the classes are {', '.join(entry.classes)}")
        indices[label] = known.get(name, 0)
    return indices


def _joined_mask(source: Source) -> MaskPixels:
    """The mask of one file, or of several files joined."""
    parts = []
    for path in source.paths:
        with explained(path):
            parts.append(_mask_pixels(decode(path, source.page), path))
    if len(parts) == 1 and not source.classes:
        if not source.turn:
            return parts[0]
        return replace(parts[0], values=np.ascontiguousarray(turned(parts[0].values, source.turn)))
    for path, part in zip(source.paths, parts, strict=True):
        if part.values.shape != parts[0].values.shape:
            raise UserError(
                f"{path} is {describe_pixels(part.values)} but {source.path} is {describe_pixels(parts[0].values)}: "
                "files of one mask must have the same size"
            )
    if source.classes:
        return _classes_joined(parts, source)
    if are_slices(len(parts[0].values), source):
        joined = turned(np.concatenate([part.values for part in parts]), source.turn)
        return replace(parts[0], values=np.ascontiguousarray(joined))
    colour = any(part.colour for part in parts)
    # gray objects among coloured ones are colours with equal channels
    layers = [part.values.astype(np.int32) * 0x010101 if colour and not part.colour else part.values for part in parts]
    same_palette = all(part.palette == parts[0].palette for part in parts)
    return MaskPixels(np.maximum.reduce(layers), parts[0].palette if same_palette else None, colour)


def _classes_joined(parts: list[MaskPixels], source: Source) -> MaskPixels:
    """A binary mask for each class -> class indices, 0 for none, UNLABELLED if no class but a nodata value is set."""
    values = np.zeros(parts[0].values.shape, np.uint8)
    sets = np.zeros(values.shape, np.uint32)
    unlabelled = np.zeros(values.shape, bool)
    for part, index, path in zip(parts, source.classes, source.paths, strict=True):
        nothing = np.isin(part.values, [UNLABELLED, part.nodata or UNLABELLED])  # nodata 0 is background
        of_class = where_marked(_channels(part, nothing), path)
        values[of_class] = index
        sets[of_class] |= np.uint32(1 << min(index, LAST_BIT) - 1)
        unlabelled |= nothing
    unlabelled &= values == 0
    if unlabelled.any():
        values = np.where(unlabelled, np.int32(UNLABELLED), values)
    return _with_sets(MaskPixels(values), sets)


def _with_sets(mask: MaskPixels, sets: np.ndarray) -> MaskPixels:
    """The mask with the sets of classes where pixels are of several. sets: uint32 of the mask's shape, bit k - 1 for
    class k."""
    several = (sets & (sets - 1)) > 0
    overlap = int(np.count_nonzero(several))
    if not overlap or int(sets.max()) >= 1 << MAX_IN_SETS:
        return replace(mask, overlap=overlap)
    return replace(mask, values=np.where(several, SETS | sets.astype(np.int32), mask.values), overlap=overlap)


def _channels(part: MaskPixels, nothing: np.ndarray) -> np.ndarray:
    """(1 or 3, P, H, W), the displayed gray or colour values, black where there is nothing."""
    values = np.where(nothing | (part.colour & (part.values == TRANSPARENT)), 0, part.values)
    if part.palette is not None:
        palette = np.zeros((256, 3), np.uint8)
        palette.reshape(-1)[: len(part.palette)] = part.palette
        shown = np.where(nothing, 0, np.moveaxis(palette[np.minimum(values, 255)], -1, 0))
        # A palette that shows different indices in one colour is incomplete: then the indices are used.
        if _is_constant(values[:, None]) or not _is_constant(shown.swapaxes(0, 1)):
            return shown
    if part.colour:
        return np.stack([values >> 16, values >> 8 & 255, values & 255])
    return values[None]


def _mask_pixels(decoded: Decoded, path: Path) -> MaskPixels:
    if decoded.is_measured and decoded.pixels.shape[1] > 1:
        raise Refused(
            f"has 4 axes, {decoded.pixels.shape[1]} volumes, and is a mask: save it as one volume of class numbers"
        )
    planes = _marked_planes(decoded)
    if planes is not None:
        return MaskPixels(planes, planes=decoded.pixels.shape[1])
    is_alone = decoded.alpha and _is_constant(decoded.pixels[:, :-1])
    if is_alone and not _is_constant(decoded.pixels[:, -1:]):
        raise UserError(f"{path} has its mask in the alpha channel alone: save that channel as gray")
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
    """(P, H, W) bool, True for transparent pixels; None if all are opaque, or alpha is constant and so carries no
    meaning."""
    if not decoded.alpha:
        return None
    alpha = decoded.pixels[:, -1]
    if _is_constant(decoded.pixels[:, -1:]):
        return alpha == 0 if is_alone and not alpha.flat[0] else None
    whole = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else alpha.max()
    return alpha < whole / 2


def _marked_planes(decoded: Decoded) -> np.ndarray | None:
    """The index of the marked plane of each pixel of a one-hot mask, from 1, 0 for none, (P, H, W); None for other
    masks."""
    pixels = decoded.pixels
    if pixels.shape[1] < 3 or pixels.dtype.kind not in "ui":
        return None
    top = pixels.max()
    if pixels.shape[1] > 4 and not pixels.any():
        return np.zeros(pixels.shape[:1] + pixels.shape[2:], np.uint8)
    # Three planes of 0 and 255 are an RGB picture rather than one-hot; more than four channels can only be planes, even
    # if all are 0.
    if top not in (1, 255) or (top == 255 and pixels.shape[1] == 3):
        return None
    marks = pixels == top
    if decoded.alpha and not marks[:, :-1].any():
        return None
    if not (marks | (pixels == 0)).all() or (marks.sum(1) > 1).any():
        return None
    return np.where(marks.any(1), marks.argmax(1) + 1, 0).astype(np.uint8)


def _is_constant(pixels: np.ndarray) -> bool:
    """Whether each channel of (P, C, H, W) has a single value."""
    return bool((pixels == pixels[:1, :, :1, :1]).all())


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Numbers of any type -> uint8 and uint16 unchanged, others as uint16 or int32 depending on their range."""
    if values.dtype in (np.uint8, np.uint16):
        return np.require(values, requirements=["W"])
    nothing = np.zeros(values.shape, bool)
    if values.dtype.kind in "if" and not values.min() >= 0:  # also true for NaN
        nothing = np.isin(values, STAND_FOR_NOTHING) | np.isnan(values)
        nothing |= (values < 0) & np.isfinite(values) & (values.astype(np.float64) < -NO_DATA)
    if nothing.any():
        values = np.where(nothing, values.dtype.type(UNLABELLED), values)
    if values.dtype.kind == "f":
        whole = np.rint(values)
        if not np.isfinite(whole).all() or (np.abs(values - whole) > ROUNDING).any():
            raise UserError(
                f"{path} holds numbers that are not whole: save masks as whole numbers, with 0 for background"
            )
        values = whole
    low, high = float(values.min()), float(values.max())
    if low < UNLABELLED:
        raise UserError(
            f"{path} has negative values, down to {low:g}: save masks as whole numbers, with 0 for background and -1 "
            "for unlabelled pixels"
        )
    if high > np.iinfo(np.int32).max:
        raise UserError(f"{path} has values up to {high:.0f}: number the classes or objects from 0")
    return values.astype(np.uint16 if low >= 0 and high <= 65535 else np.int32)
