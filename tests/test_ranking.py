"""Average precision and area under the ROC curve, by hand and against scikit-learn on scores with many ties."""

import numpy as np
import pytest
import torch

from unet_cli.inference.sheet import sixteen_bit
from unet_cli.metrics.ranking import COARSE, LEVELS, average_precision, coarse, count_levels, roc_auc

# Four levels. From the highest down: a positive; a positive and a negative; a negative; a negative.
HAND = np.array([[1, 1, 1, 0], [0, 0, 1, 1]])


def ranked(seed: int, spread: float, levels: int = LEVELS) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """(80, 100) truth, probabilities at a few levels that tend to be higher on positives, and what counts."""
    draw = np.random.default_rng(seed)
    positive, counted = draw.random((80, 100)) < 0.2, draw.random((80, 100)) < 0.9
    probs = 1 / (1 + np.exp(-spread * (positive - 0.5 + draw.normal(size=positive.shape))))
    return positive, torch.from_numpy(np.round(probs * (levels - 1)) / (levels - 1)).float(), counted


def test_scores_by_hand():
    # Recall 1/2 at precision 1, then recall 1 at precision 2/3. Of six pairs five and a half are in order.
    assert average_precision(HAND) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert roc_auc(HAND) == pytest.approx(5.5 / 6)


def assert_as_scikit_learn(counts, truth, scores):
    from sklearn.metrics import average_precision_score, roc_auc_score

    assert average_precision(counts) == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    assert roc_auc(counts) == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)


@pytest.mark.parametrize(("spread", "levels"), [(1, LEVELS), (8, LEVELS), (40, LEVELS), (3, 12)])
def test_scores_are_those_of_scikit_learn(spread, levels):
    for seed in range(3):
        positive, probs, counted = ranked(seed, spread, levels)
        counts = count_levels(probs, positive, counted)
        truth, scores = positive[counted], sixteen_bit(probs)[counted]
        assert_as_scikit_learn(counts, truth, scores)


def test_levels_are_those_of_probability_maps():
    probs = torch.tensor([[0, 0.4 / 65535, 0.6 / 65535, 0.5, 1, 1]])
    positive = np.array([[False, False, True, False, True, True]])
    counts = count_levels(probs, positive, np.array([[True] * 5 + [False]]))
    assert (counts.shape, counts.dtype) == ((2, LEVELS), np.int64)
    assert [row.tolist() for row in np.nonzero(counts)] == [[0, 0, 1, 1], [0, 32768, 1, 65535]]
    assert counts[0, 0] == 2
    assert counts.sum() == 5  # the last pixel is left out


def test_counts_add_up_over_images():
    images = [ranked(seed, 3) for seed in range(3)]
    counts = sum(count_levels(probs, positive, counted) for positive, probs, counted in images)
    truth = np.concatenate([positive[counted] for positive, _, counted in images])
    scores = np.concatenate([sixteen_bit(probs)[counted] for _, probs, counted in images])
    assert_as_scikit_learn(counts, truth, scores)


def test_all_tied_ranks_nothing():
    counts = np.array([[0, 6, 0], [0, 2, 0]])
    assert average_precision(counts) == 0.25  # the share of positives
    assert roc_auc(counts) == 0.5


def test_perfect_and_reversed_order():
    assert average_precision(np.array([[3, 0], [0, 2]])) == roc_auc(np.array([[3, 0], [0, 2]])) == 1
    assert roc_auc(np.array([[0, 3], [2, 0]])) == 0


def test_one_class_alone_has_no_score():
    none, positives, negatives = (
        np.zeros((2, 3), int),
        np.array([[0, 0, 0], [1, 2, 3]]),
        np.array([[1, 2, 3], [0, 0, 0]]),
    )
    assert np.isnan([average_precision(none), average_precision(negatives)]).all()
    assert average_precision(positives) == 1
    assert np.isnan([roc_auc(none), roc_auc(positives), roc_auc(negatives)]).all()


def test_leading_dimensions_are_kept():
    stack = np.stack([np.stack([HAND, 2 * HAND, HAND[:, ::-1]]), np.zeros((3, 2, 4), int)])
    for score in (average_precision, roc_auc):
        found = score(stack)
        assert found.shape == (2, 3)
        np.testing.assert_allclose(found[0], [score(HAND), score(HAND), score(HAND[:, ::-1])], rtol=1e-12)
        assert np.isnan(found[1]).all()


def test_huge_counts_do_not_overflow():
    assert roc_auc(HAND * 10**12) == pytest.approx(5.5 / 6)


def test_coarse_levels_lose_no_pixel_and_little_of_the_scores():
    for spread in (2, 4, 8):
        positive, probs, counted = ranked(0, spread)
        counts = count_levels(probs, positive, counted)
        found = coarse(counts)
        assert (found.shape, found.dtype) == ((2, COARSE), np.int64)
        assert found.sum(1).tolist() == counts.sum(1).tolist()
        assert average_precision(found) == pytest.approx(average_precision(counts), abs=2e-3)
        assert roc_auc(found) == pytest.approx(roc_auc(counts), abs=1e-3)


def test_coarse_levels_are_finest_at_the_ends_and_alike_on_both_sides():
    levels = np.zeros((2, LEVELS), dtype=np.int64)
    levels[0] = 1
    found = coarse(levels)[0]
    assert (found == found[::-1]).all()
    assert found[found > 0][:8].tolist() == [1] * 8
    assert found.max() == found[COARSE // 2] < 0.013 * LEVELS
    assert (coarse(np.stack([levels, levels]))[1, 0] == found).all()
