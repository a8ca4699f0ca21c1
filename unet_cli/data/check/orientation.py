"""Whether images have a way up, as streets, X-rays and faces do and what lies under a microscope doesn't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet_cli.config.data import Orientation
from unet_cli.data.check.facts import THUMBNAIL, Known
from unet_cli.data.source import spread

MAX_PAIRS = 200  # of a data set that are compared with their copies
BLOCKS = 8  # of neighbouring pairs, for the cross-validation
# Measured (see WayUp): upside_down, quarter_turn and sidedness of so many pairs.
#
#     whales on the sea                        0.91  1.00  0.00  of 74
#     drawn streets, mask of the ground        1.00  1.00  0.00  of 24
#     the same, mask of a few cars             0.96  1.00  0.00  of 24
#     drawn chest X-rays                       1.00  1.00  0.14  of 24
#     cardiac MRI, at many angles              0.85  0.98  1.00  of 200
#     isbi2012, sections of one block          0.96  1.00  0.88  of 24
#     vnc, likewise                            1.00  1.00  0.76  of 16
#     nuclei of dsb2018                        0.54  0.54  0.39  of 160
#     drawn stained cells                      0.41  0.47  0.00  of 32
#     drawn blobs in light from one side       0.58  0.75  0.00  of 24
#
# Drawn 200 times each, 20 or 24 pairs are upright: of streets with cars 195 times, of X-rays 161, of blobs never; of a
# camera that stands still and of sections of one block 3.
MIN_PAIRS = 20
MIN_TOLD = 0.8  # 16 of 20 are significant at the 1 % level
MAX_SIDEDNESS = 0.25


@dataclass(frozen=True)
class WayUp:
    """What tells whether the pairs of a data set have a way up.

    pairs: that were compared with copies of themselves. upside_down, quarter_turn: the share of them, 0 to 1, that are
    told from such a copy; 0.5 is chance. sidedness: how far the mean pair is from its mirror image (squared), as a
    share, 1 at most, of how far it is from the copy that differs more.
    """

    pairs: int
    upside_down: float = 0.5
    quarter_turn: float = 0.5
    sidedness: float = 0.0

    @property
    def is_told(self) -> bool:
        return min(self.upside_down, self.quarter_turn) >= MIN_TOLD

    @property
    def orientation(self) -> Orientation:
        """'upright' where both copies can be told, and left and right are alike: what stands on the ground, and a body,
        has a top and a bottom, and two sides that are nearly the same. The sections of one block, the frames of a
        camera that stands still, and what uneven light does to all images can be told from copies too, but differ as
        much from left to right. That these are alike is also why a mirror image is a good training image.

        Not found are bodies seen from the side, and cardiac MRI in one position. Images of one symmetrical scene pass
        for upright, which does little harm while new ones are upright too.
        """
        return "upright" if self.is_told and self.sidedness <= MAX_SIDEDNESS else "any"

    def describe(self) -> str:
        """The decision and its figures in words."""
        by_hand = "--orientation upright says that they have one"
        if self.pairs < MIN_PAIRS:
            return f"Too few pairs ({self.pairs}) to tell whether images have a way up; {by_hand}"
        figures = (
            f"an upside-down copy is told from the original in {100 * self.upside_down:.0f} of 100, a quarter turn in "
            f"{100 * self.quarter_turn:.0f}"
        )
        if self.orientation == "upright":
            return f"Images have a way up ({figures}): no vertical flips or quarter turns; --orientation any has them"
        if self.is_told:
            figures += ", but left and right differ as well, as in a series or where light is uneven"
        return f"Images have no way up ({figures}); {by_hand}"


def way_up(train: Sequence[Known]) -> WayUp:
    """Of a training split, from the thumbnails that were made when its files were read. Of too few pairs nothing is
    told: flips and turns are worth the most where there is little else."""
    chosen = [facts for _, facts in spread(train, MAX_PAIRS)]
    if len(chosen) < MIN_PAIRS:
        return WayUp(len(chosen))
    images, masks = _values([one.thumbnail for one in chosen]), _values([one.mask_thumbnail for one in chosen])
    pairs = np.stack([_scaled(_level(images)), _scaled(masks)], axis=1)
    upside_down, quarter_turn, mirrored = (
        (pairs - copy).reshape(len(pairs), -1)
        for copy in (pairs[:, :, ::-1], np.rot90(pairs, axes=(2, 3)), pairs[:, :, :, ::-1])
    )
    farthest, to_mirror = max(_distance(upside_down), _distance(quarter_turn)), max(0.0, _distance(mirrored))
    sidedness = to_mirror / farthest if to_mirror < farthest else 1.0
    return WayUp(len(pairs), _told(upside_down), _told(quarter_turn), sidedness)


def _values(thumbnails: Sequence[bytes]) -> np.ndarray:
    """(N, 8, 8), the mean of each taken away."""
    values = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL).astype(float)
    return values - values.mean((1, 2), keepdims=True)


def _level(images: np.ndarray) -> np.ndarray:
    """Less the plane that fits each best: light from one side gives all images of a microscope the same bright side,
    which is no way up."""
    rows = np.linspace(-1, 1, THUMBNAIL)[:, None] * np.ones(THUMBNAIL)
    for slope in (rows / np.linalg.norm(rows), rows.T / np.linalg.norm(rows)):
        images = images - (images * slope).sum((1, 2), keepdims=True) * slope
    return images


def _scaled(thumbnails: np.ndarray) -> np.ndarray:
    """To length 1, so that all weigh alike; what is even stays 0."""
    return thumbnails / np.maximum(np.linalg.norm(thumbnails, axis=(1, 2), keepdims=True), 1e-6)


def _distance(differences: np.ndarray) -> float:
    """The squared length of the mean of (N, D) differences, less what chance adds to it."""
    chance = differences.var(0, ddof=1).sum() / len(differences)
    return float((differences.mean(0) ** 2).sum() - chance)


def _told(differences: np.ndarray) -> float:
    """The share of pairs that a linear classifier tells from copies of themselves. differences: (N, D), pair less copy.

    Its preference for a pair over the copy is linear in their difference: that it is 1 is learned by ridge regression,
    and half a pair is told where it is 0. It is judged on one block of neighbouring pairs at a time and learns from the
    others but the two beside it: neighbours in a series are nearly the same image.
    """
    block = np.arange(len(differences)) * BLOCKS // len(differences)
    told = 0.0
    for judged in range(BLOCKS):
        known = differences[np.abs(block - judged) > 1]
        products = known.T @ known
        ridge = np.trace(products) / len(products) + 1e-9
        weights = np.linalg.solve(products + ridge * np.eye(len(products)), known.sum(0))
        preference = differences[block == judged] @ weights
        told += float((preference > 1e-9).sum() + 0.5 * (np.abs(preference) <= 1e-9).sum())
    return told / len(differences)
