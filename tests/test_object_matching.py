"""Objects found and missed: worked by hand, and against a loop over all pairs of objects that takes each as a mask."""

from fractions import Fraction

import numpy as np
import pytest

from unet_cli.metrics.objects import OBJECT_IOUS, bowl_score, match_objects, object_f1, overlaps


def in_rows(*spans: tuple[int, int]) -> np.ndarray:
    """Objects 1, 2, ...: each in a row of its own, from a first column up to another."""
    numbers = np.zeros((len(spans), 100), dtype=np.int32)
    for number, (start, stop) in enumerate(spans, 1):
        numbers[number - 1, start:stop] = number
    return numbers


def scattered(seed: int, shifted: bool) -> np.ndarray:
    """Squares that touch and cover each other, numbered with gaps; `shifted` by up to a pixel from those without."""
    places, shifts = np.random.default_rng(seed), np.random.default_rng(seed + 100)
    numbers = np.zeros((70, 60), dtype=np.int32)
    for number in np.sort(places.choice(2**31 - 1, 25, replace=False)):
        (row, column), side = places.integers(0, 60, 2), places.integers(1, 14)
        down, right = shifts.integers(0, 2, 2) * shifted
        numbers[row + down : row + down + side, column + right : column + right + side] = number
    return numbers


def matched_plainly(pred: np.ndarray, target: np.ndarray, threshold: Fraction) -> tuple[set[int], set[int]]:
    """The numbers of the truth's and of the prediction's objects with a match."""
    pairs = set()
    for true in set(target[target > 0].tolist()):
        for seen in set(pred[pred > 0].tolist()):
            shared, union = ((target == true) & (pred == seen)).sum(), ((target == true) | (pred == seen)).sum()
            if Fraction(int(shared), int(union)) > threshold:
                pairs.add((true, seen))
    return {true for true, _ in pairs}, {seen for _, seen in pairs}


def test_counts_and_scores_by_hand():
    """IoU 8/10, 6/10, 0 and one too many: above 0.5 and 0.55 two are found, up to 0.75 one, then none."""
    target = in_rows((0, 10), (0, 10), (0, 10), (0, 0))
    pred = in_rows((0, 8), (0, 6), (10, 20), (0, 3))
    matches = match_objects(pred, target)
    tp = np.array([2, 2, 1, 1, 1, 1, 0, 0, 0, 0])
    assert matches.counts.dtype == np.int64
    assert matches.counts.tolist() == np.stack([tp, 4 - tp, 3 - tp], axis=-1).tolist()
    assert (matches.found.tolist(), matches.missed.tolist(), matches.false.tolist()) == ([10, 10], [10], [10, 3])
    assert bowl_score(matches.counts) == pytest.approx((2 * 2 / 5 + 4 * 1 / 6) / 10, abs=1e-15)
    assert object_f1(matches.counts) == pytest.approx(4 / 7, abs=1e-15)


@pytest.mark.parametrize("step", range(10))
def test_an_iou_that_is_a_threshold_exactly_is_no_match(step):
    percent = 50 + 5 * step
    assert OBJECT_IOUS[step] == percent / 100
    target = in_rows((0, 100))
    assert match_objects(in_rows((0, percent)), target).counts[:, 0].sum() == step
    assert match_objects(in_rows((0, percent + 1)), target).counts[:, 0].sum() == step + 1
    assert object_f1(match_objects(in_rows((0, percent + 1)), target).counts) == 1
    assert match_objects(in_rows((0, percent // 5)), in_rows((0, 20))).counts[:, 0].sum() == step


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_a_loop_over_all_pairs(seed):
    target, pred = scattered(seed, False), scattered(seed, True)
    pred[pred > 2**30] -= 2**30  # other numbers than the truth's, of which some may fall together
    ignored = np.random.default_rng(seed).random(target.shape) < 0.1
    matches = match_objects(pred, target, ignored)
    pred, target = pred * ~ignored, target * ~ignored
    true, seen = set(target[target > 0].tolist()), set(pred[pred > 0].tolist())
    for counts, percent in zip(matches.counts.tolist(), range(50, 100, 5), strict=True):
        found, matched = matched_plainly(pred, target, Fraction(percent, 100))
        assert counts == [len(found), len(seen - matched), len(true - found)]
    found, matched = matched_plainly(pred, target, Fraction(1, 2))
    assert 3 < len(found) < len(true)
    assert matches.found.tolist() == [(target == number).sum() for number in sorted(found)]
    assert matches.missed.tolist() == [(target == number).sum() for number in sorted(true - found)]
    assert matches.false.tolist() == [(pred == number).sum() for number in sorted(seen - matched)]


def test_ignored_pixels_belong_to_no_object():
    target, pred = in_rows((0, 10), (0, 10)), in_rows((0, 5), (20, 30))
    ignored = np.zeros(target.shape, dtype=bool)
    ignored[0, 5:], ignored[1] = True, True
    matches = match_objects(pred, target, ignored)
    assert matches.counts.tolist() == [[1, 0, 0]] * 10
    assert (matches.found.tolist(), matches.missed.tolist(), matches.false.tolist()) == ([5], [], [])


def test_nothing_on_either_side_has_no_score_and_on_one_side_none_is_right():
    nothing, one = np.zeros((4, 4), dtype=np.uint16), np.full((4, 4), 7, dtype=np.uint16)
    counts = np.stack([match_objects(*pair).counts for pair in ((nothing, nothing), (one, nothing), (nothing, one))])
    assert counts[:, 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    for score in (bowl_score, object_f1):
        np.testing.assert_array_equal(score(counts), [np.nan, 0, 0])
        assert score(match_objects(one, one).counts) == 1


def test_overlaps_are_counted_by_hand_and_in_any_layout():
    first, second = np.array([[0, 2, 2], [1, 1, 0]]), np.array([[0, 5, 0], [5, 5, 0]])
    expected = [[0, 1, 2, 2], [0, 5, 0, 5], [2, 2, 1, 1]]
    assert [part.tolist() for part in overlaps(first, second)] == expected
    assert [part.tolist() for part in overlaps(first.T, second.T)] == expected
    assert [part.tolist() for part in overlaps(first[:0], second[:0])] == [[], [], []]
