"""Run lengths: COCO's compressed form, lists of numbers, and Label Studio's packed bits."""

from __future__ import annotations

import numpy as np

from unet_cli.errors import UserError


def decompressed(text: str) -> np.ndarray:
    """Run lengths of COCO's compressed form, (n,) int64. Raises UserError at what is none.

    As `rleFrString` (cocoapi, common/maskApi.c): characters from '0' on carry 6 bits: 5 of a number, the lowest first,
    and one that says that more follow; the highest of a number is its sign. From the fourth number on each is the
    difference to the one before the last.
    """
    codes = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - ord("0")
    if codes.size and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise UserError("has compressed run lengths that are cut off or damaged")
    is_last = codes & 32 == 0
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1]) if codes.size else np.zeros(0, np.int64)
    place = np.arange(codes.size) - np.repeat(starts, np.diff([*starts, codes.size]))
    if codes.size and place.max() > 11:
        raise UserError("has compressed run lengths beyond any image")
    numbers = np.add.reduceat((codes & 31) << 5 * place, starts) if codes.size else np.zeros(0, np.int64)
    sign = (codes[is_last] & 16) > 0
    numbers = numbers - (sign << 5 * (place[is_last] + 1))
    for parity in (1, 2):  # n[i] += n[i - 2] from the fourth on: two running sums
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers


def compressed(lengths: np.ndarray) -> str:
    """The inverse of `decompressed`, as `rleToString` there."""
    differences = lengths.tolist()
    differences[3:] = (lengths[3:] - lengths[1:-2]).tolist()
    text = bytearray()
    for number in differences:
        goes_on = True
        while goes_on:
            code, number = number & 31, number >> 5
            goes_on = number != (-1 if code & 16 else 0)
            text.append((code | 32 * goes_on) + ord("0"))
    return text.decode("ascii")


def listed(values: object) -> np.ndarray:
    """Run lengths of a list of whole numbers, (n,) int64. Raises UserError at what is none."""
    try:
        numbers = np.array(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError("has run lengths that are no whole numbers") from error
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise UserError("has run lengths that are no whole numbers")
    return numbers.astype(np.int64)


def brushed(packed: bytes, count: int) -> np.ndarray:
    """The brush masks of Label Studio: whether each of `count` values, (count,) bool, is other than 0.

    They are packed by rle-pack (thi-ng/umbrella, packages/rle-pack/src/index.ts; read likewise by label-studio-sdk,
    converter/brush.py). A stream of bits, the highest of a byte first: 32 bits, the number of values; 5, the bits of a
    value less 1; four times 4, the bits of a length less 1. Then blocks: 1 bit, whether one value is repeated; 2 bits,
    which of the four sizes its length has; the length less 1; and the one value, or as many as the length says. Raises
    UserError at other numbers of values, and at a stream that is cut off.
    """
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    padded = packed + bytes(8)

    def number(at: int, size: int) -> int:
        word = int.from_bytes(padded[at >> 3 : (at >> 3) + 8], "big")
        return word >> (64 - (at & 7) - size) & ((1 << size) - 1)

    if len(packed) < 7 or number(0, 32) != count:
        held = f"{number(0, 32):,} values" if len(packed) >= 7 else "no values"
        raise UserError(f"has a brush mask of {held}, where its size has {count:,}, 4 for each pixel")
    width, sizes, at = number(32, 5) + 1, [number(37 + 4 * size, 4) + 1 for size in range(4)], 53
    values, done = np.zeros(count, bool), 0
    while done < count:
        is_run, size = number(at, 1), sizes[number(at + 1, 2)]
        length = number(at + 3, size) + 1
        at += 3 + size
        end = at + width * (1 if is_run else length)
        if end > len(bits):
            raise UserError("has a brush mask that is cut off")
        values[done : done + length] = bits[at:end].reshape(-1, width).max(1)[: count - done]
        at, done = end, done + length
    return values
