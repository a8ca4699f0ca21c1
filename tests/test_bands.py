"""Images from top to bottom: the blocks are `read_image`, in any layout, in memory that the image's size is not in."""

import struct
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_formats import SAMPLES

from unet_cli.data.formats import decoded, tiff_bands, tiff_pages
from unet_cli.data.imagefile import ALPHA_DROPPED, open_bands, read_image
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.system.prefetch import buffered

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (700, 50, 4), np.uint8)
RGB = np.ascontiguousarray(RGBA[..., :3])
GRAY = np.ascontiguousarray(RGBA[..., 0])
DEEP = GRAY * np.uint16(11)
STACK = np.stack([DEEP, DEEP + 1, DEEP + 2])


def source(path, page=None):
    return Source((path,), page)


def heights(bands, top=0):
    return [(start, pixels.shape[1]) for start, pixels in bands.rows(top)]


def assert_equals_read_image(what, keep_alpha=False):
    """Blocks without gaps, of what the header promised; returns how many."""
    bands, whole = open_bands(what, keep_alpha), read_image(what, keep_alpha)
    assert (bands.channels, *bands.spatial) == whole.shape
    assert bands.dtype == whole.dtype
    row, count = 0, 0
    for start, pixels in bands.rows():
        assert start == row
        assert pixels.dtype == whole.dtype
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        assert (pixels == whole[:, row : row + pixels.shape[1]]).all()
        row, count = row + pixels.shape[1], count + 1
    assert row == bands.spatial[0]
    return count


# --- TIFFs that come in blocks

LAYOUTS = {
    "tiles": (RGB, {"tile": (64, 32), "compression": "zlib"}, 11),
    "wide tiles": (RGB, {"tile": (128, 128), "compression": "zlib"}, 6),
    "raw tiles": (RGB, {"tile": (64, 32)}, 11),
    "big endian tiles": (DEEP, {"tile": (64, 32), "byteorder": ">", "compression": "zlib"}, 11),
    "tiles with predictor": (DEEP, {"tile": (64, 32), "compression": "lzw", "predictor": True}, 11),
    "separate tiles": (np.moveaxis(RGB, -1, 0), {"tile": (64, 32), "compression": "zlib", "planarconfig": 2}, 11),
    "jpeg tiles": (RGB, {"tile": (64, 32), "compression": "jpeg", "photometric": "ycbcr"}, 11),
    "jpeg 2000 tiles": (RGB, {"tile": (64, 32), "compression": "jpeg2000"}, 11),
    "bigtiff tiles": (RGB, {"tile": (64, 32), "compression": "zstd", "bigtiff": True}, 11),
    "rows": (RGB, {"compression": "zlib", "rowsperstrip": 1}, 3),
    "strips": (RGB, {"compression": "zlib", "rowsperstrip": 100}, 3),  # gathered to 300 rows
    "high strips": (RGB, {"compression": "zlib", "rowsperstrip": 400}, 2),
    "separate strips": (np.moveaxis(RGB, -1, 0), {"compression": "zlib", "rowsperstrip": 100, "planarconfig": 2}, 3),
    "one strip": (RGB, {"compression": "zlib", "rowsperstrip": 700}, 1),
    "raw": (RGB, {}, 3),
    "raw strips": (RGB, {"rowsperstrip": 30, "metadata": None}, 3),
    "raw big endian": (DEEP, {"byteorder": ">"}, 3),
    "raw separate": (np.moveaxis(RGB, -1, 0), {"planarconfig": 2}, 3),
    "bits": (GRAY > 127, {"rowsperstrip": 100, "compression": "zlib"}, 3),
    "white is zero": (GRAY, {"photometric": "miniswhite", "tile": (64, 32)}, 11),
    "palette": (GRAY, {"photometric": "palette", "colormap": STACK[:, :256, 0], "tile": (64, 32)}, 11),
    "cmyk": (RGBA, {"photometric": "separated", "tile": (64, 32), "compression": "zlib"}, 11),
    "float": (GRAY.astype(np.float64), {"tile": (64, 32), "compression": "zlib"}, 11),
    "signed": (GRAY.astype(np.int16) - 100, {}, 3),
    "many channels": (RNG.integers(0, 99, (7, 700, 50), np.uint8), {"planarconfig": 2, "tile": (64, 32)}, 11),
    "low": (RGB[:20], {"tile": (64, 64), "compression": "zlib"}, 1),
}


