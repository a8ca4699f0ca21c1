"""The scores of the ISBI 2012 challenge: cases worked by hand, singletons included; the watershed against a queue that
takes one pixel after the other, which is how the challenge's script does it, and near to scikit-image's; the sums
against a dense table.
"""

from collections import deque

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label, maximum_filter
from skimage.segmentation import watershed as skimage_watershed

from unet_cli.metrics.membranes import MAP_THRESHOLDS, best_over_thresholds, membrane_scores, watershed


def tissue(seed: int, side: int = 96, count: int = 18) -> np.ndarray:
    """(side, side) bool, True inside cells: all but where the nearest two of some points are about as far."""
    points = np.random.default_rng(seed).random((count, 2)) * side
    away = np.sort(np.hypot(*(np.indices((side, side))[..., None] - points.T[:, None, None])), axis=-1)
    return away[..., 1] - away[..., 0] > 4


def blurred(cells: np.ndarray, seed: int = 0) -> np.ndarray:
    """A map with more and fewer objects at other thresholds: cells that leak, and specks."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=cells.shape), 1.5)
    return np.clip(gaussian_filter(cells.astype(np.float32), 1.5) + 0.6 * noise, 0, 1).astype(np.float32)


def flooded_plainly(inside: np.ndarray) -> np.ndarray:
    """The watershed of Soille and Vincent for two levels, pixel by pixel."""
    labels = np.where(inside, label(inside)[0], -1)
    height, width = inside.shape
    if not inside.any():
        return np.ones_like(labels)

    def around(column: int, row: int) -> list[tuple[int, int]]:
        places = [(column - 1, row), (column, row - 1), (column + 1, row), (column, row + 1)]
        return [(x, y) for x, y in places if 0 <= x < width and 0 <= y < height]

    columns_first = [(x, y) for x in range(width) for y in range(height) if not inside[y, x]]
    queue = deque(place for place in columns_first if any(labels[y, x] > 0 for x, y in around(*place)))
    queued = set(queue)
    while queue:
        column, row = queue.popleft()
        near = around(column, row)
        of = {int(labels[y, x]) for x, y in near if labels[y, x] > 0}
        labels[row, column] = of.pop() if len(of) == 1 else 0
        further = [(x, y) for x, y in near if labels[y, x] == -1 and (x, y) not in queued]
        queue.extend(further)
        queued.update(further)
    return labels


def scored_densely(truth: np.ndarray, proposal: np.ndarray) -> tuple[float, float]:
    """The formulas as they stand, over a whole table of shares with a column for each pixel of a line."""
    proposal = proposal.copy()
    lines = proposal == 0
    proposal[lines] = proposal.max() + 1 + np.arange(lines.sum())
    table = np.zeros((truth.max() + 1, proposal.max() + 1))
    np.add.at(table, (truth[truth > 0], proposal[truth > 0]), 1 / (truth > 0).sum())
    a, b = table.sum(1), table.sum(0)
    of_a, of_b, of_both = (-(shares[shares > 0] * np.log(shares[shares > 0])).sum() for shares in (a, b, table))
    rand = 2 * (table**2).sum() / ((a**2).sum() + (b**2).sum())
    return float(rand), float(2 * (of_a + of_b - of_both) / (of_a + of_b))


def entropy(*shares: float) -> float:
    return float(-(np.array(shares) * np.log(shares)).sum())


def test_scores_by_hand():
    """The line lands in the truth's first cell: of its 4 pixels 3 are object 1 and one is an object of its own."""
    truth = np.array([[1, 1, 1, 1, 0, 1, 1]], dtype=bool)
    cells = np.array([[1, 0, 0, 0, 0, 0, 1]], dtype=np.float32)
    assert watershed(cells > 0).tolist() == [[1, 1, 1, 0, 2, 2, 2]]
    rand = 2 * (3**2 + 1**2 + 2**2) / ((4**2 + 2**2) + (3**2 + 1**2 + 2**2))
    of_a, of_b = entropy(4 / 6, 2 / 6), entropy(3 / 6, 1 / 6, 2 / 6)
    info = 2 * of_a / (of_a + of_b)  # the proposal only splits: it tells all of the truth
    assert membrane_scores(cells, truth) == pytest.approx(np.tile([rand, info], (11, 1)), abs=1e-12)


def test_scores_of_cells_that_are_merged_by_hand():
    """Object 1 is all of the first cell and two pixels of the second, object 2 the rest, below the line."""
    truth = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]], dtype=bool)
    cells = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=np.float32)
    assert watershed(cells > 0)[:, 3].tolist() == [1, 1, 0, 2, 2]
    rand = 2 * (4**2 + 2**2 + 1**2 + 2**2) / ((4**2 + 5**2) + (6**2 + 1**2 + 2**2))
    of_a, of_b = entropy(4 / 9, 5 / 9), entropy(6 / 9, 1 / 9, 2 / 9)
    info = 2 * (of_a + of_b - entropy(4 / 9, 2 / 9, 1 / 9, 2 / 9)) / (of_a + of_b)
    assert membrane_scores(cells, truth)[5] == pytest.approx([rand, info], abs=1e-12)


