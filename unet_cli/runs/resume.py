"""A call of `unet train`, and the checks on the run that it resumes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from unet_cli.checkpoint import Checkpoint, load_checkpoint
from unet_cli.config.base import flag_of, marked, plain
from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.folder.layout import Layout
from unet_cli.errors import UserError, explain
from unet_cli.run_folder import independent
from unet_cli.system.console import Console
from unet_cli.system.device import Compute
from unet_cli.system.distributed import World
from unet_cli.system.schema import Misfit, parsed
from unet_cli.training.plan import Plan
from unet_cli.training.progress import Progress


@dataclass(frozen=True)
class Call:
    """One call of `unet train`: settings, data, device and processes, and the run that it resumes, if any.

    started: time in seconds of time.monotonic() from which --max-time counts. folder: folder of the resumed run; saved:
    its last.pth, None where there is none yet. like: last.pth of another fold, whose plan this run shares.
    restart_from: see `weights_to_restart_from`. divided: see Division.marks.
    """

    config: TrainConfig
    layout: Layout
    compute: Compute
    world: World
    console: Console
    started: float
    folder: Path | None = None
    saved: Checkpoint | None = None
    like: Checkpoint | None = None
    restart_from: Path | None = None
    divided: tuple[str, ...] = ()

    @property
    def is_resumed(self) -> bool:
        """Whether the initial weights are those of the resumed run, and not those of --init."""
        return self.saved is not None or self.restart_from is not None

    @property
    def state(self) -> dict[str, Any]:
        """Saved state of the resumed run, beside the weights; empty where there is none."""
        return (self.saved.resume or {}) if self.saved else {}

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from those of the resumed run: name -> (then, now)."""
        now, then = plain(independent(self.config)), self.saved.training if self.saved else {}
        once = marked(self.config, "once")
        return {
            name: (then[name], value)
            for name, value in now.items()
            if name in then and name not in once and value not in (None, "auto", then[name])
        }

    def check_lasting(self) -> None:
        """Raises UserError where a setting has changed that can't change within a run."""
        lasting = marked(self.config, "lasting")
        refuse_changes(self.changes(), [name for name, scope in lasting.items() if scope == "run"])


class AlreadyFinished(UserError):
    """The run to resume has finished training."""


def refuse_changes(changes: Mapping[str, tuple[Any, Any]], lasting: Iterable[str]) -> None:
    """Raises UserError where one of the lasting settings has changed. changes: name -> (then, now)."""
    for name in lasting:
        if name in changes:
            then, now = changes[name]
            started = f"without {flag_of(name)}" if then is None else f"with {flag_of(name)} {then}"
            raise UserError(
                f"--resume: the run was started {started}, and can't be resumed with {now}: leave the flag out, or "
                "start a new run"
            )


def _check_state(saved: Checkpoint) -> None:
    """Check that the state for resuming is complete; the learner's state is checked when it is loaded. Raises
    Misfit."""
    state = saved.resume or {}
    Progress.from_plain(parsed(dict[str, Any], state.get("progress"), "progress"))
    if "plan" in state:
        Plan.from_plain(parsed(dict[str, Any], state["plan"], "plan"))
    if parsed(float, state.get("seconds"), "seconds") < 0 or parsed(int, state.get("batch_size"), "batch_size") < 1:
        raise Misfit("seconds or batch_size is too small")
    parsed(str, saved.training.get("precision"), "precision")  # a resumed run keeps it
    if not isinstance(state.get("learner"), dict):
        raise Misfit("learner is missing")


def weights_to_restart_from(folder: Path) -> Path | None:
    """Best weights of a run whose last.pth is missing, deleted or never written for lack of space; None where last.pth
    exists or no weights do."""
    if (folder / "last.pth").exists():
        return None
    earlier = sorted(folder.glob("best-*.pth"), key=lambda path: path.stat().st_mtime)
    return folder / "best.pth" if (folder / "best.pth").exists() else earlier[-1] if earlier else None


def set_aside(weights: Path) -> Path:
    """Rename a run's best.pth to best-1.pth, -2, ..., so that the restarted run doesn't overwrite it; a file with such
    a name keeps it. Returns its path. Raises UserError."""
    if weights.name != "best.pth":
        return weights
    target = next(path for number in count(1) if not (path := weights.with_name(f"best-{number}.pth")).exists())
    try:
        os.rename(weights, target)
    except OSError as error:
        raise explain(error, target) from error
    return target


def saved_state(folder: Path) -> Checkpoint | None:
    """The last.pth of a run to resume; None where there is none yet. Raises UserError where it is damaged, holds no
    state for resuming, or is missing from a finished run."""
    path, best = folder / "last.pth", folder / "best.pth"
    otherwise = f"restore it, or start a new run from its best weights with --init {best}"
    if not path.exists():
        if (folder / METRICS).exists():
            raise UserError(f"{folder} has finished training, and {path} is missing: {otherwise}")
        return None
    try:
        saved = load_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error}; {otherwise}") from error
    if saved.resume is None:
        raise UserError(f"{path} holds only weights, and no state to resume from: {otherwise}")
    try:
        _check_state(saved)
    except Misfit as misfit:
        raise UserError(
            f"{path} is damaged, or not a last.pth that `unet train` wrote: {misfit}; {otherwise}"
        ) from misfit
    # After the first epoch a best.pth has always been written: without it the run would lose its best weights.
    if saved.resume["progress"]["rows"] and not best.exists():
        raise UserError(f"{best} is missing: restore it, or start a new run with --init {path}")
    return saved
