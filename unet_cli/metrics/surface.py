"""How far apart two masks run: distances between their borders, and the overlap of bands along them.

Two dimensions. A distance goes from the middle of a pixel to that of another one. The border of a mask is its pixels
that have a side neighbour outside of it; outside of the image is outside of the mask. Units are those of `spacing`.

All is exact. What takes long in other tools is the distance transform of a whole image, of which two similar masks need
few values: `border_distances` asks for it where they are far apart, `_inner_band` never.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

TIE = 1 + 1e-9  # three pixels of 0.1 are within 0.3, though 3 * 0.1 is more once rounded
NEAR = 7  # rows and columns that are looked at one by one
MAX_STEPS = 64  # rows of a band: a transform is faster for wider ones
MANY = 1 / 32  # of the pixels: for that many a transform is faster than a tree


@dataclass(frozen=True)
class Surface:
    """What `compare_surfaces` finds: hd95, assd in units from 0 on; surface_dice, boundary_iou 0 to 1; or NaN."""

    hd95: float
    assd: float
    surface_dice: float
    boundary_iou: float


def compare_surfaces(
    pred: np.ndarray,
    target: np.ndarray,
    spacing: tuple[float, float],
    tolerance: float,
    band: float,
    ignored: np.ndarray | None = None,
) -> Surface:
    """(H, W) bool twice -> how well the borders of one class agree. ignored: (H, W) bool, pixels of neither mask; where
    a mask ends at them, nobody knows whether that is its border, and it is none.

    spacing: of rows and of columns, above 0. tolerance, band: 0 or more, in the same units; what is exactly that far
    away is within, and so is 1e-9 of it more. All NaN where both masks are empty. Where just one is, hd95 and assd are
    the diagonal of the image, surface_dice and boundary_iou 0.

    P, T: the borders of pred and target; d(p, T) = min |p - t| over t in T. P_b, T_b: what each mask has at most b from
    the nearest pixel outside of it.

    hd95 = max(95th percentile of d(p, T) over P, that of d(t, P) over T), percentiles interpolated linearly. Source:
    Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
    radiotherapy", 2018 (arXiv:1809.04430), whose surfaces run between the pixels and are weighted by their size; here,
    as in MONAI, they are border pixels that all count the same. medpy takes one percentile of both directions together.

    assd = (sum of d(p, T) + sum of d(t, P)) / (|P| + |T|). Source: Heimann et al., "Comparison and evaluation of
    methods for liver segmentation from CT datasets", IEEE TMI 2009, "average symmetric surface distance".

    surface_dice = (#{d(p, T) <= tolerance} + #{d(t, P) <= tolerance}) / (|P| + |T|). Source: Nikolov et al., as above,
    with the same difference.

    boundary_iou = |P_b and T_b| / |P_b or T_b|, b = band. Source: Cheng et al., "Boundary IoU: improving object-centric
    image segmentation evaluation", CVPR 2021, whose definition leaves the distance open. Here it is Euclidean; the
    authors' code erodes b times by a square of 3x3, so its bands are wider along diagonals. As there, b is one pixel
    at least: the shorter side of one.
    """
    diagonal = math.hypot(pred.shape[0] * spacing[0], pred.shape[1] * spacing[1])
    if ignored is not None:
        pred, target = pred & ~ignored, target & ~ignored
    found, known = pred.any(), target.any()
    if not (found and known):
        return Surface(diagonal, diagonal, 0.0, 0.0) if found or known else Surface(*[math.nan] * 4)
    masks, hidden = _framed(pred, target, ignored)
    borders = [_border(mask, hidden) for mask in masks]
    if not all(border.any() for border in borders):  # all of a mask's surroundings are ignored
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


def border_distances(border: np.ndarray, other: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """(H, W) bool twice, neither empty -> (n,) float64: from each of `border`, row by row, to the nearest of `other`.

    Most have one close by: each pixel looks along its own row, then along those one above and below, two, three, for
    as long as these are nearer than what it has found. What has found nothing within NEAR asks a k-d tree, or,
    where that is much of the image, a distance transform.
    """
    width = border.shape[1]
    in_row = np.pad(_row_distances(other, NEAR), ((NEAR, NEAR), (0, 0)), constant_values=NEAR + 1)
    squares = np.append((np.arange(NEAR + 1) * spacing[1]) ** 2, np.inf)  # of what _row_distances says
    places = np.flatnonzero(border) + NEAR * width
    nearest = squares[in_row.take(places)]
    for step in range(1, NEAR + 1):
        vertical = (step * spacing[0]) ** 2
        looking = np.flatnonzero(nearest > vertical)
        above, below = (in_row.take(places[looking] + shift) for shift in (-step * width, step * width))
        nearest[looking] = np.minimum(nearest[looking], squares[np.minimum(above, below)] + vertical)
    distances = np.sqrt(nearest)
    far = np.flatnonzero(distances > (NEAR + 1) * min(spacing))
    if len(far) > MANY * border.size:
        return distance_transform_edt(~other, sampling=spacing)[border]
    if len(far):
        from scipy.spatial import cKDTree  # not at the start of every run: most masks need no tree

        tree = cKDTree(_points(other, spacing), compact_nodes=False, balanced_tree=False)
        distances[far] = tree.query(_points(border, spacing)[far])[0]
    return distances


def _points(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """(H, W) bool -> (n, 2) float64 places in units, row by row."""
    return np.stack(np.divmod(np.flatnonzero(mask), mask.shape[1]), axis=1) * spacing


def _row_distances(points: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool -> (H, W) columns to the nearest point in the same row; reach + 1 where there is none within reach.

    Looks 1 pixel to both sides, then 2, 4, ...: these add up to any distance.
    """
    distances = ~points * np.min_scalar_type(2 * reach + 1).type(reach + 1)
    step = 1
    while step <= reach:
        further = distances + distances.dtype.type(step)
        np.minimum(distances[:, step:], further[:, :-step], out=distances[:, step:])
        np.minimum(distances[:, :-step], further[:, step:], out=distances[:, :-step])
        step *= 2
    return distances


def _inner_band(mask: np.ndarray, hidden: np.ndarray | None, spacing: tuple[float, float], band: float) -> np.ndarray:
    """A framed mask -> its pixels that are at most `band` units from the nearest pixel outside, (H, W) bool.

    A pixel is where, in a row `step` rows away, one outside is within sqrt(band^2 - step^2) columns, all in units. That
    takes small integers, for the whole image at once, and less time than a distance transform, which says much more;
    but one pass for each row of the band, so a wide one is left to the transform.
    """
    height, width = mask.shape
    outside = ~mask if hidden is None else ~(mask | hidden)
    limit = max(band, min(spacing)) * TIE
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


def _border(mask: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    """Of a framed mask: what has a side neighbour outside."""
    known = mask if hidden is None else mask | hidden
    inside = known.copy()
    inside[1:-1] &= known[:-2] & known[2:]
    inside[:, 1:-1] &= known[:, :-2] & known[:, 2:]
    return mask & ~inside


def _framed(
    pred: np.ndarray, target: np.ndarray, ignored: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Both masks with one pixel of outside around them, cut to the box that holds both where nothing is ignored, since
    beyond it lies no nearest pixel; and what is ignored."""
    if ignored is not None:
        return [np.pad(pred, 1), np.pad(target, 1)], np.pad(ignored, 1)
    either = pred | target
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return [np.pad(pred[box], 1), np.pad(target[box], 1)], None
