"""Pictures of the data for people: outlines of masks over images, and contact sheets of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import Colour, Colours
from unet_cli.data.writing import is_ours, write_png
from unet_cli.errors import UserError
from unet_cli.system.files import make_folder

IGNORED_GRAY = 110
CUT = 0.5  # percent of the pixels that contrast stretching may saturate at either end

MAX_HIDDEN = 0.75  # fraction of the objects' pixels that outlines of 2 pixels may cover on a sheet

MAX_TILES = 48  # of one sheet: eight rows of six make a picture of 1500 x 2200 pixels
GAP = 12  # pixels between the tiles of a sheet
FRAME = 4
OUTLINE_SHARE = 800  # pixels of the shorter side for each pixel of the outline's width
PAPER, INK, ALARM, BACKING = (248, 248, 248), (30, 30, 30), (220, 0, 0), (226, 226, 226)


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet.

    pixels: (C, H, W) as in the file. indices: (H, W) uint8 class indices, 255 for ignored. alarm: whether to highlight
    it.
    """

    title: str
    pixels: np.ndarray
    indices: np.ndarray
    alarm: bool = False


def outlined(pixels: np.ndarray, indices: np.ndarray, colours: Colours, has_legend: bool = True) -> Image.Image:
    """(C, H, W) uint8, uint16 or float32 pixels and (H, W) uint8 class indices -> RGB with the outlines of all objects
    drawn inside them, closed at the image border, and ignored pixels hatched. With several classes, a legend is added
    below the H rows of the image.

    With other than 1 or 3 channels, the first three or the first one is shown.
    """
    shown = visible(pixels)
    colour = shown if shown.dtype == np.uint8 else stretched(_finite(shown), CUT)
    picture = _drawn(colour, indices, max(1, round(min(indices.shape) / OUTLINE_SHARE)), colours)
    legend = colours.line_legend()
    return with_legend(picture, legend) if has_legend and len(legend) > 1 else picture


def contact_sheet(tiles: Iterable[Tile], colours: Colours, columns: int = 6, side: int = 240) -> Image.Image:
    """An RGB grid with `columns` tiles a row, each scaled to fit a square of `side` pixels, with its title below; and a
    legend of the classes.

    Contrast is stretched for each image, so that dark ones are visible too. Tiles may be generated one by one from
    files: only the thumbnails are kept.
    """
    shown = [_scaled(tile, side) for tile in tiles]
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
        picture = _drawn(tile.pixels, tile.indices, _border_width(tile.indices), colours)
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        title = shortened(tile.title, font, side)
        draw.text((left, top + side + FRAME), title, fill=ALARM if tile.alarm else INK, font=font)
    return with_legend(sheet, colours.line_legend()) if shown else sheet


