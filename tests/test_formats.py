"""Every format, mode, type, compression and layout that the tool promises to read, against the array it was made of."""

import io
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_cli.data.formats import count_pages, decode, decoded, pillow, tiff, tiff_pages
from unet_cli.errors import UserError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (20, 30), np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)
RGBA = RNG.integers(1, 256, (20, 30, 4), np.uint8)  # without alpha of 0, where WebP keeps no colour
GRAY16, RGB16, RGBA16 = (RNG.integers(0, 65536, (20, 30, *more)).astype(np.uint16) for more in ((), (3,), (4,)))
BITS = GRAY > 127
INDEXED = Image.fromarray(RGB).quantize(16)
STACK = RNG.integers(0, 65536, (5, 20, 30)).astype(np.uint16)


def planes(array: np.ndarray) -> np.ndarray:
    """(H, W[, C]) -> (1, C, H, W)."""
    return array[None, None] if array.ndim == 2 else np.moveaxis(array, -1, 0)[None]


def assert_holds(path: Path, expected: np.ndarray, alpha: bool = False, tolerance: int = 0) -> None:
    decoded = decode(path)
    assert decoded.pixels.dtype == expected.dtype
    assert decoded.pixels.shape == expected.shape
    assert decoded.alpha == alpha
    assert np.abs(decoded.pixels.astype(float) - expected.astype(float)).max() <= tolerance


LOSSLESS = [
    *((name, array) for name in ("png", "webp", "avif") for array in (RGB, RGBA)),
    *((name, array) for name in ("bmp", "ppm", "pcx", "tga", "sgi", "dib", "jp2", "j2k") for array in (GRAY, RGB)),
    *((name, RGBA) for name in ("tga", "sgi", "jp2")),
    ("png", GRAY),
    ("gif", GRAY),
    ("png", GRAY16),
    ("png", RGBA[..., :2]),
    ("pgm", GRAY),
    ("pgm", GRAY16),
    ("jp2", GRAY16),
    ("pfm", GRAY.astype(np.float32)),
]


@pytest.mark.parametrize(("extension", "array"), LOSSLESS, ids=lambda value: value if isinstance(value, str) else None)
def test_what_pillow_writes_is_read_back(tmp_path, extension, array):
    path = tmp_path / f"a.{extension}"
    options = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}.get(extension, {})
    image = Image.fromarray(array)
    image.save(path, **options)
    alpha = array.ndim == 3 and array.shape[2] in (2, 4)
    assert_holds(path, planes(array), alpha, tolerance=4 if extension == "avif" else 0)


@pytest.mark.parametrize("array", [GRAY, RGB])
@pytest.mark.parametrize("extension", ["jpg", "jfif"])
def test_jpeg(tmp_path, extension, array):
    smooth = np.linspace(0, 255, array.size).reshape(array.shape).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{extension}", format="JPEG", quality=100, subsampling=0)
    assert_holds(tmp_path / f"a.{extension}", planes(smooth), tolerance=8)


@pytest.mark.parametrize("extension", ["png", "gif", "bmp", "tif", "pbm"])
def test_one_bit_is_0_and_255(tmp_path, extension):
    Image.fromarray(BITS).save(tmp_path / f"a.{extension}")
    assert_holds(tmp_path / f"a.{extension}", planes(BITS.astype(np.uint8) * 255))


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "tga"])
def test_palettes_are_kept_with_their_indices(tmp_path, extension):
    INDEXED.save(tmp_path / f"a.{extension}")
    decoded = decode(tmp_path / f"a.{extension}")
    assert (decoded.pixels == planes(np.asarray(INDEXED))).all()
    assert decoded.palette[:48] == INDEXED.getpalette()[:48]
    assert not decoded.alpha


def test_a_palette_with_transparency_has_its_alpha_beside_the_indices(tmp_path):
    INDEXED.save(tmp_path / "a.png", transparency=3)
    decoded = decode(tmp_path / "a.png")
    assert decoded.alpha
    assert (decoded.pixels[0, 0] == np.asarray(INDEXED)).all()
    assert (decoded.pixels[0, 1] == np.where(np.asarray(INDEXED) == 3, 0, 255)).all()


