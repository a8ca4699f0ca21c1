"""Scores from counts, against a case worked by hand."""

import numpy as np
import pytest
import torch
from counting import count_pixels

from unet_cli.metrics.overlap import dice, iou, summarize

# Two images of four pixels. First: one hit, one false alarm, one miss. Second: empty against empty.
PRED = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
TARGET = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]])


def test_counts():
    assert count_pixels(PRED, TARGET, 2).tolist() == [[[1, 1, 1, 1], [1, 1, 1, 1]], [[4, 0, 0, 0], [0, 0, 0, 4]]]


def test_dice_and_iou():
    assert dice(np.array([1, 1, 1])) == 0.5  # 2 / (2 + 1 + 1)
    assert iou(np.array([1, 1, 1])) == pytest.approx(1 / 3)
    assert dice(np.array([0, 0, 0])) == iou(np.array([0, 0, 0])) == 1  # empty against empty
    assert dice(np.array([0, 5, 0])) == 0


def test_summary_tells_mean_over_images_from_pooled():
    scores = summarize(count_pixels(PRED, TARGET, 2))
    assert scores["dice"] == pytest.approx((0.5 + 1) / 2)
    assert scores["iou"] == pytest.approx((1 / 3 + 1) / 2)
    assert scores["mean_iou"] == pytest.approx((1 / 3 + 1 + 1 / 3 + 1) / 4)
    assert scores["pooled_dice"] == pytest.approx(0.5)


def test_several_classes():
    pred = torch.tensor([[[0, 1, 2, 2]]])
    target = torch.tensor([[[0, 1, 1, 2]]])
    counts = count_pixels(pred, target, 3)
    assert counts.tolist() == [[[1, 0, 0, 3], [1, 0, 1, 2], [1, 1, 0, 2]]]
    assert summarize(counts)["dice"] == pytest.approx(2 / 3)
    scores = summarize(counts, ("soil", "weed", "crop"))
    assert [scores[f"dice_{name}"] for name in ("soil", "weed", "crop")] == pytest.approx([1, 2 / 3, 2 / 3])


def test_ignored_pixels_count_nowhere():
    target = torch.tensor([[[0, 1, 255, 255]]])
    assert count_pixels(torch.tensor([[[0, 1, 1, 0]]]), target, 2).tolist() == [[[1, 0, 0, 1], [1, 0, 0, 1]]]


def test_a_class_that_no_mask_holds_has_no_score():
    target = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 1, 1]]])
    scores = summarize(count_pixels(torch.zeros_like(target), target, 9), tuple("abcdefghi"))
    assert scores["dice"] == scores["set_dice"] == scores["pooled_dice"] == scores["dice_b"] == 0
    assert [name for name in scores if name.startswith("dice_")] == ["dice_a", "dice_b"]
    stray = torch.tensor([[[2, 1, 1, 3]], [[4, 5, 1, 1]]])
    assert summarize(count_pixels(stray, target, 9))["dice"] == 1


def test_predicting_nothing_does_not_win_the_set_dice():
    target = torch.zeros(10, 1, 4, dtype=torch.long)
    target[0, 0, :2] = 1
    blank = summarize(count_pixels(torch.zeros_like(target), target, 2))
    assert (blank["dice"], blank["set_dice"]) == (pytest.approx(0.9), 0)
    eager = target.clone()
    eager[1:, 0, 0] = 1  # a false alarm in each of the nine others
    found = summarize(count_pixels(eager, target, 2))
    assert found["dice"] == pytest.approx(0.1)
    assert found["set_dice"] == pytest.approx(2 * 2 / (2 * 2 + 9))


def test_images_of_any_size_count_alike_in_the_set_dice():
    large, small = (
        [[90, 10, 0, 0], [0, 0, 10, 90]],
        [[0, 0, 0, 10], [10, 0, 0, 0]],
    )  # one misses its tenth, the other finds all
    scores = summarize(np.array([large, small]))
    assert scores["set_dice"] == pytest.approx(2 * 1 / (2 * 1 + 0.1))
    assert scores["pooled_dice"] == pytest.approx(2 * 10 / (2 * 10 + 10))


def test_an_image_without_a_pixel_that_counts_is_left_out():
    nothing, half = [[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert summarize(np.array([half, nothing])) == summarize(np.array([half]))


def test_where_no_class_is_background_the_first_counts_too():
    pred, target = torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[[0, 1, 1, 2]]])
    counts = count_pixels(pred, target, 3)
    assert summarize(counts)["dice"] == pytest.approx((2 / 3 + 1) / 2)
    found = summarize(counts, ("sky", "road", "tree"), first=0)
    assert found["dice"] == found["set_dice"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["iou"] == found["mean_iou"]
