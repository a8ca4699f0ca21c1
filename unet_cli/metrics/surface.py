"""Surface metrics of two masks: distances between their borders, and the overlap of bands along them.

Images and volumes. Distances are between the centres of pixels, in the units of `spacing`. The border of a mask is the
set of its pixels that share an edge, voxels that share a face, with one outside it; everything outside the image is
outside the mask.

All values are exact. Other tools spend their time on the distance transform of the whole image, of which two similar
masks need few values: `border_distances` computes it only where borders are far apart, `_inner_band` only for wide
bands. Volumes take a plainer way: a k-d tree of the border's voxels, which are few, and one distance transform for each
band.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

TIE = 1 + 1e-9  # relative tolerance: three pixels of 0.1 are within 0.3, though 3 * 0.1 rounds to more
NEAR = 7  # rows and columns that are searched directly
MAX_STEPS = 64  # rows of a band: the distance transform is faster for wider ones
MAX_SLAB = 2**22  # voxels of a volume whose distances are computed at once, beside those within reach
MANY = 1 / 32  # fraction of the pixels from which the distance transform is faster than a k-d tree


@dataclass(frozen=True)
class Surface:
    """Surface metrics: hd95 and assd in units, 0 or more; surface_dice and boundary_iou 0 to 1; NaN if both masks are
    empty."""

    hd95: float
    assd: float
    surface_dice: float
    boundary_iou: float


def compare_surfaces(
    pred: np.ndarray,
    target: np.ndarray,
    spacing: tuple[float, ...],
    tolerance: float,
    band: float,
    ignored: np.ndarray | None = None,
) -> Surface:
    """Two (H, W) or (D, H, W) bool masks -> how well the borders of one class agree. ignored: bool of the same shape,
    pixels of neither mask; a mask has no border where it ends at them, since its true extent is unknown there.

    spacing: pixel size along each axis, above 0. tolerance, band: 0 or more, in the same units; both inclusive,
    with a relative tolerance of 1e-9. All NaN where both masks are empty. Where just one is, hd95 and assd are the
    diagonal of the image, surface_dice and boundary_iou 0.

    P, T: the borders of pred and target; d(p, T) = min |p - t| over t in T. P_b, T_b: the pixels of each mask at most b
    from the nearest pixel outside it.

    hd95 = max(95th percentile of d(p, T) over P, that of d(t, P) over T), percentiles interpolated linearly. Source:
    Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
    radiotherapy", 2018 (arXiv:1809.04430), whose surfaces run between the pixels and are weighted by their size; here,
    as in MONAI, they are border pixels of equal weight. medpy takes one percentile of both directions together.

    assd = (sum of d(p, T) + sum of d(t, P)) / (|P| + |T|). Source: Heimann et al., "Comparison and evaluation of
    methods for liver segmentation from CT datasets", IEEE TMI 2009, "average symmetric surface distance".

    surface_dice = (#{d(p, T) <= tolerance} + #{d(t, P) <= tolerance}) / (|P| + |T|). Source: Nikolov et al., as above,
    with the same difference.

    boundary_iou = |P_b and T_b| / |P_b or T_b|, b = band. Source: Cheng et al., "Boundary IoU: improving object-centric
    image segmentation evaluation", CVPR 2021, whose definition leaves the distance open. Here it is Euclidean; the
    authors' code erodes b times by a 3x3 square, so its bands are wider along diagonals. As there, b is at least one
    pixel: its shorter side.
    """
    diagonal = math.hypot(*(side * step for side, step in zip(pred.shape, spacing, strict=True)))
    if ignored is not None:
        pred, target = pred & ~ignored, target & ~ignored
    found, known = pred.any(), target.any()
    if not (found and known):
        return Surface(diagonal, diagonal, 0.0, 0.0) if found or known else Surface(*[math.nan] * 4)
    masks, hidden = _framed(pred, target, ignored)
    borders = [_border(mask, hidden) for mask in masks]
    if not all(border.any() for border in borders):  # a mask is entirely surrounded by ignored pixels
        hidden = None
        borders = [_border(mask, hidden) for mask in masks]
    there, back = (border_distances(one, two, spacing) for one, two in (borders, borders[::-1]))
    both = np.concatenate([there, back])
    bands = [_inner_band(mask, hidden, spacing, band) for mask in masks]
    in_either = np.count_nonzero(bands[0] | bands[1])
    return Surface(
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd=float(both.mean()),
        surface_dice=float((both <= tolerance * TIE).mean()),
        boundary_iou=np.count_nonzero(bands[0] & bands[1]) / in_either if in_either else 1.0,
    )


def border_distances(border: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Two bool arrays, neither empty -> (n,) float64: from each pixel of `border`, row by row, to the nearest of
    `other`.

    Most borders are close to each other, so each pixel of an image first searches its own row, then the rows one above
    and below, two, three, while these are nearer than its best distance so far. Pixels that find nothing within NEAR,
    and those of volumes, query a k-d tree or, if there are many, a distance transform.
    """
    if border.ndim == 2:
        return _searched_by_rows(border, other, spacing)
    if np.count_nonzero(border) > MANY * border.size:
        return distance_transform_edt(~other, sampling=spacing)[border]
    return _to_nearest(_points(border, spacing), other, spacing)


def _searched_by_rows(border: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """`border_distances` of images."""
    width = border.shape[1]
    # Padding by NEAR rows makes a shift by up to NEAR rows a constant offset in the flattened array.
    in_row = np.pad(_row_distances(other, NEAR), ((NEAR, NEAR), (0, 0)), constant_values=NEAR + 1)
    squares = np.append((np.arange(NEAR + 1) * spacing[1]) ** 2, np.inf)  # NEAR + 1 columns: none
    positions = np.flatnonzero(border) + NEAR * width
    nearest = squares[in_row.take(positions)]
    for step in range(1, NEAR + 1):
        vertical = (step * spacing[0]) ** 2
        candidates = np.flatnonzero(nearest > vertical)
        above, below = (in_row.take(positions[candidates] + shift) for shift in (-step * width, step * width))
        nearest[candidates] = np.minimum(nearest[candidates], squares[np.minimum(above, below)] + vertical)
    distances = np.sqrt(nearest)
    far = np.flatnonzero(distances > (NEAR + 1) * min(spacing))
    if len(far) > MANY * border.size:
        return distance_transform_edt(~other, sampling=spacing)[border]
    if len(far):
        distances[far] = _to_nearest(_points(border, spacing)[far], other, spacing)
    return distances


def _to_nearest(points: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """(n, dims) coordinates -> (n,) distances to the nearest pixel of `other`."""
    from scipy.spatial import cKDTree  # a slow import, and most masks need no tree

    tree = cKDTree(_points(other, spacing), compact_nodes=False, balanced_tree=False)
    distances, _ = tree.query(points)
    return distances


def _points(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """bool -> (n, dims) float64 coordinates in units, row by row."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1) * spacing


def _row_distances(points: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool -> (H, W) columns to the nearest point in the same row; reach + 1 where none is within reach.

    Propagates by 1 pixel to both sides, then by 2, 4, ...: sums of these powers give any distance, in log2(reach)
    passes.
    """
    distances = ~points * np.min_scalar_type(2 * reach + 1).type(reach + 1)
    step = 1
    while step <= reach:
        further = distances + distances.dtype.type(step)
        np.minimum(distances[:, step:], further[:, :-step], out=distances[:, step:])
        np.minimum(distances[:, :-step], further[:, step:], out=distances[:, :-step])
        step *= 2
    return distances


def _inner_band(mask: np.ndarray, hidden: np.ndarray | None, spacing: tuple[float, ...], band: float) -> np.ndarray:
    """A framed mask -> its pixels that are at most `band` units from the nearest pixel outside, bool.

    A pixel of an image is in the band if, for some row `step` rows away, a pixel outside is within sqrt(band^2 -
    step^2) columns, all in units. This needs only small integers for the whole image and less time than a distance
    transform; but one pass for each row of the band, so the transform is used for wide ones, and for volumes.
    """
    height, width = mask.shape[-2:]
    outside = ~mask if hidden is None else ~(mask | hidden)
    limit = max(band, min(spacing)) * TIE
    if mask.ndim > 2:
        return mask & _near(outside, spacing, limit)
    steps = int(min(limit / spacing[0], height - 1))
    if steps > MAX_STEPS:
        return mask & (distance_transform_edt(~outside, sampling=spacing) <= limit)
    columns = _row_distances(outside, int(min(limit / spacing[1], width - 1)))
    near = np.zeros(mask.shape, dtype=bool)
    for step in range(steps + 1):
        reach = math.sqrt(max(limit**2 - (step * spacing[0]) ** 2, 0)) / spacing[1]
        within = columns <= int(min(reach, width - 1))
        near[step:] |= within[: height - step]
        near[: height - step] |= within[step:]
    return near & mask


def _near(outside: np.ndarray, spacing: tuple[float, ...], limit: float) -> np.ndarray:
    """(D, H, W) bool -> whether a voxel is at most `limit` from the nearest one outside. In slabs, each transformed
    together with the slices within reach of it, since the transform takes 60 bytes a voxel."""
    depth = len(outside)
    reach = int(min(limit / spacing[0], depth))
    thickness = max(2 * reach, MAX_SLAB // outside[0].size, 1)
    near = np.zeros(outside.shape, dtype=bool)
    for start in range(0, depth, thickness):
        first, end = max(start - reach, 0), min(start + thickness, depth)
        slab = outside[first : end + reach]
        if slab.any():
            distances = distance_transform_edt(~slab, sampling=spacing)
            near[start:end] = distances[start - first : end - first] <= limit
    return near


def _border(mask: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    """The pixels of a framed mask that have a neighbour outside, along an axis."""
    known = mask if hidden is None else mask | hidden
    inside = known.copy()
    for axis in range(mask.ndim):
        along, neighbours = inside.swapaxes(0, axis), known.swapaxes(0, axis)
        along[1:-1] &= neighbours[:-2] & neighbours[2:]
    return mask & ~inside


def _framed(
    pred: np.ndarray, target: np.ndarray, ignored: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Both masks with a border of one outside pixel; and the ignored pixels. Cropped to the bounding box of both, which
    contains every nearest pixel; where some are ignored, volumes to that of all three, and images not at all."""
    if ignored is not None and ignored.ndim == 2:
        return [np.pad(pred, 1), np.pad(target, 1)], np.pad(ignored, 1)
    either = pred | target if ignored is None else pred | target | ignored
    box = tuple(_extent(either, axis) for axis in range(either.ndim))
    return [np.pad(mask[box], 1) for mask in (pred, target)], None if ignored is None else np.pad(ignored[box], 1)


def _extent(mask: np.ndarray, axis: int) -> slice:
    """From the first to the last index along an axis at which a mask has pixels."""
    held = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
    return slice(held[0], held[-1] + 1)
