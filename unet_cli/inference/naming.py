"""Names of the files that a prediction writes beside each mask."""

from __future__ import annotations

from unet_cli.config.prediction import PredictConfig
from unet_cli.data.class_names import file_names
from unet_cli.data.labels import LabelMap


def extras_of(config: PredictConfig, labels: LabelMap, gates: int) -> tuple[str, ...]:
    """The extras beside each mask: an overlay, a probability map (for each class, by its name, where there are
    several), a map of each attention gate, the instance map (for each class where they overlap), and beside numbered
    objects the mask of classes, also where there are several."""
    names = file_names(labels.scored_names if labels.overlapping else labels.names)
    maps = ("probability",) if labels.num_classes == 2 else tuple(f"probability_{name}" for name in names)
    instances = tuple(f"instances_{name}" for name in names) if labels.overlapping else ("instances",)
    attention = tuple(f"attention_{gate + 1}" for gate in range(gates))
    has_classes = labels.cores and (config.class_mask or labels.num_classes > 2)
    extras = ("overlay",) * config.overlay + maps * config.probabilities + attention
    return extras + instances * config.numbers_objects + ("classes",) * has_classes
