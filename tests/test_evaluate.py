"""`unet evaluate`: the network's scores at original size against plain loops, who is judged by which images, and masks
of other tools."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, assert_failed, write_pairs
from PIL import Image

from unet_cli.checkpoint import load_checkpoint, save_checkpoint
from unet_cli.config import Inference
from unet_cli.console import Console
from unet_cli.data.imagefile import read_image, read_mask
from unet_cli.data.layout import find_layout
from unet_cli.device import Compute
from unet_cli.evaluation.evaluate import evaluate_network
from unet_cli.evaluation.measure import THRESHOLDS
from unet_cli.inference.picture import Stretched
from unet_cli.inference.predictor import Predictor

CPU = ("--device", "cpu", "--precision", "float32")


def result(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def overall(done) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in result(done)["scores"] if row["name"] == "all"}


@pytest.fixture
def truth(tmp_path):
    """Five pairs in truth/images and truth/masks."""
    return write_pairs(tmp_path / "truth", count=5)


@pytest.fixture
def masks(truth, tmp_path):
    """Predictions that lack the upper half of each mask, as 0 and 255."""
    (tmp_path / "pred").mkdir()
    for path in (truth / "masks").iterdir():
        pixels = np.array(Image.open(path))
        pixels[: len(pixels) // 2] = 0
        Image.fromarray(pixels).save(tmp_path / "pred" / path.name)
    return tmp_path / "pred"


def test_scores_and_best_threshold_agree_with_a_plain_loop(trained, tmp_path):
    pairs = find_layout(write_pairs(tmp_path / "d", count=5)).splits["train"]
    checkpoint = replace(load_checkpoint(trained), temperature=1.0)
    predictor = Predictor([checkpoint], Compute(torch.device("cpu"), "float32"), Inference(batch_size=2))
    found = evaluate_network(predictor, pairs, 2, Console(quiet=True))

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
    threshold, dice = found.best_threshold
    assert found.scores["dice"] == pytest.approx(np.mean(at_half), abs=1e-9)
    assert dice == pytest.approx(dices.mean(0).max(), abs=1e-9)
    assert dices.mean(0)[list(THRESHOLDS).index(threshold)] == pytest.approx(dice)


def test_evaluating_weights_is_evaluating_the_masks_that_they_predict(unet, trained, truth, tmp_path):
    unet("predict", "--weights", trained, "--input", truth / "images", "--output", tmp_path / "p", *CPU)
    of_weights = overall(unet("evaluate", "--weights", trained, "--data", truth, *CPU, "--json"))
    of_masks = overall(unet("evaluate", "--pred", tmp_path / "p", "--data", truth, "--json"))
    assert of_masks == {metric: of_weights[metric] for metric in of_masks}
    assert of_weights.keys() - of_masks == {"average_precision", "roc_auc", "calibration_error"}


def test_masks_of_any_tool_are_scored_with_a_table_and_a_row_for_each_image(unet, truth, masks, tmp_path):
    done = unet("evaluate", "--pred", masks, "--data", truth, "--csv", "out/scores.csv")
    assert done.returncode == 0, done.stderr
    assert "Per image, then averaged" in done.stdout
    assert "5 images" in done.stdout
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [f"cell{index}" for index in range(5)]
    true, pred = (np.asarray(Image.open(folder / "cell3.png")) > 0 for folder in (truth / "masks", masks))
    assert float(rows[3]["dice"]) == pytest.approx(2 * (true & pred).sum() / (true.sum() + pred.sum()), abs=1e-6)
    assert int(rows[3]["fn"]) == (true & ~pred).sum()


def test_masks_with_other_values_are_read_in_their_order_and_that_is_said(unet, truth, masks):
    before = overall(unet("evaluate", "--pred", masks, "--data", truth, "--json"))
    for path in masks.iterdir():
        Image.fromarray(np.array(Image.open(path)) // 255).save(path)
    done = unet("evaluate", "--pred", masks, "--data", truth, "--json")
    assert overall(done) == before
    assert "other values than the truth" in done.stderr


def test_objects_that_touch_count_apart_where_masks_number_them(unet, truth, tmp_path):
    numbered, joined = tmp_path / "numbered", tmp_path / "joined"
    for folder in (numbered, joined):
        folder.mkdir()
    for path in sorted((truth / "masks").iterdir()):
        pixels = np.zeros((40, 40), np.uint16)
        for number in range(13):  # stripes that touch
            pixels[3 * number : 3 * number + 3] = number + 1
        Image.fromarray(pixels[:, : 10 + len(path.name)]).save(path)
        Image.fromarray(pixels[:, : 10 + len(path.name)]).save(numbered / path.name)
        Image.fromarray((pixels[:, : 10 + len(path.name)] > 0).astype(np.uint8) * 255).save(joined / path.name)
        Image.fromarray(np.zeros((40, 10 + len(path.name)), np.uint8)).save(truth / "images" / path.name)
    call = ("evaluate", "--data", truth, "--classes", "background,cell", "--json", "--pred")
    apart, together = overall(unet(*call, numbered)), overall(unet(*call, joined))
    assert apart["dice"] == together["dice"] == 1
    assert apart["object_f1"] == 1
    assert together["object_f1"] == 0


def test_what_has_no_mask_or_another_size_is_said(unet, truth, masks):
    (masks / "cell2.png").unlink()
    assert_failed(unet("evaluate", "--pred", masks, "--data", truth), 1, "no mask for 1 image: cell2", "--skip-bad")
    assert result(unet("evaluate", "--pred", masks, "--data", truth, "--skip-bad", "--json"))["images"] == 4
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(masks / "cell2.png")
    assert_failed(unet("evaluate", "--pred", masks, "--data", truth), 1, "cell2.png is 9x7 but its truth")


def test_wrong_calls_say_what_to_do(unet, truth, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_failed(unet("evaluate", "--data", truth), 2, "--weights FILE", "--pred DIR")
    assert_failed(unet("evaluate", "--data", truth, "--weights", trained, "--pred", truth), 2, "either")
    assert_failed(unet("evaluate", "--data", truth, "--pred", tmp_path / "empty"), 1, "holds no masks")
    assert_failed(unet("evaluate", "--data", truth, "--weights", trained, "--spacing", "0"), 2, "is no spacing")
    assert_failed(unet("evaluate", "--data", truth, "--weights", trained, "--compare", "x.pth"), 1, "--compare: x.pth")


def test_images_that_the_weights_were_trained_on_are_left_out(unet, trained):
    data = trained.parent.parent / "data"
    split = json.loads((trained.parent / "split.json").read_text())
    done = unet("evaluate", "--weights", trained, "--data", data, *CPU, "--json")
    assert result(done)["images"] == len(split["val"])
    assert f"{len(split['train'])} pairs that the weights were trained on are left out" in done.stderr
    metrics = json.loads((trained.parent / "metrics.json").read_text())
    assert overall(done)["dice"] == pytest.approx(metrics["scores"]["dice"], abs=1e-6)


def test_weights_without_their_run_are_scored_on_all_images_with_a_warning(unet, trained, tmp_path):
    shutil.copy(trained, tmp_path / "alone.pth")
    done = unet("evaluate", "--weights", "alone.pth", "--data", trained.parent.parent / "data", *CPU, "--json")
    assert result(done)["images"] == 6
    assert "scores of these are too good" in done.stderr


def test_weights_that_saw_every_image_are_refused(unet, data, tmp_path):
    unet("train", "--data", data, *TINY, "--epochs", 1, "--val-fraction", 0, "--name", "all")
    done = unet("evaluate", "--weights", "checkpoints/all", "--data", data, *CPU)
    assert_failed(done, 1, "trained on every one of the 6 pairs")


def test_two_checkpoints_are_compared_on_the_same_images(unet, trained, truth, tmp_path):
    checkpoint = load_checkpoint(trained)
    blind = {name: torch.zeros_like(weight) for name, weight in checkpoint.weights.items()}
    save_checkpoint(tmp_path / "blind.pth", replace(checkpoint, weights=blind))
    done = unet("evaluate", "--weights", trained, "--data", truth, "--compare", "blind.pth", *CPU, "--json")
    gaps = {row["metric"]: row for row in result(done)["differences"] if row["name"] == "all"}
    assert gaps["roc_auc"]["value"] > 0.2
    assert gaps["roc_auc"]["more_than_luck"]
    same = unet("evaluate", "--weights", trained, "--data", truth, "--compare", trained, *CPU, "--json")
    assert not any(row["more_than_luck"] for row in result(same)["differences"])
    told = unet("evaluate", "--weights", trained, "--data", truth, "--compare", "blind.pth", *CPU)
    assert "this one is better" in told.stdout


def test_membrane_scores_come_where_they_are_asked_for(unet, truth):
    scores = overall(unet("evaluate", "--pred", truth / "masks", "--data", truth, "--isbi", "--json"))
    assert scores["v_rand"] == pytest.approx(1)
    assert "v_rand" not in overall(unet("evaluate", "--pred", truth / "masks", "--data", truth, "--json"))
