"""No file, however broken, makes the readers do anything but read it or raise a UserError that names it.

Seeded mutations of small valid files, read in a process of its own, under a clock and a limit of memory. More of them
by hand: `python tests/test_fuzz.py SEED COUNT`.
"""

import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_formats import SAMPLES

from unet_cli.data.formats import count_pages
from unet_cli.data.imagefile import read_image, read_stack
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Source
from unet_cli.errors import UserError

resource = pytest.importorskip("resource")  # not on Windows

SUFFIXES = (".png", ".jpg", ".tif", ".gif", ".bmp", ".npy", ".npz", ".tga", ".webp", ".pgm", ".jp2")


def truncated(content: bytearray, choose: random.Random) -> bytearray:
    """Well before the end."""
    return content[: choose.randrange(int(len(content) * 0.9))]


def flipped(content: bytearray, choose: random.Random) -> bytearray:
    reach = choose.choice((64, 400, len(content)))  # headers are where it matters
    for _ in range(choose.randint(1, 20)):
        content[choose.randrange(min(reach, len(content)))] ^= 1 << choose.randrange(8)
    return content


def overwritten(content: bytearray, choose: random.Random) -> bytearray:
    """A few bytes of the header become extreme numbers."""
    start = choose.randrange(min(400, len(content) - 8))
    number = choose.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\x01\0\0"))
    content[start : start + choose.randint(1, 4)] = number[: choose.randint(1, 4)]
    return content


def at_the_end(content: bytearray, choose: random.Random) -> bytearray:
    """As above in the last bytes, where TIFF and zip may have their directories."""
    return overwritten(content[::-1], choose)[::-1]


def resized(content: bytearray, choose: random.Random) -> bytearray:
    """Other dimensions in the header, zero and huge ones included, with checksums where the format has them."""
    width, height = (choose.choice((0, 1, 63, 65, 640, 5000, 16_383, 65_535, 2**31 - 1)) for _ in range(2))
    short = struct.pack("<HH", width % 65_536, height % 65_536)
    if content[1:4] == b"PNG":
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    elif content[:3] == b"GIF":
        content[6:10] = short
        start = content.find(b"\x2c\0\0\0\0")
        content[start + 5 : start + 9] = short
    elif content[:2] == b"BM":
        content[18:26] = struct.pack("<ii", min(width, 2**31 - 1), -height if choose.random() < 0.3 else height)
    elif content[:2] == b"\xff\xd8":
        start = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        content[start + 5 : start + 9] = struct.pack(">HH", height % 65_536, width % 65_536)
    elif content[:3] == b"II*":
        for tag, value in ((256, width), (257, height), (278, height), (322, width), (323, height)):
            start = content.find(struct.pack("<HHI", tag, 3, 1))
            if start > 0 and choose.random() < 0.8:
                content[start + 2 : start + 12] = struct.pack("<HII", 4, 1, value)
    elif content[:6] == b"\x93NUMPY":
        shape = f"({height}, {width})".encode()
        start, end = content.index(b"("), content.index(b")") + 1
        header_end = 10 + struct.unpack_from("<H", content, 8)[0]
        content[start:header_end] = (shape + content[end : header_end - 1]).ljust(header_end - start - 1)[
            : header_end - start - 1
        ] + b"\n"
    elif content[:4] == b"RIFF":
        start = max(content.find(b"VP8 ") + 14, content.find(b"VP8L") + 9)
        content[start : start + 4] = short
    elif content[:2] == b"PK":
        start = content.find(b"PK\1\2")
        struct.pack_into("<I", content, start + 24, min(width, 2**32 - 1))
    else:
        return overwritten(content, choose)
    return content


def extended(content: bytearray, choose: random.Random) -> bytearray:
    return content + choose.randbytes(choose.randrange(1, 3000))


def spliced(content: bytearray, choose: random.Random) -> bytearray:
    """The beginning of one file and the end of another."""
    other = SAMPLES[choose.choice(list(SAMPLES))]
    return content[: choose.randrange(4, len(content))] + other[choose.randrange(len(other)) :]


def scrambled(content: bytearray, choose: random.Random) -> bytearray:
    """Random bytes behind a true signature, or none."""
    return content[: choose.choice((0, 4, 8, 30, 200))] + choose.randbytes(choose.randrange(2000))


MUTATIONS = (truncated, flipped, flipped, overwritten, overwritten, at_the_end, resized, extended, spliced, scrambled)


def check(path: Path, mutation: str) -> str:
    """Read a file in every way; returns what is wrong with the outcome, or nothing."""
    for read in (read_image, read_stack, read_mask, count_pages):
        try:
            result = read(path if read is count_pages else Source((path,)))
        except UserError as error:
            if path.name not in str(error) or "\n" in str(error) or len(str(error)) > 500:
                return f"{read.__name__} says {error}"
            continue
        except BaseException:
            return f"{read.__name__} raised\n{traceback.format_exc()}"
        if read is count_pages:
            if result < 1:
                return f"{result} pages"
            continue
        if mutation == "truncated":
            return f"{read.__name__} gave pixels"
        array = result.values if read is read_mask else result[0] if read is read_stack else result
        kinds = (np.uint8, np.uint16, np.int32 if read is read_mask else np.float32)
        axes = {read_image: 3, read_stack: 4, read_mask: 3}[read]
        if array.dtype not in kinds or array.ndim != axes or 0 in array.shape or not array.flags.c_contiguous:
            return f"{read.__name__} gave {array.dtype} {array.shape}"
        if not array.flags.writeable:
            return f"{read.__name__} gave a read-only array"
    return ""


def main(seed: int, count: int) -> int:
    """Mutate and read; every file that went wrong is told and kept. Returns how many."""
    choose = random.Random(seed)
    names = list(SAMPLES)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            name = names[number % len(names)]
            mutate = choose.choice(MUTATIONS)
            suffix = choose.choice(SUFFIXES) if choose.random() < 0.1 else Path(name).suffix
            path = Path(folder) / f"{seed}-{number}{suffix}"
            path.write_bytes(mutate(bytearray(SAMPLES[name]), choose))
            print(number, name, mutate.__name__, flush=True, file=sys.stderr)  # the last one where all of us crash
            problem = check(path, mutate.__name__)
            if problem:
                bad += 1
                kept = shutil.copy(path, tempfile.gettempdir())
                print(f"{kept}, {name} {mutate.__name__}: {problem}", flush=True)
            path.unlink()
    print(f"{count} mutations, {bad} bad, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    return bad


def test_no_mutation_does_harm():
    command = [sys.executable, "-W", "error", __file__, "0", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr[-500:]
    match = re.search(r"2000 mutations, 0 bad, peak (\d+) MiB", done.stdout)
    assert match, done.stdout
    assert int(match[1]) < 2048


def test_truncation_that_gave_pixels_would_be_found(tmp_path):
    (tmp_path / "a.png").write_bytes(SAMPLES["rgb.png"])
    assert check(tmp_path / "a.png", "extended") == ""
    assert check(tmp_path / "a.png", "truncated") == "read_image gave pixels"


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]), int(sys.argv[2]))))