@pytest.mark.parametrize(("array", "options", "blocks"), LAYOUTS.values(), ids=LAYOUTS)
def test_blocks_are_the_image(tmp_path, array, options, blocks):
    colour = {"photometric": "rgb" if 3 in (array.shape[0], array.shape[-1]) else "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", array, **{**colour, **options})
    assert assert_equals_read_image(source(tmp_path / "a.tif")) == blocks


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_jpeg", "tiff_deflate", "packbits", "group4", None])
def test_what_libtiff_writes(tmp_path, compression):
    """Its strips have the tables of JPEG in a tag of their own."""
    image = Image.fromarray(GRAY > 127 if compression == "group4" else RGB).resize((600, 700))
    image.save(tmp_path / "a.tif", compression=compression)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert (tif.pages.first.jpegtables is not None) == (compression == "tiff_jpeg")
    assert assert_equals_read_image(source(tmp_path / "a.tif")) == (1 if compression == "group4" else 3)


@pytest.mark.parametrize("tag", [317, 266])  # differences of neighbours; the bits of a byte turned around
def test_uncompressed_values_that_are_not_as_they_stand(tmp_path, tag):
    """tifffile writes neither."""
    tifffile.imwrite(tmp_path / "a.tif", GRAY, extratags=[(65000, 3, 1, 2, True)], rowsperstrip=30, metadata=None)
    content = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHI", 65000, 3, 1)
    assert content.count(entry) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(entry, struct.pack("<HHI", tag, 3, 1)))
    assert not (read_image(source(tmp_path / "a.tif"))[0] == GRAY).all()
    assert assert_equals_read_image(source(tmp_path / "a.tif")) == 1


def test_alpha_is_dropped_with_a_note_or_kept(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGBA, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 32))
    for keep_alpha in (False, True):
        assert assert_equals_read_image(source(tmp_path / "a.tif"), keep_alpha) == 11
    assert open_bands(source(tmp_path / "a.tif")).notes == (ALPHA_DROPPED,)
    assert open_bands(source(tmp_path / "a.tif"), keep_alpha=True).notes == ()


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "rowsperstrip": 100}, {"imagej": True}, {"ome": True}])
@pytest.mark.parametrize("page", [0, 2])
def test_a_page_of_a_stack_comes_in_blocks(tmp_path, options, page):
    path = tmp_path / ("a.ome.tif" if "ome" in options else "a.tif")
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata={"axes": "ZYX"}, **options)
    assert assert_equals_read_image(source(path, page)) == 3
    with pytest.raises(UserError, match="has 3 pages, so none of number 4"):
        open_bands(source(path, 3))


def test_pages_that_are_stored_differently(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, page in enumerate(STACK):
            how = {"compression": "zlib", "rowsperstrip": 100} if number % 2 else {"tile": (64, 64)}
            file.write(page, contiguous=False, **how)
    assert [assert_equals_read_image(source(tmp_path / "a.tif", page)) for page in range(3)] == [11, 3, 11]


def test_a_pyramid_gives_its_full_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB, tile=(64, 64), subifds=1, photometric="rgb")
        file.write(RGB[::2, ::2], tile=(64, 64), subfiletype=1, photometric="rgb")
    assert assert_equals_read_image(source(tmp_path / "a.tif")) == 11


def test_rows_begin_with_the_block_that_holds_the_first(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(256, 64), photometric="rgb")
    bands = open_bands(source(tmp_path / "a.tif"))
    assert heights(bands) == [(0, 256), (256, 256), (512, 188)]
    assert heights(bands, 255) == [(0, 256), (256, 256), (512, 188)]
    assert heights(bands, 256) == [(256, 256), (512, 188)]
    assert heights(bands, 699) == [(512, 188)]


