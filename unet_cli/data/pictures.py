"""Pictures of data for people's eyes: outlines of masks on images, and many of them on a contact sheet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from unet_cli.data.imagefile import is_ours, stretched, to_rgb, write_png
from unet_cli.data.labels import CLASS_COLOURS, IGNORED
from unet_cli.errors import UserError
from unet_cli.files import make_folder

OUTLINE = (255, 0, 255)  # magenta: rare in microscopy, radiology and on metal
IGNORED_GRAY = 110
CUT = 0.5  # percent of the pixels that may be blown out at either end

MOST_HIDDEN = 0.75  # share of the objects that a border of 2 pixels may hide on a sheet

MOST_TILES = 48  # of one sheet: eight rows of six, which is a picture of 1500 x 2200 pixels
GAP = 12  # pixels between the tiles of a sheet
FRAME = 4
PAPER, INK, ALARM, BACKING = (248, 248, 248), (30, 30, 30), (220, 0, 0), (226, 226, 226)


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet.

    pixels: (C, H, W) as in the file. indices: (H, W) uint8 class indices, 255 for ignored. alarm: to be seen first.
    """

    title: str
    pixels: np.ndarray
    indices: np.ndarray
    alarm: bool = False


def outlined(pixels: np.ndarray, indices: np.ndarray, num_classes: int | None = None) -> Image.Image:
    """(C, H, W) uint8, uint16 or float32 pixels and (H, W) uint8 class indices -> RGB with the borders of all objects
    drawn inside them, and what is ignored hatched.

    One foreground class is drawn in magenta, more in the colours that written masks have. num_classes: background
    included; by default as many as `indices` hold, so that a set of several classes has to say how many there are.
    Of other than 1 or 3 channels the first three are shown, or the first.
    """
    shown = visible(pixels)
    colour = shown if shown.dtype == np.uint8 else stretched(_finite(shown), CUT)
    return _drawn(colour, indices, 1, _highest(indices) if num_classes is None else num_classes - 1)


