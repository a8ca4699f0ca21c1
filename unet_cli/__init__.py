"""unet: a folder of images and masks into a segmentation network, and a folder of images into masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_cli.version import __version__

if TYPE_CHECKING:
    from unet_cli.inference.predictor import Predictor

__all__ = ["__version__", "load"]


def load(weights: str | Path | Sequence[str | Path], **settings: Any) -> Predictor:
    """A trained network, ready to be called: `load("best.pth")(image)` is the mask that `unet predict` writes.

    weights: a checkpoint, a run's folder, or several, whose probabilities are averaged. settings: those of `unet
    predict` that decide on the mask: device, precision, batch_size, mode, size, overlap, flips, threshold, compile.
    Raises UserError.
    """
    from unet_cli.checkpoint import find_checkpoints, load_checkpoint
    from unet_cli.config.prediction import Inference
    from unet_cli.inference.predictor import Predictor
    from unet_cli.system.device import choose_compute

    inference = Inference(**settings)
    paths = [weights] if isinstance(weights, (str, Path)) else weights
    checkpoints = [load_checkpoint(path) for path in find_checkpoints(map(Path, paths))]
    return Predictor(checkpoints, choose_compute(inference.device, inference.precision), inference)
