"""`unet evaluate`: the network's scores at original size against plain loops, who is judged by which images, and masks
of other tools."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from conftest import TINY, assert_failed, split_foreground, write_pairs
from PIL import Image

from unet_cli.checkpoint import load_checkpoint, save_checkpoint
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.config.model import IGNORED
from unet_cli.config.prediction import Inference
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.imagefile import read_image
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.evaluation.evaluate import evaluate_network
from unet_cli.evaluation.measure import THRESHOLDS
from unet_cli.evaluation.subjects import masks as masks_of
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Stretched
from unet_cli.system.console import Console
from unet_cli.system.device import Compute

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

    hits, areas = np.zeros((2, len(THRESHOLDS)))  # as shares of the images
    at_half = []
    for pair in pairs:
        image, truth = read_image(pair.image), read_mask(pair.mask).values[0] > 0
        picture = Stretched(predictor.members, image)
        view = next(picture.views())
        probs = picture.add(view, predictor.probabilities([view])[0]).combined()[0].numpy()
        for column, threshold in enumerate([*THRESHOLDS, 0.5]):
            pred = probs >= np.float32(threshold)
            total = pred.sum() + truth.sum()
            if column < len(THRESHOLDS):
                hits[column] += (pred & truth).mean()
                areas[column] += total / truth.size
            else:
                at_half.append(2 * (pred & truth).sum() / total if total else 1.0)
    threshold, best = found.best_threshold
    assert found.scores["dice"] == pytest.approx(np.mean(at_half), abs=1e-9)
    by_threshold = 2 * hits / areas
    assert best == pytest.approx(by_threshold.max(), abs=1e-9)
    assert by_threshold[list(THRESHOLDS).index(threshold)] == pytest.approx(best)


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


@pytest.mark.usefixtures("draws")
def test_a_page_of_the_images_and_the_count_of_objects(unet, truth, masks, tmp_path):
    done = unet("evaluate", "--pred", masks, "--data", truth, "--report", "out/page.html", "--spacing", "0.5um",
                "--tolerance", "1um", "--band", "3")  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "page.html").read_text()
    assert all(f"cell{index}" in page for index in range(5))
    assert "Hausdorff distance, 95 %, um" in page
    assert "Surface Dice at 1 um" in done.stdout
    assert re.search(r"\d+ of \d+ objects found, \d+ false", done.stdout)


def test_what_predict_writes_beside_masks_is_no_mask(unet, trained, truth, tmp_path):
    unet("predict", "--weights", trained, "--input", truth / "images", "--output", "p", *CPU)
    before = overall(unet("evaluate", "--pred", "p", "--data", truth, "--json"))
    unet("predict", "--weights", trained, "--input", truth / "images", "--output", "p", "--overlay", "--instances",
         "--probabilities", *CPU)  # fmt: skip
    assert overall(unet("evaluate", "--pred", "p", "--data", truth, "--json")) == before


def test_masks_with_other_values_are_read_in_their_order_and_that_is_said(unet, truth, masks):
    before = overall(unet("evaluate", "--pred", masks, "--data", truth, "--json"))
    for path in masks.iterdir():
        Image.fromarray(np.array(Image.open(path)) // 255).save(path)
    done = unet("evaluate", "--pred", masks, "--data", truth, "--json")
    assert overall(done) == before
    assert "read in the order of their values" in done.stderr


def test_masks_of_small_numbers_are_no_noise_of_jpeg_masks_with_large_ones(unet, truth, masks):
    for path in sorted((truth / "masks").iterdir()):
        mask = np.zeros((40, 40 + len(path.name)), np.uint8)
        mask[8:24, 4:20], mask[20:36, 24:40] = 1, 2
        Image.fromarray(mask).save(masks / path.name)
        Image.fromarray(np.array([0, 128, 255], np.uint8)[mask]).save(path.with_suffix(".jpg"), quality=75)
        Image.fromarray(mask * 90).save(truth / "images" / path.name)
        path.unlink()
    done = unet("evaluate", "--pred", masks, "--data", truth, "--json")
    assert overall(done)["dice"] > 0.85  # halfway to 255 JPEG has left a rim of 128
    assert "read in the order of their values" in done.stderr


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


@pytest.mark.parametrize("numbered_truth", [True, False])
def test_a_few_masks_of_many_small_numbered_cells_are_no_photographs(unet, tmp_path, numbered_truth):
    for number in range(2):
        cells = np.zeros((48, 40), np.uint16)
        for cell in range(60):
            row, column = divmod(cell, 9)
            cells[4 * row + 1 : 4 * row + 4, 4 * column + 1 : 4 * column + 4] = cell + 1
        truth = cells if numbered_truth else (cells > 0).astype(np.uint8) * 255
        pixels = (cells > 0).astype(np.uint8) * 90 + number
        for folder, drawn in (("truth/images", pixels), ("truth/masks", truth), ("pred", cells)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(tmp_path / folder / f"{number}.png")
    classes = ("--classes", "background,cell") if numbered_truth else ()
    scores = overall(unet("evaluate", "--data", "truth", *classes, "--json", "--pred", "pred"))
    assert scores["dice"] == scores["object_f1"] == 1


def test_photographs_are_no_numbered_objects(unet, truth, masks):
    for path in masks.iterdir():
        shape = np.array(Image.open(path)).shape
        Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(path)
    assert_failed(unet("evaluate", "--pred", masks, "--data", truth), 1, "look like photographs")


def test_what_has_no_mask_or_one_that_cannot_be_used_is_listed_at_once_or_left_out(unet, truth, masks):
    (masks / "cell2.png").unlink()
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(masks / "cell3.png")
    (masks / "cell4.png").write_bytes(b"no image")
    done = unet("evaluate", "--pred", masks, "--data", truth)
    assert_failed(done, 1, "3 problems", "cell2.png", "cell3.png is 9x7 but its truth", "cell4.png", "--skip-bad")
    done = unet("evaluate", "--pred", masks, "--data", truth, "--skip-bad", "--json")
    assert result(done)["images"] == 2
    assert sum("left out: " in note for note in result(done)["notes"]) == 3


def test_of_images_only_those_with_nan_are_read_again_to_compare_masks(truth, masks):
    for path in sorted((truth / "images").iterdir()):
        pixels = read_image(Source((path,)))[0].astype(np.float32)
        if path.stem == "cell0":
            pixels[:9] = np.nan
        tifffile.imwrite(path.with_suffix(".tif"), pixels)
        path.unlink()
    layout, config = find_layout(truth), EvaluateConfig(data=truth, pred=masks)
    card = examine(layout, config, Console(quiet=True))
    subject = masks_of(masks, card, card.labels, config)
    for number in (1, 2):
        (truth / f"images/cell{number}.tif").write_bytes(b"no image any more")
    answers = list(subject.answers(subject.pairs, card.labels, Console(quiet=True)))
    assert [int((answer.target.classes == IGNORED).any()) for answer in answers] == [1, 0, 0, 0, 0]
    first = truth / "images/cell0.tif"
    first.unlink()
    with pytest.raises(UserError, match="cell0.tif"):
        list(subject.answers(subject.pairs, card.labels, Console(quiet=True)))


def test_the_pages_of_a_predicted_stack_are_masks_of_the_pages_of_its_image(tmp_path):
    draw = np.random.default_rng(0)
    stack = (draw.random((3, 16, 16)) > 0.5).astype(np.uint8) * 255
    for folder, pages in (("images", draw.integers(0, 255, (3, 16, 16), np.uint8)), ("masks", stack), ("pred", stack)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "block.tif", pages, photometric="minisblack")
    layout = find_layout(tmp_path, "images", "masks")
    config = EvaluateConfig(data=tmp_path, pred=tmp_path / "pred")
    card = examine(layout, config, Console(quiet=True))
    found = masks_of(tmp_path / "pred", card, card.labels, config)
    assert {pair.name: source.page for pair, source in found.of.items()} == {f"block#{n + 1}": n for n in range(3)}


def test_masks_whose_names_leave_a_doubt_are_refused(unet, truth, masks, tmp_path):
    Image.open(masks / "cell2.png").save(masks / "cell2.tif")
    assert_failed(unet("evaluate", "--pred", masks, "--data", truth), 1, "differ in their extension alone")
    for name in ("a", "b"):
        shutil.copytree(truth / "masks", tmp_path / "two" / name)
    assert_failed(unet("evaluate", "--pred", "two", "--data", truth), 1, "it isn't clear which mask is of which image")


def test_a_value_that_the_weights_ignore_is_a_class_where_the_truth_says_so(unet, truth, tmp_path):
    three = write_pairs(tmp_path / "three", count=5, side=48)
    split_foreground(three / "masks")
    for path in (three / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[0] = 255
        Image.fromarray(mask).save(path)
    unet("train", "--data", three, *TINY, "--epochs", 1, "--name", "run")
    assert_failed(unet("evaluate", "--weights", "checkpoints/run", "--data", truth, *CPU), 1, "have other classes")


def test_numbers_are_not_read_as_colours(unet, truth, masks):
    for path in (truth / "masks").iterdir():
        mask = np.array(Image.open(path)) > 0
        mask = mask * (1 + (np.arange(len(mask)) % 2))[:, None]
        Image.fromarray(np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)[mask]).save(path)
        Image.fromarray(mask.astype(np.uint8)).save(masks / path.name)
    scores = overall(unet("evaluate", "--pred", masks, "--data", truth, "--json"))
    assert scores["pooled_accuracy"] > 0.3


def test_wrong_calls_say_what_to_do(unet, truth, trained, tmp_path):
    mask = truth / "masks" / "cell0.png"
    assert_failed(unet("evaluate", "--data", truth, "--pred", truth, "--csv", mask), 2, "ends in .csv")
    (tmp_path / "empty").mkdir()
    assert_failed(unet("evaluate", "--data", truth), 2, "--weights FILE", "--pred DIR")
    assert_failed(unet("evaluate", "--data", truth, "--weights", trained, "--pred", truth), 2, "either")
    assert_failed(unet("evaluate", "--data", truth, "--pred", tmp_path / "empty"), 1, "holds no masks")
    assert_failed(unet("evaluate", "--data", truth, "--weights", trained, "--spacing", "0"), 2, "is no spacing")
    assert_failed(unet("evaluate", "--data", truth, "--weights", trained, "--compare", "x.pth"), 1, "--compare: x.pth")
    assert_failed(unet("evaluate", "--data", truth, "--pred", truth, "--threshold", "0.3"), 2, "--threshold is for net")


def test_images_that_the_weights_were_trained_on_are_left_out(unet, trained):
    data = trained.parent.parent / "data"
    split = json.loads((trained.parent / "split.json").read_text())
    done = unet("evaluate", "--weights", trained, "--data", data, *CPU, "--json")
    assert result(done)["images"] == len(split["val"])
    assert f"{len(split['train'])} images that the weights were trained on are left out" in done.stderr
    assert "they chose the best epoch" in done.stderr
    metrics = json.loads((trained.parent / "metrics.json").read_text())
    assert overall(done)["dice"] == pytest.approx(metrics["scores"]["dice"], abs=1e-6)


def test_a_test_folder_is_judged_by_though_its_images_have_the_names_of_training_images(unet, tmp_path):
    write_pairs(tmp_path / "set" / "train", count=5)
    write_pairs(tmp_path / "set" / "test", count=3, side=48)
    unet("train", "--data", "set", *TINY, "--epochs", 1, "--name", "run")
    done = unet("evaluate", "--weights", "checkpoints/run", "--data", "set", *CPU, "--json")
    assert result(done)["images"] == 3
    assert "left out" not in done.stderr


def test_weights_of_other_classes_are_refused(unet, trained, truth, tmp_path):
    for number, path in enumerate(sorted((truth / "masks").iterdir())):
        Image.fromarray((np.arange(40 * (40 + number)).reshape(40, -1) % 3).astype(np.uint8)).save(path)
    done = unet("evaluate", "--weights", trained, "--data", truth, *CPU)
    assert_failed(done, 1, "have other classes", "--classes FILE.toml")
    shutil.copytree(truth / "masks", tmp_path / "same")
    done = unet("evaluate", "--pred", "same", "--data", truth, "--compare", trained)
    assert_failed(done, 1, "--compare:", "predicts 2 classes", "the truth has 3 classes")


def test_what_was_learned_is_known_by_its_contents_wherever_weights_and_images_lie(unet, trained, tmp_path):
    shutil.copy(trained, tmp_path / "alone.pth")
    data = trained.parent.parent / "data"
    learned = set(json.loads((trained.parent / "split.json").read_text())["train"])
    for part in ("images", "masks"):
        (tmp_path / "other" / part).mkdir(parents=True)
        for number, path in enumerate(sorted((data / part).iterdir())):
            shutil.copy(path, tmp_path / "other" / part / f"renamed{number}.png")
    done = unet("evaluate", "--weights", "alone.pth", "--data", "other", *CPU, "--json")
    assert result(done)["images"] == 6 - len(learned)
    assert f"{len(learned)} images that the weights were trained on are left out" in done.stderr


def test_weights_that_do_not_say_what_they_learned_come_with_a_warning(unet, trained, truth, tmp_path):
    checkpoint = load_checkpoint(trained)
    training = {key: value for key, value in checkpoint.training.items() if key != "learned_images"}
    save_checkpoint(tmp_path / "old.pth", replace(checkpoint, training=training))
    done = unet("evaluate", "--weights", "old.pth", "--data", truth, *CPU, "--json")
    assert result(done)["images"] == 5
    assert "doesn't say which images it was trained on" in done.stderr


def test_weights_that_saw_every_image_are_refused(unet, data, tmp_path):
    unet("train", "--data", data, *TINY, "--epochs", 1, "--val-fraction", 0, "--name", "all")
    done = unet("evaluate", "--weights", "checkpoints/all", "--data", data, *CPU)
    assert_failed(done, 1, "trained on every one of the 6 images")


def test_weights_that_no_image_is_new_to_both_of_are_not_compared(unet, data):
    for fold in (1, 2):
        unet("train", "--data", data, *TINY, "--epochs", 1, "--folds", 2, "--fold", fold, "--name", f"fold{fold}")
    call = ("evaluate", "--weights", "checkpoints/fold1", "--compare", "checkpoints/fold2", "--data", data, *CPU)
    assert_failed(unet(*call), 1, "no image is new to both")


def test_what_the_user_says_of_the_classes_counts_for_the_truth(unet, tmp_path):
    three = write_pairs(tmp_path / "three", count=5)
    split_foreground(three / "masks")
    unet("train", "--data", three, *TINY, "--epochs", 1, "--classes", "none,lower,upper", "--name", "run")
    call = ("evaluate", "--weights", "checkpoints/run", *CPU, "--json", "--data")
    before = result(unet(*call, shutil.copytree(three, tmp_path / "copy"), "--classes", "none,lower,upper"))
    for path in (tmp_path / "copy" / "masks").iterdir():
        swapped = np.array([0, 200, 100], np.uint8)[np.array(Image.open(path))]
        Image.fromarray(swapped).save(path)
    (tmp_path / "classes.toml").write_text("none = 0\nupper = 100\nlower = 200\n")
    after = result(unet(*call, tmp_path / "copy", "--classes", "classes.toml"))
    assert after["scores"] == before["scores"]
    for path in (tmp_path / "copy" / "masks").iterdir():
        Image.fromarray(np.array(Image.open(path)) // 100 + 1).save(path)  # 1, 2, 3: two of them known
    assert_failed(unet(*call, tmp_path / "copy"), 1, "have other classes", "of the same names")


def test_two_checkpoints_are_compared_on_the_same_images(unet, trained, tmp_path):
    truth = write_pairs(tmp_path / "seven", count=7)
    checkpoint = load_checkpoint(trained)
    blind = {name: torch.zeros_like(weight) for name, weight in checkpoint.weights.items()}
    save_checkpoint(tmp_path / "blind.pth", replace(checkpoint, weights=blind))
    done = unet("evaluate", "--weights", trained, "--data", truth, "--compare", "blind.pth", *CPU, "--json")
    gaps = {row["metric"]: row for row in result(done)["differences"] if row["name"] == "all"}
    assert gaps["roc_auc"]["value"] > 0.2
    assert gaps["roc_auc"]["significant"]
    same = unet("evaluate", "--weights", trained, "--data", truth, "--compare", trained, *CPU, "--json")
    assert not any(row["significant"] for row in result(same)["differences"])
    told = unet("evaluate", "--weights", trained, "--data", truth, "--compare", "blind.pth", *CPU)
    assert "this one is better" in told.stdout


def test_membrane_scores_come_where_they_are_asked_for(unet, truth):
    scores = overall(unet("evaluate", "--pred", truth / "masks", "--data", truth, "--isbi", "--json"))
    assert scores["v_rand"] == pytest.approx(1)
    assert "v_rand" not in overall(unet("evaluate", "--pred", truth / "masks", "--data", truth, "--json"))


def few_objects(folder):
    """Masks that number two objects, too few to be known as numbers by themselves."""
    for path in (folder / "masks").iterdir():
        mask = np.array(Image.open(path))
        numbers = np.where(mask > 0, 1 + (np.arange(mask.shape[1]) > mask.shape[1] // 2), 0)
        Image.fromarray(numbers.astype(np.uint8)).save(path)


def three_values(folder):
    """Masks of 10, 20 and 30, of which the first is to be ignored."""
    for path in (folder / "masks").iterdir():
        mask = np.where(np.array(Image.open(path)) > 0, 30, 20)
        mask[:3] = 10
        Image.fromarray(mask.astype(np.uint8)).save(path)


def odd_names(folder):
    """Images and masks in one folder, which only a rule of the user's tells apart."""
    for kind, letter in (("images", "q"), ("masks", "k")):
        for path in (folder / kind).iterdir():
            path.rename(folder / f"{path.stem}{letter}.png")
        (folder / kind).rmdir()


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        (few_objects, ("--classes", "background,cell")),
        (three_values, ("--classes", "classes.toml")),
        (odd_names, ("--pair", "{id}q.png={id}k.png")),
    ],
)
def test_images_are_paired_and_masks_read_as_the_weights_were_trained(unet, tmp_path, change, flags):
    (tmp_path / "classes.toml").write_text("ground = 20\ncell = 30\nignore = 10\n")
    parts = {}
    for part, first in (("train", 0), ("other", 6)):
        parts[part] = write_pairs(tmp_path / part, count=6 + first)
        for path in [path for path in parts[part].rglob("cell*") if int(path.stem.removeprefix("cell")) < first]:
            path.unlink()
        change(parts[part])
    trained = unet("train", "--data", "train", *flags, *TINY, "--epochs", 1, "--name", "r")
    assert trained.returncode == 0, trained.stderr
    (tmp_path / "classes.toml").unlink()
    found = overall(unet("evaluate", "--weights", "checkpoints/r", "--data", "other", *CPU, "--json"))
    assert 0 <= found["dice"] <= 1
    assert len(found) > 10