def test_gif_palettes_are_resolved_since_writers_renumber_them(tmp_path):
    INDEXED.save(tmp_path / "colour.gif")
    assert_holds(tmp_path / "colour.gif", planes(np.asarray(INDEXED.convert("RGB"))))
    Image.fromarray(np.where(BITS, 128, 255).astype(np.uint8)).save(tmp_path / "gray.gif")
    assert_holds(tmp_path / "gray.gif", planes(np.where(BITS, 128, 255).astype(np.uint8)))


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    for extension in ("gif", "webp", "png"):
        options = {"lossless": True} if extension == "webp" else {}
        frames[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=frames[1:], **options)
        pixels = decode(tmp_path / f"a.{extension}").pixels
        assert pixels.shape[2:] == (8, 8)
        assert (pixels == 10).all()
        assert count_pages(tmp_path / f"a.{extension}") == 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(tmp_path, mode):
    smooth = np.linspace(0, 255, RGB.size).reshape(RGB.shape).astype(np.uint8)
    image = Image.fromarray(smooth).convert(mode)
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert_holds(tmp_path / "a.jpg", planes(np.asarray(image.convert("RGB"))), tolerance=8)
    image.save(tmp_path / "a.tif")
    assert_holds(tmp_path / "a.tif", planes(np.asarray(image.convert("RGB"))), tolerance=1)


def test_lab_becomes_rgb(tmp_path):
    lab = np.dstack([GRAY, np.zeros_like(GRAY), np.zeros_like(GRAY)])  # a* = b* = 0 is gray
    tifffile.imwrite(tmp_path / "a.tif", lab, photometric="cielab")
    pixels = decode(tmp_path / "a.tif").pixels[0].astype(int)
    assert pixels.shape == (3, 20, 30)
    assert np.abs(pixels - pixels.mean(0)).max() <= 3
    assert np.corrcoef(pixels[0].ravel(), GRAY.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("array", [RGB16, RGBA16, RGB16[..., :2].copy()])
def test_colours_of_16_bits_keep_them(tmp_path, array):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    assert_holds(tmp_path / "a.png", planes(array), alpha=array.shape[2] != 3)
    if array is RGB16:
        (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(array, level=0))
        assert_holds(tmp_path / "a.jp2", planes(array))
        (tmp_path / "a.ppm").write_bytes(b"P6 30 20 65535\n" + array.astype(">u2").tobytes())
        assert_holds(tmp_path / "a.ppm", planes(array))


@pytest.mark.parametrize(
    "content", [b"P5 3 1 5\n\0\3\5", b"P2\n# three\n3 1\n5\n0 3 # four\n5\n", b"P5 3 1 300\n\0\0\0\3\0\5"]
)
def test_pnm_values_are_not_scaled(tmp_path, content):
    (tmp_path / "a.pgm").write_bytes(content)
    assert decode(tmp_path / "a.pgm").pixels.ravel().tolist() == [0, 3, 5]


@pytest.mark.parametrize(
    ("extension", "orientation"), [("jpg", 6), *((name, way) for name in ("png", "tif") for way in range(1, 9))]
)
def test_orientation_is_applied_as_pillow_does(tmp_path, orientation, extension):
    smooth = np.linspace(0, 255, GRAY.size).reshape(GRAY.shape).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if extension == "tif" else {"exif": exif}
    Image.fromarray(smooth).save(tmp_path / f"a.{extension}", **options)
    upright = {
        1: smooth,
        2: smooth[:, ::-1],
        3: smooth[::-1, ::-1],
        4: smooth[::-1],
        5: smooth.T,
        6: np.rot90(smooth, -1),
        7: smooth[::-1, ::-1].T,
        8: np.rot90(smooth),
    }[orientation]
    assert_holds(tmp_path / f"a.{extension}", planes(upright), tolerance=6 if extension == "jpg" else 0)


# --- TIFF


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [
        *((dtype, None) for dtype in ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">f4"]),
        *((dtype, "zlib") for dtype in ("i1", "f4", ">u2")),
    ],
)
def test_tiff_types(tmp_path, dtype, compression):
    array = (STACK[0] % 251).astype(dtype) - np.dtype(dtype).type(0 if "u" in dtype else 100)
    byteorder = ">" if dtype[0] == ">" else "<"
    tifffile.imwrite(tmp_path / "a.tif", array, compression=compression, byteorder=byteorder)
    assert_holds(tmp_path / "a.tif", planes(array.astype(np.dtype(dtype).newbyteorder("="))))


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(
    ("compression", "array"),
    [
        (compression, array)
        for compression in (None, "lzw", "zlib", "adobe_deflate", "packbits", "zstd", "lzma", "png", "jpeg2000")
        for array in (GRAY, RGB)
    ]
    + [("webp", RGB)],  # it has no gray
)
def test_tiff_compressions(tmp_path, array, compression, tile):
    assert_compressed_tiff_is_read(tmp_path, array, compression, tile, bigtiff=False)


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_tiff_of_more_than_4_gigabytes(tmp_path, compression, tile):
    """Or one that says so: BigTIFF."""
    assert_compressed_tiff_is_read(tmp_path, RGB, compression, tile, bigtiff=True)


