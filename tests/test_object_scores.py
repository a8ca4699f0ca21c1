"""Splits, merges and counts of objects: by hand, against a plain loop, in every place that speaks of them, and in the
pictures of them by their pixels."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, assert_failed, run_unet
from PIL import Image
from test_object_matching import in_rows, scattered
from test_target_objects import write_set

from unet_cli.config.prediction import Cleaning
from unet_cli.data.cores import marked
from unet_cli.data.labels import LabelMap
from unet_cli.evaluation.fits import CORE_FITS, core_levels, grown_by, grown_by_fits
from unet_cli.evaluation.object_panels import FATE_COLOURS, MAX_ZOOM, SIDE, Packed, draw_objects, window_of
from unet_cli.evaluation.tally import Tally, tally
from unet_cli.inference.numbering import objects_of
from unet_cli.metrics.names import metric_name
from unet_cli.metrics.objects import compare_objects, match_objects, surplus, true_objects
from unet_cli.runs.folds import stored_report

CLASSES = ("--classes", "background,cell")


def strip(*spans: tuple[int, int, int]) -> np.ndarray:
    """Objects in one row of 100 pixels, four high: (number, start, stop) each."""
    numbers = np.zeros((4, 100), np.int32)
    for number, start, stop in spans:
        numbers[:, start:stop] = number
    return numbers


def errors(pred: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    found = match_objects(pred, target)
    return found.splits, found.merges


def test_splits_and_merges_by_hand():
    one, halves = strip((1, 0, 20)), strip((5, 0, 10), (9, 10, 20))
    assert errors(halves, one) == (1, 0)
    assert errors(one, halves) == (0, 1)
    assert errors(one, one) == errors(strip(), one) == errors(one, strip()) == (0, 0)
    # More than half of the smaller one: exactly half is not enough.
    assert errors(strip((1, 0, 10), (2, 10, 30)), strip((1, 0, 20))) == (0, 0)
    assert errors(strip((1, 0, 10), (2, 10, 29)), strip((1, 0, 20))) == (1, 0)
    # A crumb inside a found object splits it; one that lies mostly outside doesn't.
    assert errors(strip((1, 0, 17), (2, 17, 19)), one) == (1, 0)
    assert errors(strip((1, 0, 19), (2, 19, 22)), one) == (0, 0)


def test_one_object_over_many_is_a_merge_though_its_iou_with_each_is_small():
    many = strip(*((number, 4 * number, 4 * number + 4) for number in range(1, 21)))
    found = compare_objects(strip((3, 0, 100)), many)
    assert (found.matches.splits, found.matches.merges) == (0, 1)
    assert found.true.shares.all()
    assert not found.true.is_matched.any()


@pytest.mark.parametrize("seed", range(4))
def test_splits_and_merges_agree_with_a_loop_over_all_pairs(seed: int):
    target = scattered(seed, False)
    _, ranks = np.unique(scattered(seed, True), return_inverse=True)
    ranks = ranks.reshape(target.shape)
    rows, columns = np.indices(target.shape)
    pred = np.where(rows < 35, -(-ranks // 3), np.where(ranks > 0, 100 + 2 * ranks + columns // 4 % 2, 0))
    ignored = np.random.default_rng(seed).random(target.shape) < 0.1
    found = compare_objects(pred, target, ignored)
    pred, target = pred * ~ignored, target * ~ignored
    true, seen = (sorted(set(one[one > 0].tolist())) for one in (target, pred))
    partners = np.array([
        [2 * ((target == a) & (pred == b)).sum() > min((target == a).sum(), (pred == b).sum()) for b in seen]
        for a in true
    ])  # fmt: skip
    assert partners.sum(1).max() > 1
    assert partners.sum(0).max() > 1
    assert found.true.numbers.tolist() == true
    assert found.pred.numbers.tolist() == seen
    assert found.true.is_shared.tolist() == (partners.sum(1) > 1).tolist()
    assert found.pred.is_shared.tolist() == (partners.sum(0) > 1).tolist()
    assert found.true.shares.tolist() == (partners & (partners.sum(0) > 1)).any(1).tolist()
    assert found.pred.shares.tolist() == (partners & (partners.sum(1) > 1)[:, None]).any(0).tolist()
    assert surplus(found.counts) == len(seen) - len(true)
    assert true_objects(found.counts) == len(true)


def test_thousands_of_objects_take_one_pass():
    rows, columns = np.mgrid[:1000, :1000] // 14
    target, pred = (rows * 72 + columns + 1).astype(np.int32), ((rows // 2) * 72 + columns + 1).astype(np.int32)
    began = time.process_time()
    found = match_objects(pred, target)
    assert time.process_time() - began < 3  # a loop over objects times pixels would take minutes
    assert true_objects(found.counts) == 72 * 72
    assert found.merges == 36 * 72


def test_volumes_are_counted_as_images_are():
    one = np.zeros((4, 6, 6), np.int32)
    one[:, 1:5, 1:5] = 4
    halves = np.where(np.arange(4)[:, None, None] < 2, one, one * 2)
    assert errors(halves, one) == (1, 0)
    assert errors(one, halves) == (0, 1)


def test_what_is_said_of_a_number_of_objects():
    found = Tally(989, 366, 263, 41, 87)
    assert found.sentence == "989 of 1,355 objects found, 263 false; 41 split, 87 merged"
    assert found.counted == "1,252 objects predicted where there are 1,355: 103 too few (7.6 %)"
    assert Tally(2, 0, 1, 0, 0).counted.endswith("1 too many (50.0 %)")
    assert Tally(0, 0, 3, 0, 0).counted.endswith("3 too many")
    assert Tally(1, 1, 1, 0, 0).counted.endswith("as many")
    assert tally([]) == Tally(0, 0, 0, 0, 0)


def write_masks(folder: Path, *masks: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint16)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Eight images of four objects: pred/ joins two in four of them, and better/ finds all."""
    truth = [in_rows((0, 20), (0, 20), (0, 20), (30, 50)).repeat(4, 0) for _ in range(8)]
    joined = [np.where(one == 2, 1, one) if number < 4 else one for number, one in enumerate(truth)]
    write_masks(tmp_path / "truth/masks", *truth)
    write_masks(tmp_path / "pred", *joined)
    write_masks(tmp_path / "better", *truth)
    folder = tmp_path / "truth/images"
    folder.mkdir()
    for number, one in enumerate(truth):
        Image.fromarray((one > 0).astype(np.uint8) * 90 + number).save(folder / f"{number}.png")
    return tmp_path


