"""What a network asks of the sides of its input, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass


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
