"""Every format and colour mode that the tool promises to read, and files that are not what their names say."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unet_cli.data.imagefile import is_ours, read_image, read_mask, write_mask
from unet_cli.errors import UserError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)


@pytest.mark.parametrize("extension", ["png", "tif", "bmp", "gif", "webp", "jpg"])
@pytest.mark.parametrize("colour", [False, True])
def test_formats(tmp_path, extension, colour):
    path = tmp_path / f"a.{extension}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(extension, {})
    Image.fromarray(COLOUR if colour else RAMP).save(path, **options)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape[1:] == (6, 8)
    truth = np.moveaxis(COLOUR, -1, 0) if colour else RAMP[None]
    tolerance = 4 if extension == "jpg" else 0
    assert np.abs(image.astype(int) - truth).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I"])
def test_modes_give_one_or_three_channels(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16B", "I") else "a.png")
    source = Image.fromarray(RAMP if mode in ("1", "L", "LA") or mode.startswith("I") else COLOUR)
    if mode == "I;16B":
        source = source.convert("I;16")
    source.convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (1 if mode in ("1", "L", "LA") or mode.startswith("I") else 3, 6, 8)
    assert image.dtype == (np.uint16 if mode.startswith("I") else np.uint8)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_keep_their_values(tmp_path, extension):
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    Image.fromarray(values).save(tmp_path / f"a.{extension}")
    assert (read_image(tmp_path / f"a.{extension}")[0] == values).all()
    assert (read_mask(tmp_path / f"a.{extension}")[0] == values).all()


def test_alpha_is_dropped_not_blended(tmp_path):
    rgba = np.dstack([COLOUR, np.full((6, 8), 3, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (np.moveaxis(read_image(tmp_path / "a.png"), 0, -1) == COLOUR).all()


def test_exif_orientation_turns_image_and_mask_alike(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (1, 8, 6)
    assert read_mask(tmp_path / "a.png")[0].shape == (8, 6)


def test_palette_masks_are_their_indices(tmp_path):
    mask = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    write_mask(tmp_path / "a.png", mask, palette=[0, 0, 0, 255, 0, 0, 0, 255, 0])
    values, palette = read_mask(tmp_path / "a.png")
    assert (values == mask).all()
    assert palette is not None
    assert palette[3:6] == [255, 0, 0]


def test_gray_gifs_are_their_gray_levels_since_each_file_numbers_its_palette_anew(tmp_path):
    for name, values in (("a", [0, 128, 255]), ("b", [0, 255]), ("c", [255])):
        mask = np.resize(np.array(values, np.uint8), (6, 8))
        Image.fromarray(mask).save(tmp_path / f"{name}.gif")
        assert (read_mask(tmp_path / f"{name}.gif")[0] == mask).all()


def test_our_own_files_are_told_from_the_users(tmp_path):
    write_mask(tmp_path / "ours.png", RAMP)
    Image.fromarray(RAMP).save(tmp_path / "theirs.png")
    (tmp_path / "text.png").write_text("x")
    assert [is_ours(tmp_path / f"{name}.png") for name in ("ours", "theirs", "text")] == [True, False, False]


def test_rgb_masks_with_equal_channels_are_gray_and_colours_are_refused(tmp_path):
    Image.fromarray(np.dstack([RAMP] * 3)).save(tmp_path / "gray.png")
    assert (read_mask(tmp_path / "gray.png")[0] == RAMP).all()
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match="colour.png is a mask in colours"):
        read_mask(tmp_path / "colour.png")


def test_broken_files_are_told_apart(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    for name, message in (
        ("text.png", "text.png is not an image, whatever its name says"),
        ("empty.png", "empty.png is not an image"),
        ("cut.png", "cut.png is damaged"),
        ("none.png", "none.png: No such file"),
    ):
        with pytest.raises(UserError, match=message):
            read_image(tmp_path / name)
        with pytest.raises(UserError, match=message):
            read_mask(tmp_path / name)


def test_a_header_that_claims_a_huge_image_is_refused_before_memory_is_taken(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"0")), chunk(b"IEND", b"")]
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(UserError, match="huge.png has more than 500 million pixels"):
        read_image(tmp_path / "huge.png")


def test_floating_point_is_refused_with_what_to_do(tmp_path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match="convert it to 8 or 16 bits"):
        read_image(tmp_path / "f.tif")