def contact_sheet(
    tiles: Iterable[Tile], columns: int = 6, side: int = 240, num_classes: int | None = None
) -> Image.Image:
    """RGB: a row of `columns` tiles after the other, each scaled to fit a square of `side` pixels, its title below.

    Contrast is stretched for each image, so that dark ones are seen too. Tiles may come one by one from files: of each,
    only what is shown is kept. num_classes: background included, as for `outlined`; by default as many as are shown.
    """
    shown = [_scaled(tile, side) for tile in tiles]
    highest = max((_highest(tile.indices) for tile in shown), default=0) if num_classes is None else num_classes - 1
    text_size = max(11, side // 17)
    font, caption = ImageFont.load_default(size=text_size), round(1.5 * text_size)
    columns = min(columns, max(len(shown), 1))
    width, height = side + GAP, side + caption + GAP
    sheet = Image.new("RGB", (columns * width + GAP, -(-len(shown) // columns) * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = GAP + column * width, GAP + row * height
        if tile.alarm:
            draw.rectangle((left - FRAME, top - FRAME, left + side + FRAME - 1, top + side + FRAME - 1), fill=ALARM)
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=BACKING)
        picture = _drawn(tile.pixels, tile.indices, _border_width(tile.indices), highest)
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        title = shortened(tile.title, font, side)
        draw.text((left, top + side + FRAME), title, fill=ALARM if tile.alarm else INK, font=font)
    return sheet


def augmented_sheet(image: Tensor, mask: Tensor, num_classes: int) -> Image.Image:
    """A contact sheet of samples as the network sees them: image (N, C, S, S) normalised float, mask (N, S, S) class
    indices of `num_classes` classes, background included, ignored pixels IGNORED."""
    pixels, indices = image.detach().float().cpu().numpy(), mask.cpu().numpy().astype(np.uint8)
    tiles = [Tile(str(number), *sample) for number, sample in enumerate(zip(pixels, indices, strict=True), start=1)]
    return contact_sheet(tiles, num_classes=num_classes)


def write_contact_sheet(folder: Path, tiles: Iterable[Tile], columns: int = 6, side: int = 240) -> Path:
    """Write folder/contact_sheet.png, the folder being created where it isn't there.

    Raises UserError, also where there is such a file that isn't ours.
    """
    path = make_folder(folder) / "contact_sheet.png"
    if path.exists() and not is_ours(path):
        raise UserError(f"{path} is there already and was not written by unet: choose another folder")
    write_png(path, contact_sheet(tiles, columns, side))
    return path


def shortened(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """One line that is at most `width` pixels long, with '…' for its middle where it wouldn't fit: the ends differ."""
    title = " ".join(title.split())
    short, kept = title, len(title)
    while kept and font.getlength(short) > width:
        kept -= 1
        short = title[: (kept + 1) // 2] + "…" + title[len(title) - kept // 2 :]
    return short


def _drawn(pixels: np.ndarray, indices: np.ndarray, width: int, highest: int) -> Image.Image:
    """Borders, `width` pixels wide, on (1 or 3, H, W) uint8. highest: class index in the whole set."""
    canvas = to_rgb(pixels)
    diagonal = np.add.outer(*(np.arange(length) for length in indices.shape)) % (4 * width)
    canvas[(indices == IGNORED) & (diagonal < width)] = IGNORED_GRAY
    border = _border(indices, width)
    canvas[border] = _colours(highest)[indices[border]]
    return Image.fromarray(canvas)


def visible(pixels: np.ndarray) -> np.ndarray:
    """The 1 or 3 channels of (C, H, W) that can be shown."""
    return pixels[:3] if pixels.shape[0] >= 3 else pixels[:1]


def _border(indices: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels of foreground, at most `width` pixels from one of another class."""
    mask, size = Image.fromarray(indices), 2 * width + 1
    lowest = np.asarray(mask.filter(ImageFilter.MinFilter(size)))
    highest = np.asarray(mask.filter(ImageFilter.MaxFilter(size)))
    return (lowest != highest) & _is_foreground(indices)


def _is_foreground(indices: np.ndarray) -> np.ndarray:
    return (indices > 0) & (indices != IGNORED)


def _border_width(indices: np.ndarray) -> int:
    """2 pixels, which is seen best, or 1 where these would hide most of the objects of most classes."""
    held = np.bincount(indices[_is_foreground(indices)], minlength=256)
    hidden = np.bincount(indices[_border(indices, 2)], minlength=256)
    shares = hidden[held > 0] / held[held > 0]
    return 1 if shares.size and shares.mean() > MOST_HIDDEN else 2


def _colours(highest: int) -> np.ndarray:
    """(256, 3) uint8: the colour of each class index. They repeat where there are more classes, but for black."""
    if highest <= 1:
        return np.full((256, 3), OUTLINE, np.uint8)
    foreground = np.array(CLASS_COLOURS[1:], np.uint8)
    return foreground[np.arange(-1, 255) % len(foreground)]


def _scaled(tile: Tile, side: int) -> Tile:
    """The tile with its longer side `side` pixels long: pixels averaged and stretched to uint8, indices nearest."""
    height, width = tile.pixels.shape[1:]
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    indices = np.asarray(Image.fromarray(tile.indices).resize((width, height), Image.Resampling.NEAREST))
    return Tile(tile.title, small(tile.pixels, height, width), indices, tile.alarm)


def small(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, H, W) pixels as in the file -> (1 or 3, height, width) uint8, averaged and stretched to be seen."""
    # As float32, since Pillow resizes no 16-bit planes by averages.
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in visible(pixels)]
    averaged = np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes])
    return stretched(_finite(averaged), CUT)


def _finite(pixels: np.ndarray) -> np.ndarray:
    """What is not a number, or infinite, becomes the lowest number that there is."""
    finite = np.isfinite(pixels)
    return np.where(finite, pixels, pixels[finite].min() if finite.any() else 0)


def _highest(indices: np.ndarray) -> int:
    return int(indices.max(where=indices != IGNORED, initial=0))
