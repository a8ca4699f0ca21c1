"""Learning rate schedules, and the end of a run that has converged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

WARMUP = 0.05  # share of the run
POWER = 0.9
PLATEAU = 10  # epochs without a better score, after which the learning rate is halved
COOLDOWN = 0.3  # share of the run, at its end
SETTLING = 20  # epochs that an open run is taken to have before its cool-down, so that it has a warm-up
MIN_GAIN = 0.001  # gain in the validation score below which a run is no longer learning
MIN_PATIENCE, PATIENCE = 4, 1 / 3  # epochs without such a gain (minimum, and share of all) that mean convergence


def lr_factor(schedule: str, progress: float, scores: Sequence[float] = ()) -> float:
    """Factor on the maximum learning rate, 0 to 1: linear warm-up over the first 5 % of the run, then the schedule.

    progress: share of the run, 0 to 1. scores: validation score of each epoch so far, higher is better.
    """
    progress = min(max(progress, 0.0), 1.0)
    warmth = min((progress + 1e-3) / (WARMUP + 1e-3), 1.0)  # above 0 at the first step, which would else do nothing
    return warmth * SCHEDULES[schedule](max(progress - WARMUP, 0.0) / (1 - WARMUP), scores)


def cosine(progress: float, scores: Sequence[float]) -> float:
    """Half a cosine period from 1 to 0. Source: Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5, without restarts."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def poly(progress: float, scores: Sequence[float]) -> float:
    """Polynomial decay from 1 to 0 with power 0.9. Source: Chen et al., "DeepLab", TPAMI 40 (2018), section 4.1.1."""
    return (1 - progress) ** POWER


def constant(progress: float, scores: Sequence[float]) -> float:
    return 1.0


def plateau(progress: float, scores: Sequence[float]) -> float:
    """Halved each time that the best score hasn't improved for PLATEAU epochs, counted anew after each halving. NaN is
    no improvement."""
    best, since, halvings = -math.inf, 0, 0
    for score in scores:
        best, since = (score, 0) if score > best else (best, since + 1)
        if since == PLATEAU:
            since, halvings = 0, halvings + 1
    return 0.5**halvings


def cooldown(progress: float, scores: Sequence[float]) -> float:
    """Constant, then linear decay to 0 over the last COOLDOWN of the run.

    Source: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024.
    """
    run_progress = WARMUP + (1 - WARMUP) * progress  # share of the run, warm-up included
    return min(1.0, (1 - run_progress) / COOLDOWN)


def has_settled(scores: Sequence[float]) -> bool:
    """Whether a run has converged: its last epochs, a third of all, scored no better than those before."""
    patience = max(MIN_PATIENCE, int(PATIENCE * len(scores)))
    before, latest = scores[:-patience], scores[-patience:]
    return bool(before) and max(latest) < max(before) + MIN_GAIN


def cooldown_epochs(before: int) -> int:
    """Length in epochs of the cool-down of an open run, after `before` epochs."""
    return max(1, round(before * COOLDOWN / (1 - COOLDOWN)))


def open_progress(done: float, cooling: int | None) -> float:
    """Progress, 0 to 1, of an open run, which cools down when it has converged. done: epochs done; cooling: epochs
    before the cool-down, None before it begins."""
    # Before the cool-down the length of the run isn't known, so the schedule's constant part is taken as SETTLING
    # epochs; the cool-down then covers the last share of the progress, whatever the number of epochs before.
    if cooling is None:
        return (1 - COOLDOWN) * min(1.0, done / SETTLING)
    return 1 - COOLDOWN + COOLDOWN * (done - cooling) / cooldown_epochs(cooling)


# Factor on the maximum learning rate as a function of the progress after the warm-up, 0 to 1, and the scores so far.
SCHEDULES: dict[str, Callable[[float, Sequence[float]], float]] = {
    "cosine": cosine,
    "poly": poly,
    "plateau": plateau,
    "constant": constant,
    "cooldown": cooldown,
}
