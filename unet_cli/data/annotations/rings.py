"""Outlines of shapes that formats give by a few numbers: rings, (n, 2) float64, x and y."""

from __future__ import annotations

import numpy as np

from unet_cli.data.annotations.shapes import ring_of

CORNERS = 100  # of the polygon that stands for an ellipse
MIN_POINTS = 3


def numbers(*values: object) -> list[float]:
    """Numbers, of any type or as text. Raises UserError at what is none, or not finite."""
    return ring_of([[value, 0.0] for value in values])[:, 0].tolist()


def box_ring(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return ring_of([left, top, right, top, right, bottom, left, bottom])


def ellipse_ring(x: float, y: float, across: float, down: float) -> np.ndarray:
    """About (x, y), with half axes along x and y."""
    angles = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    return ring_of(np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1))


def turned(ring: np.ndarray, degrees: float, about: np.ndarray) -> np.ndarray:
    """Turned clockwise, as images are shown, about the point (2,)."""
    if not degrees:
        return ring
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return about + (ring - about) @ turn
