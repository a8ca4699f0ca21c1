"""Where an image lies in the world: the tags of GeoTIFF (OGC 19-008r4, GeoTIFF 1.1), and world files beside images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tifffile import TiffFile, TiffPage

from unet_cli.data.formats.decoded import opened, read
from unet_cli.data.formats.tiff_pages import TIFF_SIGNATURES, open_tiff
from unet_cli.errors import UserError

ORIENTATION = 274
PIXEL_SCALE, TIE_POINTS, TRANSFORMATION = 33550, 33922, 34264
KEYS, KEY_NUMBERS, KEY_TEXTS = 34735, 34736, 34737
RATIONAL_POLYNOMIALS = 50844  # of satellite images that are not rectified

USER_DEFINED = 32767  # larger codes are private, and 0 is undefined
DEGREE = 9102
ALMOST = 1e-6  # of a right angle, as the cosine
SQUARES = {9001: "m²", 9002: "ft²", 9003: "US survey ft²", 9036: "km²", DEGREE: "degree²"}  # by EPSG code of the unit

WORLD_FILES = {".png": ".pgw", ".tif": ".tfw"}  # of masks


class Affine(NamedTuple):
    """x = a * column + b * row + c; y = d * column + e * row + f, where (0, 0) is the outer corner of the first pixel
    and (0.5, 0.5) its centre. The order is that of rasterio."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def __call__(self, column: float, row: float) -> tuple[float, float]:
        return self.a * column + self.b * row + self.c, self.d * column + self.e * row + self.f

    def moved(self, by: float) -> Affine:
        """The transform of pixels that are counted from a place so many pixels further right and down."""
        x, y = self(by, by)
        return self._replace(c=x, f=y)

    @property
    def pixel_area(self) -> float:
        return abs(self.a * self.e - self.b * self.d)


