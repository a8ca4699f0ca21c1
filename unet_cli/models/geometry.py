"""What a network asks of the sides of its input, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Of each spatial side, in pixels.

    multiple, remainder, least: valid sides are remainder + k * multiple, and at least that. margin: what unpadded
    convolutions eat at either end. stride: the answer to a shifted image is the shifted answer where the shift is a
    multiple of this. reach: how far from the border of the output the padding of convolutions is felt, 0 without
    padding; None where every pixel depends on the whole input.
    """

    multiple: int = 1
    remainder: int = 0
    least: int = 1
    margin: int = 0
    stride: int = 1
    reach: int | None = None

    def side(self, wanted: int) -> int:
        """The smallest valid side of at least `wanted`."""
        beyond = max(wanted, self.least) - self.remainder
        return self.remainder + -(-beyond // self.multiple) * self.multiple

    def check(self, image: Tensor) -> None:
        """Raises ValueError where a side of (N, C, *spatial) is not a valid one."""
        if all(side == self.side(side) for side in image.shape[2:]):
            return
        rule = f"{self.remainder} more than " if self.remainder else ""
        rule = f"{rule}a multiple of {self.multiple}, and at least {self.least}"
        if self.multiple == 1:
            rule = f"at least {self.least}"
        sides = "x".join(str(side) for side in reversed(image.shape[2:]))
        raise ValueError(f"an image of {sides} pixels doesn't suit the network: each side has to be {rule}")


def pooled_reach(depth: int, pixels: int = 4) -> int:
    """How far from the border padding is felt in a U-Net of 2x2 poolings whose convolutions reach that many pixels at
    each level, on the way down and up together, and 2 at the bottom.

    The grid of the poolings lies anywhere within 2^depth - 1 pixels.
    """
    bottom = 2**depth
    return pixels * (bottom - 1) + 2 * bottom + bottom - 1
