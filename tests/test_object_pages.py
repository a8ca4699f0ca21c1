"""Pages of numbered objects beyond one class of one image: volumes, classes, and classes that overlap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from conftest import Run
from PIL import Image
from test_labelme import labelme, shape

from unet_cli.config.evaluation import Scoring
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair, Source
from unet_cli.data.truth import Mask
from unet_cli.evaluation.answers import Answer
from unet_cli.evaluation.evaluate import Evaluation, evaluate
from unet_cli.evaluation.scores import sampled, scores, summary
from unet_cli.report.page import render
from unet_cli.report.pages import page_of_evaluation

NUMBERED = LabelMap((0, 1), ("background", "cell"), "instances")


def page_of(found: Evaluation) -> str:
    return render(page_of_evaluation("a", [], "", found, scores(sampled(found), found), []))


def two_cells(side: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two cells that touch, and one object that covers both."""
    true = np.zeros((side, side), np.int32)
    true[5:15, 5:15], true[5:15, 15:25] = 3, 8
    return true, np.where(true > 0, 1, 0).astype(np.int32)


def test_a_volume_has_the_slice_with_most_errors_on_its_page(tmp_path: Path):
    true, pred = (np.stack([one * (number < 2) for number in range(4)]) for one in two_cells())
    tifffile.imwrite(tmp_path / "v.tif", (pred * 90).astype(np.uint8), photometric="minisblack")
    source = Source((tmp_path / "v.tif",), is_volume=True)
    pair = Pair("v", source, source)
    answer = Answer(pair, *(Mask((one > 0).astype(np.uint8), one) for one in (true, pred)))
    found = evaluate([answer], NUMBERED, [pair], Scoring(), workers=1, panels=True)
    assert found.is_of_objects
    assert found.tally.sentence == "0 of 2 objects found, 1 false; 0 split, 1 merged"
    assert summary(found)["count_bias"] == -1
    page = page_of(found)
    assert "Slice 1, the one with the most errors" in page
    assert page.index("0 of 2") < page.index("worst of 1")


def test_ignored_pixels_are_neither_counted_nor_outlined(tmp_path: Path):
    true, pred = two_cells()
    classes = (true > 0).astype(np.uint8)
    classes[:, 15:] = 255
    Image.fromarray((pred * 90).astype(np.uint8)).save(tmp_path / "i.png")
    source = Source((tmp_path / "i.png",))
    pair = Pair("i", source, source)
    answer = Answer(pair, Mask(classes, true), Mask(pred.astype(np.uint8), pred))
    found = evaluate([answer], NUMBERED, [pair], Scoring(), workers=1, panels=True)
    assert found.tally.sentence == "1 of 1 objects found, 0 false; 0 split, 0 merged"
    pictured = found.images[0].pictured
    assert pictured is not None
    assert pictured.ignored is not None
    whole = replace(pictured, ignored=None)
    assert whole.draw().true != pictured.draw().true


def test_classes_that_overlap_have_objects_of_their_own_and_one_picture(tmp_path: Path):
    true, pred = two_cells()
    other = np.zeros_like(true)
    other[8:30, 8:30] = 1
    labels = LabelMap((0, 1, 2), ("background", "cell", "tissue"), overlapping=True)
    sets = ((true > 0) + 2 * (other > 0)).astype(np.uint8)
    Image.fromarray((sets * 60).astype(np.uint8)).save(tmp_path / "i.png")
    image = Source((tmp_path / "i.png",))
    pair = Pair("i", image, Source((tmp_path / "a.png", tmp_path / "b.png")))  # a file for each object
    answer = Answer(pair, Mask(sets, np.stack([true, other])), Mask(sets, np.stack([pred, other])))
    found = evaluate([answer], labels, [pair], Scoring(), workers=1, panels=True)
    assert {name: one.found for name, one in found.tallies().items()} == {"cell": 0, "tissue": 1}
    assert found.tally.sentence == "1 of 3 objects found, 1 false; 0 split, 1 merged"
    page = page_of(found)
    assert "Mask and prediction:" in page  # the panels of classes are kept
    assert page.count('alt="true objects of i"') == 2


def test_drawn_polygons_of_two_classes_are_numbered_objects(unet: Run, tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        Image.fromarray(np.full((40, 40 + number), 50 + number, np.uint8)).save(data / f"p{number}.png")
        box = [[2, 2], [12, 2], [12, 12], [2, 12]]
        beside = [[x + 10, y] for x, y in box]
        below = [[x, y + 20] for x, y in box]
        shapes = [shape("cell", box), shape("cell", beside), shape("debris", below)]
        labelme(data / f"p{number}.json", *shapes, image=f"p{number}.png")
        pred = np.zeros((40, 40 + number), np.uint8)
        pred[2:12, 2:22], pred[22:32, 2:12] = 1, 2
        (tmp_path / "pred").mkdir(exist_ok=True)
        Image.fromarray(pred).save(tmp_path / "pred" / f"p{number}.png")
    done = unet("evaluate", "--data", data, "--pred", tmp_path / "pred", "--report", "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "3 of 9 objects found, 3 false; 0 split, 3 merged"
    assert "wrong class" in (tmp_path / "page.html").read_text()
