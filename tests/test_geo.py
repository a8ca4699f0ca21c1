"""Where images lie in the world: what the tags of GeoTIFF and world files say, by hand; and masks that lie there."""

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
from conftest import Run, assert_failed, drawn, json_lines
from PIL import Image

from unet_cli.data.formats import count_pages, decode
from unet_cli.data.formats.geo import Affine, Place, is_geotiff, located, place_of, world_text, world_transform
from unet_cli.data.formats.tiff_write import carried_tags
from unet_cli.data.imagefile import open_bands, read_image
from unet_cli.data.source import Source
from unet_cli.data.writing import write_mask
from unet_cli.inference.jobs import Job

AREA, POINT = 1, 2
NAME = "WGS 84 / UTM zone 33N|"
UTM = {1024: 1, 1025: AREA, 3072: 32633, 3076: 9001}
SCALE = (33550, 12, 3, (10.0, 20.0, 0.0), True)
TIES = (33922, 12, 6, (0.0, 0.0, 0.0, 500_000.0, 5_200_000.0, 0.0), True)
TURNED = (0.0, 2.0, 0.0, 100.0, 3.0, 0.0, 0.0, 200.0, *[0.0] * 7, 1.0)  # x = 2 row + 100, y = 3 column + 200
MATRIX = (34264, 12, 16, TURNED, True)
GEO_TAGS = (33550, 33922, 34264, 34735, 34737)


def keys_of(values, name=None):
    """The key directory of GeoTIFF, and its text."""
    entries = [(key, 0, 1, value) for key, value in values.items()]
    entries += [(1026, 34737, len(name), 0)] if name else []
    numbers = (1, 1, 0, len(entries), *(number for entry in sorted(entries) for number in entry))
    tags = [(34735, 3, len(numbers), numbers, True)]
    return tags + ([(34737, 2, 0, name, True)] if name else [])


def write_geotiff(path, pixels=None, tags=None, **options):
    pixels = drawn(seed=3, index=5)[0][:60, :80] if pixels is None else pixels
    tags = [SCALE, TIES, *keys_of(UTM, NAME)] if tags is None else tags
    photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(path, pixels, extratags=tags, metadata=None, **{"photometric": photometric} | options)
    return path


def geo_tags(path, page=0):
    with tifffile.TiffFile(path) as tif:
        return {tag: tif.pages[page].tags.valueof(tag) for tag in GEO_TAGS}


# --- what the tags say


@pytest.mark.parametrize(
    ("tags", "keys", "pixel", "world"),
    [
        ([SCALE, TIES], {1025: AREA}, (0, 0), (500_000, 5_200_000)),
        ([SCALE, TIES], {1025: AREA}, (3, 2), (500_030, 5_199_960)),
        ([SCALE, TIES], {}, (3, 2), (500_030, 5_199_960)),  # areas unless it is said
        ([SCALE, TIES], {1025: POINT}, (0.5, 0.5), (500_000, 5_200_000)),  # the centre of the first pixel
        ([MATRIX], {1025: AREA}, (4, 7), (114, 212)),
        ([MATRIX], {1025: POINT}, (4.5, 7.5), (114, 212)),
        ([MATRIX, SCALE, TIES], {1025: AREA}, (4, 7), (114, 212)),
        ([SCALE, (33922, 12, 6, (3.0, 2.0, 0.0, 7.0, 9.0, 0.0), True)], {}, (3, 2), (7, 9)),
        ([(33550, 12, 3, (10.0, -20.0, 0.0), True), TIES], {}, (3, 2), (500_030, 5_199_960)),
    ],
)
def test_pixels_lie_where_the_tags_say(tmp_path, tags, keys, pixel, world):
    path = write_geotiff(tmp_path / "a.tif", tags=[*tags, *(keys_of(keys) if keys else [])])
    assert is_geotiff(path)
    assert place_of(path).transform(*pixel) == pytest.approx(world)


