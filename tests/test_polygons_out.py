"""Polygons of masks are drawn back by our own readers, and by those of others where installed: exactly without
simplifying, and nearly so with it. `unet predict --polygons` writes them for every image, whatever interrupts it."""

import io
import json
import zipfile

import numpy as np
import pytest
from conftest import Run, assert_failed, pixels
from scipy.ndimage import gaussian_filter

from unet_cli.config.prediction import Cleaning
from unet_cli.data.annotations import coco as coco_reader
from unet_cli.data.annotations import labelme as labelme_reader
from unet_cli.data.annotations import yolo as yolo_reader
from unet_cli.data.annotations.polygons import drawn
from unet_cli.data.annotations.rle import compressed, decompressed
from unet_cli.data.annotations.shapes import Annotated, Shape
from unet_cli.data.export import coco, geojson, labelme, roi, yolo
from unet_cli.data.export.drawing import Drawing, bridged
from unet_cli.data.found import Objects
from unet_cli.data.labels import LabelMap
from unet_cli.data.outline import joined, outlines
from unet_cli.data.slabs import in_slabs
from unet_cli.inference.numbering import numbered_objects

LABELS = LabelMap((0, 1, 2), ("background", "cell", "wall"))
COLOURS = ((0, 0, 0), (255, 0, 0), (0, 0, 255))


def objects_in(mask: np.ndarray) -> Objects:
    return numbered_objects(in_slabs(mask), Cleaning())