@dataclass(frozen=True)
class Place:
    """transform: from pixels of the upright image, as it is decoded, to the world; None where only tie points or
    polynomials are known. epsg: code of the coordinate system. name: of the coordinate system, in its file's words.
    square: unit of areas in the coordinate system, such as m². is_point: whether the file's tags count from the centre
    of the first pixel."""

    transform: Affine | None
    epsg: int | None = None
    name: str | None = None
    square: str | None = None
    is_point: bool = False

    @property
    def crs(self) -> str | None:
        """`EPSG:32633`, or the name."""
        return f"EPSG:{self.epsg}" if self.epsg else self.name

    @property
    def pixel_size(self) -> tuple[tuple[float, float], str] | None:
        """Height and width of a pixel, and their unit; None where it is unknown, or an angle, or pixels are no
        rectangles."""
        if self.transform is None or self.square in (None, SQUARES[DEGREE]):
            return None
        a, b, _, d, e, _ = self.transform
        height, width = math.hypot(b, e), math.hypot(a, d)
        if abs(a * b + d * e) > ALMOST * height * width:
            return None
        return (height, width), self.square.removesuffix("²")

    @property
    def crs_member(self) -> dict[str, Any] | None:
        """The member `crs` of a GeoJSON document with coordinates in this system, (x, y); None where it has no EPSG
        code. (GeoJSON 2008, section 3; RFC 7946 leaves it to those who agree on it.)"""
        if self.epsg is None:
            return None
        # EPSG has latitude first in 4326, and GeoJSON longitude: CRS84 is the same system in that order.
        code = "OGC:1.3:CRS84" if self.epsg == 4326 else f"EPSG::{self.epsg}"
        return {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{code}"}}


def located(document: dict[str, Any], place: Place) -> dict[str, Any]:
    """A FeatureCollection of GeoJSON whose coordinates are pixels (x to the right, y down, from the outer corner of the
    first pixel) -> the same in the coordinate system of its image.

    The document gets the member `crs`, which is null where there is no EPSG code: without it, degrees are meant. A
    property `area`, in pixels, stays; `world_area`
    and `world_unit` join it, the unit being null where the file doesn't say it. Outer rings stay counterclockwise.
    Without a transform the document stays as it is.
    """
    transform = place.transform
    if transform is None:
        return document
    is_mirrored = transform.a * transform.e < transform.b * transform.d

    def moved(part: Any) -> Any:
        if part and isinstance(part[0], (int, float)):
            return [*transform(part[0], part[1]), *part[2:]]
        several = [moved(one) for one in part]
        is_ring = len(several) > 3 and bool(part[0]) and isinstance(part[0][0], (int, float))
        return several[::-1] if is_ring and is_mirrored else several

    features = []
    for feature in document["features"]:
        geometry, properties = feature["geometry"], feature.get("properties") or {}
        if "area" in properties:
            world = {"world_area": properties["area"] * transform.pixel_area, "world_unit": place.square}
            properties = {**properties, **world}
        coordinates = moved(geometry["coordinates"])
        features.append({**feature, "geometry": {**geometry, "coordinates": coordinates}, "properties": properties})
    before = {name: value for name, value in document.items() if name != "features"}  # readers want the system first
    return {**before, "crs": place.crs_member, "features": features}


def is_geotiff(path: Path) -> bool:
    """Whether a file is a TIFF whose first directory says where it lies. Nothing but that directory is read; False for
    files that can't be read, and for other formats."""
    try:
        with opened(path) as file:
            if file.read(4) not in TIFF_SIGNATURES:
                return False
            file.seek(0)
            with TiffFile(file, _multifile=False) as tif:
                tags = tif.pages.first.tags
                return any(tag in tags for tag in (PIXEL_SCALE, TRANSFORMATION, KEYS, RATIONAL_POLYNOMIALS))
    except UserError:
        return False


def place_of(path: Path, page: int | None = None) -> Place | None:
    """The place of an image, or of a page: from the tags of a GeoTIFF, else from a world file beside it; None where
    neither says it. Raises UserError if the file can't be read."""
    place = read(path, lambda file, head: _tagged(file, page) if head[:4] in TIFF_SIGNATURES else None)
    transform = world_transform(path) if place is None else None
    return place or (transform and Place(transform))


def _tagged(file: BinaryIO, page: int | None) -> Place | None:
    with open_tiff(file) as stack:
        return tagged_place(stack.table.directory(page))


def tagged_place(directory: TiffPage) -> Place | None:
    """What the tags of a TIFF page say."""
    values = {tag: _numbers(directory.tags.valueof(tag)) for tag in (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, KEYS)}
    if not any(values.values()) and RATIONAL_POLYNOMIALS not in directory.tags:
        return None
    keys = dict(_keys(directory, values[KEYS]))
    transform = _transform(values[PIXEL_SCALE], values[TIE_POINTS], values[TRANSFORMATION])
    place = replace(_system(keys), transform=transform, is_point=keys.get(1025) == 2)
    if transform is not None:
        corner = transform.moved(-0.5) if place.is_point else transform
        place = replace(place, transform=_upright(corner, directory))
    return place


def _numbers(value: Any) -> tuple[Any, ...]:
    """A tag's numbers; () where it is missing or holds anything else."""
    several = value if isinstance(value, tuple) else (value,)
    return several if all(isinstance(one, (int, float)) for one in several) else ()


def _transform(scale: Sequence[Any], ties: Sequence[Any], matrix: Sequence[Any]) -> Affine | None:
    """From the three tags, as they count pixels (section 7.2); None where they say no affine transform."""
    if len(matrix) == 16:
        found = Affine(matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7])
    elif len(scale) >= 2 and len(ties) >= 6:
        across, down = scale[0], -abs(scale[1])  # some write the negative; GDAL reads them so too
        column, row, _, x, y, _ = ties[:6]
        found = Affine(across, 0.0, x - across * column, 0.0, down, y - down * row)
    else:
        return None
    return found if all(map(math.isfinite, found)) and found.pixel_area else None