@pytest.mark.parametrize(
    ("keys", "name", "crs", "square"),
    [
        (UTM, NAME, "EPSG:32633", "m²"),
        (UTM | {3076: 9003}, None, "EPSG:32633", "US survey ft²"),
        ({1024: 2, 2048: 4326}, "WGS 84|", "EPSG:4326", "degree²"),
        ({1024: 1, 2048: 4326, 3072: 25832}, None, "EPSG:25832", None),
        ({1024: 1, 2048: 4326, 3072: 32767, 3076: 9001}, "Local grid|", "Local grid", "m²"),
        ({1024: 1, 2048: 4326, 3076: 9001}, "Local grid|", "Local grid", "m²"),  # not the system it is made from
        ({3072: 2154}, None, "EPSG:2154", None),
        ({1025: AREA}, None, None, None),
    ],
)
def test_the_coordinate_system_is_named(tmp_path, keys, name, crs, square):
    place = place_of(write_geotiff(tmp_path / "a.tif", tags=[SCALE, TIES, *keys_of(keys, name)]))
    assert (place.crs, place.square) == (crs, square)
    assert place.transform.pixel_area == 200


def test_geojson_names_the_system_with_longitude_first(tmp_path):
    for code, name in ((32633, "urn:ogc:def:crs:EPSG::32633"), (4326, "urn:ogc:def:crs:OGC:1.3:CRS84")):
        tags = keys_of({1024: 1, 3072: code} if code != 4326 else {1024: 2, 2048: code})
        place = place_of(write_geotiff(tmp_path / "a.tif", tags=[SCALE, TIES, *tags]))
        assert place.crs_member == {"type": "name", "properties": {"name": name}}
    assert place_of(write_geotiff(tmp_path / "a.tif", tags=[SCALE, TIES])).crs_member is None