def with_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The picture with a legend below: a colour swatch and a text for each entry."""
    text_size = min(max(11, picture.width // 100), 32)
    font, height = ImageFont.load_default(size=text_size), round(1.6 * text_size)
    room = picture.width - 2 * FRAME
    texts = [shortened(text, font, max(0, room - 2 * text_size)) for text, _ in entries]
    places, left, row = [], 0, 0
    for text in texts:
        width = round(1.5 * text_size + font.getlength(text))
        if left and left + width > room:
            left, row = 0, row + 1
        places.append((FRAME + left, picture.height + row * height))
        left += width + text_size
    whole = Image.new("RGB", (picture.width, picture.height + (row + 1) * height + FRAME), PAPER)
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for (left, top), text, (_, colour) in zip(places, texts, entries, strict=True):
        box = (left, top + height // 2 - text_size // 2, left + text_size, top + height // 2 + text_size // 2)
        draw.rectangle(box, fill=colour, outline=INK)
        draw.text((left + round(1.5 * text_size), top + height // 2), text, fill=INK, font=font, anchor="lm")
    return whole


def augmented_sheet(image: Tensor, indices: np.ndarray, colours: Colours) -> Image.Image:
    """A contact sheet of network inputs: image (N, C, *spatial) normalized float, indices (N, *spatial) uint8 of
    classes, ignored pixels IGNORED; of a volume one slice."""
    pixels = image.detach().float().cpu().numpy()
    samples = (shown_slice(*sample) for sample in zip(pixels, indices, strict=True))
    tiles = [Tile(str(number), shown, classes) for number, (shown, classes) in enumerate(samples, start=1)]
    return contact_sheet(tiles, colours)


def shown_slice(image: np.ndarray, mask: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """The slice of a volume with the most foreground, of several the middle one: image (C, D, H, W), mask and others
    (D, H, W) -> (C, H, W) and (H, W). Images are unchanged."""
    if mask.ndim == 2:
        return image, mask, *others
    place = place_to_show(mask)
    return image[:, place], mask[place], *(other[place] for other in others)


def place_to_show(mask: np.ndarray) -> int:
    """The slice of (D, H, W) class indices with the most foreground, of several the middle one."""
    counts = np.count_nonzero(is_foreground(mask), axis=(1, 2))
    most = np.flatnonzero(counts == counts.max())
    return int(most[len(most) // 2])


def write_contact_sheet(
    folder: Path, tiles: Iterable[Tile], colours: Colours, columns: int = 6, side: int = 240
) -> Path:
    """Write folder/contact_sheet.png, creating the folder if necessary.

    Raises UserError, also if such a file exists that isn't ours.
    """
    path = make_folder(folder) / "contact_sheet.png"
    if path.exists() and not is_ours(path):
        raise UserError(f"{path} exists already and was not written by unet: choose another folder")
    write_png(path, contact_sheet(tiles, colours, columns, side))
    return path


def shortened(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """One line of at most `width` pixels, with '…' in its middle if it is too long: names mostly differ at their
    ends."""
    title = " ".join(title.split())
    short, kept = title, len(title)
    while kept and font.getlength(short) > width:
        kept -= 1
        short = title[: (kept + 1) // 2] + "…" + title[len(title) - kept // 2 :]
    return short


def _drawn(pixels: np.ndarray, indices: np.ndarray, width: int, colours: Colours) -> Image.Image:
    """Draw outlines of `width` pixels on (1 or 3, H, W) uint8."""
    canvas = to_rgb(pixels)
    diagonal = np.add.outer(*(np.arange(length) for length in indices.shape)) % (4 * width)
    canvas[(indices == IGNORED) & (diagonal < width)] = IGNORED_GRAY
    for layer in colours.layers(indices):
        border = _border(layer, width)
        canvas[border] = colours.line_palette()[layer[border]]
    return Image.fromarray(canvas)


def visible(pixels: np.ndarray) -> np.ndarray:
    """The 1 or 3 channels of (C, H, W) that are shown."""
    return pixels[:3] if pixels.shape[0] >= 3 else pixels[:1]


def _border(indices: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: foreground pixels at most `width` pixels from another class or from the image border. The latter
    closes every outline, and makes a mask that is all foreground visible."""
    mask, size = Image.fromarray(indices), 2 * width + 1
    lowest = np.asarray(mask.filter(ImageFilter.MinFilter(size)))
    highest = np.asarray(mask.filter(ImageFilter.MaxFilter(size)))
    border = lowest != highest
    border[:width] = border[-width:] = border[:, :width] = border[:, -width:] = True
    return border & is_foreground(indices)


def is_foreground(indices: np.ndarray) -> np.ndarray:
    """Bool of the shape of class indices."""
    return (indices > 0) & (indices != IGNORED)


def _border_width(indices: np.ndarray) -> int:
    """2 pixels, or 1 if outlines of 2 would cover most of the objects of most classes."""
    pixels = np.bincount(indices[is_foreground(indices)], minlength=256)
    hidden = np.bincount(indices[_border(indices, 2)], minlength=256)
    shares = hidden[pixels > 0] / pixels[pixels > 0]
    return 1 if shares.size and shares.mean() > MAX_HIDDEN else 2


def _scaled(tile: Tile, side: int) -> Tile:
    """The tile with a longer side of `side` pixels: the image by averaging, as uint8; indices by nearest neighbour."""
    height, width = tile.pixels.shape[1:]
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    indices = np.asarray(Image.fromarray(tile.indices).resize((width, height), Image.Resampling.NEAREST))
    return Tile(tile.title, small(tile.pixels, height, width), indices, tile.alarm)


def small(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, H, W) pixels as in the file -> (1 or 3, height, width) uint8, averaged and contrast-stretched."""
    return stretched(averaged(pixels, height, width), CUT)


def averaged(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, H, W) pixels as in the file -> (1 or 3, height, width) float32, finite."""
    # As float32, since Pillow's box filter does not support 16-bit planes.
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in visible(pixels)]
    return _finite(np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes]))


def _finite(pixels: np.ndarray) -> np.ndarray:
    """Replace NaN and infinity by the lowest finite value."""
    finite = np.isfinite(pixels)
    return np.where(finite, pixels, pixels[finite].min() if finite.any() else 0)


def stretched(pixels: np.ndarray, cut: float) -> np.ndarray:
    """Pixels of any bit depth -> uint8, with the range between the percentiles `cut` and 100 - `cut` stretched to 0 to
    255."""
    low, high = np.percentile(pixels, [cut, 100 - cut])
    return (np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(1 or 3, H, W) uint8 -> (H, W, 3), a copy to draw on."""
    return np.moveaxis(np.broadcast_to(pixels, (3, *pixels.shape[1:])), 0, -1).copy()
