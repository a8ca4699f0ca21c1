"""Formats that need extra packages: HEIF and DICOM, and NIfTI (see nifti.py); and JPEG XL."""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np

from unet_cli.data.formats.decoded import (
    Decoded,
    Refused,
    alone_if_huge,
    check_claim,
    check_page,
    content_of,
    file_size,
    from_array,
)
from unet_cli.data.formats.names import VOLUME_EXTENSIONS, extension_of
from unet_cli.system.console import counted

JXL_SIGNATURES = (b"\xff\n", b"\0\0\0\x0cJXL ")
JXL_EXTENSIONS = (".jxl",)
DICOM_EXTENSIONS = (".dcm", ".dicom")
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})

warnings.filterwarnings("ignore", module=r"pydicom\.")  # about odd metadata


class Package(NamedTuple):
    """The package that a format needs. extra: the extra of ours that installs it."""

    module: str
    name: str
    extra: str


HEIF = Package("pillow_heif", "pillow-heif", "heif")
DICOM = Package("pydicom", "pydicom", "medical")
NIFTI = Package("nibabel", "nibabel", "medical")
ROI = Package("roifile", "roifile", "roi")  # of annotations
ONNX = Package("onnx", "onnx", "onnx")  # these four of exported networks
ONNXRUNTIME = Package("onnxruntime", "onnxruntime", "onnx")
ONNXSCRIPT = Package("onnxscript", "onnxscript", "onnx")  # with which torch writes them
OPENVINO = Package("openvino", "openvino", "openvino")
TELEMETRY = "openvino_telemetry"  # which OpenVINO does without where it can't be imported
PACKAGES = {
    **dict.fromkeys((".heic", ".heif", ".hif"), HEIF),
    **dict.fromkeys(DICOM_EXTENSIONS, DICOM),
    **dict.fromkeys(VOLUME_EXTENSIONS, NIFTI),
}


def lacking_packages(paths: Iterable[Path]) -> list[str]:
    """A line for each extension whose files need a missing package, with the number of files."""
    lacking: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.name.lower().endswith(tuple(PACKAGES)) and not is_installed(PACKAGES[extension_of(path)]):
            lacking[extension_of(path)].append(path)
    return [
        f"{counted(len(found), f'{_shown(found[0])} file')} can't be read ({_install(PACKAGES[extension])})"
        for extension, found in lacking.items()
    ]


def is_installed(package: Package) -> bool:
    return find_spec(package.module) is not None


def _shown(path: Path) -> str:
    """The extension as it is written."""
    return path.name[-len(extension_of(path)) :]


def _install(package: Package) -> str:
    return f"pip install {package.name}, extra `{package.extra}`"


def needed(package: Package) -> Any:
    """The imported package. Raises Refused if it is missing."""
    if not is_installed(package):
        raise Refused(f"can't be read without a package: pip install {package.name} (the extra `{package.extra}`)")
    if package == OPENVINO:
        # It would report each import to its maker, with a number of the user that it keeps in the home directory.
        sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]
    return import_module(package.module)


def is_heif(head: bytes) -> bool:
    """By its brand; AVIF, which may list several brands, is read by Pillow."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and b"avif" not in head[8:32]


def is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def decode_jxl(file: BinaryIO, page: int | None) -> Decoded:
    """The first frame, upright."""
    check_page(page, 1)
    content = content_of(file)
    width, height = _jxl_size(content)
    check_claim(width * height, width * height, len(content))
    with alone_if_huge(width * height):
        pixels = imagecodecs.jpegxl_decode(content)
    return from_array(pixels if pixels.ndim < 4 else pixels[0])


def decode_heif(file: BinaryIO, page: int | None) -> Decoded:
    """The primary image, upright; 16 bits if it has more than 8."""
    check_page(page, 1)
    heif = needed(HEIF).open_heif(file, convert_hdr_to_8bit=False)
    width, height = heif.size
    check_claim(width * height, width * height, file_size(file))
    with alone_if_huge(width * height):
        return from_array(np.asarray(heif))


def decode_dicom(file: BinaryIO, page: int | None) -> Decoded:
    """A single image, rescaled to the units of its modality if the file has a scale; MONOCHROME1 (0 is white) is
    inverted."""
    check_page(page, 1)
    pydicom = needed(DICOM)
    pixels = import_module("pydicom.pixels")
    file.seek(0)
    dataset = pydicom.dcmread(file, force=True)
    if "PixelData" not in dataset:
        raise Refused("is a DICOM file without pixels: leave it out")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise Refused(f"holds {frames} frames, a volume or a movie: save each as an image of its own")
    area = int(dataset.Rows) * int(dataset.Columns)
    check_claim(area, area * int(dataset.get("SamplesPerPixel", 1)), file_size(file))
    try:
        with alone_if_huge(area):
            values = dataset.pixel_array
    except RuntimeError as error:  # a compression for which pydicom needs further packages
        raise Refused(
            f"is compressed in a way that pydicom can't read alone ({error}): save it uncompressed"
        ) from error
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        return from_array(pixels.apply_color_lut(values, dataset))
    if float(dataset.get("RescaleSlope", 1)) != 1 or float(dataset.get("RescaleIntercept", 0)) != 0:
        values = pixels.apply_rescale(values, dataset).astype(np.float32)
    if kind == "MONOCHROME1":
        top = (1 << int(dataset.BitsStored)) - 1
        if values.dtype == np.uint8:
            return Decoded((np.uint8(top) - values)[None, None], turned_at=top)
        values = values.max() + values.min() - values
    return from_array(values)


def _jxl_size(content: bytes) -> tuple[int, int]:
    """Width and height from the header of the codestream (ISO/IEC 18181-1, D.2)."""
    if content.startswith(JXL_SIGNATURES[0]):
        start = 2
    else:
        boxes = [at for at in (content.find(b"jxlc\xff\n"), content.find(b"jxlp\0\0\0\0\xff\n")) if at >= 0]
        if not boxes:
            raise ValueError("it has no codestream")
        start = content.index(b"\xff\n", min(boxes)) + 2
    # The header is a bit stream, least significant bit first: a little-endian integer gives the same order.
    bits = int.from_bytes(content[start : start + 16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    is_small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    across, down = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}.get(ratio, (0, 1))
    return (height * across // down if ratio else side()), height
