"""Mask values and class indices: found from the masks of a data set, replayed when masks are written.

stats: what each mask holds. readings: how a file's pixels become values. palettes, colours, noise, numbering: one kind
of masks each. mixtures: colours between others. unlabelled: where 255 lies. find: the kinds in their order. label_map:
what is found. doubts: what is asked. remarks: what is said. spec: what the user says.
"""

from unet_cli.data.labels.doubts import objects_or_classes
from unet_cli.data.labels.find import find_labels
from unet_cli.data.labels.label_map import CLASS_COLOURS, LabelMap, with_background
from unet_cli.data.labels.readings import mask_as
from unet_cli.data.labels.remarks import remarks
from unet_cli.data.labels.spec import ClassSpec, parse_classes
from unet_cli.data.labels.stats import ValueStats, value_stats

__all__ = [
    "CLASS_COLOURS",
    "ClassSpec",
    "LabelMap",
    "ValueStats",
    "find_labels",
    "mask_as",
    "objects_or_classes",
    "parse_classes",
    "remarks",
    "value_stats",
    "with_background",
]
