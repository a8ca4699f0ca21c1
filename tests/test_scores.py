"""Scores of a set, worked by hand on two or three images of a few pixels, and against scikit-learn on random masks.

Images are measured as `unet evaluate` measures them; only the answers are made here.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unet_cli.config.evaluation import Scoring
from unet_cli.config.prediction import Cleaning
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair, Source
from unet_cli.evaluation.answers import Answer, Mask
from unet_cli.evaluation.evaluate import Evaluation, evaluate
from unet_cli.evaluation.scores import Score, by_image, is_significant, overall, reliabilities, sampled
from unet_cli.evaluation.scores import differences as gaps_of
from unet_cli.evaluation.scores import scores as scores_of
from unet_cli.inference.numbering import objects_of

BINARY = LabelMap((0, 255), ("background", "cell"))
THREE = LabelMap((0, 1, 2), ("background", "cell", "nucleus"))


def mask(rows) -> Mask:
    classes = np.asarray(rows, np.uint8)
    return Mask(classes, objects_of(np.where(classes == 255, np.uint8(0), classes), Cleaning()))


def evaluated(labels: LabelMap, *images, scoring: Scoring | None = None) -> Evaluation:
    """images: (truth, prediction) or (truth, prediction, probabilities) each."""
    answers = []
    for number, (truth, pred, *probs) in enumerate(images):
        pair = Pair(f"image{number}", Source((Path(f"{number}.png"),)), Source((Path(f"{number}_mask.png"),)))
        answers.append(Answer(pair, mask(truth), mask(pred), torch.from_numpy(probs[0]) if probs else None))
    return evaluate(answers, labels, [answer.pair for answer in answers], scoring or Scoring(), workers=1)


def scores(found: Evaluation) -> list[Score]:
    return scores_of(sampled(found), found)


def values(found: Evaluation) -> dict[tuple[str, str], float]:
    return {(row.metric, row.name): row.value for row in scores(found)}


def differences(found: Evaluation, other: Evaluation) -> list[Score]:
    return gaps_of(sampled(found), sampled(other), found)


def test_mean_over_images_and_pooled_are_told_apart():
    small = [[1, 0], [0, 0]], [[1, 0], [0, 0]]  # 1 pixel found
    large = [[1, 1], [1, 1]], [[1, 1], [0, 0]]  # 2 of 4 found
    got = values(evaluated(BINARY, small, large))
    assert got["dice", "all"] == pytest.approx((1 + 2 * 2 / (2 * 2 + 2)) / 2)
    assert got["pooled_dice", "all"] == pytest.approx(2 * 3 / (2 * 3 + 2))
    assert got["iou", "all"] == pytest.approx((1 + 0.5) / 2)
    assert got["pooled_iou", "all"] == pytest.approx(3 / 5)
    assert got["precision", "all"] == 1
    assert got["recall", "all"] == pytest.approx((1 + 0.5) / 2)
    assert got["pooled_recall", "all"] == pytest.approx(3 / 5)
    assert got["accuracy", "all"] == pytest.approx((1 + 0.5) / 2)
    assert got["pooled_accuracy", "all"] == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    ("empty", "dice", "hd95"), [("perfect", 0.75, 0.0), ("skip", 0.5, np.nan), ("worst", 0.25, 5.0)]
)
def test_an_image_without_the_class_counts_as_the_user_says(empty, dice, hd95):
    nothing = np.zeros((4, 3)), np.zeros((4, 3))  # whose diagonal is 5
    half = [[1, 1, 1]], [[1, 0, 0]]  # Dice 0.5
    scoring = Scoring(empty=empty)
    found = evaluated(BINARY, nothing, half, scoring=scoring)
    assert values(found)["dice", "all"] == pytest.approx(dice)
    assert by_image(found)["hd95"][0, 0] == pytest.approx(hd95, nan_ok=True)


def test_where_just_one_mask_is_empty_scores_are_zero_and_distances_the_diagonal():
    for truth, pred in ((np.zeros((4, 3)), np.ones((4, 3))), (np.ones((4, 3)), np.zeros((4, 3)))):
        got = values(evaluated(BINARY, (truth, pred)))
        for metric in ("dice", "iou", "precision", "recall", "surface_dice", "boundary_iou", "bowl_score", "object_f1"):
            assert got[metric, "all"] == 0, metric
        assert got["hd95", "all"] == got["assd", "all"] == 5


def test_ignored_pixels_count_nowhere():
    truth, pred = [[1, 255], [0, 255]], [[1, 1], [0, 0]]
    got = values(evaluated(BINARY, (truth, pred)))
    assert got["dice", "all"] == got["accuracy", "all"] == got["pooled_accuracy", "all"] == 1


def test_an_image_of_which_nothing_counts_is_left_out_whatever_empty_says():
    half = [[1, 1, 1]], [[1, 0, 0]]
    for empty in ("perfect", "skip", "worst"):
        scoring = Scoring(empty=empty)
        got = values(evaluated(BINARY, ([[255, 255]], [[1, 0]]), half, scoring=scoring))
        assert got["dice", "all"] == 0.5
        assert got["accuracy", "all"] == pytest.approx(1 / 3)


def test_all_is_the_mean_over_foreground_classes():
    truth, pred = [[1, 1, 2, 0]], [[1, 0, 2, 2]]
    got = values(evaluated(THREE, (truth, pred)))
    assert got["dice", "cell"] == pytest.approx(2 / 3)
    assert got["dice", "nucleus"] == pytest.approx(2 / 3)
    assert got["precision", "nucleus"] == 0.5
    assert got["recall", "cell"] == 0.5
    assert got["precision", "all"] == pytest.approx((1 + 0.5) / 2)
    assert got["accuracy", "all"] == 0.5  # of the four pixels, two have their class
    assert got["accuracy", "cell"] == 0.75


def test_a_class_that_no_mask_holds_has_no_score():
    got = values(evaluated(THREE, ([[1, 1, 0, 0]], [[1, 0, 2, 0]]), ([[1, 0]], [[1, 0]])))
    assert np.isnan(got["dice", "nucleus"])
    assert got["dice", "all"] == got["dice", "cell"] == pytest.approx((2 / 3 + 1) / 2)


def test_scores_agree_with_scikit_learn_on_random_masks():
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

    rng = np.random.default_rng(1)
    images = [(rng.integers(0, 3, (9, 14)), rng.integers(0, 3, (9, 14))) for _ in range(5)]
    got = values(evaluated(THREE, *images))
    kinds = {"dice": f1_score, "iou": jaccard_score, "precision": precision_score, "recall": recall_score}
    everything = [np.concatenate([image[side].ravel() for image in images]) for side in (0, 1)]
    for metric, theirs in kinds.items():
        by_class = np.array([theirs(t.ravel(), p.ravel(), labels=[1, 2], average=None) for t, p in images])
        for column, name in enumerate(("cell", "nucleus")):
            assert got[metric, name] == pytest.approx(by_class[:, column].mean(), abs=1e-9)
            pooled = theirs(*everything, labels=[column + 1], average=None)[0]
            assert got[f"pooled_{metric}", name] == pytest.approx(pooled, abs=1e-9)
        assert got[metric, "all"] == pytest.approx(by_class.mean(), abs=1e-9)
    assert got["pooled_accuracy", "all"] == pytest.approx(accuracy_score(*everything), abs=1e-9)


def test_ranking_agrees_with_scikit_learn_on_maps_as_they_are_written():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(2)
    images = []
    for _ in range(3):
        probs = (rng.integers(0, 65536, (1, 8, 9)) / 65535).astype(np.float32)
        truth = (rng.random((8, 9)) < probs[0]).astype(np.uint8)
        images.append((truth, (probs[0] >= 0.5).astype(np.uint8), probs))
    got = values(evaluated(BINARY, *images))
    truth, probs = (np.concatenate([np.ravel(image[side]) for image in images]) for side in (0, 2))
    assert got["average_precision", "all"] == pytest.approx(average_precision_score(truth, probs), abs=1e-9)
    assert got["roc_auc", "all"] == pytest.approx(roc_auc_score(truth, probs), abs=1e-9)


def test_intervals_hold_the_score_and_shrink_with_more_images():
    rng = np.random.default_rng(3)

    def noisy(count):
        truths = rng.random((count, 12, 12)) < 0.5
        return [(truth, truth ^ (rng.random((12, 12)) < rng.uniform(0, 0.4))) for truth in truths]

    widths = []
    for count in (8, 80):
        rows = {row.metric: row for row in scores(evaluated(BINARY, *noisy(count)))}
        for row in rows.values():
            assert row.low <= row.value <= row.high, row
        widths.append(rows["dice"].high - rows["dice"].low)
    assert widths[1] < 0.6 * widths[0]


def test_of_one_image_there_is_no_interval():
    for row in scores(evaluated(BINARY, ([[1, 0]], [[1, 1]]))):
        assert np.isnan([row.low, row.high]).all()


@pytest.mark.parametrize("labels", [BINARY, THREE])
def test_one_score_alone_is_that_of_the_table(labels):
    rng = np.random.default_rng(2)
    found = evaluated(labels, *(rng.integers(0, 2, (2, 8, 8)) for _ in range(5)))  # no mask holds a nucleus
    table = {row.metric: row for row in scores(found) if row.name == "all"}
    for metric in ("dice", "iou"):
        alone = overall(found, metric)
        assert (alone.metric, alone.name) == (metric, "all")
        assert alone.value == pytest.approx(table[metric].value)
        assert alone.interval == pytest.approx((table[metric].low, table[metric].high))
    assert overall(evaluated(labels, ([[1]], [[1]])), "dice").interval is None


def test_a_network_that_is_better_everywhere_is_significantly_better_and_itself_by_nothing():
    rng = np.random.default_rng(4)
    truths = rng.random((12, 10, 10)) < 0.5
    good = evaluated(BINARY, *[(truth, truth ^ (rng.random((10, 10)) < 0.05)) for truth in truths])
    bad = evaluated(BINARY, *[(truth, truth ^ (rng.random((10, 10)) < 0.2)) for truth in truths])
    gaps = {gap.metric: gap for gap in differences(good, bad)}
    assert is_significant(gaps["dice"])
    assert gaps["dice"].value > 0
    assert not any(is_significant(gap) for gap in differences(good, good))


def test_a_difference_that_one_image_makes_may_be_luck():
    same = [([[1, 1, 0, 0]], [[1, 0, 0, 0]])] * 9
    one = evaluated(BINARY, *same, ([[1, 1, 0, 0]], [[1, 1, 0, 0]]))
    other = evaluated(BINARY, *same, ([[1, 1, 0, 0]], [[0, 1, 1, 0]]))
    gap = next(gap for gap in differences(one, other) if gap.metric == "dice")
    assert gap.value > 0
    assert not is_significant(gap)


def test_two_networks_are_drawn_together_so_that_hard_images_do_not_hide_a_small_difference():
    rng = np.random.default_rng(6)
    one, other = [], []
    for share in np.linspace(0.05, 0.6, 20):  # of wrong pixels: images differ much more than networks do
        truth = rng.random((30, 30)) < 0.5
        wrong = rng.random((30, 30)) < share
        worse = wrong | (rng.random((30, 30)) < 0.02)
        one.append((truth, truth ^ wrong))
        other.append((truth, truth ^ worse))
    found = [evaluated(BINARY, *images) for images in (one, other)]
    dices = [next(row for row in scores(part) if row.metric == "dice") for part in found]
    gap = next(gap for gap in differences(*found) if gap.metric == "dice")
    assert dices[0].low < dices[1].value < dices[0].high
    assert is_significant(gap)


def test_of_five_images_nothing_is_significant():
    images = [([[1, 1, 0, 0]], [[1, 1, 0, 0]])] * 5, [([[1, 1, 0, 0]], [[0, 0, 1, 1]])] * 5
    assert not any(is_significant(gap) for gap in differences(*(evaluated(BINARY, *part) for part in images)))
    more = [part + part[:1] for part in images]
    assert any(is_significant(gap) for gap in differences(*(evaluated(BINARY, *part) for part in more)))


def test_a_width_of_the_interval_is_that_of_the_mean_of_images():
    """Of 100 independent images it is about 2 * 1.96 standard errors."""
    rng = np.random.default_rng(7)
    images = []
    for hits in rng.integers(0, 21, 100):
        truth = np.zeros((1, 40), np.uint8)
        truth[0, :20] = 1
        pred = np.zeros_like(truth)
        pred[0, :hits] = 1
        images.append((truth, pred))
    found = evaluated(BINARY, *images)
    row = next(row for row in scores(found) if row.metric == "recall")
    recalls = by_image(found)["recall"][:, 0]
    assert row.high - row.low == pytest.approx(2 * 1.96 * recalls.std() / 10, rel=0.1)


def test_a_class_that_is_called_all_is_not_the_mean_of_all():
    labels = LabelMap((0, 1, 2), ("none", "all", "some"))
    got = values(evaluated(labels, ([[1, 1, 2, 0]], [[1, 1, 0, 0]])))
    assert got["dice", "all"] == 0.5
    assert got["dice", "all "] == 1


def test_a_temperature_that_is_fitted_lowers_the_calibration_error_of_overconfident_probabilities():
    rng = np.random.default_rng(5)
    images = []
    for _ in range(4):
        logit = rng.normal(0, 1.5, (1, 40, 40))
        truth = (rng.random((40, 40)) < 1 / (1 + np.exp(-logit[0]))).astype(np.uint8)
        probs = (1 / (1 + np.exp(-3 * logit))).astype(np.float32)
        images.append((truth, (probs[0] >= 0.5).astype(np.uint8), probs))
    found = evaluated(BINARY, *images)
    fitted = found.calibrated()
    assert fitted.temperature == pytest.approx(3, rel=0.15)
    assert values(fitted)["calibration_error", "all"] < 0.3 * values(found)["calibration_error", "all"]
    assert values(fitted)["dice", "all"] == values(found)["dice", "all"]
    gaps = [np.nanmax(np.abs(one.confidence - one.frequency)) for one in reliabilities(fitted)]
    assert gaps[1] < gaps[0]


def test_distances_are_in_the_unit_of_the_spacing():
    truth, pred = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    truth[5, 5], pred[5, 9] = 1, 1
    assert values(evaluated(BINARY, (truth, pred)))["hd95", "all"] == 4
    scoring = Scoring(spacing=((3.0, 0.5), "um"))
    assert values(evaluated(BINARY, (truth, pred), scoring=scoring))["hd95", "all"] == 2


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(
    ("truth", "pred"),
    [
        ([[1, 2, 1, 2]], [[0, 2, 1, 2]]),  # no background in the truth, some in the prediction
        ([[0, 0, 0, 0]], [[0, 0, 0, 1]]),  # nothing but background
        ([[0, 1, 1, 255]], [[0, 1, 2, 1]]),  # a class that no mask holds
        ([[255, 255, 255, 255]], [[0, 1, 2, 1]]),  # nothing that counts
    ],
)
def test_scores_of_an_evaluation_are_those_of_training(truth, pred, background):
    labels = replace(THREE, ignore=255, background=background)
    found = evaluated(labels, (truth, pred), ([[0, 1, 1, 0]], [[0, 1, 0, 0]]) if truth[0][0] else (truth, pred))
    got = values(found)
    for name in ("dice", "iou", "set_dice", "pooled_dice", "mean_iou"):
        assert got[name, "all"] == pytest.approx(found.scores[name], abs=1e-12), name
