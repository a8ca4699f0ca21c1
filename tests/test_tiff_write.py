"""Masks as TIFF: what is written is read back by us, by tifffile and by Pillow, and lies where the image lies."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_cli.data.formats.tiff_write import carried_tags, write_tiff
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Source
from unet_cli.data.writing import is_ours, write_mask
from unet_cli.errors import UserError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (700, 530), np.uint8)
KINDS = {
    "uint8": GRAY,
    "uint16": GRAY * np.uint16(257),
    "rgb": RNG.integers(0, 256, (700, 530, 3), np.uint8),
    "one pixel": GRAY[:1, :1],
    "one tile": GRAY[:512, :512],
    "three columns": GRAY[:, :3],
}
PALETTE = [0, 0, 0, 255, 0, 0, 1, 128, 254]


def written(path, mask, heights=None, **more):
    """Written in blocks of these heights, the rest being the last."""
    with open(path, "wb") as file:
        write_tiff(file, np.split(mask, np.cumsum(heights or [])), mask.shape, mask.dtype, **more)
    return path


@pytest.mark.parametrize("heights", [None, [1, 511, 3], [512], [0, 600], [100] * 6, [513, 0, 1]])
@pytest.mark.parametrize("mask", KINDS.values(), ids=KINDS)
def test_every_reader_gives_the_values_back(tmp_path, mask, heights):
    path = written(tmp_path / "a.tif", mask, heights)
    assert (tifffile.imread(path) == mask).all()
    assert tifffile.imread(path).dtype == mask.dtype
    with Image.open(path) as image:
        assert (np.asarray(image) == mask).all()
    if mask.ndim == 2:
        pixels = read_mask(Source((path,)))
        assert (pixels.values[0] == mask).all()
        assert pixels.values.dtype == mask.dtype
        assert pixels.palette is None


def test_a_palette_is_given_back(tmp_path):
    path = written(tmp_path / "a.tif", GRAY % 3, palette=PALETTE)
    pixels = read_mask(Source((path,)))
    assert (pixels.values[0] == GRAY % 3).all()
    assert pixels.palette[:9] == PALETTE
    with Image.open(path) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == GRAY % 3).all()
        assert (np.asarray(image.convert("RGB")) == np.reshape(PALETTE, (3, 3))[GRAY % 3]).all()


def test_it_is_tiled_packed_signed_and_the_same_each_time(tmp_path):
    path = written(tmp_path / "a.tif", GRAY // 128)
    again = written(tmp_path / "b.tif", GRAY // 128, heights=[7, 400])
    assert path.read_bytes() == again.read_bytes()
    assert path.stat().st_size < GRAY.size / 4
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        assert (page.tilelength, page.tilewidth) == (512, 512)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.software == "unet"
        assert 306 not in page.tags  # a date
        assert not tif.is_bigtiff


@pytest.mark.parametrize(("side", "big"), [(64_000, False), (66_000, True)])
def test_files_that_could_grow_beyond_4_gigabytes_are_bigtiff(tmp_path, monkeypatch, side, big):
    """Told by what the writer is asked for, without writing so much."""
    asked = []
    monkeypatch.setattr(
        "unet_cli.data.formats.tiff_write.TiffWriter", lambda file, bigtiff, byteorder: asked.append(bigtiff)
    )
    with pytest.raises(TypeError), open(tmp_path / "a.tif", "wb") as file:  # None is no writer
        write_tiff(file, [], (side, side), np.uint8)
    assert asked == [big]


def test_bigtiff_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr("unet_cli.data.formats.tiff_write.CLASSIC_BYTES", 0)
    path = written(tmp_path / "a.tif", GRAY)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff
    assert (read_mask(Source((path,))).values[0] == GRAY).all()
    assert is_ours(path)


def test_rows_that_are_missing_are_our_own_mistake(tmp_path):
    with pytest.raises(AssertionError, match="the last 1 of 701 rows"), open(tmp_path / "a.tif", "wb") as file:
        write_tiff(file, [GRAY], (701, 530), np.uint8)


def test_memory_depends_on_the_rows_and_not_on_the_image(tmp_path):
    rows, side = 64, 8000
    block = np.zeros((rows, side), np.uint8)
    tracemalloc.start()
    with open(tmp_path / "a.tif", "wb") as file:
        write_tiff(file, (block for _ in range(side // rows)), (side, side), np.uint8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000 < side * side
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages.first.shape == (side, side)


# --- what a mask takes over from its image

GEO = [
    (33550, 12, 3, (0.5, 0.25, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 440720.125, 3751320.1, 0.0), True),
    (34264, 12, 16, tuple(float(number) / 3 for number in range(16)), True),
    (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
    (34736, 12, 1, 6378137.0, True),
    (34737, 2, 0, "WGS 84|", True),
]


def values_of(path, page=0):
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages[page].tags
        return {tag: tags.valueof(tag) for tag in (282, 283, 296, 285, 297, *(geo[0] for geo in GEO))}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_place_and_resolution_go_from_image_to_mask(tmp_path, byteorder, bigtiff):
    more = [(285, 2, 0, "Zürich".encode(), True), (297, 3, 2, (3, 9), True), (270, 2, 0, "mine", True)]
    tifffile.imwrite(
        tmp_path / "image.tif",
        GRAY,
        resolution=((1_000_000, 3), 72.5),
        resolutionunit="CENTIMETER",
        extratags=GEO + more,
        byteorder=byteorder,
        bigtiff=bigtiff,
    )
    write_mask(tmp_path / "mask.tif", GRAY, tags=carried_tags(tmp_path / "image.tif", None))
    expected = values_of(tmp_path / "image.tif")
    assert None not in expected.values()
    assert values_of(tmp_path / "mask.tif") == expected
    with tifffile.TiffFile(tmp_path / "mask.tif") as tif:
        assert 270 not in tif.pages.first.tags
        assert tif.geotiff_metadata["ModelPixelScale"] == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagej_has_its_resolution_carried(tmp_path, compression):
    stack = np.stack([GRAY] * 3)
    metadata = {"unit": "um", "axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.tif", stack, imagej=True, resolution=(3.5, 3.5), metadata=metadata, compression=compression
    )
    for page in (None, 0, 2):
        write_mask(tmp_path / "mask.tif", GRAY, tags=carried_tags(tmp_path / "a.tif", page))
        assert values_of(tmp_path / "mask.tif")[282] == (7, 2)


def test_each_page_has_its_own_tags(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for name in ("first", "second"):
            file.write(GRAY, contiguous=False, metadata=None, extratags=[(285, 2, 0, name, True)])
    for page, name in ((None, b"first\0"), (0, b"first\0"), (1, b"second\0")):
        assert (285, 2, len(name), name) in carried_tags(tmp_path / "a.tif", page)
    with pytest.raises(UserError, match="a.tif has 2 pages, so none of number 3"):
        carried_tags(tmp_path / "a.tif", 2)


def test_tags_that_make_no_sense_are_left_behind(tmp_path):
    odd = [(33550, 2, 0, "x", True), (297, 2, 0, "x", True), (34737, 3, 1, 4, True), (34735, 12, 1, 0.5, True)]
    tifffile.imwrite(tmp_path / "a.tif", GRAY, extratags=odd, metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        start = tif.pages.first.tags[282].valueoffset
    content[start : start + 8] = bytes(8)  # 0 / 0
    (tmp_path / "a.tif").write_bytes(content)
    assert carried_tags(tmp_path / "a.tif", None) == ()


def test_other_files_have_no_tags(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.png", dpi=(300, 300))
    assert carried_tags(tmp_path / "a.png", None) == ()
    with pytest.raises(UserError, match="none.tif: No such file"):
        carried_tags(tmp_path / "none.tif", None)


# --- through the door that everybody uses


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.png", "a"])
def test_the_name_says_which_kind_is_written_and_both_are_ours(tmp_path, name):
    write_mask(tmp_path / name, GRAY % 3, PALETTE)
    with Image.open(tmp_path / name) as image:
        assert image.format == ("TIFF" if "." in name and name[2] in "tT" else "PNG")
    assert read_mask(Source((tmp_path / name,))).palette[:9] == PALETTE
    assert is_ours(tmp_path / name)


def test_files_of_others_are_not_ours(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GRAY)
    tifffile.imwrite(tmp_path / "b.tif", GRAY, software="unet 2")
    tifffile.imwrite(tmp_path / "c.tif", GRAY, software=False)
    (tmp_path / "d.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    (tmp_path / "e.tif").touch()
    assert not any(is_ours(path) for path in [*tmp_path.iterdir(), tmp_path, tmp_path / "none.tif"])


def test_huge_files_are_told_by_their_header(tmp_path):
    path = written(tmp_path / "a.tif", GRAY)
    content = path.read_bytes()
    size = b"\0\1\4\0\1\0\0\0"  # ImageWidth, LONG, one
    assert content.count(size) == 1
    path.write_bytes(content.replace(size + b"\x12\2\0\0", size + b"\xff\xff\xff\x7f"))
    assert path.read_bytes() != content
    assert is_ours(path)


def test_a_full_disk_leaves_no_file_and_a_user_error(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    program = (
        "import numpy as np\nfrom pathlib import Path\nfrom unet_cli.data.writing import write_mask\n"
        "from unet_cli.errors import UserError\n"
        "try:\n write_mask(Path('a.tif'), np.random.default_rng(0).integers(0, 256, (2000, 2000), np.uint8))\n"
        "except UserError as error:\n print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.stdout == "a.tif: File too large: free some space or choose another folder\n", done.stderr
    assert list(tmp_path.iterdir()) == []
