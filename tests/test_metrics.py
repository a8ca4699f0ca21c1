"""Scores from counts, against a case worked by hand."""

import numpy as np
import pytest
import torch

from unet_cli.metrics import count_pixels, dice, iou, summarize

# Two images of four pixels. First: one hit, one false alarm, one miss. Second: empty against empty.
PRED = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
TARGET = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]])


def test_counts():
    assert count_pixels(PRED, TARGET, 2).tolist() == [[[1, 1, 1], [1, 1, 1]], [[4, 0, 0], [0, 0, 0]]]


def test_dice_and_iou():
    assert dice(np.array([1, 1, 1])) == 0.5  # 2 / (2 + 1 + 1)
    assert iou(np.array([1, 1, 1])) == pytest.approx(1 / 3)
    assert dice(np.array([0, 0, 0])) == iou(np.array([0, 0, 0])) == 1  # empty against empty
    assert dice(np.array([0, 5, 0])) == 0


def test_summary_tells_mean_over_images_from_pooled():
    scores = summarize(count_pixels(PRED, TARGET, 2).numpy())
    assert scores["dice"] == pytest.approx((0.5 + 1) / 2)
    assert scores["iou"] == pytest.approx((1 / 3 + 1) / 2)
    assert scores["mean_iou"] == pytest.approx((1 / 3 + 1 + 1 / 3 + 1) / 4)
    assert scores["pooled_dice"] == pytest.approx(0.5)


def test_several_classes():
    pred = torch.tensor([[[0, 1, 2, 2]]])
    target = torch.tensor([[[0, 1, 1, 2]]])
    counts = count_pixels(pred, target, 3)
    assert counts.tolist() == [[[1, 0, 0], [1, 0, 1], [1, 1, 0]]]
    assert summarize(counts.numpy())["dice"] == pytest.approx(2 / 3)
    scores = summarize(counts.numpy(), ("soil", "weed", "crop"))
    assert [scores[f"dice_{name}"] for name in ("soil", "weed", "crop")] == pytest.approx([1, 2 / 3, 2 / 3])


def test_ignored_pixels_count_nowhere():
    target = torch.tensor([[[0, 1, 255, 255]]])
    assert count_pixels(torch.tensor([[[0, 1, 1, 0]]]), target, 2).tolist() == [[[1, 0, 0], [1, 0, 0]]]