def test_objects_come_first_where_masks_number_them(unet: Run, numbered: Path):
    call = ("evaluate", "--data", numbered / "truth", *CLASSES, "--pred", numbered / "pred")
    done = unet(*call, "--csv", "s.csv", "--report", "page.html", "--compare", numbered / "better")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "24 of 32 objects found, 4 false; 0 split, 4 merged"
    assert lines[1] == "28 objects predicted where there are 32: 4 too few (12.5 %)"
    assert done.stdout.index("Objects\n") < done.stdout.index("Per image, then averaged")
    assert "Worst by F1 of objects:" in done.stdout
    [verdict] = [line for line in lines if line.startswith("  Merges per object") and "the other is better" in line]
    assert "0.1250" in verdict
    [bias] = [line for line in lines if line.startswith("  Count bias") and "the other is higher" in line]
    assert "-0.50" in bias
    rows = list(csv.DictReader((numbered / "s.csv").read_text().splitlines()))
    names = ("objects", "predicted", "found", "false", "splits", "merges", "count_error", "count_bias")
    assert [rows[0][name] for name in names] == ["4", "3", "2", "1", "0", "1", "1", "-1"]
    assert [rows[7][name] for name in names] == ["4", "4", "4", "0", "0", "0", "0", "0"]
    page = (numbered / "page.html").read_text()
    assert page.index("24 of 32") < page.index("The worst and the median")
    assert "several true objects, predicted as one" in page
    assert page.count('alt="predicted objects of 0"') == 2  # at the top and in the gallery


