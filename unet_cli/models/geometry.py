"""The geometry of a network: valid input sides, and the sides of its output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """The geometry of each spatial side, in pixels.

    multiple, remainder, least: valid sides are remainder + k * multiple, and at least `least`. margin: pixels that
    unpadded convolutions lose at either end. stride: the network is equivariant to shifts by multiples of this. reach:
    distance from the output's border up to which zero padding has an influence, 0 without padding; None where every
    pixel depends on the whole input.
    """

    multiple: int = 1
    remainder: int = 0
    least: int = 1
    margin: int = 0
    stride: int = 1
    reach: int | None = None

    def side(self, wanted: int) -> int:
        """The smallest valid side of at least `wanted`."""
        excess = max(wanted, self.least) - self.remainder
        return self.remainder + -(-excess // self.multiple) * self.multiple

    def check(self, image: Tensor) -> None:
        """Raises ValueError where a side of (N, C, *spatial) is not valid."""
        if all(side == self.side(side) for side in image.shape[2:]):
            return
        rule = f"{self.remainder} more than " if self.remainder else ""
        rule = f"{rule}a multiple of {self.multiple}, and at least {self.least}"
        if self.multiple == 1:
            rule = f"at least {self.least}"
        sides = "x".join(str(side) for side in reversed(image.shape[2:]))
        raise ValueError(f"an image of {sides} pixels doesn't fit the network: each side has to be {rule}")


def pooled_reach(depth: int, pixels: int = 4) -> int:
    """The `reach` of a U-Net with 2x2 poolings, whose convolutions reach `pixels` pixels at each level, in encoder and
    decoder together, and 2 at the bottom.

    The last term, 2^depth - 1 pixels, is the offset that the pooling grid may have.
    """
    bottom = 2**depth
    return pixels * (bottom - 1) + 2 * bottom + bottom - 1
