"""Compute the statistics of one pair from its files."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import cast

import numpy as np

from unet_cli.config.data import Dtype
from unet_cli.data.check.facts import Facts, Known, scale_between
from unet_cli.data.check.space import compare_space
from unet_cli.data.check.thumbnails import mask_thumbnail, thumbnail
from unet_cli.data.formats import count_pages
from unet_cli.data.imagefile import NAN_FILLED, filled, image_of, is_gray, read_stack
from unet_cli.data.labels import value_stats
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Pair, page_name
from unet_cli.data.spacing import spacing_of
from unet_cli.errors import UserError

VALUES_AT_A_TIME = 2**18  # of each channel, summed in float64


def read_facts(pair: Pair, keep_alpha: bool) -> list[Known]:
    """Read a pair of files. Pages of image and mask are paired one to one; if the mask has a single page, the image's
    pages are its channels. Raises UserError if a file is bad or the two don't match."""
    if pair.image.is_volume:
        return [(pair, _facts(pair, keep_alpha, layered=False))]
    pages = count_pages(pair.image.path)
    if pair.mask.is_blank and pages > 1:
        raise UserError(
            f"{pair.image} has {pages} pages and no mask, so it isn't clear whether these are images or channels: give "
            "it a mask, or leave it out with --skip-bad"
        )
    mask_pages = 1 if pair.mask.is_blank or pair.mask.entry else count_pages(pair.mask.path)
    if mask_pages not in (1, pages):
        raise UserError(
            f"{pair.mask} has {mask_pages} pages but its image {pair.image} has {pages}: give each image one page"
        )
    if mask_pages == 1:
        return [sized(pair, _facts(pair, keep_alpha, layered=pages > 1 and pair.image.page is None))]
    compare_space(pair)
    paged = [page_of(pair, page) for page in range(pages)]
    return [sized(one, _facts(one, keep_alpha, layered=False)) for one in paged]


def sized(pair: Pair, facts: Facts) -> Known:
    """The pair with its mask resized to the image's size."""
    if facts.mask_size is None and pair.mask.entry is None:
        return pair, facts
    return replace(pair, mask=replace(pair.mask, size=(facts.height, facts.width))), facts


def page_of(pair: Pair, page: int) -> Pair:
    if pair.image.page == page:  # of annotations that name the slices of a stack
        return pair
    return Pair(page_name(pair.name, page), replace(pair.image, page=page), replace(pair.mask, page=page))


def size_mismatch(pair: Pair, facts: Facts) -> str:
    """The message for a mask whose size differs from the image's."""
    assert facts.mask_size is not None
    return _mismatch(pair, facts.mask_size, (facts.height, facts.width))


def _facts(pair: Pair, keep_alpha: bool, layered: bool) -> Facts:
    stack, notes = read_stack(pair.image, keep_alpha)
    depth = len(stack) if pair.image.is_volume else 0
    image, has_missing = filled(_tall(image_of(stack, pair.image)))
    notes += (NAN_FILLED,) if has_missing else ()
    height, width = image.shape[1:]
    mask = read_mask(replace(pair.mask, size=(height, width)) if pair.mask.entry else pair.mask)
    axes = ""
    if depth:
        height //= depth
        if mask.values.shape != (depth, height, width):
            raise UserError(_misfit_in_depth(pair, mask.values.shape, (depth, height, width)))
        axes, notes_of_space = compare_space(pair)
        notes += notes_of_space
        mask = replace(mask, values=mask.values.reshape(1, -1, width))
        height *= depth
    mask_size: tuple[int, int] | None = None
    if mask.values.shape[1:] != (height, width):
        _, *sides = mask.values.shape
        mask_size = (sides[0], sides[1])
        if scale_between((height, width), mask_size) is None:
            raise UserError(_mismatch(pair, mask_size, (height, width)))
        mask = read_mask(replace(pair.mask, size=(height, width)))
    stored = len(image)
    if stored == 3 + keep_alpha and is_gray(image):
        image = image[[0, *range(3, stored)]]
    low, high = float(image.min()), float(image.max())
    sums, squares = _sums(image)
    return Facts(
        channels=len(image),
        stored=stored,
        height=height // max(depth, 1),
        width=width,
        dtype=cast(Dtype, str(image.dtype)),
        low=low,
        high=high,
        sums=sums,
        squares=squares,
        layered=layered,
        thumbnail=thumbnail(_middle(image[0], depth), low, high),
        mask_thumbnail=mask_thumbnail(_middle(mask.values[0], depth)),
        checksum=zlib.crc32(image[0].data),
        notes=notes,
        values=value_stats(mask, image=image[0]),
        mask_size=mask_size,
        overlap=mask.overlap,
        depth=depth,
        spacing=spacing_of(pair.image) if depth else None,
        axes=axes,
    )


def _tall(image: np.ndarray) -> np.ndarray:
    """(C, D, H, W) -> (C, D * H, W), the slices one below the other, so that a volume is counted and measured like an
    image; an image (C, H, W) is unchanged."""
    return image.reshape(len(image), -1, image.shape[-1])


def _middle(pixels: np.ndarray, depth: int) -> np.ndarray:
    """(H, W) of an image, or of the middle slice of a volume of that depth, (D * H, W)."""
    return pixels.reshape(depth, -1, pixels.shape[-1])[depth // 2] if depth else pixels


def _misfit_in_depth(pair: Pair, mask: tuple[int, ...], image: tuple[int, ...]) -> str:
    sizes = ["x".join(str(side) for side in reversed(sides)) for sides in (mask, image)]
    return (
        f"{pair.mask} is {sizes[0]} but its image {pair.image} is {sizes[1]}: a volume and its mask have the same "
        "voxels; mend one, or leave the pair out with --skip-bad"
    )


def _mismatch(pair: Pair, mask: tuple[int, int], image: tuple[int, int]) -> str:
    (mask_height, mask_width), (height, width) = mask, image
    if (mask_width, mask_height) == (height, width):
        return (
            f"{pair.mask} is {mask_width}x{mask_height} and its image {pair.image} {width}x{height}: one is rotated "
            "by 90 degrees (perhaps by the EXIF orientation of the image). Rotate it; or remove the orientation from "
            "a copy of the image, with exiftool -Orientation= -o stored/ IMAGE; or leave the pair out with --skip-bad"
        )
    return (
        f"{pair.mask} is {mask_width}x{mask_height} but its image {pair.image} is {width}x{height}: "
        "resize one, or leave the pair out with --skip-bad"
    )


def _sums(image: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(C, H, W) -> the sum of each channel, and of its squares; exact for 8 and 16 bits."""
    values = image.reshape(len(image), -1)
    total, squares = np.zeros((2, len(image)))
    for start in range(0, values.shape[1], VALUES_AT_A_TIME):
        part = values[:, start : start + VALUES_AT_A_TIME].astype(np.float64)
        total += part.sum(1)
        squares += np.einsum("ij,ij->i", part, part)  # no BLAS product, whose threads would compete with ours
    return tuple(total.tolist()), tuple(squares.tolist())
