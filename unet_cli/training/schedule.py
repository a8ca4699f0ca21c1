"""The learning rate on a run's way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

WARMUP = 0.05  # of the run
POWER = 0.9
PLATEAU = 10  # epochs without a better score, after which the learning rate is halved


def lr_factor(schedule: str, progress: float, scores: Sequence[float] = ()) -> float:
    """Share of the highest learning rate: linear warm-up over the first 5 % of the run, then the schedule's course.

    progress: of the run, from 0 to 1. scores: of the validation part, higher is better, one for each epoch so far.
    """
    progress = min(max(progress, 0.0), 1.0)
    warmth = min((progress + 1e-3) / (WARMUP + 1e-3), 1.0)
    return warmth * SCHEDULES[schedule](max(progress - WARMUP, 0.0) / (1 - WARMUP), scores)


def cosine(progress: float, scores: Sequence[float]) -> float:
    """Half a cosine from 1 to 0. Source: Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5, without restarts."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def poly(progress: float, scores: Sequence[float]) -> float:
    """Nearly a straight line from 1 to 0. Source: Chen et al., "DeepLab", TPAMI 40 (2018), section 4.1.1."""
    return (1 - progress) ** POWER


def constant(progress: float, scores: Sequence[float]) -> float:
    return 1.0


def plateau(progress: float, scores: Sequence[float]) -> float:
    """Half as much each time that the best score hasn't been improved for PLATEAU epochs, counted anew after each
    halving. A score that is no number improves nothing."""
    best, since, halvings = -math.inf, 0, 0
    for score in scores:
        best, since = (score, 0) if score > best else (best, since + 1)
        if since == PLATEAU:
            since, halvings = 0, halvings + 1
    return 0.5**halvings


# Share of the highest learning rate from the progress after the warm-up, 0 to 1, and the validation scores so far.
SCHEDULES: dict[str, Callable[[float, Sequence[float]], float]] = {
    "cosine": cosine,
    "poly": poly,
    "plateau": plateau,
    "constant": constant,
}