def assert_compressed_tiff_is_read(tmp_path, array, compression, tile, bigtiff):
    arguments = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    photometric = "rgb" if array is RGB else None
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        compression=compression,
        tile=tile,
        bigtiff=bigtiff,
        photometric=photometric,
        rowsperstrip=None if tile else 7,
        **arguments,
    )
    assert_holds(tmp_path / "a.tif", planes(array))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_planes_and_predictors(tmp_path, compression, predictor, planar):
    array = RGB16 if planar == "contig" else np.moveaxis(RGB16, -1, 0)
    options = {"predictor": True} if predictor and compression else {}
    tifffile.imwrite(
        tmp_path / "a.tif", array, photometric="rgb", planarconfig=planar, compression=compression, **options
    )
    assert_holds(tmp_path / "a.tif", planes(RGB16))


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("array", [GRAY, RGB])
def test_tiff_with_jpeg(tmp_path, array, tile):
    smooth = np.linspace(0, 255, array.size).reshape(array.shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", smooth, compression="jpeg", compressionargs={"level": 99}, tile=tile)
    assert_holds(tmp_path / "a.tif", planes(smooth), tolerance=16)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        (mode, compression)
        for mode in ("1", "L", "P", "RGB", "I;16")
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
    ]
    + [("1", "group3"), ("1", "group4")],  # fax has 1 bit
)
def test_tiff_of_libtiff(tmp_path, mode, compression):
    image = {"1": Image.fromarray(BITS), "L": Image.fromarray(GRAY), "P": INDEXED, "RGB": Image.fromarray(RGB)}.get(
        mode, Image.fromarray(GRAY16)
    )
    image.save(tmp_path / "a.tif", compression=compression)
    expected = np.asarray(image).astype(np.uint8) * 255 if mode == "1" else np.asarray(image)
    assert_holds(tmp_path / "a.tif", planes(expected))
    assert (decode(tmp_path / "a.tif").palette is not None) == (mode == "P")


@pytest.mark.parametrize(("kind", "alpha"), [("unassalpha", True), ("assocalpha", True), ("unspecified", False)])
def test_tiff_alpha_is_told_from_a_fourth_channel(tmp_path, kind, alpha):
    tifffile.imwrite(tmp_path / "a.tif", RGBA, photometric="rgb", extrasamples=[kind])
    assert_holds(tmp_path / "a.tif", planes(RGBA), alpha=alpha)
    tifffile.imwrite(tmp_path / "b.tif", RGBA[..., :2], photometric="minisblack", extrasamples=[kind])
    assert_holds(tmp_path / "b.tif", planes(RGBA[..., :2]), alpha=alpha)


def test_tiff_where_white_is_zero_is_inverted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, photometric="miniswhite")
    assert_holds(tmp_path / "a.tif", planes(255 - GRAY))
    tifffile.imwrite(tmp_path / "b.tif", BITS, photometric="miniswhite")
    assert_holds(tmp_path / "b.tif", planes(255 * (~BITS).astype(np.uint8)))


def test_tiff_many_channels(tmp_path):
    array = RNG.integers(0, 256, (7, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="separate")
    assert_holds(tmp_path / "a.tif", array[None])
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(array, 0, -1), photometric="minisblack", planarconfig="contig")
    assert_holds(tmp_path / "b.tif", array[None])


PAGED = [
    ("plain", {}, STACK[:, None]),
    ("compressed", {"compression": "zlib"}, STACK[:, None]),
    ("without metadata", {"metadata": None}, STACK[:, None]),
    ("channels", {"metadata": {"axes": "CYX"}}, STACK[None]),
    ("imagej", {"imagej": True, "metadata": {"axes": "ZYX"}}, STACK[:, None]),
    ("imagej channels", {"imagej": True, "metadata": {"axes": "CYX"}}, STACK[None]),
    ("imagej compressed", {"imagej": True, "compression": "zlib", "metadata": {"axes": "TYX"}}, STACK[:, None]),
    ("ome", {"ome": True, "metadata": {"axes": "ZYX"}}, STACK[:, None]),
    ("ome channels", {"ome": True, "metadata": {"axes": "CYX"}}, STACK[None]),
    ("volume", {"volumetric": True, "tile": (16, 16, 16), "photometric": "minisblack"}, STACK[:, None]),
]


