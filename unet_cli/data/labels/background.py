"""Whether the first class is background."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unet_cli.data.folder.words import BACKGROUND_NAMES
from unet_cli.data.labels.label_map import LabelMap


def with_background(labels: LabelMap, pixels: np.ndarray, said: str) -> LabelMap:
    """The map with `background` decided: by `said`, first or none; else, with three or more classes and no ignored
    value, by the first class's name or, without names, by whether it is the largest class. pixels: (classes) of the
    training part."""
    if labels.num_classes == 2 or said == "first":
        return labels
    if said == "none":
        return replace(labels, background=False)
    name = "".join(filter(str.isalpha, labels.names[0].lower()))
    is_named = labels.names[0] != labels.spelled(0)
    is_background = name in BACKGROUND_NAMES if is_named else bool(pixels[0] == pixels.max())
    return replace(labels, background=is_background or labels.ignore is not None)
