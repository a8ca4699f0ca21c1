"""Detect whether images have a way up, like streets, X-rays and faces, unlike microscope images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet_cli.config.data import Orientation
from unet_cli.data.check.facts import Known
from unet_cli.data.check.thumbnails import THUMBNAIL
from unet_cli.data.source import spread

MAX_PAIRS = 200  # maximum sample of a data set
BLOCKS = 8  # folds of the cross-validation, each of neighbouring pairs
# Measured (see WayUp): upside_down, quarter_turn, sidedness and number of pairs.
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
# Out of 200 random samples of 20 or 24 pairs, upright were: of streets with cars 195, of X-rays 161, of blobs none; of
# a static camera and of sections of one block 3.
MIN_PAIRS = 20
MIN_TOLD = 0.8  # 16 of 20 are significant at the 1 % level
MAX_SIDEDNESS = 0.25


@dataclass(frozen=True)
class WayUp:
    """Statistics that decide whether the pairs of a data set have a way up.

    pairs: number of pairs that were compared with transformed copies of themselves. upside_down, quarter_turn: accuracy
    of a classifier, 0 to 1, that distinguishes originals from such copies; 0.5 is chance. sidedness: squared distance
    of the mean pair from its mirror image, relative to that from the more different copy, at most 1.
    """

    pairs: int
    upside_down: float = 0.5
    quarter_turn: float = 0.5
    sidedness: float = 0.0

    @property
    def is_distinguishable(self) -> bool:
        return min(self.upside_down, self.quarter_turn) >= MIN_TOLD

    @property
    def orientation(self) -> Orientation:
        """'upright' if both copies can be distinguished, and left and right are alike: scenes on the ground, and
        bodies, have a top and a bottom, and two sides that are nearly symmetrical. Sections of one block, frames of a
        static camera, and images with a common uneven illumination can be distinguished from copies too, but differ as
        much from left to right. The symmetry is also why a mirror image is a good training image.

        Not detected are bodies seen from the side, and cardiac MRI in one position. Images of one symmetrical scene
        count as upright, which does little harm as long as new ones are upright too.
        """
        return "upright" if self.is_distinguishable and self.sidedness <= MAX_SIDEDNESS else "any"

    def describe(self) -> str:
        """The decision and its statistics as a sentence."""
        by_hand = "--orientation upright says that they have one"
        if self.pairs < MIN_PAIRS:
            return f"Too few pairs ({self.pairs}) to tell whether images have a way up; {by_hand}"
        figures = (
            f"an upside-down copy is distinguished in {100 * self.upside_down:.0f} of 100, a quarter turn in "
            f"{100 * self.quarter_turn:.0f}"
        )
        if self.orientation == "upright":
            return f"Images have a way up ({figures}): no vertical flips or quarter turns; --orientation any has them"
        if self.is_distinguishable:
            figures += ", but left and right differ as well, as in a series or where light is uneven"
        return f"Images have no way up ({figures}); {by_hand}"


def way_up(train: Sequence[Known]) -> WayUp:
    """Detect the orientation of a training split from the thumbnails of its facts. With too few pairs it remains
    undecided: flips and rotations help most where there is little data."""
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
    return WayUp(len(pairs), _accuracy(upside_down), _accuracy(quarter_turn), sidedness)


def _values(thumbnails: Sequence[bytes]) -> np.ndarray:
    """(N, 8, 8), each with its mean subtracted."""
    values = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL).astype(float)
    return values - values.mean((1, 2), keepdims=True)


def _level(images: np.ndarray) -> np.ndarray:
    """Subtract the best-fitting plane from each image: illumination from one side gives all images of a microscope the
    same bright side, which is no way up."""
    rows = np.linspace(-1, 1, THUMBNAIL)[:, None] * np.ones(THUMBNAIL)
    for slope in (rows / np.linalg.norm(rows), rows.T / np.linalg.norm(rows)):
        images = images - (images * slope).sum((1, 2), keepdims=True) * slope
    return images


def _scaled(thumbnails: np.ndarray) -> np.ndarray:
    """Normalize to length 1, so that all have the same weight; constant ones stay 0."""
    return thumbnails / np.maximum(np.linalg.norm(thumbnails, axis=(1, 2), keepdims=True), 1e-6)


def _distance(differences: np.ndarray) -> float:
    """Unbiased squared length of the mean of (N, D) differences."""
    noise = differences.var(0, ddof=1).sum() / len(differences)  # expected contribution of the sampling error
    return float((differences.mean(0) ** 2).sum() - noise)


def _accuracy(differences: np.ndarray) -> float:
    """Cross-validated accuracy of a linear classifier that distinguishes pairs from their copies. differences: (N, D),
    pair minus copy.

    The score of a pair over its copy is linear in their difference; ridge regression fits it to 1, and a score of 0
    counts as half correct. Each block of neighbouring pairs is predicted from the others but the two adjacent ones,
    since neighbours in a series are nearly identical images.
    """
    block = np.arange(len(differences)) * BLOCKS // len(differences)
    correct = 0.0
    for held_out in range(BLOCKS):
        known = differences[np.abs(block - held_out) > 1]
        products = known.T @ known
        ridge = np.trace(products) / len(products) + 1e-9
        weights = np.linalg.solve(products + ridge * np.eye(len(products)), known.sum(0))
        scores = differences[block == held_out] @ weights
        correct += float((scores > 1e-9).sum() + 0.5 * (np.abs(scores) <= 1e-9).sum())
    return correct / len(differences)
