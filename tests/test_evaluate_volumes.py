"""Evaluation of volumes: distances in mm, objects through all slices, panels of three planes, and masks and weights on
NIfTI and TIFF files."""

import csv
import json
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from conftest import assert_failed
from PIL import Image

from unet_cli.checkpoint import Checkpoint, save_checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.evaluation import Scoring
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Cleaning
from unet_cli.config.spacing import parse_spacing
from unet_cli.data.colours import colours_of
from unet_cli.data.labels import LabelMap
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.evaluation.answers import Answer, Mask, of_masks, read_truth
from unet_cli.evaluation.evaluate import Evaluation, evaluate
from unet_cli.evaluation.panels import LEFT_OUT, PANEL
from unet_cli.evaluation.per_image import write_csv
from unet_cli.evaluation.planes import GAP, draw_planes, worst_place
from unet_cli.evaluation.scores import sampled, scores
from unet_cli.inference.numbering import objects_of
from unet_cli.metrics.membranes import membrane_scores
from unet_cli.models import build_model
from unet_cli.runs import finish
from unet_cli.system.console import Console

LABELS = LabelMap((0, 1), ("background", "organ"))
SHAPE = (4, 20, 24)
CPU = ("--device", "cpu", "--precision", "float32")


def box(*ends: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A mask of one box: first and last slice, row and column."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(first, last + 1) for first, last in zip(ends[::2], ends[1::2], strict=True))] = 1
    return mask


def tiff(path, volume: np.ndarray, spacing: tuple[float, float, float] | None = None) -> Source:
    """A volume as a TIFF, by ImageJ with the spacing in um if it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if spacing is None:
        tifffile.imwrite(path, volume, photometric="minisblack")
    else:
        depth, rows, columns = spacing
        metadata = {"spacing": depth, "unit": "um", "axes": "ZYX"}
        tifffile.imwrite(path, volume, imagej=True, resolution=(1 / columns, 1 / rows), metadata=metadata)
    return Source((path,), is_volume=True)


def evaluated(folder, *masks, scoring: Scoring | None = None, spacings=(None, None, None), **options) -> Evaluation:
    """masks: (truth, prediction) or (truth, prediction, probabilities) of each volume."""
    answers = []
    for number, (truth, pred, *probs) in enumerate(masks):
        image = tiff(folder / f"{number}.tif", 100 * truth.astype(np.uint8), spacings[number])
        both = [Mask(one, objects_of(np.where(one == 255, np.uint8(0), one), Cleaning())) for one in (truth, pred)]
        answers.append(Answer(Pair(str(number), image, image), *both, *map(torch.from_numpy, probs)))
    return evaluate(answers, LABELS, [answer.pair for answer in answers], scoring or Scoring(), workers=1, **options)


def values(found: Evaluation) -> dict[str, float]:
    return {row.metric: row.value for row in scores(sampled(found), found) if row.name == "all"}


def test_distances_are_in_the_mm_that_each_file_tells(tmp_path):
    """A voxel in slice 0 and one in slice 2, row 3: 2 slices of 2000 or 500 um and 3 rows of 1 mm apart."""
    pair = box(0, 0, 5, 5, 5, 5), box(2, 2, 8, 8, 5, 5)
    found = evaluated(tmp_path, pair, pair, spacings=[(2000, 1000, 1000), (500, 1000, 1000)])
    assert found.ruler.unit == "mm"
    assert [one.surfaces[0, 0] for one in found.images] == pytest.approx([5, np.hypot(1, 3)])
    assert values(found)["hd95"] == pytest.approx((5 + np.hypot(1, 3)) / 2)
    assert found.ruler.tolerance == 2  # twice the shortest side of the typical voxel, 1250 x 1000 x 1000 um
    assert found.ruler.note == ""


def test_where_a_file_does_not_tell_all_distances_are_in_voxels_and_that_is_said(tmp_path):
    pair = box(0, 0, 5, 5, 5, 5), box(0, 0, 8, 8, 9, 9)
    found = evaluated(tmp_path, pair, pair, spacings=[(2000, 1000, 1000), None])
    assert (found.ruler.unit, values(found)["hd95"]) == ("voxels", 5)
    assert "the files of 1 volume don't tell their spacing: give --spacing SLICES,ROWS,COLUMNS" in found.ruler.note


@pytest.mark.parametrize(("text", "hd95"), [("2,1,0.5um", np.sqrt(16 + 9 + 4)), ("0.5", np.sqrt(4 + 9 + 16) / 2)])
def test_what_is_told_of_the_spacing_is_in_the_order_of_the_axes_and_wins(tmp_path, text, hd95):
    pair = box(0, 0, 5, 5, 5, 5), box(2, 2, 8, 8, 9, 9)
    found = evaluated(tmp_path, pair, scoring=Scoring(spacing=parse_spacing(text)), spacings=[(7000, 7000, 7000)])
    assert values(found)["hd95"] == pytest.approx(hd95)
    assert found.ruler.unit == ("um" if "um" in text else "units")


def test_a_spacing_of_another_number_of_axes_is_refused(tmp_path):
    pair = box(0, 0, 5, 5, 5, 5), box(2, 2, 8, 8, 9, 9)
    with pytest.raises(UserError, match="--spacing has 2 numbers, but volumes have three: slices,rows,columns"):
        evaluated(tmp_path, pair, scoring=Scoring(spacing=parse_spacing("1,2mm")))
    flat = Pair("a", Source((tmp_path / "a.png",)), Source((tmp_path / "a.png",)))
    with pytest.raises(UserError, match="--spacing has 3 numbers, but images have two: rows,columns"):
        evaluate([], LABELS, [flat], Scoring(spacing=parse_spacing("1,2,3mm")))


@pytest.mark.parametrize("text", ["1,2,3,4mm", "1,,2", "0,1,1", "1,-1,1", "mm", "1,2,x", "inf"])
def test_what_is_no_spacing_is_refused(text):
    with pytest.raises(UserError, match="is no spacing"):
        parse_spacing(text)


def test_an_object_goes_through_all_slices_over_corners_and_has_a_volume(tmp_path):
    truth = box(0, 0, 2, 5, 2, 5) | box(1, 1, 6, 9, 6, 9) | box(3, 3, 0, 0, 0, 0)
    pred = box(0, 0, 2, 5, 2, 5) | box(1, 1, 6, 9, 6, 9)
    (matches,) = evaluated(tmp_path, (truth, pred)).images[0].matches
    assert (matches.found.tolist(), matches.missed.tolist(), matches.false.tolist()) == ([32], [1], [])


def test_probabilities_of_volumes_are_ranked_and_calibrated_without_ignored_voxels(tmp_path):
    truth, generator = box(1, 2, 5, 14, 5, 14), np.random.default_rng(0)
    probs = np.clip(truth * 0.6 + generator.random((1, *SHAPE)) * 0.4, 0, 1).astype(np.float32)
    pred = (probs[0] >= 0.5).astype(np.uint8)
    hidden = truth.copy()
    hidden[0] = 255
    whole, part = evaluated(tmp_path, (truth, pred, probs)), evaluated(tmp_path, (hidden, pred, probs))
    assert values(whole)["roc_auc"] == 1
    assert values(part)["average_precision"] == 1
    assert part.images[0].confusion.sum() == 3 * 20 * 24
    assert part.images[0].sweep[0, 9].tolist() == [200, 0, 0]  # at 0.5
    assert set(part.sample.target.tolist()) == {0, 1}
    assert values(whole.calibrated())["dice"] == values(whole)["dice"]


def test_a_volume_has_one_row_with_three_sides(tmp_path):
    pair = box(0, 1, 5, 9, 5, 9), box(0, 1, 5, 9, 5, 8)
    write_csv(tmp_path / "scores.csv", evaluated(tmp_path, pair, pair))
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [(row["image"], row["depth"], row["height"], row["width"]) for row in rows] == [
        ("0", "4", "20", "24"), ("1", "4", "20", "24"),
    ]  # fmt: skip
    assert float(rows[0]["dice"]) == pytest.approx(2 * 40 / (50 + 40))


def test_membrane_scores_of_a_volume_are_the_mean_over_slices_with_cells():
    generator = np.random.default_rng(0)
    cells, truth = generator.random((3, 12, 14)).astype(np.float32), generator.random((3, 12, 14)) > 0.4
    truth[1] = False
    expected = (membrane_scores(cells[0], truth[0]) + membrane_scores(cells[2], truth[2])) / 2
    assert membrane_scores(cells, truth) == pytest.approx(expected)
    assert np.isnan(membrane_scores(cells[1:2], truth[1:2])).all()


def test_the_worst_place_is_amid_the_most_errors():
    truth = box(0, 9, 0, 9, 0, 9, shape=(10, 40, 40))
    pred = truth | box(6, 8, 22, 24, 31, 33, shape=(10, 40, 40)) | box(0, 0, 39, 39, 0, 0, shape=(10, 40, 40))
    found = draw_planes(truth[None], truth, pred, colours_of(LABELS), (1, 1, 1)).place
    assert pred[found] > truth[found]
    assert all(abs(place - middle) <= 1 for place, middle in zip(found, (7, 23, 32), strict=True))
    right = draw_planes(truth[None], truth, truth, colours_of(LABELS), (1, 1, 1)).place
    assert truth[right] == 1
    assert worst_place(np.zeros((5, 8, 2), np.uint8)) == (2, 4, 1)
    assert worst_place(np.full((1, 1, 1), LEFT_OUT, np.uint8)) == (0, 0, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_planes_have_the_proportions_of_the_body_and_lie_below_each_other(dtype):
    """Slices of 5 mm on voxels of 0.5 mm: 6 slices are as high as 60 rows."""
    truth, pred = box(1, 3, 10, 30, 10, 40, shape=(6, 40, 80)), box(1, 3, 10, 30, 10, 44, shape=(6, 40, 80))
    pixels = np.stack([truth, pred]).astype(dtype)
    panels = draw_planes(pixels, truth, pred, colours_of(LABELS), (5, 0.5, 0.5))
    shown = [Image.open(BytesIO(file)) for file in (panels.image, panels.mask, panels.pred, panels.errors)]
    assert {picture.size for picture in shown} == {(80, 40 + GAP + 60 + GAP + 60)}
    mask, found = np.asarray(shown[1]), np.asarray(shown[2])
    _, row, column = panels.place
    assert (mask[:40, :80] == truth[panels.place[0]]).all()
    assert (mask[40 + GAP : 100 + GAP] == np.repeat(truth[::-1, row], 10, axis=0)).all()  # the last slice on top
    assert pred[:, :, column].any()  # of what is false, where the truth has nothing
    assert (found[100 + 2 * GAP :, :40] == np.repeat(pred[::-1, :, column], 10, axis=0)).all()
    assert (mask[100 + 2 * GAP :, 40:] == 2).all()  # the colour of ignored pixels beside a narrower plane


def test_planes_of_a_large_volume_fit_a_panel_and_keep_every_error():
    truth = np.zeros((400, 40, 500), np.uint8)
    pred = truth.copy()
    pred[200, 20, 250] = 1
    panels = draw_planes(truth[None], truth, pred, colours_of(LABELS), (100, 1, 1))  # stretched ten times at most
    errors = Image.open(BytesIO(panels.errors))
    assert panels.place == (200, 20, 250)
    assert errors.size == (40, 3 + GAP + PANEL + GAP + PANEL)
    kinds = np.asarray(errors)
    assert len(np.unique(kinds[kinds != LEFT_OUT])) == 2


def test_a_first_prediction_of_volumes_of_several_channels_is_of_all_their_files(tmp_path):
    files = tuple(tmp_path / f"case_000{channel}.nii.gz" for channel in range(2))
    pair = Pair("case", Source(files, is_volume=True), Source((tmp_path / "case.nii.gz",), is_volume=True))
    run = SimpleNamespace(loader=SimpleNamespace(data=SimpleNamespace(pairs=[pair])))
    expected = ["--input", str(tmp_path / "case_000?.nii.gz"), "--output", str(tmp_path / "run" / "masks")]
    assert finish._images(run, tmp_path / "run") == expected


def test_masks_of_volumes_are_read_whole_and_compared_in_three_dimensions(tmp_path):
    truth = box(0, 1, 5, 9, 5, 9)
    source = tiff(tmp_path / "truth.tif", truth)
    assert read_truth(source, LABELS).classes.shape == SHAPE
    pair = Pair("a", source, source)
    other = tiff(tmp_path / "other.tif", np.zeros((5, 20, 24), np.uint8))
    with pytest.raises(UserError, match="other.tif is 24x20x5 but its truth .*truth.tif is 24x20x4"):
        list(of_masks({pair: other}, LABELS, LABELS, Cleaning(), 1, Console(quiet=True)))
    (answer,) = of_masks({pair: source}, LABELS, LABELS, Cleaning(), 1, Console(quiet=True))
    assert (answer.target.numbers == truth).all()


def nifti(path, volume: np.ndarray, spacing=(3.0, 0.5, 1.0)) -> None:
    """(D, H, W) with slices to superior, rows to posterior and columns to left; spacing along (D, H, W)."""
    nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    nibabel.save(nibabel.Nifti1Image(volume.transpose(), affine), path)


@pytest.fixture
def truth(tmp_path):
    """Three NIfTI volumes and their masks in truth/images and truth/masks."""
    generator = np.random.default_rng(0)
    for number in range(3):
        mask = box(0, 2, 5, 12, 4 + number, 15)
        noise = generator.normal(100 * mask, 20)
        nifti(tmp_path / f"truth/images/case{number}.nii.gz", noise.astype(np.int16))
        nifti(tmp_path / f"truth/masks/case{number}.nii.gz", mask)
    return tmp_path / "truth"


def network(model: str, folder, pages: str) -> str:
    """A file of random weights of a tiny network, which takes about half of what is noise for foreground."""
    config = ModelConfig(name=model, in_channels=1, base_channels=4, depth=1)
    torch.manual_seed(0)
    preprocessing = Preprocessing(
        size=16, in_channels=1, dtype="float32", mean=(30.0,), std=(50.0,), pages=pages, mode="tile",
        patch=(4, 16, 16) if pages == "slices" else (),
    )  # fmt: skip
    built = build_model(config).eval()
    with torch.no_grad():
        logits = built(torch.randn(1, 1, *(16,) * (3 if pages == "slices" else 2)))
        list(built.parameters())[-1].sub_(logits.median())
    checkpoint = Checkpoint(config, preprocessing, LABELS, built.state_dict())
    save_checkpoint(folder / f"{model}.pth", checkpoint)
    return f"{model}.pth"


def result(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.usefixtures("draws")
def test_predicted_nifti_masks_are_scored_in_mm_with_a_row_and_a_page(unet, truth, tmp_path):
    for path in (truth / "masks").iterdir():
        mask = read_mask(Source((path,), is_volume=True)).values
        mask[0] = 0
        nifti(tmp_path / "pred" / path.name, mask)
    done = unet("evaluate", "--pred", "pred", "--data", truth, "--csv", "a.csv", "--report", "a.html")
    assert done.returncode == 0, done.stderr
    assert "3 volumes, distances in mm, by the spacing in each file; " in done.stdout
    assert "Surface distance, mm" in done.stdout
    assert "Surface Dice at 1 mm" in done.stdout
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [float(row["hd95"]) for row in rows] == [3, 3, 3]
    assert [float(row["dice"]) for row in rows] == pytest.approx([0.8] * 3)
    page = (tmp_path / "a.html").read_text()
    assert "Volumes, the worst first" in page
    assert "slice 1, row" in page
    assert "volume in voxels" in page


def test_masks_of_other_voxels_and_lacking_ones_are_listed(unet, truth, tmp_path):
    nifti(tmp_path / "pred/case0.nii.gz", box(0, 2, 5, 12, 4, 15))
    nifti(tmp_path / "pred/case1.nii.gz", np.zeros((3, 20, 24), np.uint8))
    done = unet("evaluate", "--pred", "pred", "--data", truth)
    assert_failed(done, 1, "2 problems", "case1.nii.gz is 24x20x3 but its truth", "is 24x20x4", "case2.nii.gz")


def test_evaluating_weights_is_evaluating_the_volumes_that_they_predict(unet, truth, tmp_path):
    weights = network("unet3d", tmp_path, "slices")
    done = unet("predict", "--weights", weights, "--input", truth / "images", "--output", "pred", *CPU)
    assert done.returncode == 0, done.stderr
    ours = result(unet("evaluate", "--weights", weights, "--data", truth, *CPU, "--json"))
    theirs = result(unet("evaluate", "--pred", "pred", "--data", truth, "--json"))
    assert ours["unit"] == theirs["unit"] == "mm"
    known = {row["metric"]: row["value"] for row in ours["scores"]}
    assert {row["metric"]: row["value"] for row in theirs["scores"]}.items() <= known.items()
    assert 0 < known["dice"] < 1
    assert {"roc_auc", "calibration_error"} <= set(known)


def test_weights_for_images_see_sections_and_are_not_compared_with_those_for_volumes(unet, truth, tmp_path):
    flat, deep = network("unet", tmp_path, "images"), network("unet3d", tmp_path, "slices")
    found = result(unet("evaluate", "--weights", flat, "--data", truth, *CPU, "--json"))
    assert (found["images"], found["unit"]) == (12, "px")
    done = unet("evaluate", "--weights", flat, "--compare", deep, "--data", truth, *CPU)
    assert_failed(done, 1, "--compare: ", "unet3d.pth was trained on volumes, but these data are read as images")