@pytest.mark.parametrize(("options", "expected"), [row[1:] for row in PAGED], ids=[row[0] for row in PAGED])
def test_tiff_pages(tmp_path, options, expected):
    path = tmp_path / ("a.ome.tif" if options.get("ome") else "a.tif")
    tifffile.imwrite(path, STACK, **{"photometric": "minisblack", **options})
    assert_holds(path, expected)
    assert count_pages(path) == len(expected)
    for page in range(len(expected)):
        assert (decode(path, page).pixels == expected[page : page + 1]).all()
    with pytest.raises(UserError, match=rf"{path.name} has {len(expected)} pages?, so none of number"):
        decode(path, len(expected))


@pytest.mark.parametrize("kind", ["imagej", "ome"])
@pytest.mark.parametrize("axes", ["TZCYX", "ZCYXS", "CZYX"])
def test_tiff_channels_between_other_axes(tmp_path, kind, axes):
    if kind == "imagej" and axes == "CZYX":
        axes = "ZCYX"  # the one order of ImageJ
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": 20, "X": 30, "S": 3}
    array = RNG.integers(0, 256, [sizes[axis] for axis in axes], np.uint8)
    path = tmp_path / "a.ome.tif"
    options = {"photometric": "rgb"} if "S" in axes else {"photometric": "minisblack"}
    tifffile.imwrite(path, array, **{kind: True}, metadata={"axes": axes}, **options)
    order = [axis for axis in axes if axis not in "CSYX"] + [axis for axis in axes if axis in "CS"] + ["Y", "X"]
    expected = array.transpose([axes.index(axis) for axis in order])
    channels = sizes["C"] * (sizes["S"] if "S" in axes else 1)
    assert_holds(path, expected.reshape(-1, channels, 20, 30))


def test_tiff_pages_written_one_by_one(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, page in enumerate(STACK):
            file.write(page, contiguous=False, compression="zlib" if number % 2 else None)
    assert_holds(tmp_path / "a.tif", STACK[:, None])


def test_tiff_pages_of_different_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GRAY)
        file.write(GRAY[:13, :17])
    for reader in (decode, count_pages):
        with pytest.raises(UserError, match=r"a.tif holds images of different sizes: split it"):
            reader(tmp_path / "a.tif")


@pytest.mark.parametrize("as_subifds", [False, True])
def test_tiff_pyramids_give_their_full_size(tmp_path, as_subifds):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GRAY, subifds=2 if as_subifds else 0)
        for step in (2, 4):
            file.write(GRAY[::step, ::step], subfiletype=1)
    assert_holds(tmp_path / "a.tif", planes(GRAY))
    assert count_pages(tmp_path / "a.tif") == 1


def test_slides_give_their_scan_without_label_and_overview(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB, photometric="rgb", tile=(16, 16), description="Aperio Image Library v1", metadata=None)
        file.write(RGB[:9, :9], photometric="rgb", description="Aperio Image Library v1", metadata=None)
    assert_holds(tmp_path / "a.tif", planes(RGB))


def test_ome_files_of_a_set_hold_their_own_planes_only(tmp_path):
    tifffile.imwrite(tmp_path / "b.ome.tif", STACK[1], ome=True)
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK[0], ome=True)
    description = tifffile.tiffcomment(tmp_path / "a.ome.tif")
    plane = '<TiffData FirstZ="{0}" IFD="0" PlaneCount="1"><UUID FileName="{1}.ome.tif">urn:uuid:{1}</UUID></TiffData>'
    whole = description.replace('SizeZ="1"', 'SizeZ="2"')
    start, end = whole.index("<TiffData"), whole.index("</Pixels>")
    whole = whole[:start] + plane.format(0, "a") + plane.format(1, "b") + whole[end:]
    tifffile.tiffcomment(tmp_path / "a.ome.tif", whole.encode())
    assert_holds(tmp_path / "a.ome.tif", planes(STACK[0]))


