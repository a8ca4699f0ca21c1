"""What `unet train` was asked for, and the run that it goes on with."""

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
    """One call of `unet train`: what is asked for, what computes, and the run that it goes on with, if it does.

    started: the second of time.monotonic() from which --max-time counts. folder: of the run that is gone on with;
    saved: its last.pth, None where it didn't come that far. like: another fold's last.pth, whose plan this run shares.
    again: see weights_to_begin_again.
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
    again: Path | None = None

    @property
    def state(self) -> dict[str, Any]:
        """What the run that is gone on with has saved beside its weights; nothing where there is none."""
        return (self.saved.resume or {}) if self.saved else {}

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Settings that were given to the run that is gone on with and are others now, by their names."""
        now, then = plain(independent(self.config)), self.saved.training if self.saved else {}
        once = marked(self.config, "once")
        return {
            name: (then[name], value)
            for name, value in now.items()
            if name in then and name not in once and value not in (None, "auto", then[name])
        }

    def check_lasting(self) -> None:
        """Raises UserError where a run is to go on with settings that would make it another."""
        lasting = marked(self.config, "lasting")
        refuse_changes(self.changes(), [name for name, scope in lasting.items() if scope == "run"])


class TrainedToItsEnd(UserError):
    """The run that is to be gone on with has nothing more to do."""


def refuse_changes(changes: Mapping[str, tuple[Any, Any]], lasting: Iterable[str]) -> None:
    """Raises UserError where one of these settings has changed. changes: what each was and is, by their names."""
    for name in lasting:
        if name in changes:
            then, now = changes[name]
            begun = f"without {flag_of(name)}" if then is None else f"with {flag_of(name)} {then}"
            raise UserError(
                f"--resume: the run was begun {begun}, and can't go on with {now}: leave the flag out, or begin a "
                "new run"
            )


def _check_state(saved: Checkpoint) -> None:
    """That it holds what a run goes on from; the learner's own state is checked when it is taken. Raises Misfit."""
    state = saved.resume or {}
    Progress.from_plain(parsed(dict[str, Any], state.get("progress"), "progress"))
    if "plan" in state:
        Plan.from_plain(parsed(dict[str, Any], state["plan"], "plan"))
    if parsed(float, state.get("seconds"), "seconds") < 0 or parsed(int, state.get("batch_size"), "batch_size") < 1:
        raise Misfit("seconds or batch_size is below what can be")
    parsed(str, saved.training.get("precision"), "precision")
    if not isinstance(state.get("learner"), dict):
        raise Misfit("learner is missing")


def weights_to_begin_again(folder: Path) -> Path | None:
    """Where a run's last.pth is gone, or there was no room for it: the best weights that it has left; None where there
    are none."""
    if (folder / "last.pth").exists():
        return None
    kept = sorted(folder.glob("best-*.pth"), key=lambda path: path.stat().st_mtime)
    return folder / "best.pth" if (folder / "best.pth").exists() else kept[-1] if kept else None


def set_aside(weights: Path) -> Path:
    """Give a run's best.pth a name at which the run that begins again doesn't write over it; one that has such a name
    keeps it. Raises UserError."""
    if weights.name != "best.pth":
        return weights
    kept = next(path for number in count(1) if not (path := weights.with_name(f"best-{number}.pth")).exists())
    try:
        os.rename(weights, kept)
    except OSError as error:
        raise explain(error, kept) from error
    return kept


def saved_state(folder: Path) -> Checkpoint | None:
    """The last.pth of a run to go on with; None where there is none yet. Raises UserError where it is damaged, is no
    last.pth, or was there when the run came to its end."""
    path, best = folder / "last.pth", folder / "best.pth"
    otherwise = f"restore it, or begin a new run from its best weights with --init {best}"
    if not path.exists():
        if (folder / METRICS).exists():
            raise UserError(f"{folder} has been trained to its end, and {path} is missing: {otherwise}")
        return None
    try:
        saved = load_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error}; {otherwise}") from error
    if saved.resume is None:
        raise UserError(f"{path} holds weights alone, and nothing to go on from: {otherwise}")
    try:
        _check_state(saved)
    except Misfit as misfit:
        raise UserError(f"{path} is damaged, or no last.pth that `unet train` wrote: {misfit}; {otherwise}") from misfit
    if saved.resume["progress"]["rows"] and not best.exists():
        raise UserError(f"{best} is missing: restore it, or begin a new run with --init {path}")
    return saved
