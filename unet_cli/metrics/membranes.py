"""Metrics of the ISBI 2012 challenge: how well a membrane map segments the cells of an image.

Source: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
Frontiers in Neuroanatomy 2015, section "Evaluation metrics"; in detail the challenge's own script, "Segmentation
evaluation after border thinning", that is RandError, VariationOfInformation and WatershedTransform2D of Fiji's
Trainable Segmentation.
"""

from __future__ import annotations

import numpy as np

from unet_cli.metrics.objects import overlaps
from unet_cli.metrics.overlap import ratio

# Cumulative as in the script: ten times 0.1 ends just below 1, so a probability of 1 exceeds every threshold.
MAP_THRESHOLDS = np.cumsum([0.0] + 10 * [0.1])
UNQUEUED = np.int32(2**31 - 1)  # queue position of a pixel that is not in the queue yet


def membrane_scores(cells: np.ndarray, target: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """(H, W) float32 probability of not-membrane, (H, W) bool ground truth, True inside cells, (H, W) bool ignored
    pixels -> (11, 2) float64 V_rand and V_info, 0 to 1, at each of MAP_THRESHOLDS.

    At a threshold t the proposal is `watershed(cells > t)`. With p_ij the fraction of pixels in object i of the ground
    truth and j of the proposal, a_i and b_j its row and column sums:

        V_rand = 2 sum p_ij^2 / (sum a_i^2 + sum b_j^2)
        V_info = 2 I / (H(A) + H(B)),    I = H(A) + H(B) - H(A, B)

    Objects of the ground truth are 4-connected components; its membrane and the ignored pixels are not counted, though
    the proposal's objects grow over them. Each pixel of a watershed line is an object of its own. As in the script,
    V_info is 0 where either entropy is. Both are NaN if the ground truth has no cell, again as in the script. The
    challenge's result is `best_over_thresholds`.

    Volumes (D, H, W) have the mean over their slices, as the images of the challenge are the slices of a stack; slices
    without a cell are left out.
    """
    if cells.ndim > 2:
        hidden = [None] * len(cells) if ignored is None else ignored
        by_slice = [membrane_scores(*one) for one in zip(cells, target, hidden, strict=True)]
        known = [scores for scores in by_slice if not np.isnan(scores).any()]
        return np.mean(known or by_slice, axis=0)
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
            scores[index] = _scores(truth[counted], _watershed(proposal)[counted])
        last = proposal
    return scores


def best_over_thresholds(scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(images, 11, 2) of `membrane_scores` -> (2,): for each metric the maximum over thresholds of the mean over
    images, as in the challenge, whose images are the slices of a stack.

    weights: (B, images), the multiplicity of each image, -> (B, 2). NaN images are left out; NaN if all are.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    known = ~np.isnan(scores)
    sums = np.tensordot(weights, np.where(known, scores, 0), 1)
    totals = np.tensordot(weights, known.astype(np.float64), 1)
    return ratio(sums, totals, np.nan).max(-2)


def watershed(inside: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) int32: its 4-connected components, numbered from 1 and grown by a watershed until they
    meet, with 0 on the watershed lines. An image without any component is one object.

    Pixels are processed in a queue: first those adjacent to a component, in column-major order, then the neighbours of
    each. A pixel joins the one object that its earlier neighbours in the queue belong to; if they belong to several, or
    only to lines, it becomes a line. So two objects are never 4-adjacent. The order in which the neighbours of one
    pixel are queued makes no difference: they are never adjacent to each other, nor are those of the same distance that
    descend from them.

    Source: Soille and Vincent, "Determining watersheds in digital pictures via flooding simulations", SPIE 1990, in the
    order of the script's implementation, which decides on which side the line is where no pixel lies between two
    fronts.
    """
    columns = _by_columns(inside)
    return _watershed(columns).reshape(columns.shape)[1:-1, 1:-1].T


def _by_columns(image: np.ndarray) -> np.ndarray:
    """(H, W) -> (W + 2, H + 2), transposed with a border of zeros: flattened, the neighbours of each pixel are at
    constant offsets, and the order is the script's column-major one."""
    return np.pad(image.T, 1)


def _labelled(inside: np.ndarray) -> tuple[np.ndarray, int]:
    """Transposed bool array -> the numbers of its 4-connected components from 1, flat, int32; and their count."""
    from scipy.ndimage import label

    numbers, count = label(inside)
    return numbers.ravel(), count


def _watershed(inside: np.ndarray) -> np.ndarray:
    """`watershed` of a transposed array, flat; values in the border are undefined."""
    labels, count = _labelled(inside)
    if count < 2:
        return np.ones_like(labels)
    order = np.pad(np.where(inside[1:-1, 1:-1], np.int32(0), UNQUEUED), 1).ravel()
    column = inside.shape[1]
    # The queue is processed one distance at a time ("front"), which numpy can do for all its pixels at once; `order` is
    # each pixel's position in the sequential queue and resolves ties within a front as the script does.
    steps = np.array([[-column], [-1], [column], [1]])
    beside = np.logical_or.reduce([np.roll(inside.ravel(), step) for step in steps[:, 0]])
    front, done = np.flatnonzero(beside & (order == UNQUEUED)), 1
    while front.size:
        order[front] = np.arange(done, done + front.size)
        done += front.size
        _settle(labels, order, front, steps, done)
        front = _next_front(order, front, steps)
    return labels


def _settle(labels: np.ndarray, order: np.ndarray, front: np.ndarray, steps: np.ndarray, done: int) -> None:
    """Label the pixels of a front: first from the fronts before; then, until nothing changes, those that have a
    neighbour of another label within the front, which counts if it precedes them in the queue."""
    near = front + steps
    labels[front] = _only(labels.take(near))
    # Only pixels next to another label within the same front can depend on the order of the queue.
    around = labels.take(near)
    front = front[((around > 0) & (around != labels[front])).any(0)]
    while front.size:
        near = front + steps
        settled = _only(np.where(order[near] < order[front], labels[near], 0))
        changed = settled != labels[front]
        labels[front] = settled
        near = near[:, changed]
        front = near[(order[near] > order[front[changed]]) & (order[near] < done)]


def _only(around: np.ndarray) -> np.ndarray:
    """(4, n) labels -> (n,) the unique label above 0 of each column, 0 where there is none or several."""
    highest = around.max(0)
    return np.where(((around == highest) | (around == 0)).all(0), highest, 0)


def _next_front(order: np.ndarray, front: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The neighbours that are not queued yet, each once, in the order in which they are first reached."""
    near = (front + steps).ravel(order="F")
    near = near.take(np.flatnonzero(order.take(near) == UNQUEUED))
    turns = np.arange(near.size, dtype=order.dtype)
    order[near[::-1]] = turns[::-1]  # numpy keeps the last write, reversed that is the first visit
    return near.take(np.flatnonzero(order.take(near) == turns))


def _scores(truth: np.ndarray, proposal: np.ndarray) -> tuple[float, float]:
    """V_rand and V_info of two (n,) arrays of object numbers; 0 in the proposal is a watershed line."""
    rows, columns, shared = overlaps(truth, proposal)
    a, b = np.bincount(rows, shared), np.bincount(columns, shared)
    both, b, singles = shared[columns > 0].astype(np.float64), b[1:], b[0]
    rand = 2 * (both @ both + singles) / (a @ a + b @ b + singles)
    whole = truth.size * np.log(truth.size)
    of_a, of_b, of_both = (whole - _x_log_x(sizes) for sizes in (a, b, both))  # n times the entropy
    information = of_a + of_b - of_both
    return float(rand), float(2 * information / (of_a + of_b)) if min(of_a, of_b) > 0 else 0.0


def _x_log_x(sizes: np.ndarray) -> float:
    sizes = sizes[sizes > 0]
    return float(sizes @ np.log(sizes))
