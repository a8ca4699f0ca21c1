"""Images and masks as the rest of the program sees them, whatever their files hold. Formats: test_formats.py."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_cli.data.imagefile import is_image_file, read_image, read_stack
from unet_cli.data.maskfile import read_mask
from unet_cli.data.pictures import stretched, to_rgb
from unet_cli.data.source import Source
from unet_cli.data.writing import is_ours, write_mask
from unet_cli.errors import UserError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)
PACKED = COLOUR.astype(np.int32) @ [0x10000, 0x100, 1]


def source(*paths, page=None):
    return Source(paths, page)


@pytest.mark.parametrize(
    ("name", "known"),
    [("a.png", True), ("a.PNG", True), ("a.ome.tif", True), ("a.npz", True), ("a.avif", True), ("a.txt", False)]
    + [(name, False) for name in (".a.png", "._a.png", "Thumbs.db", "desktop.ini", "a.svg", "a.pdf", "a.ico", "png")],
)
def test_image_files_are_told_by_their_names(tmp_path, name, known):
    assert is_image_file(tmp_path / name) == known


# --- images


@pytest.mark.parametrize("extension", ["png", "tif", "bmp", "gif", "webp", "jpg"])
@pytest.mark.parametrize("colour", [False, True])
def test_formats(tmp_path, extension, colour):
    path = tmp_path / f"a.{extension}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(extension, {})
    Image.fromarray(COLOUR if colour else RAMP).save(path, **options)
    image = read_image(source(path))
    assert image.dtype == np.uint8
    assert image.shape == (3 if colour or extension == "webp" else 1, 6, 8)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    truth = np.moveaxis(COLOUR, -1, 0) if colour else RAMP[None]
    assert np.abs(image.astype(int) - truth).max() <= (4 if extension == "jpg" else 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F"])
def test_modes_give_one_or_three_channels(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16B", "I", "F") else "a.png")
    gray = mode in ("1", "L", "LA", "F") or mode.startswith("I")
    image = Image.fromarray(RAMP if gray else COLOUR)
    if mode == "I;16B":
        image = image.convert("I;16")
    image.convert(mode).save(path)
    image = read_image(source(path))
    assert image.shape == (1 if gray else 3, 6, 8)
    assert image.dtype == {"I;16": np.uint16, "I;16B": np.uint16, "I": np.float32, "F": np.float32}.get(mode, np.uint8)


def test_palettes_give_their_colours(tmp_path):
    image = Image.fromarray(COLOUR).quantize(16)
    image.save(tmp_path / "a.png")
    assert (read_image(source(tmp_path / "a.png")) == np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)).all()


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_keep_their_values(tmp_path, extension):
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    Image.fromarray(values).save(tmp_path / f"a.{extension}")
    assert (read_image(source(tmp_path / f"a.{extension}"))[0] == values).all()
    assert (read_mask(source(tmp_path / f"a.{extension}")).values[0] == values).all()


@pytest.mark.parametrize("dtype", ["u4", "i2", "i4", "f2", "f4", "f8"])
def test_other_numbers_become_float(tmp_path, dtype):
    values = RAMP.astype(dtype) * (1 if "u" in dtype else -1)
    np.save(tmp_path / "a.npy", values)
    pixels = read_image(source(tmp_path / "a.npy"))
    assert pixels.dtype == np.float32
    assert (pixels[0] == values).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_images_with_nan_or_infinity_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", np.array([[0, value]]))
    with pytest.raises(UserError, match=r"a.npy holds infinite values"):
        read_image(source(tmp_path / "a.npy"))


@pytest.mark.parametrize("value", [np.finfo(np.float32).min, 1.7e38])
def test_values_that_stand_for_no_data_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", np.array([[0, value], [1, value]], np.float32))
    with pytest.raises(UserError, match=r"a.npy holds 2 values like .*e\+38, which mark missing data"):
        read_image(source(tmp_path / "a.npy"))


@pytest.mark.parametrize("palette", [False, True])
def test_alpha_is_dropped_with_a_note_or_kept_but_not_blended(tmp_path, palette):
    path = source(tmp_path / "a.png")
    rgba = np.dstack([COLOUR, np.full((6, 8), 3, np.uint8)])
    if palette:
        image = Image.fromarray(COLOUR).quantize(48)
        rgba[..., :3], rgba[..., 3] = image.convert("RGB"), 3
        image.save(path.path, transparency=bytes([3] * 256))
    else:
        Image.fromarray(rgba).save(path.path)
    pixels, notes = read_stack(path)
    assert notes == ("alpha was dropped",)
    assert (np.moveaxis(pixels[0], 0, -1) == rgba[..., :3]).all()
    pixels, notes = read_stack(path, keep_alpha=True)
    assert notes == ()
    assert (np.moveaxis(pixels[0], 0, -1) == rgba).all()


def test_pages_are_kept_apart_or_become_channels(tmp_path):
    stack = np.stack([RAMP, RAMP + 1, RAMP + 2, RAMP + 3, RAMP + 4])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    assert (read_stack(source(tmp_path / "a.tif"))[0] == stack[:, None]).all()
    assert (read_image(source(tmp_path / "a.tif")) == stack).all()
    assert (read_image(source(tmp_path / "a.tif", page=2)) == stack[2:3]).all()
    assert (read_mask(source(tmp_path / "a.tif")).values == stack).all()
    assert (read_mask(source(tmp_path / "a.tif", page=2)).values == stack[2:3]).all()


def test_several_files_are_the_channels_of_one_image(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path, pixels in zip(paths, (RAMP, COLOUR, 255 - RAMP), strict=True):
        Image.fromarray(pixels).save(path)
    image = read_image(source(*paths))
    assert (image == np.concatenate([RAMP[None], np.moveaxis(COLOUR, -1, 0), 255 - RAMP[None]])).all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            RAMP[:4],
            r"b.png is 8x4 uint8 but .*a.png is 8x6 uint8: channels of one image must have the same",
        ),
        (RAMP.astype(np.uint16), r"b.png is 8x6 uint16 but .*a.png is 8x6 uint8"),
    ],
)
def test_channels_that_differ_are_refused(tmp_path, other, message):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    Image.fromarray(other).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=message):
        read_stack(source(tmp_path / "a.png", tmp_path / "b.png"))


def test_exif_orientation_turns_image_and_mask_alike(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert (read_image(source(tmp_path / "a.png"))[0] == np.rot90(RAMP, -1)).all()
    assert (read_mask(source(tmp_path / "a.png")).values[0] == np.rot90(RAMP, -1)).all()


# --- masks


def test_palette_masks_are_their_indices(tmp_path):
    mask = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    write_mask(tmp_path / "a.png", mask, palette=[0, 0, 0, 255, 0, 0, 0, 255, 0])
    pixels = read_mask(source(tmp_path / "a.png"))
    assert (pixels.values == mask).all()
    assert pixels.palette[:9] == [0, 0, 0, 255, 0, 0, 0, 255, 0]
    assert not pixels.colour


def test_gray_gifs_are_their_gray_levels_since_each_file_numbers_its_palette_anew(tmp_path):
    for name, values in (("a", [0, 128, 255]), ("b", [0, 255]), ("c", [255])):
        mask = np.resize(np.array(values, np.uint8), (6, 8))
        Image.fromarray(mask).save(tmp_path / f"{name}.gif")
        assert (read_mask(source(tmp_path / f"{name}.gif")).values == mask).all()


def test_coloured_gifs_are_their_colours(tmp_path):
    image = Image.fromarray(COLOUR).quantize(48)
    image.save(tmp_path / "a.gif")
    pixels = read_mask(source(tmp_path / "a.gif"))
    assert pixels.colour
    assert pixels.palette is None
    assert (pixels.values[0] == np.asarray(image.convert("RGB")).astype(int) @ [0x10000, 0x100, 1]).all()


@pytest.mark.parametrize("alpha", [False, True])
def test_rgb_masks_with_equal_channels_are_gray_and_others_packed_colours(tmp_path, alpha):
    more = [np.full((6, 8), 9, np.uint8)] if alpha else []
    Image.fromarray(np.dstack([RAMP, RAMP, RAMP, *more])).save(tmp_path / "gray.png")
    gray = read_mask(source(tmp_path / "gray.png"))
    assert (gray.values == RAMP).all()
    assert gray.values.dtype == np.uint8
    assert not gray.colour
    Image.fromarray(np.dstack([COLOUR, *more])).save(tmp_path / "colour.png")
    colour = read_mask(source(tmp_path / "colour.png"))
    assert (colour.values == PACKED).all()
    assert colour.values.dtype == np.int32
    assert colour.colour


NUMBERS = [
    (np.array([[False, True]]), [0, 1], np.uint8),
    (np.array([[0, 255]], np.uint8), [0, 255], np.uint8),
    (np.array([[0, 1000]], np.uint16), [0, 1000], np.uint16),
    (np.array([[0, 65535]], np.int64), [0, 65535], np.uint16),
    (np.array([[0, 65536]], np.int32), [0, 65536], np.int32),
    (np.array([[0, 70000]], np.uint32), [0, 70000], np.int32),
    (np.array([[0.0, 7.0]]), [0, 7], np.uint16),
    (np.array([[-0.0, 7.0]], np.float16), [0, 7], np.uint16),
    (np.array([[-1, 7]], np.int16), [-1, 7], np.int32),
    (np.array([[np.nan, 7]]), [-1, 7], np.int32),
    (np.array([[-3.4e38, 7]], np.float32), [-1, 7], np.int32),
    (np.array([[-9999, 7]]), [-1, 7], np.int32),
]


@pytest.mark.parametrize(("array", "values", "dtype"), NUMBERS)
def test_mask_numbers(tmp_path, array, values, dtype):
    np.save(tmp_path / "a.npy", array)
    pixels = read_mask(source(tmp_path / "a.npy")).values
    assert pixels.ravel().tolist() == values
    assert pixels.shape == (1, 1, 2)
    assert pixels.dtype == dtype


def test_one_bit_masks_are_0_and_255(tmp_path):
    Image.fromarray(RAMP > 100).save(tmp_path / "a.png")
    assert (read_mask(source(tmp_path / "a.png")).values == np.where(RAMP > 100, 255, 0)).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0.0, 0.5]]), "holds numbers that are not whole: save masks as whole numbers"),
        (np.array([[0.0, np.inf]]), "holds numbers that are not whole"),
        (np.array([[0, -2]]), "has negative values, down to -2: save masks as whole numbers, with 0 for background"),
        (np.array([[0, 2**31]]), "has values up to 2147483648: number the classes or objects from 0"),
        (np.arange(72, dtype=np.uint16).reshape(4, 6, 3), "is a mask in colours of type uint16"),
        (np.zeros((2, 6, 8), np.uint8), "has 2 channels: save masks as gray, with a palette, or as 8-bit RGB"),
    ],
)
def test_what_no_mask_can_be_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=f"a.npy {message}"):
        read_mask(source(tmp_path / "a.npy"))


def test_masks_of_many_channels_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.full((5, 6, 8), 7, np.uint8), photometric="minisblack", planarconfig="separate"
    )
    with pytest.raises(UserError, match=r"a.tif has 5 channels"):
        read_mask(source(tmp_path / "a.tif"))


def test_several_files_are_the_objects_of_one_mask(tmp_path):
    first, second = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    first[1:4, 1:4], second[3:5, 3:5] = 100, 255
    for name, mask in (("a", first), ("b", second), ("small", first[:5]), ("none", first * 0)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    united = read_mask(source(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "none.png"))
    assert (united.values == np.maximum(first, second)).all()
    with pytest.raises(UserError, match=r"small.png is 8x5 uint8 but .*a.png is 8x6 uint8"):
        read_mask(source(tmp_path / "a.png", tmp_path / "small.png"))
    Image.fromarray(COLOUR * (first > 0)[..., None]).save(tmp_path / "colour.png")
    united = read_mask(source(tmp_path / "b.png", tmp_path / "colour.png"))
    assert united.colour
    assert united.values[0, 4, 4] == 0xFFFFFF
    assert united.values[0, 1, 1] == PACKED[1, 1]


def test_a_united_mask_has_a_palette_where_its_files_agree(tmp_path):
    for name, palette in (("a", [0, 0, 0, 9, 9, 9]), ("b", [0, 0, 0, 9, 9, 9]), ("c", [0, 0, 0, 5, 9, 9])):
        write_mask(tmp_path / f"{name}.png", np.eye(4, dtype=np.uint8), palette)
    assert read_mask(source(tmp_path / "a.png", tmp_path / "b.png")).palette is not None
    assert read_mask(source(tmp_path / "a.png", tmp_path / "c.png")).palette is None


def test_masks_are_written_as_they_are_read(tmp_path):
    for mask in (RAMP, RAMP.astype(np.uint16) * 200):
        write_mask(tmp_path / "a.png", mask)
        assert (read_mask(source(tmp_path / "a.png")).values == mask).all()
    write_mask(tmp_path / "rgb.png", COLOUR)
    assert (read_mask(source(tmp_path / "rgb.png")).values == PACKED).all()


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (3, [255, 0, 0]),  # the middles of 48 rows in three parts are 8, 24 and 40
        (6, [0, 255, 255, 0, 0, 0]),
        (96, [0] * 16 + [255] * 32 + [0] * 48),
    ],
)
def test_a_mask_of_another_size_is_read_where_the_middles_of_its_pixels_lie(tmp_path, to, expected):
    mask = np.zeros((48, 6), np.uint8)
    mask[8:24] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    values = read_mask(Source((tmp_path / "a.png",), size=(to, 6))).values[0]
    assert (values == np.array(expected)[:, None]).all()


def test_our_own_files_are_told_from_the_users(tmp_path):
    write_mask(tmp_path / "ours.png", RAMP)
    Image.fromarray(RAMP).save(tmp_path / "theirs.png")
    (tmp_path / "text.png").write_text("x")
    assert [is_ours(tmp_path / f"{name}.png") for name in ("ours", "theirs", "text")] == [True, False, False]


def test_errors_name_the_file_that_is_broken(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("not an image")
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=r"b.png is not an image, whatever its name says"):
            read(source(tmp_path / "a.png", tmp_path / "b.png"))


def test_pictures_to_look_at():
    assert stretched(np.array([[10, 20, 30]]), cut=0).tolist() == [[0, 127, 255]]
    assert to_rgb(RAMP[None]).shape == (6, 8, 3)
    assert (to_rgb(np.moveaxis(COLOUR, -1, 0)) == COLOUR).all()


def test_a_mask_in_the_alpha_channel_alone_is_refused(tmp_path):
    mask = np.zeros((6, 8, 4), np.uint8)
    mask[2:4, 2:5, 3] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="in the alpha channel alone"):
        read_mask(Source((tmp_path / "a.png",)))


def test_masks_of_one_bit_are_what_viewers_show_and_numbers_stay_what_they_are(tmp_path):
    mask = np.zeros((6, 8), bool)
    mask[2:4, 2:5] = True
    for array, expected in ((~mask, mask * 255), (mask.astype(np.uint8), mask)):  # of bool one bit is written
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
        assert (read_mask(Source((tmp_path / "a.tif",))).values[0] == expected).all()
