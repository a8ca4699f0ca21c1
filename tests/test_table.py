"""`unet predict --table`: a row for each object, measured as other tools do, in the unit of the file, and whole after
whatever interrupts it."""

import csv
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import Run, assert_failed, pixels, start_unet, wait_for
from PIL import Image
from scipy.ndimage import gaussian_filter

from unet_cli.config.prediction import Cleaning
from unet_cli.data.formats.tiff_spacing import tiff_pixel_size
from unet_cli.data.labels import LabelMap
from unet_cli.data.measure import columns_of, eccentricities, perimeters, rows_of
from unet_cli.data.slabs import in_slabs
from unet_cli.data.synthetic import draw_pair
from unet_cli.inference.numbering import numbered_objects

LABELS = LabelMap((0, 255), ("background", "cell"))


def rows_in(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def objects_in(mask: np.ndarray):
    return numbered_objects(in_slabs(mask), Cleaning())


def test_measures_are_those_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    rng = np.random.default_rng(0)
    mask = (gaussian_filter(rng.normal(size=(600, 300)), 5) > 0).astype(np.uint8)
    image = rng.normal(size=(2, *mask.shape)).astype(np.float32)
    image[1, mask > 0] = np.where(rng.random((mask > 0).sum()) < 0.1, np.nan, 1)
    objects = objects_in(mask)
    numbers = objects.layers[0].whole()
    blocks = [(0, image[:, :257]), (257, image[:, 257:])]
    rows = rows_of(objects, LABELS.names, None, "", np.full(len(objects), 0.75), blocks)
    for row, other in zip(rows, measure.regionprops(numbers, image[0]), strict=True):
        top, left, bottom, right = other.bbox
        assert (row["left_px"], row["top_px"], row["right_px"], row["bottom_px"]) == (left, top, right - 1, bottom - 1)
        assert row["area_px"] == other.area
        centre = [row["centroid_y_px"], row["centroid_x_px"]]
        assert centre == pytest.approx([one + 0.5 for one in other.centroid], rel=1e-5)
        assert row["perimeter_px"] == pytest.approx(
            measure.perimeter_crofton(np.pad(other.image, 1), directions=4), rel=1e-5
        )
        assert row["mean_1"] == pytest.approx(other.intensity_mean, rel=1e-4, abs=1e-6)
        assert row["mean_2"] == 1
        if other.area > 200:  # there, pixels are points
            assert row["eccentricity"] == pytest.approx(other.eccentricity, abs=5e-3)


def test_sizes_are_in_the_unit_along_each_axis():
    mask = np.zeros((400, 300), np.uint8)
    rows, columns = np.mgrid[:400, :300]
    mask[(rows - 200.2) ** 2 * 0.25 + (columns - 150.3) ** 2 < 80**2] = 1  # a circle where rows are half as high
    [row] = rows_of(objects_in(mask), LABELS.names, (0.5, 1.0), "um", np.ones(1), [])
    assert row["area_um2"] == pytest.approx(math.pi * 80**2, rel=0.01)
    assert row["perimeter_um"] == pytest.approx(2 * math.pi * 80, rel=0.02)
    assert row["eccentricity"] < 0.05
    assert [row["centroid_y_um"], row["centroid_x_um"]] == pytest.approx([100.3, 150.8], abs=0.3)
    volume = np.zeros((5, 6, 7), np.uint8)
    volume[1:3, 2:4, 3:5] = 1
    [row] = rows_of(objects_in(volume), LABELS.names, (3.0, 1.0, 0.5), "mm", np.ones(1), [])
    assert row["volume_mm3"] == 8 * 1.5
    assert [row[f"centroid_{axis}_mm"] for axis in "zyx"] == [6, 3, 2]
    assert (row["first_slice"], row["last_slice"]) == (1, 2)
    assert not {"perimeter_mm", "eccentricity"} & set(row)
    assert perimeters(objects_in(mask)).shape == eccentricities(objects_in(mask)).shape == (1,)


def test_columns_of_different_units_stand_side_by_side():
    rows = [{"class": "a", "area_um2": 1, "mean_1": 0}, {"class": "a", "area_px": 1, "mean_1": 0, "mean_2": 0}]
    assert columns_of(rows) == ["class", "area_um2", "area_px", "mean_1", "mean_2"]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um"}}, ((0.5, 0.25), "um")),
        ({"resolution": (10000, 10000), "resolutionunit": "CENTIMETER"}, ((0.001, 0.001), "mm")),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, ((25.4 / 300, 25.4 / 300), "mm")),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 65.0, "PhysicalSizeXUnit": "nm",
                                    "PhysicalSizeY": 0.065}}, ((65.0, 65.0), "nm")),
        ({}, None),
    ],
)  # fmt: skip
def test_the_size_of_pixels_is_what_a_tiff_states(tmp_path, options, size):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 20), np.uint8), **options)
    found = tiff_pixel_size(tmp_path / "a.tif")
    assert found == size or (found is not None and found[0] == pytest.approx(size[0]) and found[1] == size[1])


