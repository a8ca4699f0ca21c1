"""The scores of the ISBI 2012 challenge: how well a map of membranes parts the cells of an image.

Source: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
Frontiers in Neuroanatomy 2015, section "Evaluation metrics"; in detail the challenge's own script, "Segmentation
evaluation after border thinning", that is RandError, VariationOfInformation and WatershedTransform2D of Fiji's
Trainable Segmentation.
"""

from __future__ import annotations

import numpy as np

from unet_cli.metrics.objects import overlaps
from unet_cli.metrics.overlap import ratio

# The script adds 0.1 ten times, which ends just below 1: a probability of 1 is inside at each of them.
MAP_THRESHOLDS = np.cumsum([0.0] + 10 * [0.1])
WAITING = np.int32(2**31 - 1)  # the place in the queue of what isn't in it yet


def membrane_scores(cells: np.ndarray, target: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """(H, W) float32 probability of not-membrane, (H, W) bool truth, True inside cells, (H, W) bool pixels to leave out
    -> (11, 2) float64 V_rand and V_info, 0 to 1, at each of MAP_THRESHOLDS.

    At a threshold t the proposal is `grown(cells > t)`. With p_ij the share of pixels in object i of the truth and j of
    the proposal, a_i and b_j the sums of its rows and columns:

        V_rand = 2 sum p_ij^2 / (sum a_i^2 + sum b_j^2)
        V_info = 2 I / (H(A) + H(B)),    I = H(A) + H(B) - H(A, B)

    Objects of the truth are 4-connected; its membrane and ignored pixels are left out, though the proposal grows over
    them. A pixel of a line is an object of its own. As in the script, V_info is 0 where either entropy is. Without a
    cell in the truth both are NaN, as they are there. The challenge's result is `best_over_thresholds`.
    """
    inside = target if ignored is None else target & ~ignored
    truth, _ = _labelled(_by_columns(inside))
    counted = truth > 0
    columns = _by_columns(cells)
    scores = np.full((len(MAP_THRESHOLDS), 2), np.nan)
    last: np.ndarray | None = None
    for index, threshold in enumerate(MAP_THRESHOLDS):
        proposal = columns > threshold
        if last is not None and np.array_equal(proposal, last):
            scores[index] = scores[index - 1]
        elif counted.any():
            scores[index] = _scores(truth[counted], _grown(proposal)[counted])
        last = proposal
    return scores


def best_over_thresholds(scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(images, 11, 2) of `membrane_scores` -> (2,): the mean over images at each threshold, and of these the highest,
    of each score by itself, as in the challenge, whose images are the slices of a stack.

    weights: (B, images), how often an image counts, -> (B, 2). Images that are NaN are left out; NaN if all are.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    known = ~np.isnan(scores)
    sums = np.tensordot(weights, np.where(known, scores, 0), 1)
    totals = np.tensordot(weights, known.astype(np.float64), 1)
    return ratio(sums, totals, np.nan).max(-2)


def grown(inside: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) int32: its 4-connected objects, numbered from 1, grown over the rest until they meet, with
    0 on the lines between. Without any object, the image is one.

    The watershed of the binary image. Pixels wait in a queue: first those beside an object, column by column, then the
    neighbours of each. A pixel becomes part of the one object that its neighbours before it in the queue belong to;
    where there are several, or lines only, it becomes line. So objects of two numbers never touch at a side. In which
    order the neighbours of one pixel are queued makes no difference: they never touch each other, nor do at the same
    distance those that come of them.

    Source: Soille and Vincent, "Determining watersheds in digital pictures via flooding simulations", SPIE 1990, in the
    order of the script's implementation, which decides on which side of two fronts without a pixel between them the
    line is.
    """
    columns = _by_columns(inside)
    return _grown(columns).reshape(columns.shape)[1:-1, 1:-1].T


def _by_columns(image: np.ndarray) -> np.ndarray:
    """(H, W) -> (W + 2, H + 2) column by column, with a margin of zeros: so that, flat, each pixel has its neighbours
    at the same steps from it, in the script's order."""
    return np.pad(image.T, 1)


def _labelled(inside: np.ndarray) -> tuple[np.ndarray, int]:
    """Bool by columns -> the numbers of its objects from 1, flat, int32; and how many there are."""
    from scipy.ndimage import label

    numbers, count = label(inside)
    return numbers.ravel(), count


def _grown(inside: np.ndarray) -> np.ndarray:
    """`grown`, by columns and flat; what is in the margin has no meaning."""
    labels, count = _labelled(inside)
    if count < 2:
        return np.ones_like(labels)
    places = np.pad(np.where(inside[1:-1, 1:-1], np.int32(0), WAITING), 1).ravel()
    column = inside.shape[1]
    steps = np.array([[-column], [-1], [column], [1]])
    beside = np.logical_or.reduce([np.roll(inside.ravel(), step) for step in steps[:, 0]])
    ring, done = np.flatnonzero(beside & (places == WAITING)), 1
    while ring.size:
        places[ring] = np.arange(done, done + ring.size)
        done += ring.size
        _settle(labels, places, ring, steps, done)
        ring = _next_ring(places, ring, steps)
    return labels


def _settle(labels: np.ndarray, places: np.ndarray, ring: np.ndarray, steps: np.ndarray, done: int) -> None:
    """Label the pixels of a ring: first by the rings before; then, until nothing changes any more, those that have a
    neighbour of another label within the ring, which counts where its place is before theirs."""
    near = ring + steps
    labels[ring] = _only(labels.take(near))
    around = labels.take(near)
    ring = ring[((around > 0) & (around != labels[ring])).any(0)]
    while ring.size:
        near = ring + steps
        settled = _only(np.where(places[near] < places[ring], labels[near], 0))
        changed = settled != labels[ring]
        labels[ring] = settled
        near = near[:, changed]
        ring = near[(places[near] > places[ring[changed]]) & (places[near] < done)]


def _only(around: np.ndarray) -> np.ndarray:
    """(4, n) labels -> (n,) the one label above 0 of each column, 0 where there is none or several."""
    highest = around.max(0)
    return np.where(((around == highest) | (around == 0)).all(0), highest, 0)


def _next_ring(places: np.ndarray, ring: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The neighbours that wait, each once, in the order in which they are first met."""
    near = (ring + steps).ravel(order="F")
    near = near.take(np.flatnonzero(places.take(near) == WAITING))
    turns = np.arange(near.size, dtype=places.dtype)
    places[near[::-1]] = turns[::-1]  # of several, the last to be written stays
    return near.take(np.flatnonzero(places.take(near) == turns))


def _scores(truth: np.ndarray, proposal: np.ndarray) -> tuple[float, float]:
    """V_rand and V_info of (n,) numbers of objects twice, 0 in the proposal being line."""
    rows, columns, shared = overlaps(truth, proposal)
    a, b = np.bincount(rows, shared), np.bincount(columns, shared)
    both, b, singles = shared[columns > 0].astype(np.float64), b[1:], b[0]
    rand = 2 * (both @ both + singles) / (a @ a + b @ b + singles)
    whole = truth.size * np.log(truth.size)
    of_a, of_b, of_both = (whole - _x_log_x(sizes) for sizes in (a, b, both))  # n times the entropy; 1 log 1 is 0
    information = of_a + of_b - of_both
    return float(rand), float(2 * information / (of_a + of_b)) if min(of_a, of_b) > 0 else 0.0


def _x_log_x(sizes: np.ndarray) -> float:
    sizes = sizes[sizes > 0]
    return float(sizes @ np.log(sizes))