def _upright(transform: Affine, directory: TiffPage) -> Affine:
    """The tags are of the pixels as stored: the transform of those that the orientation brings upright."""
    orientation = directory.tags.valueof(ORIENTATION, default=1)
    if orientation not in range(2, 9):
        return transform
    width, height = directory.imagewidth, directory.imagelength
    is_transposed = orientation >= 5
    across, down = (height, width) if is_transposed else (width, height)

    def world(column: int, row: int) -> tuple[float, float]:
        column = across - column if orientation in (2, 3, 6, 7) else column
        row = down - row if orientation in (3, 4, 7, 8) else row
        return transform(row, column) if is_transposed else transform(column, row)

    (x, y), (x_right, y_right), (x_down, y_down) = world(0, 0), world(1, 0), world(0, 1)
    return Affine(x_right - x, x_down - x, x, y_right - y, y_down - y, y)


def _keys(directory: TiffPage, entries: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(number, value) of the keys: numbers stand in the directory itself, texts in a tag of their own (section 7.1)."""
    texts = directory.tags.valueof(KEY_TEXTS, default="")
    for start in range(4, len(entries) - 3, 4):
        key, where, count, value = entries[start : start + 4]
        if where == 0:
            yield key, value
        elif where == KEY_TEXTS and isinstance(texts, str):
            yield key, texts[value : value + count].strip("|\0 ")


def _system(keys: dict[int, Any]) -> Place:
    """The coordinate system: a projected one where there is a key of it, else geographic (section 7.4)."""
    model = keys.get(1024)
    is_projected = model == 1 or (model != 2 and 3072 in keys)
    code = keys.get(3072 if is_projected else 2048)
    name = keys.get(3073 if is_projected else 2049) or keys.get(1026)
    unit = keys.get(3076) if is_projected else keys.get(2054, DEGREE if model == 2 else None)
    epsg = code if isinstance(code, int) and 0 < code < USER_DEFINED else None
    return Place(None, epsg, name or None, SQUARES.get(unit or 0))


def turned_tags(place: Place) -> tuple[float, ...]:
    """The value of the transformation tag for this place."""
    assert place.transform is not None
    a, b, c, d, e, f = place.transform.moved(0.5) if place.is_point else place.transform
    return (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def world_file(mask: Path) -> Path:
    """The name of a mask's own world file."""
    return mask.with_suffix(WORLD_FILES[mask.suffix])


def world_transform(image: Path) -> Affine | None:
    """From the world file beside an image; None without one, or where it isn't six numbers."""
    for path in _world_names(image):
        try:
            words = path.read_text(encoding="utf-8", errors="replace").replace(",", ".").split()[:6]
        except OSError:
            continue
        try:
            a, d, b, e, x, y = map(float, words)
        except ValueError:
            continue
        found = Affine(a, b, x, d, e, y).moved(-0.5)  # a world file says the centre of the first pixel
        if all(map(math.isfinite, found)) and found.pixel_area:
            return found
    return None


def is_world_file(path: Path) -> bool:
    """By name."""
    return path.suffix.lower() in (".wld", ".tfw", ".tifw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".bpw", ".bmpw")


def _world_names(image: Path) -> Iterator[Path]:
    """a.jpg -> a.jgw, a.jpgw, a.wld; in the case of the image's extension."""
    extension = image.suffix
    if len(extension) < 3:
        return
    is_upper = extension.isupper()
    for name in (extension[:2] + extension[-1] + "w", extension + "w", ".wld"):
        yield image.with_suffix(name.upper() if is_upper else name)
    if is_upper:
        yield from _world_names(image.with_suffix(extension.lower()))


def world_text(transform: Affine) -> str:
    """The content of a world file."""
    a, b, x, d, e, y = transform.moved(0.5)
    return "".join(f"{number!r}\n" for number in (a, d, b, e, x, y))
