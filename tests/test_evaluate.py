"""Scores at original size, and the threshold sweep, against plain loops."""

import numpy as np
import pytest
import torch
from conftest import write_pairs

from unet_cli.checkpoint import load_checkpoint
from unet_cli.config import Inference
from unet_cli.console import Console
from unet_cli.data.imagefile import read_image, read_mask
from unet_cli.data.layout import find_layout
from unet_cli.device import Compute
from unet_cli.evaluation.evaluate import THRESHOLDS, evaluate
from unet_cli.inference.picture import Stretched
from unet_cli.inference.predictor import Predictor


def test_scores_and_best_threshold_agree_with_a_plain_loop(trained, tmp_path):
    pairs = find_layout(write_pairs(tmp_path / "d", count=5)).splits["train"]
    predictor = Predictor([load_checkpoint(trained)], Compute(torch.device("cpu"), "float32"), Inference(batch_size=2))
    found = evaluate(predictor, pairs, workers=2, console=Console(quiet=True))

    dices = np.zeros((len(pairs), len(THRESHOLDS)))
    at_half = []
    for row, pair in enumerate(pairs):
        image, truth = read_image(pair.image), read_mask(pair.mask).values[0] > 0
        picture = Stretched(predictor.members, image)
        view = next(picture.views())
        probs = picture.add(view, predictor.probabilities([view])[0]).combined()[0].numpy()
        for column, threshold in enumerate([*THRESHOLDS, 0.5]):
            pred = probs >= np.float32(threshold)
            total = pred.sum() + truth.sum()
            score = 2 * (pred & truth).sum() / total if total else 1.0
            if column < len(THRESHOLDS):
                dices[row, column] = score
            else:
                at_half.append(score)
    assert found.scores["dice"] == pytest.approx(np.mean(at_half), abs=1e-9)
    assert found.best_dice == pytest.approx(dices.mean(0).max(), abs=1e-9)
    assert dices.mean(0)[list(THRESHOLDS).index(found.best_threshold)] == pytest.approx(found.best_dice)
