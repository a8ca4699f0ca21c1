"""The geometry of a network: valid input sides, and the sides of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

AXES = ("width", "height", "depth")  # of a volume, the last one first


@dataclass(frozen=True)
class Geometry:
    """The geometry of each spatial side, in pixels.

    multiple, remainder, least: valid sides are remainder + k * multiple, and at least `least`. margin: pixels that
    unpadded convolutions lose at either end. stride: the network is equivariant to shifts by multiples of this. reach:
    distance from the output's border up to which zero padding has an influence, 0 without padding; None where every
    pixel depends on the whole input. axes: the geometry along each axis where they differ, see `of_axes`.
    """

    multiple: int = 1
    remainder: int = 0
    least: int = 1
    margin: int = 0
    stride: int = 1
    reach: int | None = None
    axes: tuple[Geometry, ...] = ()

    @classmethod
    def of_axes(cls, axes: Sequence[Geometry]) -> Geometry:
        """The geometry of a network from that along each axis. Its own values are those of the axis with the largest
        multiple, whose valid sides have to be valid along the others too."""
        if len(set(axes)) == 1:
            return axes[0]
        return replace(max(axes, key=lambda axis: axis.multiple), axes=tuple(axes))

    def along(self, axis: int) -> Geometry:
        """The geometry along a spatial axis, counted from 0: in a volume (D, H, W)."""
        return self.axes[axis] if self.axes else self

    def side(self, wanted: int) -> int:
        """The smallest valid side of at least `wanted`."""
        excess = max(wanted, self.least) - self.remainder
        return self.remainder + -(-excess // self.multiple) * self.multiple

    def check(self, image: Tensor) -> None:
        """Raises ValueError where a side of (N, C, *spatial) is not valid."""
        sides = image.shape[2:]
        wrong = [axis for axis, side in enumerate(sides) if side != self.along(axis).side(side)]
        if not wrong:
            return
        rules = f"each side has to be {self._rule()}"
        if self.axes:
            rules = " and ".join(
                f"its {AXES[len(sides) - 1 - axis]} has to be {self.along(axis)._rule()}" for axis in wrong
            )
        shown = "x".join(str(side) for side in reversed(sides))
        raise ValueError(f"an image of {shown} pixels doesn't fit the network: {rules}")

    def _rule(self) -> str:
        """Of valid sides, in words."""
        if self.multiple == 1:
            return f"at least {self.least}"
        rest = f"{self.remainder} more than " if self.remainder else ""
        return f"{rest}a multiple of {self.multiple}, and at least {self.least}"


def pooled_reach(depth: int, pixels: int = 4) -> int:
    """The `reach` of a U-Net with 2x2 poolings, whose convolutions reach `pixels` pixels at each level, in encoder and
    decoder together, and 2 at the bottom.

    The last term, 2^depth - 1 pixels, is the offset that the pooling grid may have.
    """
    bottom = 2**depth
    return pixels * (bottom - 1) + 2 * bottom + bottom - 1


def flat_for(spacing: Sequence[float], depth: int) -> tuple[int, ...]:
    """For each axis the number of uppermost levels that leave it as it is, at most `depth`, since voxels are longer
    there: until poolings along the other axes have brought the spacings within a factor of 2.

    spacing: distance between the centres of voxels along (D, H, W), of any unit.

    Source: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    Nature Methods 18, 2021, methods; it differs in that a factor of 2 is within.
    """
    # Rounded, since spacings are often lengths of vectors, which are not exact.
    ratios = [round(step / min(spacing), 3) for step in spacing]
    return tuple(next((level for level in range(depth) if ratio <= 2 * 2**level), depth) for ratio in ratios)