def blobs(seed: int, sides: tuple[int, int] = (150, 130), scale: float = 4.0) -> np.ndarray:
    """Two classes that touch, with holes, at the border too."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=sides), scale)
    return ((field > 0).astype(np.uint8) + (field > field.std())).astype(np.uint8)


def awkward() -> list[np.ndarray]:
    """Objects that touch at corners, at one pixel, holes that touch the outside, lines, noise, nothing, and all."""
    rng = np.random.default_rng(0)
    one = np.zeros((9, 11), np.uint8)
    one[4, 5] = 2
    ring = np.zeros((9, 11), np.uint8)
    ring[[2, 3, 4, 3], [4, 3, 4, 5]] = 1
    closed_at_a_corner = np.zeros((9, 11), np.uint8)
    closed_at_a_corner[1:7, 1:7] = 1
    closed_at_a_corner[2:6, 2:6] = 0
    closed_at_a_corner[1, 1] = 0
    line = np.eye(9, 11, dtype=np.uint8)
    line[:, 8] = 2
    noise = [rng.integers(0, 3, (23, 31)).astype(np.uint8) for _ in range(5)]
    dense = (rng.random((40, 50)) < 0.7).astype(np.uint8)
    return [one, ring, closed_at_a_corner, line, *noise, dense, np.zeros((4, 5), np.uint8), np.ones((4, 5), np.uint8)]


def drawing_of(mask: np.ndarray, tolerance: float) -> Drawing:
    objects = objects_in(mask)
    return Drawing("a.png", objects, LABELS.names, COLOURS, tolerance, np.linspace(0, 1, len(objects)))


def annotated_by(kind: str, drawing: Drawing) -> Annotated:
    """What our reader of this format says of what our writer wrote."""
    if kind == "coco":
        content = b"".join(coco.whole([(1, coco.entry(drawing))], drawing.names))
        return coco_reader.parse(content).images["a.png"]
    if kind == "labelme":
        return labelme_reader.parse(labelme.written(drawing)).images["a.png"]
    if kind == "yolo":
        return yolo_reader.parse(yolo.written(drawing)).images[""]
    content = json.loads(geojson.written(drawing))
    shapes = []
    for feature in content["features"]:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        rings = [np.array(ring, np.float64) for polygon in polygons for ring in polygon]
        assert all((ring[0] == ring[-1]).all() for ring in rings)
        shapes.append(Shape(feature["properties"]["classification"]["name"], "holes", tuple(rings)))
    return Annotated(drawing.size, tuple(shapes))


INDEX = {"cell": 1, "wall": 2, "0": 1, "1": 2}
KINDS = ["geojson", "coco", "yolo", "labelme"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_simplifying_the_same_mask_is_drawn(kind):
    for mask in [*awkward(), *(blobs(seed) for seed in range(3))]:
        back, _ = drawn(annotated_by(kind, drawing_of(mask, 0)), mask.shape, INDEX)
        assert (back == mask).all()


@pytest.mark.parametrize("kind", KINDS)
def test_simplified_polygons_draw_objects_nearly_as_they_are_with_fewer_corners(kind):
    for mask in [*awkward(), *(blobs(seed, scale=scale) for seed, scale in enumerate((2.0, 4.0, 9.0)))]:
        drawing = drawing_of(mask, 0.5)
        one = annotated_by(kind, drawing)
        assert len(one.shapes) == len(drawing.objects)
        for number, shape in enumerate(one.shapes, 1):
            back = drawn(Annotated(None, (shape,), one.relative), mask.shape, INDEX)[0] > 0
            inside = np.zeros(mask.shape, bool)
            found, (top, left) = drawing.objects.inside(number)
            inside[top : top + found.shape[0], left : left + found.shape[1]] = found
            assert (back & inside).sum() / (back | inside).sum() >= 0.99 or inside.sum() <= 60
            assert (back & inside).sum() / (back | inside).sum() >= 0.9
    exact = sum(len(ring) for parts in drawing_of(mask, 0).parts.values() for part in parts for ring in part)
    assert sum(len(ring) for parts in drawing.parts.values() for part in parts for ring in part) < exact / 1.5


def test_outlines_are_valid_rings_whose_areas_are_the_pixels():
    for mask in [*awkward(), blobs(3)]:
        objects = objects_in(mask)
        rings = joined([outlines(window) for window in objects.windows()])
        areas = np.zeros(len(objects) + 1)
        np.add.at(areas, rings.owners, rings.areas())
        assert (areas[1:] == objects.areas).all()
        for number in range(len(rings)):
            ring = rings.ring(number)
            assert len(np.unique(ring, axis=0)) == len(ring)  # none touches itself
            assert (np.sign(np.roll(ring, -1, 0) - ring) != np.sign(ring - np.roll(ring, 1, 0))).any(1).all()  # turns


def test_pixels_that_touch_at_corners_alone_are_parts_without_a_hole_between_them():
    diamond = awkward()[1]
    [parts] = drawing_of(diamond, 0).parts.values()
    assert [len(part) for part in parts] == [1, 1, 1, 1]


def test_a_coarse_tolerance_leaves_every_object_a_polygon():
    mask = blobs(1)
    for tolerance in (0.2, 3, 50):
        drawing = drawing_of(mask, tolerance)
        assert len(drawing.parts) == len(drawing.objects)
        assert all(len(ring) >= 3 for parts in drawing.parts.values() for part in parts for ring in part)


def test_a_square_stays_a_square_and_a_bridge_goes_there_and_back():
    mask = np.zeros((20, 20), np.uint8)
    mask[3:13, 4:14] = 1
    [[[square]]] = drawing_of(mask, 0.5).parts.values()
    assert sorted(map(tuple, square.tolist())) == [(4, 3), (4, 13), (14, 3), (14, 13)]
    hole = np.array([[6, 6], [6, 8], [8, 8], [8, 6]])
    ring = bridged([square, hole])
    assert len(ring) == len(square) + len(hole) + 2
    steps = {(*a, *b) for a, b in zip(ring.tolist(), np.roll(ring, -1, 0).tolist(), strict=True)}
    assert sum((*step[2:], *step[:2]) in steps for step in steps) == 2


def test_the_formats_hold_class_score_and_area():
    mask = blobs(0)
    drawing = drawing_of(mask, 0.5)
    entry = coco.entry(drawing)
    feature = json.loads(geojson.written(drawing))["features"][3]
    shape = json.loads(labelme.written(drawing))["shapes"][3]
    area, score = int(drawing.objects.areas[3]), round(3 / (len(drawing.objects) - 1), 4)
    name = LABELS.names[drawing.objects.classes[3]]
    assert (entry["annotations"][3]["area"], entry["annotations"][3]["score"]) == (area, score)
    assert feature["properties"]["measurements"] == {"area px^2": area, "score": score}
    assert feature["properties"]["classification"]["name"] == name
    assert (shape["label"], shape["area"], shape["score"]) == (name, area, score)
    rows, columns = np.nonzero(drawing.objects.inside(4)[0])
    assert entry["annotations"][3]["bbox"][2:] == [columns.max() + 1, rows.max() + 1]


def test_run_lengths_are_packed_as_they_are_unpacked():
    rng = np.random.default_rng(0)
    for lengths in (rng.integers(0, 10 ** rng.integers(1, 7), size) for size in range(40)):
        assert (decompressed(compressed(lengths)) == lengths).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_pycocotools_draws_the_same():
    mask_api = pytest.importorskip("pycocotools.mask")
    mask = blobs(5)
    drawing = drawing_of(mask, 0)
    for number, annotation in enumerate(coco.entry(drawing)["annotations"], 1):
        runs = annotation["segmentation"]
        if isinstance(runs, list):
            runs = mask_api.merge(mask_api.frPyObjects(runs, *mask.shape))
        found, (top, left) = drawing.objects.inside(number)
        decoded = mask_api.decode(runs)
        assert decoded.sum() == found.sum()
        assert (decoded[top : top + found.shape[0], left : left + found.shape[1]] == found).all()


def test_rois_are_polygons_and_composites():
    roifile = pytest.importorskip("roifile")
    drawing = drawing_of(blobs(2), 0)
    file = io.BytesIO()
    roi.write(file, drawing)
    with zipfile.ZipFile(file) as archive:
        rois = [roifile.ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]
    assert len(rois) == len(drawing.objects)
    shapes = []
    for number, one in enumerate(rois, 1):
        rings = one.coordinates(multi=True) if one.composite else [one.coordinates()]
        shapes.append(Shape(LABELS.names[drawing.objects.classes[number - 1]], "holes", tuple(map(np.asarray, rings))))
        assert f"area: {drawing.objects.areas[number - 1]}" in one.props
    back, _ = drawn(Annotated(None, tuple(shapes)), drawing.size, INDEX)
    assert (back == blobs(2)).all()
    assert any(one.composite for one in rois)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_polygons_draw_the_predicted_masks(unet: Run, trained, images, tmp_path, kind):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--polygons", kind, "--simplify", 0, "--instances")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "imgs_masks"
    for name in ("a", "deeper/c"):
        mask, numbers = pixels(out / f"{name}.png"), pixels(out / f"{name}_instances.png")
        if kind == "coco":
            one = coco_reader.parse((out / "instances.json").read_bytes()).images[f"{name}.png"]
        elif kind == "yolo":
            one = yolo_reader.parse((out / f"{name}.txt").read_bytes()).images[""]
            assert yolo_reader.names_in(out / "data.yaml", (out / "data.yaml").read_text()) == ("foreground",)
        elif kind == "labelme":
            [(path, one)] = labelme_reader.parse((out / f"{name}.json").read_bytes()).images.items()
            assert (out / name).parent.joinpath(path).resolve() == images / f"{name}.png"
        else:
            content = json.loads((out / f"{name}.geojson").read_text())
            assert [feature["properties"]["number"] for feature in content["features"]] == list(
                range(1, numbers.max() + 1)
            )
            assert all(0.5 <= feature["properties"]["score"] <= 1 for feature in content["features"])
            areas = np.bincount(numbers.ravel())[1:].tolist()
            assert [feature["properties"]["area"] for feature in content["features"]] == areas
            continue
        back, _ = drawn(one, mask.shape, {"0": 1, "foreground": 1})
        assert ((back > 0) == (mask > 0)).all()


def test_a_stopped_job_ends_with_the_whole_coco_file(unet: Run, trained, images, tmp_path):
    arguments = ["predict", "--weights", trained, "--input", "imgs", "--polygons", "coco"]
    assert unet(*arguments, "--output", "whole").returncode == 0
    assert unet(*arguments, "--output", "out").returncode == 0
    out, whole = tmp_path / "out", (tmp_path / "whole" / "instances.json").read_bytes()
    (out / "instances.json").unlink()  # as if it had been killed with one image left
    (out / "b.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    done = unet(*arguments, "--output", "out", "--skip-existing")
    assert "1 mask written to out (2 already done)" in done.stdout
    assert (out / "a.png").stat().st_mtime_ns == before
    assert (out / "instances.json").read_bytes() == whole
    (out / ".unet-objects" / "b.png.coco.json").unlink()  # a mask without its record isn't done
    assert "1 mask written" in unet(*arguments, "--output", "out", "--skip-existing").stdout
    assert (out / "instances.json").read_bytes() == whole


def test_shards_write_files_of_their_own_and_a_last_call_joins_them(unet: Run, trained, images, tmp_path):
    arguments = ["predict", "--weights", trained, "--input", "imgs", "--polygons", "coco", "--output", "out"]
    for shard in (1, 2):
        assert unet(*arguments, "--shard", f"{shard}/2").returncode == 0
    out = tmp_path / "out"
    parts = [json.loads((out / f"instances-{shard}-of-2.json").read_text()) for shard in (1, 2)]
    assert [len(part["images"]) for part in parts] == [2, 1]
    assert not (out / "instances.json").exists()
    done = unet(*arguments, "--skip-existing")
    assert done.returncode == 0, done.stderr
    joined = json.loads((out / "instances.json").read_text())
    assert sorted(one["id"] for one in joined["images"]) == [1, 2, 3]
    assert {one["file_name"] for part in parts for one in part["images"]} == {"a.png", "b.png", "deeper/c.png"}
    assert len(joined["annotations"]) == sum(len(part["annotations"]) for part in parts)
    assert len({one["id"] for one in joined["annotations"]}) == len(joined["annotations"])


def test_other_polygons_of_an_earlier_call_go_and_files_of_others_stay(unet: Run, trained, images, tmp_path):
    arguments = ["predict", "--weights", trained, "--input", "imgs", "--output", "out"]
    assert unet(*arguments, "--polygons", "geojson").returncode == 0
    assert unet(*arguments, "--polygons", "labelme").returncode == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.rglob("*.*json") if ".unet" not in str(path)) == [
        "a.json",
        "b.json",
        "c.json",
    ]
    (out / "a.json").write_text('{"shapes": []}')
    assert_failed(unet(*arguments, "--polygons", "labelme"), 1, "a.json already exists and was not written by unet")
    assert unet(*arguments).returncode == 0
    assert (out / "a.json").read_text() == '{"shapes": []}'
    (out / "instances.json").write_text("{}")
    assert_failed(unet(*arguments, "--polygons", "coco"), 1, "instances.json already exists")
    (out / "data.yaml").write_text("names: [cell]\n")
    assert_failed(unet(*arguments, "--polygons", "yolo"), 1, "data.yaml already exists")


def test_a_full_disk_leaves_no_polygons_that_look_like_results(full_disk, trained, images, tmp_path):
    done = full_disk(200, "predict", "--weights", trained, "--input", "imgs", "--polygons", "geojson")
    assert_failed(done, 3, "3 images failed", "a.geojson")
    assert not [path for path in (tmp_path / "imgs_masks").rglob("*") if path.is_file()]


def test_bad_options_are_named(unet: Run, trained, images):
    arguments = ["predict", "--weights", trained, "--input", "imgs"]
    assert_failed(unet(*arguments, "--polygons", "svg"), 2, "svg", "geojson")
    assert_failed(unet(*arguments, "--polygons", "coco", "--simplify", -1), 2, "--simplify is -1")


def test_each_page_of_a_stack_has_its_polygons(unet: Run, trained, tmp_path):
    import tifffile

    from unet_cli.data.synthetic import draw_pair

    stack = np.stack([draw_pair(seed=2, index=index)[0][:50, :60] for index in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="rgb")
    arguments = ["predict", "--weights", trained, "--input", "stack.tif", "--output", "out"]
    done = unet(*arguments, "--format", "tif", "--polygons", "geojson")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.geojson")) == [
        f"stack_{n}.geojson" for n in (1, 2, 3)
    ]
    assert unet(*arguments, "--format", "tif", "--polygons", "coco").returncode == 0
    found = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [one["file_name"] for one in found["images"]] == ["stack_1.tif", "stack_2.tif", "stack_3.tif"]