# --- all else is one block


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_that_is_read_whole_comes_from_top_to_bottom(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(SAMPLES[name])
    assert assert_equals_read_image(source(tmp_path / name)) <= 2
    monkeypatch.setattr(tiff_bands, "BAND_ROWS", 10)
    assert assert_equals_read_image(source(tmp_path / name)) <= 7


def test_several_files_and_pages_as_channels_are_one_block(tmp_path):
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", GRAY, tile=(64, 64))
    assert assert_equals_read_image(Source((tmp_path / "a.tif", tmp_path / "b.tif"))) == 1
    tifffile.imwrite(tmp_path / "c.tif", STACK, photometric="minisblack", tile=(64, 64))
    assert assert_equals_read_image(source(tmp_path / "c.tif")) == 1
    tifffile.imwrite(tmp_path / "d.tif", STACK, photometric="minisblack", metadata={"axes": "CYX"}, tile=(64, 64))
    assert assert_equals_read_image(source(tmp_path / "d.tif", 0)) == 1


def test_a_slice_of_a_volume_is_one_block(tmp_path):
    for compression in (None, "zlib"):
        how = {"volumetric": True, "tile": (16, 64, 64), "compression": compression}
        tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", **how)
        assert [assert_equals_read_image(source(tmp_path / "a.tif", page)) for page in (None, 0, 2)] == [1, 1, 1]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_image_on_its_side_is_one_block(tmp_path, orientation):
    turned = (274, 3, 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", GRAY, extratags=[turned], rowsperstrip=100, compression="zlib")
    assert assert_equals_read_image(source(tmp_path / "a.tif")) == 1


# --- memory and files


def test_memory_depends_on_the_block_and_not_on_the_image(tmp_path):
    side, tile = 3000, 64
    tifffile.imwrite(
        tmp_path / "a.tif", shape=(side, side, 3), dtype=np.uint8, data=None, photometric="rgb", tile=(tile, tile)
    )
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((side, side, 3), np.uint8), photometric="rgb")
    for name, block in (("a", tile * side * 3), ("b", tiff_bands.BAND_ROWS * side * 3)):
        tracemalloc.start()
        for _ in open_bands(source(tmp_path / f"{name}.tif")).rows():
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * block + 2**20 < 3 * side * side


def test_what_is_too_large_to_be_read_at_once_comes_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "MAX_PIXELS", 64 * 50)
    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(64, 64), photometric="rgb", compression="zlib")
    with pytest.raises(UserError, match="more than 500 million pixels"):
        read_image(source(tmp_path / "a.tif"))
    bands = open_bands(source(tmp_path / "a.tif"))
    assert (np.concatenate([pixels for _, pixels in bands.rows()], 1) == np.moveaxis(RGB, -1, 0)).all()
    tifffile.imwrite(tmp_path / "b.tif", RGB, tile=(128, 64), photometric="rgb", compression="zlib")
    with pytest.raises(UserError, match="more than 500 million pixels"):
        open_bands(source(tmp_path / "b.tif"))


def test_a_damaged_header_is_refused_before_memory_is_taken(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(64, 64), photometric="rgb", compression="zlib")
    content = (tmp_path / "a.tif").read_bytes()
    before = struct.pack("<HHII", 256, 4, 1, 50)
    assert before in content
    (tmp_path / "a.tif").write_bytes(content.replace(before, struct.pack("<HHII", 256, 4, 1, 2**31 - 1)))
    with pytest.raises(UserError, match=r"a.tif is damaged \(its header claims 1,503,238,552,900 pixels, but"):
        open_bands(source(tmp_path / "a.tif"))


@pytest.mark.parametrize("end", ["read", "closed", "failed"])
def test_the_file_is_closed_with_the_rows(tmp_path, monkeypatch, end):
    opened = []

    def recorded(*how):
        opened.append(open(*how))  # noqa: SIM115 that it is closed is the question
        return opened[-1]

    monkeypatch.setattr(decoded, "open", recorded, raising=False)
    monkeypatch.setattr(tiff_pages, "open", recorded, raising=False)
    array = np.ones((700, 50), np.float32)
    array[300] = np.inf if end == "failed" else 1
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(64, 64), compression="zlib")
    rows = open_bands(source(tmp_path / "a.tif")).rows()
    opened.clear()  # what told the outline
    next(rows)
    assert not all(file.closed for file in opened)
    if end == "closed":
        rows.close()
    elif end == "read":
        assert len(list(rows)) == 10
    else:
        with pytest.raises(UserError, match="a.tif holds infinite values"):
            list(rows)
    assert opened
    assert all(file.closed for file in opened)


# --- damage


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.endswith(".tif")])
def test_truncated_files_never_give_all_pixels(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tiff_bands, "BAND_ROWS", 10)
    content = SAMPLES[name]
    for length in np.linspace(1, len(content) * 0.97, 30).astype(int):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(UserError, match=name):
            list(open_bands(source(tmp_path / name)).rows())