def test_tiff_numbers_that_are_no_pixels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0].astype(np.complex64))
    with pytest.raises(UserError, match=r"a.tif is of a kind that can't be read \(complex64"):
        decode(tmp_path / "a.tif")


def test_one_page_of_a_long_stack_reads_no_other(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", np.repeat(STACK, 20, axis=0), compression="zlib", photometric="minisblack")
    seen = []
    original = tiff._tiff_plane
    monkeypatch.setattr(tiff, "_tiff_plane", lambda tif, plane: seen.append(plane.number) or original(tif, plane))
    assert (decode(tmp_path / "a.tif", 70).pixels == STACK[3]).all()
    assert seen == [70]


@pytest.mark.parametrize(
    ("tag", "before", "after", "message"),
    [
        (284, 1, 5, "its samples are arranged in an unknown way, 5"),  # tifffile reads one of three samples
        (273, None, 0, "it ends before its pixels do"),  # tifffile reads on from where it happens to be
    ],
)
def test_tiff_tags_that_tifffile_takes_as_they_come(tmp_path, tag, before, after, message):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        entry = tif.pages.first.tags[tag]
    assert before in (entry.value, None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into("<H" if entry.dtype == 3 else "<I", content, entry.valueoffset, after)
    (tmp_path / "a.tif").write_bytes(content)
    for reader in (decode, count_pages):
        with pytest.raises(UserError, match=rf"a.tif is damaged \({message}"):
            reader(tmp_path / "a.tif")


# --- numpy

LAYOUTS = [
    ((20, 30), (1, 1, 20, 30)),
    ((20, 30, 1), (1, 1, 20, 30)),
    ((20, 30, 3), (1, 3, 20, 30)),
    ((20, 30, 4), (1, 4, 20, 30)),
    ((2, 20, 30), (1, 2, 20, 30)),
    ((3, 20, 3), (1, 3, 3, 20)),
    ((5, 20, 30), (5, 1, 20, 30)),
    ((5, 20, 30, 3), (5, 3, 20, 30)),
    ((5, 2, 20, 30), (5, 2, 20, 30)),
    ((2, 5, 20, 30), (10, 1, 20, 30)),
]


@pytest.mark.parametrize(("shape", "expected"), LAYOUTS)
@pytest.mark.parametrize(("extension", "order"), [("npy", "C"), ("npy", "F"), ("npz", "C"), ("compressed.npz", "F")])
def test_numpy_layouts(tmp_path, shape, expected, extension, order):
    array = np.asarray(RNG.integers(0, 65536, shape), np.uint16, order=order)
    path = tmp_path / f"a.{extension}"
    save = {"npy": np.save, "npz": np.savez}.get(extension, np.savez_compressed)
    save(path, array)
    pages = array.reshape(expected) if shape[-1] > 4 else np.moveaxis(array, -1, -3).reshape(expected)
    assert_holds(path, pages)
    assert count_pages(path) == expected[0]
    assert (decode(path, expected[0] - 1).pixels == pages[-1:]).all()
    with pytest.raises(UserError, match="so none of number"):
        decode(path, expected[0])


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", ">u2", "u4", "i8", "f2", "f4", ">f8"])
def test_numpy_types(tmp_path, dtype):
    array = (GRAY % 100).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    assert_holds(tmp_path / "a.npy", planes(array.astype(np.uint8 if dtype == "?" else array.dtype.newbyteorder("="))))


def test_numpy_files_that_are_no_image(tmp_path):
    np.save(tmp_path / "object.npy", np.array([[{}]]), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "none.npy", np.zeros((0, 5)))
    np.savez(tmp_path / "two.npz", image=GRAY, mask=GRAY)
    for name, message in (
        ("object.npy", r"object.npy holds values of type object"),
        ("line.npy", r"line.npy holds an array of 1 dimensions"),
        ("none.npy", r"none.npy is damaged \(it claims to have no pixels\)"),
        ("two.npz", r"two.npz holds several arrays \(image, mask\): save one to a file"),
    ):
        for reader in (decode, count_pages):
            with pytest.raises(UserError, match=message):
                reader(tmp_path / name)


# --- files that are not what they seem


def encoded(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    if kind == "tif":
        tifffile.imwrite(file, image, **options)
    elif kind == "npy":
        np.save(file, image)
    elif kind == "npz":
        np.savez(file, image, **options)
    else:
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


NOISE = RNG.integers(0, 256, (64, 64, 3), np.uint8)

SAMPLES: dict[str, bytes] = {
    "gray.png": encoded(NOISE[..., 0], "png"),
    "rgb.png": encoded(NOISE, "png"),
    "rgba.png": encoded(np.dstack([NOISE, NOISE[..., :1]]), "png"),
    "deep.png": encoded(NOISE[..., 0] * np.uint16(257), "png"),
    "deeprgb.png": imagecodecs.png_encode(NOISE * np.uint16(257)),
    "palette.png": encoded(Image.fromarray(NOISE).quantize(200), "png"),
    "bits.png": encoded(NOISE[..., 0] > 127, "png"),
    "a.jpg": encoded(NOISE, "jpeg"),
    "progressive.jpg": encoded(NOISE, "jpeg", progressive=True),
    "cmyk.jpg": encoded(Image.fromarray(NOISE).convert("CMYK"), "jpeg"),
    "gray.gif": encoded(NOISE[..., 0], "gif"),
    "palette.gif": encoded(Image.fromarray(NOISE).quantize(200), "gif"),
    "a.bmp": encoded(NOISE, "bmp"),
    "palette.bmp": encoded(Image.fromarray(NOISE).quantize(200), "bmp"),
    "lossless.webp": encoded(NOISE, "webp", lossless=True),
    "lossy.webp": encoded(NOISE, "webp"),
    "a.avif": encoded(NOISE, "avif"),
    "a.jp2": encoded(NOISE, "jpeg2000"),
    "deep.jp2": imagecodecs.jpeg2k_encode(NOISE * np.uint16(257), level=0),
    "a.ppm": encoded(NOISE, "ppm"),
    "deep.pgm": b"P5 64 64 4095\n" + (NOISE[..., 0] * np.uint16(16)).astype(">u2").tobytes(),
    "plain.pgm": b"P2 64 64 255\n" + b" ".join(b"%d" % value for value in NOISE[..., 0].ravel()),
    "a.pcx": encoded(NOISE, "pcx"),
    "palette.pcx": encoded(Image.fromarray(NOISE).quantize(200), "pcx"),
    "a.tga": encoded(NOISE, "tga"),
    "rle.tga": encoded(NOISE, "tga", compression="tga_rle"),
    "a.sgi": encoded(NOISE, "sgi"),
    "raw.tif": encoded(NOISE, "tif", photometric="rgb"),
    "strips.tif": encoded(NOISE, "tif", photometric="rgb", rowsperstrip=8, metadata=None),
    "deflate.tif": encoded(NOISE, "tif", photometric="rgb", compression="zlib", rowsperstrip=8),
    "lzw.tif": encoded(NOISE[..., 0], "tif", compression="lzw", rowsperstrip=16),
    "packbits.tif": encoded(NOISE[..., 0], "tif", compression="packbits", rowsperstrip=16),
    "zstd.tif": encoded(NOISE[..., 0], "tif", compression="zstd", predictor=True),
    "tiled.tif": encoded(NOISE, "tif", photometric="rgb", tile=(32, 32)),
    "odd.tif": encoded(NOISE[:50, :50], "tif", photometric="rgb", tile=(32, 32)),
    "lzwtiled.tif": encoded(NOISE, "tif", photometric="rgb", tile=(32, 32), compression="lzw"),
    "jpeg.tif": encoded(NOISE, "tif", photometric="ycbcr", compression="jpeg", tile=(32, 32)),
    "jp2.tif": encoded(NOISE, "tif", photometric="rgb", compression="jpeg2000", tile=(32, 32)),
    "webp.tif": encoded(NOISE, "tif", photometric="rgb", compression="webp"),
    "planar.tif": encoded(
        np.moveaxis(NOISE, -1, 0), "tif", photometric="rgb", planarconfig="separate", predictor=False
    ),
    "pages.tif": encoded(NOISE[None, ..., 0].repeat(4, 0), "tif", photometric="minisblack"),
    "plainpages.tif": encoded(NOISE[None, ..., 0].repeat(4, 0), "tif", photometric="minisblack", metadata=None),
    "zpages.tif": encoded(NOISE[None, ..., 0].repeat(4, 0), "tif", photometric="minisblack", compression="zlib"),
    "imagej.tif": encoded(NOISE[None, ..., 0].repeat(4, 0), "tif", imagej=True),
    "a.ome.tif": encoded(NOISE[None, ..., 0].repeat(4, 0), "tif", photometric="minisblack", ome=True),
    "big.tif": encoded(NOISE, "tif", photometric="rgb", bigtiff=True),
    "pillow.tif": encoded(NOISE, "tiff"),
    "libtiff.tif": encoded(NOISE, "tiff", compression="tiff_lzw"),
    "palette.tif": encoded(Image.fromarray(NOISE).quantize(200), "tiff"),
    "bits.tif": encoded(Image.fromarray(NOISE[..., 0] > 127), "tiff", compression="group4"),
    "ycbcr.tif": encoded(Image.fromarray(NOISE).convert("YCbCr"), "tiff"),
    "lab.tif": encoded(NOISE, "tif", photometric="cielab", compression="zlib"),
    "float.tif": encoded(NOISE[..., 0].astype(np.float32), "tif", compression="zlib", predictor=True),
    "a.npy": encoded(NOISE, "npy"),
    "pages.npy": encoded(NOISE[None, ..., 0].repeat(6, 0), "npy"),
    "float.npy": encoded(NOISE[..., 0].astype(np.float64), "npy"),
    "a.npz": encoded(NOISE, "npz"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_read_under_any_name(tmp_path, name):
    (tmp_path / name).write_bytes(SAMPLES[name])
    decoded = decode(tmp_path / name)
    assert decoded.pixels.shape[2:] == ((50, 50) if name == "odd.tif" else (64, 64))
    assert count_pages(tmp_path / name) == len(decoded.pixels)
    if not name.endswith(".tga"):  # has no signature
        other = tmp_path / ("other.jpg" if name.endswith(".png") else "other.png")
        other.write_bytes(SAMPLES[name])
        assert (decode(other).pixels == decoded.pixels).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_files_never_give_pixels(tmp_path, name):
    content = SAMPLES[name]
    for length in np.linspace(1, len(content) * 0.97, 20).astype(int):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(UserError, match=name):
            decode(tmp_path / name)


def test_broken_files_are_told_apart(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(SAMPLES["gray.png"][:2000])
    (tmp_path / "zip.png").write_bytes(b"PK\3\4" + bytes(100))
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("text.png", "text.png is not an image, whatever its name says: replace or remove it"),
        ("empty.png", "empty.png is empty: replace or remove it"),
        ("empty.tif", "empty.tif is empty: replace or remove it"),
        ("cut.png", "cut.png is damaged"),
        ("zip.png", "zip.png is damaged"),
        ("none.png", "none.png: No such file"),
        ("folder.png", "folder.png: Is a directory"),
    ):
        with pytest.raises(UserError, match=message):
            decode(tmp_path / name)


def png(width: int, height: int, depth: int = 8, colour_type: int = 0) -> bytes:
    """A small PNG whose header may claim anything, checksums in order."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", bytes(6)) * (colour_type == 3)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")])


@pytest.mark.parametrize(("depth", "colour_type"), [(8, 0), (16, 0), (8, 2), (16, 6), (8, 3), (1, 0)])
def test_a_header_that_claims_a_huge_image_is_refused_before_memory_is_taken(tmp_path, depth, colour_type):
    (tmp_path / "huge.png").write_bytes(png(100_000, 100_000, depth, colour_type))
    with pytest.raises(UserError, match=r"huge.png has more than 500 million pixels, or a damaged header"):
        decode(tmp_path / "huge.png")
    (tmp_path / "big.png").write_bytes(png(20_000, 20_000, depth, colour_type))
    with pytest.raises(UserError, match=r"big.png is damaged \(its header claims 400,000,000 pixels, but"):
        decode(tmp_path / "big.png")


@pytest.mark.parametrize(("extension", "options"), [("png", {}), ("gif", {}), ("tif", {"compression": "tiff_lzw"})])
@pytest.mark.parametrize("mode", ["1", "L"])
def test_large_blank_masks_are_not_taken_for_damaged(tmp_path, extension, options, mode):
    Image.new(mode, (9000, 8000)).save(tmp_path / f"a.{extension}", **options)
    assert decode(tmp_path / f"a.{extension}").pixels.shape == (1, 1, 8000, 9000)


def test_huge_files_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "HUGE_PIXELS", 1000)
    for name in ("gray.png", "a.jpg", "raw.tif", "a.npy"):
        (tmp_path / name).write_bytes(SAMPLES[name])
        thread = threading.Thread(target=decode, args=(tmp_path / name,))
        with decoded._huge:
            thread.start()
            thread.join(0.1)
            assert thread.is_alive(), name
        thread.join(10)
        assert not thread.is_alive()


def test_deep_colours_with_an_orientation_keep_their_bits(tmp_path):
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"  # upside down
    content = imagecodecs.png_encode(RGB16)
    chunk = len(exif).to_bytes(4, "big") + b"eXIf" + exif + zlib.crc32(b"eXIf" + exif).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    assert_holds(tmp_path / "a.png", planes(RGB16[::-1, ::-1]))


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("jpeg.tif", b"\xff\xc0\0\x11\x08\0\x20\0\x20", b"\xff\xc0\0\x11\x08\xff\0\xff\0", "one of its parts"),
        (
            "jp2.tif",
            pillow.SIZ + b"\0\x2f\0\0\0\0\0\x20\0\0\0\x20",
            pillow.SIZ + b"\0\x2f\0\0\0\0\xff\0\0\0\xff\0",
            "one of its",
        ),
        ("a.npz", b"(64, 64, 3)", b"(99, 99, 3)", "Bad CRC-32"),
    ],
)
def test_claims_of_parts_are_refused(tmp_path, name, before, after, message):
    content = SAMPLES[name]
    assert before in content
    (tmp_path / name).write_bytes(content.replace(before, after))
    with pytest.raises(UserError, match=rf"{name} is damaged \({message}"):
        decode(tmp_path / name)


def test_stacks_that_claim_too_many_pages_are_refused(tmp_path):
    description = '{"shape": [1000000000, 20, 30]}'
    tifffile.imwrite(tmp_path / "a.tif", GRAY, description=description, metadata=None)
    for reader in (decode, count_pages):
        with pytest.raises(UserError, match=r"a.tif is damaged \(it ends before its pixels do\)"):
            reader(tmp_path / "a.tif")


def test_ome_descriptions_that_claim_too_much_are_refused(tmp_path):
    (tmp_path / "a.ome.tif").write_bytes(SAMPLES["a.ome.tif"])
    description = tifffile.tiffcomment(tmp_path / "a.ome.tif").replace('SizeZ="1"', 'SizeZ="99999999"')
    tifffile.tiffcomment(tmp_path / "a.ome.tif", description.encode())
    with pytest.raises(UserError, match=r"a.ome.tif is damaged \(its description claims more than 10 million planes"):
        decode(tmp_path / "a.ome.tif")


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", encoded(np.zeros((8192, 8192), np.uint8), "npy"))
    with pytest.raises(UserError, match=r"a.npz is damaged \(its header claims 67,108,992 bytes"):
        decode(tmp_path / "a.npz")


def test_an_imagej_stack_that_lost_pages_is_damaged(tmp_path):
    """One directory and the pages behind it, the number of which stands in the description only."""
    description = "ImageJ=1.54f\nimages=5\nslices=5\n"
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], description=description, metadata=None)
    for reader in (decode, count_pages):
        with pytest.raises(UserError, match=r"a.tif is damaged"):
            reader(tmp_path / "a.tif")
    with open(tmp_path / "a.tif", "ab") as file:
        file.write(STACK[1:].tobytes())
    assert_holds(tmp_path / "a.tif", STACK[:, None])


def test_the_pages_of_a_stack_take_one_look_at_its_directories(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(
        tiff_pages, "_check_directories", lambda file, real=tiff_pages._check_directories: looks.append(real(file))
    )
    pages = np.arange(30 * 64, dtype=np.uint8).reshape(30, 8, 8)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack", compression="zlib")
    for number in range(30):
        assert (decode(tmp_path / "stack.tif", number).pixels[0, 0] == pages[number]).all()
    assert len(looks) == 1
    tifffile.imwrite(tmp_path / "stack.tif", pages[::-1] + 1, photometric="minisblack", compression="zlib")
    assert (decode(tmp_path / "stack.tif", 3).pixels[0, 0] == pages[26] + 1).all()  # it is another file now


def test_many_stacks_are_not_all_kept_open(tmp_path):
    pages = np.zeros((3, 8, 8), np.uint8)
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", pages + number, photometric="minisblack")
    for page in range(3):
        for number in range(20):
            assert (decode(tmp_path / f"{number}.tif", page).pixels == number).all()
    assert len(tiff_pages._KEPT) == tiff_pages.MAX_KEPT
    tiff_pages.close_stacks()
    assert not tiff_pages._KEPT