def test_json_has_the_numbers_of_the_set_and_of_each_image(unet: Run, numbered: Path):
    done = unet("evaluate", "--data", numbered / "truth", *CLASSES, "--pred", numbered / "pred", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    own = {"true": 32, "predicted": 28, "found": 24, "missed": 8, "false": 4, "splits": 0, "merges": 4}
    assert {key: found["objects"][key] for key in own} == own
    assert found["objects"]["by_image"]["0"]["merges"] == 1
    assert found["objects"]["by_image"]["7"]["merges"] == 0
    scores = {row["metric"]: row for row in found["scores"]}
    assert scores["count_error"]["value"] == 0.5
    assert scores["count_bias"]["value"] == -0.5
    assert scores["relative_count_error"]["value"] == scores["merge_rate"]["value"] == 4 / 32
    assert scores["merge_rate"]["low"] < 4 / 32 < scores["merge_rate"]["high"]
    assert scores["split_rate"]["value"] == 0
    assert found["worst"][0] == {"image": "0", "object_f1": pytest.approx(4 / 7)}


def test_components_of_several_classes_are_counted_for_each(unet: Run, numbered: Path):
    for path in [*(numbered / "truth/masks").iterdir(), *(numbered / "pred").iterdir()]:
        Image.fromarray(np.asarray(Image.open(path)).clip(0, 3).astype(np.uint8)).save(path)
    classes = ("--classes", "background,a,b,c")
    done = unet("evaluate", "--data", numbered / "truth", *classes, "--pred", numbered / "pred", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["objects"]
    assert {name: one["true"] for name, one in found["by_class"].items()} == {"a": 8, "b": 8, "c": 16}
    assert {name: one["found"] for name, one in found["by_class"].items()} == {"a": 4, "b": 4, "c": 16}
    plain = unet("evaluate", "--data", numbered / "truth", *classes, "--pred", numbered / "pred", "--report", "p.html")
    assert plain.returncode == 0, plain.stderr
    assert "24 of 32 objects found" not in plain.stdout.splitlines()[0]
    assert "24 of 32 objects found" in plain.stdout
    assert "predicted as one" not in (numbered / "p.html").read_text()


def test_where_one_mask_is_missing_nothing_is_counted(unet: Run, numbered: Path):
    (numbered / "pred/3.png").unlink()
    assert_failed(
        unet("evaluate", "--data", numbered / "truth", *CLASSES, "--pred", numbered / "pred"), 1, "image without a mask"
    )


def test_images_without_objects_count_right_unless_they_are_skipped(unet: Run, numbered: Path):
    nothing = np.zeros((16, 100), np.uint16)
    for folder in ("truth/masks", "pred"):
        Image.fromarray(nothing).save(numbered / folder / "0.png")
    call = ("evaluate", "--data", numbered / "truth", *CLASSES, "--pred", numbered / "pred", "--json")
    for empty, expected in (("perfect", -3 / 8), ("skip", -3 / 7)):
        done = unet(*call, "--empty", empty)
        assert done.returncode == 0, done.stderr
        scores = {row["metric"]: row["value"] for row in json.loads(done.stdout)["scores"]}
        assert scores["count_bias"] == pytest.approx(expected)


def shown(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB")).astype(int)


def has(picture: np.ndarray, fate: str) -> bool:
    return bool((np.abs(picture - FATE_COLOURS[fate]).max(-1) < 24).any())


def test_each_fate_has_its_colour_where_it_can_be():
    true = np.zeros((60, 60), np.int32)
    true[2:12, 2:12], true[2:12, 20:30] = 1, 2  # found, missed
    true[20:30, 2:22] = 3  # split
    true[40:50, 2:12], true[40:50, 12:22] = 4, 5  # merged
    pred = np.zeros_like(true)
    pred[2:12, 2:12], pred[2:12, 45:55] = 1, 2  # found, false
    pred[20:30, 2:12], pred[20:30, 12:22] = 3, 4
    pred[40:50, 2:22] = 5
    found = draw_objects(np.full((1, 60, 60), 7, np.uint8), [(true, pred)])
    of_true, of_pred = shown(found.true), shown(found.pred)
    assert of_true.shape == of_pred.shape == (round(60 * found.zoom),) * 2 + (3,)
    assert {fate for fate in FATE_COLOURS if has(of_true, fate)} == {"found", "missed", "split", "merged"}
    assert {fate for fate in FATE_COLOURS if has(of_pred, fate)} == {"found", "false", "split", "merged"}
    assert found.whole
    # Touching parts have a line each, with their own side between them: two and two pixels.
    row = shown(found.pred)[round(25 * found.zoom)]
    line = np.flatnonzero(np.abs(row - FATE_COLOURS["split"]).max(-1) < 40)
    middle = round(12 * found.zoom)
    assert set(range(middle - 2, middle + 2)) <= set(line.tolist())


def test_of_a_large_image_the_part_with_most_errors_is_enlarged():
    true = np.zeros((900, 1200), np.int32)
    for number in range(300):
        row, column = divmod(number, 20)
        true[60 * row : 60 * row + 20, 60 * column : 60 * column + 20] = number + 1
    pred = true.copy()
    pred[true == 130] = 0  # at row 6, column 9
    top, left, height, width = window_of([(true, pred)], [((true == 130) * 2, pred > 0)])
    assert (height, width) == (200, 200)
    assert top < 360
    assert top + height > 380
    assert left < 540
    assert left + width > 560
    found = draw_objects(np.zeros((3, 900, 1200), np.uint16), [(true, pred)])
    assert not found.whole
    assert shown(found.image).shape == (SIDE, SIDE, 3)
    small = draw_objects(np.zeros((1, 20, 30), np.float32), [(np.zeros((20, 30), int),) * 2])
    assert (small.whole, small.zoom) == (True, MAX_ZOOM)


def test_of_a_volume_the_slice_with_most_errors_is_shown():
    true = np.zeros((5, 40, 50), np.int32)
    true[:, 5:15, 5:15] = 1
    pred = true.copy()
    pred[3, 20:30, 20:30] = 2
    found = draw_objects(np.zeros((1, 5, 40, 50), np.uint8), [(true, pred)])
    assert found.slice == 3
    assert has(shown(found.pred), "false")


def test_what_is_packed_comes_back():
    for values in (np.arange(12, dtype=np.int32).reshape(3, 4), np.array([[70000, 1]], np.int64), np.ones(3, bool)):
        assert np.array_equal(Packed.of(values).values, values)


@pytest.mark.parametrize("names", [("background", "cell"), ("background", "cell", "debris")])
def test_every_fit_grows_what_prediction_grows_with_its_settings(names: tuple[str, ...]):
    draw = np.random.default_rng(0)
    classes = draw.choice(
        np.arange(len(names), dtype=np.uint8), (40, 40), p=[0.2, *[0.8 / (len(names) - 1)] * (len(names) - 1)]
    )
    cores = draw.random((40, 40)).astype(np.float32)
    cores[0, :3] = np.float32(0.3), np.float32(0.5), np.float32(0.7)
    labels = LabelMap(tuple(range(len(names))), names)
    levels = core_levels(classes, cores)
    for fit, found in enumerate(grown_by_fits(levels, labels)):
        threshold, is_split, smallest = CORE_FITS[fit]
        indices = marked(classes, cores >= threshold)
        numbers = objects_of(indices, Cleaning(split_touching=is_split), replace(labels, cores=True))
        kept = np.where(np.bincount(numbers.ravel())[numbers] >= smallest, numbers, 0)
        for number, one, again in zip(labels.scored, found, grown_by(fit, levels, labels), strict=True):
            assert np.array_equal(one, np.where(classes == number, kept, 0))
            assert np.array_equal(one, again)


def test_a_run_on_objects_ends_with_them(tmp_path: Path):
    data = write_set(tmp_path / "data")
    call = ("train", "--data", data, *CLASSES, "--output", tmp_path / "runs", "--name", "a", "--epochs", 2)
    run = run_unet(*call, "--size", 64, "--width", 4, "--depth", 2, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    [sentence] = [line for line in run.stdout.splitlines() if line.startswith("Validation: ")]
    assert "objects found" in sentence
    assert "F1 of objects" in run.stdout
    metrics = json.loads((tmp_path / "runs/a/metrics.json").read_text())
    assert set(metrics["objects"]) == {"found", "missed", "false", "splits", "merges"}
    assert "object_f1" in metrics["scores"]
    assert stored_report(tmp_path / "runs/a").objects == Tally(**metrics["objects"])
    again = run_unet("report", tmp_path / "runs/a", "--output", tmp_path / "page.html", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert sentence.removeprefix("Validation: ") in again.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.index("objects found") < page.index("The worst and the median")
    assert (tmp_path / "runs/a/report.html").read_text() == page


def test_the_words_say_what_is_better():
    assert metric_name("count_bias").higher is None
    assert all(metric_name(key).higher is False for key in ("count_error", "split_rate", "merge_rate"))