@pytest.mark.parametrize("options", [{"tile": (64, 64)}, {"rowsperstrip": 100}])
def test_rows_before_the_damage_are_given(tmp_path, monkeypatch, options):
    monkeypatch.setattr(tiff_bands, "SMALL_PART", 1)
    tifffile.imwrite(tmp_path / "a.tif", GRAY, compression="zlib", **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        place = tif.pages.first.dataoffsets[6]
    with open(tmp_path / "a.tif", "r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 40)
    rows = open_bands(source(tmp_path / "a.tif")).rows()
    assert next(rows)[0] == 0
    with pytest.raises(UserError, match=r"a.tif is damaged"):
        list(rows)


def test_a_part_that_claims_more_than_the_image_is_refused(tmp_path):
    before, after = b"\xff\xc0\0\x11\x08\0\x20\0\x20", b"\xff\xc0\0\x11\x08\xff\0\xff\0"
    (tmp_path / "a.tif").write_bytes(SAMPLES["jpeg.tif"].replace(before, after))
    with pytest.raises(UserError, match=r"a.tif is damaged \(one of its parts claims"):
        list(open_bands(source(tmp_path / "a.tif")).rows())


def test_what_is_no_image_is_told_at_once(tmp_path):
    (tmp_path / "a.tif").write_text("not an image")
    for name, message in (("a.tif", "a.tif is not an image"), ("none.tif", "none.tif: No such file")):
        with pytest.raises(UserError, match=message):
            open_bands(source(tmp_path / name))


def test_tiles_of_a_stack_take_one_look_at_its_directories(tmp_path, monkeypatch):
    looks = []
    tiff_pages.close_stacks()
    real = tiff_pages._check_directories
    monkeypatch.setattr(tiff_pages, "_check_directories", lambda file: looks.append(real(file)))
    pages = np.random.default_rng(0).integers(0, 255, (5, 700, 40), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, tile=(64, 64), photometric="minisblack", compression="zlib")
    for number in range(5):
        bands = open_bands(Source((tmp_path / "a.tif",), number))
        read = buffered(bands.rows(), 2)  # in a thread of its own
        assert (np.concatenate([block for _, block in read], axis=1)[0] == pages[number]).all()
    assert len(looks) == 1


# --- volumes, slice by slice

VOLUME = RNG.normal(size=(9, 20, 30)).astype(np.float32)


def volume(*paths):
    return Source(paths, is_volume=True)


def write_volume(folder, kind):
    if kind == "slices":
        paths = [folder / f"{number}.tif" for number in range(len(VOLUME))]
        for path, pixels in zip(paths, VOLUME, strict=True):
            tifffile.imwrite(path, pixels)
        return volume(*paths)
    path = folder / f"volume.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, VOLUME, photometric="minisblack")
    elif kind == "npy":
        np.save(path, VOLUME)
    else:
        np.savez(path, VOLUME)
    return volume(path)


@pytest.mark.parametrize(("kind", "count"), [("tif", 9), ("npy", 9), ("slices", 9), ("npz", 1)])
def test_a_volume_comes_slice_by_slice_where_its_format_allows(tmp_path, kind, count):
    what = write_volume(tmp_path, kind)
    assert read_image(what).shape == (1, *VOLUME.shape)
    assert assert_equals_read_image(what) == count
    later = list(open_bands(what).rows(5))
    assert [start for start, _ in later] == ([5, 6, 7, 8] if count == 9 else [0])
    assert (later[-1][1] == read_image(what)[:, later[-1][0] :]).all()


def test_several_volumes_are_channels_slice_by_slice(tmp_path):
    for number in range(2):
        tifffile.imwrite(tmp_path / f"a_{number}.tif", VOLUME + number, photometric="minisblack")
    what = volume(tmp_path / "a_0.tif", tmp_path / "a_1.tif")
    assert read_image(what).shape == (2, *VOLUME.shape)
    assert assert_equals_read_image(what) == 9
    tifffile.imwrite(tmp_path / "a_1.tif", VOLUME[1:], photometric="minisblack")
    with pytest.raises(UserError, match="have 9 and 8 slices: files and slices of one volume must have the same size"):
        open_bands(what)


def test_slices_of_other_sizes_are_refused_when_they_are_read(tmp_path):
    what = write_volume(tmp_path, "slices")
    tifffile.imwrite(what.paths[4], VOLUME[4, :-1])
    slices = open_bands(what).rows()
    assert [start for start, _ in (next(slices) for _ in range(4))] == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"4\.tif has slices of 30x19 float32 and others of 30x20 float32"):
        next(slices)


@pytest.mark.parametrize("rows", [(700, 40), (9, 20, 30)], ids=["image", "volume"])
def test_a_part_may_be_all_nan_but_not_the_whole(tmp_path, rows):
    pixels = np.full(rows, np.nan, np.float32)
    path = tmp_path / "part.tif"
    what = source(path) if len(rows) == 2 else volume(path)
    tifffile.imwrite(path, pixels, photometric="minisblack")
    with pytest.raises(UserError, match=r"part\.tif holds nothing but NaN: replace it"):
        list(open_bands(what).rows())
    pixels[-1] = 1
    tifffile.imwrite(path, pixels, photometric="minisblack")
    bands = open_bands(what)
    assert np.isfinite(np.concatenate([band for _, band in bands.rows()], 1)).mean() == pytest.approx(1 / rows[0])
    assert len(list(bands.rows(rows[0] - 1))) == 1