def regions(folder, *numbers):
    """Pairs of four classes, the last of which is in the first image alone; none of them is called background."""
    for number in numbers:
        mask = np.repeat(np.arange(40) // 14, 40).reshape(40, 40).astype(np.uint8)
        mask[:4, :4] = 3 if number == 0 else 1
        for kind, pixels in (("images", np.clip(80 * mask + number, 0, 255).astype(np.uint8)), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")


def test_one_thing_has_one_number_wherever_it_is_shown(unet, tmp_path):
    regions(tmp_path / "data/train", 0, 1, 2, 3)
    regions(tmp_path / "data/val", 4, 5)
    names = ("--classes", "sky,road,tree,sign")
    done = unet("train", "--data", "data", *names, *TINY, "--epochs", 2, "--name", "r")
    assert done.returncode == 0, done.stderr
    assert "none is background" in done.stderr
    assert "No validation mask holds class sign" in done.stderr
    assert "sign" not in done.stderr.split("Dice of sky")[1].splitlines()[0]
    found = json.loads((tmp_path / "checkpoints/r/metrics.json").read_text())["scores"]
    metrics = json.loads(unet("info", "checkpoints/r", "--json").stdout)["metrics"]
    assert {name.removeprefix("final_"): metrics[name] for name in metrics if name.startswith("final_")} == found
    evaluated = result(unet("evaluate", "--weights", "checkpoints/r", "--data", "data/val", *CPU, "--json"))
    shown = {row["metric"]: row["value"] for row in evaluated["scores"] if row["name"] == "all"}
    by_class = {row["name"]: row["value"] for row in evaluated["scores"] if row["metric"] == "dice"}
    for name in ("dice", "set_dice", "pooled_dice", "iou", "mean_iou"):
        assert shown[name] == pytest.approx(found[name], abs=1e-9)
    assert by_class["sky"] == pytest.approx(found["dice_sky"], abs=1e-9)
    assert by_class["sign"] is None
    assert f"{found['dice']:.3f}" in (tmp_path / "checkpoints/r/report.html").read_text()
    assert f"{found['dice']:.3f}, set Dice {found['set_dice']:.3f}, mean IoU of all classes" in done.stdout
    told = unet("evaluate", "--weights", "checkpoints/r", "--data", "data/val", *CPU).stdout
    assert "sky" in told
    assert "Mean IoU" in told


def write_masks(folder, *masks):
    """Pairs of 40 x 40 of which these are the masks."""
    for number, mask in enumerate(masks):
        for kind, pixels in (("images", (mask * 3 + number).astype(np.uint8)), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")


def with_square(value, beside=0):
    mask = np.full((40, 40), beside, np.uint8)
    mask[10:20, 10:30] = value
    return mask


def test_two_of_several_classes_without_background_are_evaluated(unet, tmp_path):
    regions(tmp_path / "data", 0, 1, 2, 3)
    assert unet("train", "--data", "data", "--background", "none", *TINY, "--epochs", 1, "--name", "r").returncode == 0
    write_masks(tmp_path / "other", with_square(1), with_square(1))
    done = unet("evaluate", "--weights", "checkpoints/r", "--data", "other", *CPU, "--json")
    assert {row["name"] for row in result(done)["scores"]} >= {"all", "0", "1"}


@pytest.mark.parametrize("flags", [(), ("--skip-bad",)])
def test_masks_of_other_values_are_not_taken_for_empty_ones(unet, tmp_path, flags):
    zero = np.zeros((40, 40), np.uint8)
    ignored = with_square(1)
    ignored[0] = 255
    write_masks(tmp_path / "data", ignored, with_square(1), ignored, with_square(1), ignored)
    called = ("--ignore-index", 255, "--classes", "ground,cell")
    assert unet("train", "--data", "data", *called, *TINY, "--epochs", 1, "--name", "r").returncode == 0
    for name, value in (("of255", 255), ("of7", 7)):
        write_masks(tmp_path / name, with_square(value), zero + 0, with_square(value), zero + 0)
        done = unet("evaluate", "--weights", "checkpoints/r", "--data", name, *flags, *CPU, "--json")
        assert result(done)["images"] == 4
        assert any("in the order of their values" in note for note in result(done)["notes"])