def test_a_row_for_each_object_numbered_as_in_the_instance_map(unet: Run, trained, images, tmp_path):
    arguments = ["predict", "--weights", trained, "--input", "imgs", "--split-touching", "--probabilities"]
    done = unet(*arguments, "--table", "tables/objects.csv")
    assert done.returncode == 0, done.stderr
    rows = rows_in(tmp_path / "tables/objects.csv")
    assert f"table of {len(rows):,} objects: tables/objects.csv" in done.stdout
    for name in ("a", "b", "deeper/c"):
        numbers = pixels(tmp_path / "imgs_masks" / f"{name}_instances.png")
        probability = pixels(tmp_path / "imgs_masks" / f"{name}_probability.png") / 65535
        image = pixels(images / f"{name}.png")
        own = [row for row in rows if row["image"] == f"imgs/{name}.png"]
        assert [int(row["area_px"]) for row in own] == np.bincount(numbers.ravel())[1:].tolist()
        for row in own:
            inside = numbers == int(row["number"])
            assert float(row["score"]) == pytest.approx(probability[inside].mean(), rel=1e-4)
            assert float(row["mean_3"]) == pytest.approx(image[inside][:, 2].mean(), rel=1e-4)
            assert row["class"] == "foreground"


def test_a_killed_job_ends_with_the_whole_table(unet: Run, trained, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(12):
        Image.fromarray(draw_pair(seed=3, index=number)[0]).save(tmp_path / "many" / f"{number}.png")
    arguments = ["predict", "--weights", trained, "--input", "many", "--workers", 1]
    process = start_unet(*arguments, "--output", "out", "--table", "objects.csv", cwd=tmp_path)
    wait_for(tmp_path / "out" / "1.png", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "objects.csv").exists()
    done = unet(*arguments, "--output", "out", "--table", "objects.csv", "--skip-existing")
    assert done.returncode == 0, done.stderr
    assert "already done" in done.stdout
    assert unet(*arguments, "--output", "again", "--table", "again.csv").returncode == 0
    assert (tmp_path / "objects.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    assert len(rows_in(tmp_path / "again.csv")) >= 12


def test_rows_are_in_the_units_that_files_and_flags_state(unet: Run, trained, tmp_path):
    (tmp_path / "imgs").mkdir()
    pixel = draw_pair(seed=2, index=0)[0][:90, :80]
    tifffile.imwrite(
        tmp_path / "imgs" / "a.tif", pixel, photometric="rgb", imagej=True, resolution=(4, 2), metadata={"unit": "um"}
    )
    Image.fromarray(pixel).save(tmp_path / "imgs" / "b.png")
    arguments = ["predict", "--weights", trained, "--input", "imgs", "--table", "objects.csv"]
    assert unet(*arguments).returncode == 0
    rows = rows_in(tmp_path / "objects.csv")
    own = {image: [row for row in rows if row["image"] == f"imgs/{image}"] for image in ("a.tif", "b.png")}
    for one, other in zip(own["a.tif"], own["b.png"], strict=True):
        assert float(one["area_um2"]) == pytest.approx(int(other["area_px"]) / 8)
        assert (one["area_px"], other["area_um2"]) == ("", "")
    done = unet(*arguments, "--spacing", "2,1nm")
    assert done.returncode == 0, done.stderr
    for row in rows_in(tmp_path / "objects.csv"):
        assert float(row["centroid_y_nm"]) < 180
        assert "area_px" not in row
    again = done.stdout.strip().splitlines()[-1].split()[1:]
    assert "--table" not in again
    assert unet(*again).returncode == 0
    assert len(rows_in(tmp_path / "objects.csv")) == len(rows)


def test_what_is_in_the_way_is_named_before_anything_is_predicted(unet: Run, trained, images, read_only, tmp_path):
    arguments = ["predict", "--weights", trained, "--input", "imgs"]
    assert_failed(unet(*arguments, "--table", "objects.xlsx"), 2, "--table is 'objects.xlsx'", ".csv")
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    assert_failed(unet(*arguments, "--table", "mine.csv"), 1, "mine.csv already exists and was not written by unet")
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
    assert_failed(unet(*arguments, "--table", read_only / "objects.csv"), 1, str(read_only))
    assert_failed(unet(*arguments, "--table", "a.csv", "--spacing", "1,2,3"), 1, "images have two: rows,columns")
    assert_failed(unet(*arguments, "--spacing", "1um"), 1, "--spacing is for volumes and for --table")
    assert not (tmp_path / "imgs_masks").exists() or not [*(tmp_path / "imgs_masks").rglob("*.png")]


def test_objects_of_volumes_have_volumes_and_no_polygons(unet: Run, tmp_path):
    from test_predict_volumes import checkpoint_of

    from unet_cli.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "weights.pth", checkpoint_of())
    stack = np.random.default_rng(0).normal(size=(12, 30, 40)).astype(np.float32)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    arguments = ["predict", "--weights", "weights.pth", "--input", "stack.tif", "--output", "out", "--device", "cpu"]
    done = unet(*arguments, "--table", "objects.csv", "--spacing", "3,1,0.5mm", "--instances", "--threshold", 0.5)
    assert done.returncode == 0, done.stderr
    numbers = tifffile.imread(tmp_path / "out" / "stack_instances.tif")
    rows = rows_in(tmp_path / "objects.csv")
    sizes = np.bincount(numbers.ravel())[1:]
    assert [float(row["volume_mm3"]) for row in rows] == pytest.approx((sizes * 1.5).tolist())
    for row in rows:
        assert float(row["mean_1"]) == pytest.approx(stack[numbers == int(row["number"])].mean(), rel=1e-3, abs=1e-5)
        assert 0.5 <= float(row["score"]) <= 1
    for kind in ("geojson", "coco"):
        assert_failed(unet(*arguments, "--polygons", kind), 1, f"--polygons {kind} is for images", "--table")