def test_polygons_of_pixels_become_polygons_of_the_world(tmp_path):
    """Worked by hand: pixels of 10 x 20 m, to the north up, so that the order of corners is turned round."""
    place = place_of(write_geotiff(tmp_path / "a.tif"))
    ring, hole = [[1, 1], [5, 1], [5, 4], [1, 4], [1, 1]], [[2, 2], [2, 3], [3, 3], [3, 2], [2, 2]]
    several = {"type": "MultiPolygon", "coordinates": [[ring, hole], [ring]]}
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring, hole]}, "properties": {"area": 11}},
        {"type": "Feature", "geometry": several, "properties": None},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 2]}, "properties": {"name": "x"}},
    ]
    document = {"type": "FeatureCollection", "features": features}
    world = located(document, place)
    assert world["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    first, second, third = world["features"]
    outer = [
        [500_010, 5_199_980],
        [500_010, 5_199_920],
        [500_050, 5_199_920],
        [500_050, 5_199_980],
        [500_010, 5_199_980],
    ]
    assert first["geometry"]["coordinates"][0] == outer
    assert first["geometry"]["coordinates"][1][1] == [500_030, 5_199_960]
    assert first["properties"] == {"area": 11, "world_area": 2200, "world_unit": "m²"}
    assert second["geometry"]["coordinates"][1] == [outer]
    assert third["geometry"]["coordinates"] == [500_030, 5_199_960]
    assert third["properties"] == {"name": "x"}
    assert located(document, Place(None, epsg=32633)) == document
    upright = located(document, Place(Affine(1, 0, 0, 0, 1, 0)))
    assert upright["features"][0]["geometry"]["coordinates"] == [ring, hole]
    assert upright["crs"] is None
    assert list(world) == ["type", "crs", "features"]
    assert upright["features"][0]["properties"]["world_unit"] is None


@pytest.mark.parametrize("raster", [AREA, POINT])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_turned_upright_stays_where_it_is(tmp_path, orientation, raster):
    """One bright pixel of the file, wherever it comes to lie, in the image and in its mask."""
    gray = np.zeros((4, 6), np.uint8)
    gray[1, 2] = 255
    tags = [SCALE, TIES, *keys_of(UTM | {1025: raster}), (274, 3, 1, orientation, True)]
    path = write_geotiff(tmp_path / "a.tif", gray, tags)
    upright = decode(path).pixels[0, 0]
    write_mask(tmp_path / "mask.tif", upright, tags=carried_tags(path, None))
    assert (decode(tmp_path / "mask.tif").pixels[0, 0] == upright).all()
    row, column = np.argwhere(upright)[0]
    corner = 0.5 if raster == POINT else 0
    for name in ("a.tif", "mask.tif"):
        place = place_of(tmp_path / name)
        middle = place.transform(column + 0.5, row + 0.5)
        assert middle == pytest.approx((500_000 + 10 * (2.5 - corner), 5_200_000 - 20 * (1.5 - corner)))
        assert place.crs == "EPSG:32633"


def test_pages_have_places_of_their_own(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for x in (1.0, 2.0):
            ties = (33922, 12, 6, (0.0, 0.0, 0.0, x, 0.0, 0.0), True)
            file.write(np.zeros((9, 9), np.uint8), contiguous=False, metadata=None, extratags=[SCALE, ties])
    assert [place_of(tmp_path / "a.tif", page).transform.c for page in (None, 0, 1)] == [1, 1, 2]


@pytest.mark.parametrize(
    "tags",
    [
        [(33922, 12, 12, tuple(map(float, range(12))), True), *keys_of(UTM)],  # ground control points alone
        [(50844, 12, 92, (1.0,) * 92, True)],
        [(33550, 2, 0, "x", True), TIES, *keys_of(UTM)],
        [(33550, 12, 3, (0.0, 0.0, 0.0), True), TIES],
        [(34264, 12, 16, (float("nan"),) * 16, True)],
        [SCALE, TIES[:3] + ((float("inf"),) * 6, True)],
        [(34735, 3, 6, (1, 1, 0, 9, 1026, 34737), True)],  # cut off
    ],
)
def test_places_without_a_transform(tmp_path, tags):
    path = write_geotiff(tmp_path / "a.tif", tags=tags)
    assert is_geotiff(path)
    assert place_of(path).transform is None
    if tags[0][0] == 50844:
        assert tags[0][:4] in carried_tags(path, None)


def test_geotiffs_are_told_from_other_files_by_their_first_directory(tmp_path):
    write_geotiff(tmp_path / "plain.tif", tags=[])
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "noise.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    for path in [*tmp_path.iterdir(), tmp_path, tmp_path / "none.tif"]:
        assert not is_geotiff(path)
    assert place_of(tmp_path / "plain.tif") is None
    path = write_geotiff(tmp_path / "cut.tif")
    path.write_bytes(path.read_bytes()[:-10_000])  # pixels, which come last
    assert is_geotiff(path)


# --- world files


@pytest.mark.parametrize(
    ("image", "world"),
    [
        ("a.tif", "a.tfw"), ("a.tiff", "a.tfw"), ("a.jpg", "a.jgw"), ("a.jpeg", "a.jgw"), ("a.png", "a.pgw"),
        ("a.b.png", "a.b.wld"), ("A.TIF", "A.TFW"), ("A.TIF", "A.tfw"), ("a.jpg", "a.jpgw"),
    ],
)  # fmt: skip
def test_world_files_beside_images(tmp_path, image, world):
    (tmp_path / world).write_text("10\n0\n0\n-20\n500005\n5199990\n")
    assert world_transform(tmp_path / image) == Affine(10, 0, 500_000, 0, -20, 5_200_000)


@pytest.mark.parametrize("text", ["", "1 2 3 4 5", "a b c d e f", "0 0 0 0 1 2", "nan 0 0 1 1 2"])
def test_world_files_that_say_nothing(tmp_path, text):
    (tmp_path / "a.pgw").write_text(text)
    assert world_transform(tmp_path / "a.png") is None


def test_world_files_give_the_same_numbers_back(tmp_path):
    turned = Affine(0.25, 1 / 3, 440_720.125, -0.1, -0.7, 3_751_320.1)
    (tmp_path / "a.pgw").write_text(world_text(turned))
    assert world_transform(tmp_path / "a.png") == pytest.approx(turned, rel=1e-15)


# --- files as they come


def bands(path):
    opened = open_bands(Source((path,)))
    return np.concatenate([band for _, band in opened.rows()], axis=1)


@pytest.mark.parametrize("kind", ["f4", "f8", "i2"])
@pytest.mark.parametrize("nodata", ["-9999", "-32768", "0"])
def test_nodata_of_measurements_is_missing_and_their_type_need_not_hold_nan(tmp_path, kind, nodata):
    pixels = np.random.default_rng(0).integers(1, 100, (4, 300, 70)).astype(kind)
    pixels[:, 10:20, 30:40] = float(nodata)
    tags = [SCALE, TIES, (42113, 2, 0, nodata, True)]
    options = {"planarconfig": "separate", "tile": (64, 64), "compression": "zlib", "bigtiff": True}
    path = write_geotiff(tmp_path / "a.tif", pixels, tags, **options)
    image = read_image(Source((path,)))
    assert np.isnan(image).sum() == 400
    assert (np.isnan(image) == (pixels == float(nodata))).all()
    assert (image[~np.isnan(image)] == pixels[~np.isnan(image)]).all()
    assert np.array_equal(image, bands(path), equal_nan=True)


def test_nodata_of_bytes_stays_a_value(tmp_path):
    for kind in ("u1", "u2"):
        path = write_geotiff(tmp_path / "a.tif", np.eye(20, dtype=kind), [SCALE, TIES, (42113, 2, 0, "0", True)])
        assert read_image(Source((path,))).dtype == kind


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mask_and_the_overviews_within_a_cloud_optimized_geotiff_are_no_pages(tmp_path, channels):
    rgb = drawn(seed=3, index=5)[0][:100, :80, :channels].squeeze()
    shown = {"photometric": "rgb" if channels == 3 else "minisblack", "metadata": None, "tile": (32, 32)}
    hidden = {"photometric": "mask", "metadata": None, "tile": (32, 32), "compression": "zlib"}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(rgb, extratags=[SCALE, TIES], **shown)
        file.write(np.ones((100, 80), bool), subfiletype=4, **hidden)
        file.write(rgb[::2, ::2], subfiletype=1, **shown)
        file.write(np.ones((50, 40), bool), subfiletype=5, **hidden)
    assert count_pages(tmp_path / "a.tif") == 1
    assert read_image(Source((tmp_path / "a.tif",))).shape == (channels, 100, 80)


# --- by the command line


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_a_geotiff_in_gives_geotiffs_out_in_every_mode(unet: Run, trained, tmp_path, mode):
    tags = [SCALE, TIES, *keys_of(UTM, NAME), (42113, 2, 0, "0", True)]
    (tmp_path / "imgs").mkdir()
    write_geotiff(tmp_path / "imgs" / "a.tif", tags=tags)
    write_geotiff(tmp_path / "imgs" / "plain.tif", tags=[])
    call = ["predict", "--weights", trained, "--input", "imgs", "--mode", mode, "--probabilities", "--instances"]
    done = unet(*call, "--overlay")
    assert done.returncode == 0, done.stderr
    found = {path.name for path in (tmp_path / "imgs_masks").iterdir()}
    plain = "png" if mode == "resize" else "tif"
    assert found == {
        "a.tif", "a_probability.tif", "a_instances.tif", "a_overlay.png", f"plain.{plain}",
        f"plain_probability.{plain}", f"plain_instances.{plain}", "plain_overlay.png",
    }  # fmt: skip
    for name in ("a", "a_probability", "a_instances"):
        path = tmp_path / "imgs_masks" / f"{name}.tif"
        assert geo_tags(path) == geo_tags(tmp_path / "imgs" / "a.tif")
        assert place_of(path) == place_of(tmp_path / "imgs" / "a.tif")
        with tifffile.TiffFile(path) as tif:
            assert 42113 not in tif.pages.first.tags  # background of a mask is no missing value
            assert tif.pages.first.shape == (60, 80)
            assert tif.pages.first.dtype == ("uint8" if name == "a" else "uint16")


def test_masks_of_classes_keep_their_colours_as_geotiff(unet: Run, trained, tmp_path):
    """The same palette as in the PNG of a picture without a place."""
    from unet_cli.checkpoint import load_checkpoint

    palette = load_checkpoint(trained).labels.written_palette
    write_geotiff(tmp_path / "a.tif")
    assert unet("predict", "--weights", trained, "--input", "a.tif", "--output", "out").returncode == 0
    assert decode(tmp_path / "out" / "a.tif").palette == palette


@pytest.mark.parametrize("raster", [AREA, POINT])
def test_polygons_and_sizes_of_a_geotiff_are_in_its_coordinate_system(unet: Run, trained, tmp_path, raster):
    (tmp_path / "imgs").mkdir()
    path = write_geotiff(tmp_path / "imgs" / "a.tif", tags=[SCALE, TIES, *keys_of(UTM | {1025: raster}, NAME)])
    Image.fromarray(read_image(Source((path,))).transpose(1, 2, 0)).save(tmp_path / "imgs" / "b.png")
    call = ["predict", "--weights", trained, "--input", "imgs", "--polygons", "geojson", "--table", "objects.csv"]
    assert unet(*call).returncode == 0
    world, plain = (json.loads((tmp_path / "imgs_masks" / f"{name}.geojson").read_text()) for name in "ab")
    assert world["crs"] == place_of(path).crs_member
    assert "crs" not in plain
    assert plain["features"]
    shift = 0.5 if raster == POINT else 0
    for one, other in zip(world["features"], plain["features"], strict=True):
        assert one["properties"]["world_area"] == 200 * one["properties"]["area"]
        rings = zip(polygons_in(one), polygons_in(other), strict=True)
        for corners, pixel in ((np.array(mine[0]), np.array(theirs[0])) for mine, theirs in rings):
            expected = np.array([500_000, 5_200_000]) + (pixel - shift) * [10, -20]
            assert corners[::-1] == pytest.approx(expected)
    rows = list(csv.DictReader((tmp_path / "objects.csv").read_text(encoding="utf-8").splitlines()))
    sizes = [[row["area_m2"], row["area_px"]] for row in rows]
    half = len(plain["features"])
    assert [float(area) for area, _ in sizes[:half]] == [200 * int(area) for _, area in sizes[half:]]
    assert all(area == "" for _, area in sizes[:half])


def polygons_in(feature):
    geometry = feature["geometry"]
    return geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]


def test_the_size_of_a_pixel_is_known_where_it_is_a_rectangle_and_no_angle():
    turned = Affine(3, -8, 0, 4, 6, 0)
    assert Place(turned, square="m²").pixel_size == ((10, 5), "m")
    assert Place(turned, square="US survey ft²").pixel_size == ((10, 5), "US survey ft")
    for place in (
        Place(turned),
        Place(turned, square="degree²"),
        Place(turned._replace(b=8), square="m²"),
        Place(None),
    ):
        assert place.pixel_size is None


def test_pages_of_a_geotiff_are_masks_in_one_file(unet: Run, trained, tmp_path):
    page = drawn(seed=3, index=5)[0][:60, :80]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for x in (1.0, 2.0):
            ties = (33922, 12, 6, (0.0, 0.0, 0.0, x, 0.0, 0.0), True)
            file.write(page, photometric="rgb", contiguous=False, metadata=None, extratags=[SCALE, ties])
    done = unet("predict", "--weights", trained, "--input", "a.tif", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert [geo_tags(tmp_path / "out" / "a.tif", number)[33922][3] for number in (0, 1)] == [1, 2]
    done = unet("predict", "--weights", trained, "--input", "a.tif", "--output", "png", "--format", "png")
    assert [world_transform(tmp_path / "png" / f"a_{number}.png").c for number in (1, 2)] == [1, 2]


def test_png_keeps_the_place_in_a_world_file_and_says_what_is_lost(unet: Run, trained, tmp_path):
    write_geotiff(tmp_path / "a.tif")
    call = ["predict", "--weights", trained, "--input", "a.tif", "--output", "out"]
    done = unet(*call, "--format", "png", "--probabilities")
    assert done.returncode == 0, done.stderr
    assert "coordinate system of 1 GeoTIFF" in done.stderr
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "a.pgw", "a.png", "a_probability.pgw", "a_probability.png",
    ]  # fmt: skip
    for name in ("a.png", "a_probability.png"):
        assert world_transform(out / name) == place_of(tmp_path / "a.tif").transform
    assert "1 already done" in unet(*call, "--format", "png", "--probabilities", "--skip-existing").stdout
    (out / "a.pgw").unlink()  # of a mask that was stopped between the two
    assert "1 mask written" in unet(*call, "--format", "png", "--skip-existing").stdout
    assert sorted(path.name for path in out.iterdir()) == ["a.pgw", "a.png"]  # extras not asked for are gone
    assert unet(*call).returncode == 0
    assert (out / "a.tif").exists()


def test_masks_have_world_files_where_images_have_them(unet: Run, trained, images, tmp_path):
    text = "10.0\n0.0\n0.0\n-20.0\n500005.0\n5199990.0\n"
    Image.open(images / "b.png").save(images / "photo.jpg")
    for name in ("a.pgw", "photo.jgw"):
        (images / name).write_text(text)
    call = ["predict", "--weights", trained, "--input", "imgs"]
    for extension, world in (("png", "pgw"), ("tif", "tfw")):
        done = unet(*call, "--output", extension, "--format", extension, "--instances")
        assert done.returncode == 0, done.stderr
        assert "passed over" not in done.stderr
        worlds = {path.name for path in (tmp_path / extension).rglob(f"*.{world}")}
        assert worlds == {f"{name}.{world}" for name in ("a", "a_instances", "photo", "photo_instances")}
        assert {path.read_text() for path in (tmp_path / extension).rglob(f"*.{world}")} == {text}
    again = unet(*call, "--output", "png", "--json")
    assert len(json_lines(again.stdout)) == 4
    (images / "a.pgw").unlink()
    assert unet(*call, "--output", "png").returncode == 0
    assert {path.name for path in (tmp_path / "png").rglob("*.pgw")} == {"photo.pgw"}


def test_world_files_of_others_are_not_written_over(unet: Run, trained, images, tmp_path):
    (tmp_path / "out").mkdir()
    for path in (images / "a.pgw", tmp_path / "out" / "a.pgw"):
        path.write_text("1 0 0 1 0 0")
    done = unet("predict", "--weights", trained, "--input", "imgs/a.png", "--output", "out")
    assert_failed(done, 1, "a.pgw already exists and was not written by unet")
    shutil.rmtree(tmp_path / "out")
    assert unet("predict", "--weights", trained, "--input", "imgs/a.png", "--output", "out").returncode == 0


def test_a_geotiff_that_is_damaged_fails_alone(unet: Run, trained, tmp_path):
    (tmp_path / "imgs").mkdir()
    write_geotiff(tmp_path / "imgs" / "a.tif")
    path = write_geotiff(tmp_path / "imgs" / "b.tif", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        place = tif.pages.first.dataoffsets[0]
    path.write_bytes(path.read_bytes()[:place] + b"\0" * 50 + path.read_bytes()[place + 50 :])
    for format in ("tif", "png"):
        done = unet("predict", "--weights", trained, "--input", "imgs", "--output", format, "--format", format)
        assert_failed(done, 3, "b.tif is damaged")
        assert {file.stem for file in (tmp_path / format).iterdir()} == {"a"}


def test_each_file_of_classes_that_overlap_has_its_own_world_file(tmp_path):
    files = (tmp_path / "cell/a.png", tmp_path / "nucleus/a.png")
    job = Job(Source((tmp_path / "a.tif",)), tmp_path / "a.png", ("overlay",), by_class=files, world=Affine(*range(6)))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in job.outputs) == [
        "a_overlay.png", "cell/a.pgw", "cell/a.png", "nucleus/a.pgw", "nucleus/a.png",
    ]  # fmt: skip
