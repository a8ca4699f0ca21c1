"""The learning rate on a run's way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

WARMUP = 0.05  # of the run
POWER = 0.9
PLATEAU = 10  # epochs without a better score, after which the learning rate is halved
COOLDOWN = 0.3  # of a run, at its end
SETTLING = 20  # epochs of an open run that count as all that comes before the cool-down, for its warm-up
MIN_GAIN = 0.001  # of the validation score, that still counts as learning
MIN_PATIENCE, PATIENCE = 4, 1 / 3  # epochs without such a gain, and as a share of all so far: learning has stopped


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


def cooldown(progress: float, scores: Sequence[float]) -> float:
    """Constant, then a straight line to 0 over the last COOLDOWN of the run.

    Source: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024.
    """
    whole = WARMUP + (1 - WARMUP) * progress
    return min(1.0, (1 - whole) / COOLDOWN)


def has_settled(scores: Sequence[float]) -> bool:
    """Whether a run has stopped learning: its last epochs, a third of all, scored no better than those before."""
    patience = max(MIN_PATIENCE, int(PATIENCE * len(scores)))
    before, latest = scores[:-patience], scores[-patience:]
    return bool(before) and max(latest) < max(before) + MIN_GAIN


def cooldown_epochs(before: int) -> int:
    """How long an open run cools down that has learned for so many epochs."""
    return max(1, round(before * COOLDOWN / (1 - COOLDOWN)))


def open_progress(done: float, cooling: int | None) -> float:
    """Of a run that cools down when it has stopped learning, 0 to 1. done: epochs; cooling: of them, before the
    cool-down began, None while it hasn't."""
    if cooling is None:
        return (1 - COOLDOWN) * min(1.0, done / SETTLING)
    return 1 - COOLDOWN + COOLDOWN * (done - cooling) / cooldown_epochs(cooling)


# Share of the highest learning rate from the progress after the warm-up, 0 to 1, and the validation scores so far.
SCHEDULES: dict[str, Callable[[float, Sequence[float]], float]] = {
    "cosine": cosine,
    "poly": poly,
    "plateau": plateau,
    "constant": constant,
    "cooldown": cooldown,
}
