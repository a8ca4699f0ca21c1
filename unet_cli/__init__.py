"""unet: train a segmentation network on a folder of images and masks, and predict the masks of a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_cli.version import __version__

if TYPE_CHECKING:
    from unet_cli.inference.predictor import Predictor

__all__ = ["__version__", "load"]


def load(weights: str | Path | Sequence[str | Path], **settings: Any) -> Predictor:
    """Load a trained network as a callable: `load("best.pth")(image)` is the mask that `unet predict` writes.

    weights: a checkpoint, a run's folder, or an exported file (.onnx or .xml), or several as an ensemble, whose
    probabilities are averaged. settings: settings of `unet predict` that determine the mask: device, precision,
    batch_size, mode, size, overlap, flips, threshold, spacing (as text, such as "3,1,1mm", which is of arrays too),
    compile. Raises UserError.
    """
    # Imported here, so that `import unet_cli` doesn't import torch.
    from unet_cli.checkpoint import find_checkpoints, load_checkpoint
    from unet_cli.config.prediction import Inference
    from unet_cli.config.spacing import parse_spacing
    from unet_cli.inference.predictor import Predictor
    from unet_cli.inference.runtime import compute_for

    if isinstance(settings.get("spacing"), str):
        settings["spacing"] = parse_spacing(settings["spacing"])
    inference = Inference(**settings)
    paths = [weights] if isinstance(weights, (str, Path)) else weights
    checkpoints = [load_checkpoint(path, exported=True) for path in find_checkpoints(map(Path, paths))]
    return Predictor(checkpoints, compute_for(checkpoints, inference), inference)