def test_ignored_pixels_are_left_out_of_the_truth_by_hand():
    """Without its last pixel, the truth's second cell has one pixel; the proposal grows as before."""
    truth = np.array([[1, 1, 1, 1, 0, 1, 1]], dtype=bool)
    cells = np.array([[1, 0, 0, 0, 0, 0, 1]], dtype=np.float32)
    ignored = np.arange(7)[None] == 6
    rand = 2 * (3**2 + 1**2 + 1**2) / ((4**2 + 1**2) + (3**2 + 1**2 + 1**2))
    of_a, of_b = entropy(4 / 5, 1 / 5), entropy(3 / 5, 1 / 5, 1 / 5)
    scores = membrane_scores(cells, truth, ignored)
    assert scores[0] == pytest.approx([rand, 2 * of_a / (of_a + of_b)], abs=1e-12)


def test_where_two_fronts_meet_one_pixel_is_line():
    """Without a pixel between them, it is the one that comes later: further right, or further down in a column."""
    for between, expected in ((1, [1, 0, 2]), (2, [1, 1, 0, 2]), (3, [1, 1, 0, 2, 2]), (4, [1, 1, 1, 0, 2, 2])):
        inside = np.array([[True, *[False] * between, True]])
        assert watershed(inside).tolist() == [expected]
        assert watershed(inside.T).T.tolist() == [expected]
    assert watershed(np.array([[True, False], [False, True]])).tolist() == [[1, 0], [0, 2]]  # corners don't join
    assert watershed(np.zeros((2, 3), dtype=bool)).tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("seed", range(12))
def test_the_watershed_is_that_of_a_queue_pixel_by_pixel(seed):
    generator = np.random.default_rng(seed)
    shape = generator.integers(1, 40, 2)
    inside = generator.random(shape) < (0.5, 0.2, 0.03, 0.006)[seed % 4]
    assert same_parts(watershed(inside), flooded_plainly(inside))


def same_parts(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two numberings have the same lines and, but for the numbers, the same objects."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    once = (len(np.unique(side)) == pairs.shape[1] for side in pairs)
    return all(once) and np.array_equal(one == 0, other == 0)


@pytest.mark.parametrize("seed", range(3))
def test_objects_never_touch_and_agree_with_scikit_image_but_for_lines(seed):
    inside = tissue(seed) & (np.random.default_rng(seed).random((96, 96)) < 0.95)
    parts = watershed(inside)
    for before, after in ((parts[1:], parts[:-1]), (parts[:, 1:], parts[:, :-1])):
        assert ((before == after) | (before == 0) | (after == 0)).all()
    assert same_parts(parts * inside, label(inside)[0])
    theirs = skimage_watershed(~inside, parts * inside, watershed_line=True)
    assert ((parts != theirs) & (parts > 0) & (theirs > 0)).mean() < 0.01
    assert abs((parts == 0).mean() - (theirs == 0).mean()) < 0.003
    assert ((theirs == 0) & ~maximum_filter(parts == 0, 3)).mean() < 0.005  # lines are a pixel off at most
    truth = label(tissue(seed))[0]
    assert scored_densely(truth, parts) == pytest.approx(scored_densely(truth, theirs), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_a_dense_table_at_every_threshold(seed):
    target = tissue(seed)
    cells = blurred(target, seed)
    ignored = np.zeros(target.shape, dtype=bool)
    ignored[20:30, 40:70] = True
    scores = membrane_scores(cells, target, ignored)
    truth = label(target & ~ignored)[0]
    expected = [scored_densely(truth, watershed(cells > threshold)) for threshold in MAP_THRESHOLDS]
    assert scores == pytest.approx(np.array(expected), abs=1e-9)
    assert scores.dtype == np.float64
    assert len(np.unique(scores[:, 0])) > 7
    assert scores.max(0).min() > 0.8


def test_a_truth_against_itself_is_perfect():
    """Lines run in the membrane, where nothing counts."""
    target = tissue(0)
    assert membrane_scores(target.astype(np.float32), target) == pytest.approx(np.ones((11, 2)), abs=1e-12)


def test_a_probability_has_to_exceed_a_threshold_but_that_of_1_is_inside_at_all():
    np.testing.assert_allclose(MAP_THRESHOLDS, np.linspace(0, 1, 11), atol=1e-15)
    truth = np.array([[1, 0, 1]], dtype=bool)
    for middle, merged in ((0.0, 0), (0.5, 5), (0.55, 6), (1.0, 11)):
        scores = membrane_scores(np.array([[1, middle, 1]], dtype=np.float32), truth)
        assert (scores[:, 0] < 1).tolist() == [True] * merged + [False] * (11 - merged)


def test_one_object_has_no_information_and_a_truth_without_cells_no_score():
    everything, nothing = np.ones((4, 5), dtype=bool), np.zeros((4, 5), dtype=bool)
    for cells in (everything, nothing):
        np.testing.assert_array_equal(membrane_scores(cells.astype(np.float32), everything), [[1, 0]] * 11)
        assert np.isnan(membrane_scores(cells.astype(np.float32), nothing)).all()
    assert np.isnan(membrane_scores(everything.astype(np.float32), everything, ignored=everything)).all()


def test_the_best_is_of_the_mean_over_images_and_of_each_score_by_itself():
    scores = np.zeros((3, 11, 2))
    scores[0, 4], scores[1, 4], scores[1, 7] = (0.8, 0.2), (0.4, 0.3), (0.9, 0.6)
    scores[2] = np.nan
    assert best_over_thresholds(scores) == pytest.approx([0.6, 0.3])
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0], [0, 0, 3]])
    best = best_over_thresholds(scores, weights)
    np.testing.assert_allclose(best, [[0.6, 0.3], [0.8, 0.2], [0.9, 0.6], [np.nan, np.nan]])
    assert best_over_thresholds(scores[:2], weights[:1, :2])[0] == pytest.approx(best[0])
