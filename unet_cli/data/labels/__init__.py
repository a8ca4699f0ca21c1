"""Label maps: the mapping between mask values and class indices, detected from masks and applied to write masks.

stats: statistics of masks. readings: how pixels become values. palettes, colours, noise, numbering: detection of one
kind of masks each. mixtures: colours between others. unlabelled: whether 255 is enclosed. find: the kinds in order.
label_map: the result. doubts: questions to the user. remarks: notes for the user. spec: classes given by the user.
"""

from unet_cli.data.labels.background import with_background
from unet_cli.data.labels.doubts import objects_or_classes
from unet_cli.data.labels.find import find_labels
from unet_cli.data.labels.label_map import CLASS_COLOURS, LabelMap
from unet_cli.data.labels.overlaps import Overlap, describe_overlaps, may_overlap, overlaps
from unet_cli.data.labels.readings import mask_as
from unet_cli.data.labels.remarks import count_strays, remarks
from unet_cli.data.labels.sets import alone, single
from unet_cli.data.labels.spec import ClassSpec, has_sides, parse_classes, spec_of
from unet_cli.data.labels.stats import ValueStats, value_stats

__all__ = [
    "CLASS_COLOURS",
    "ClassSpec",
    "LabelMap",
    "Overlap",
    "ValueStats",
    "alone",
    "count_strays",
    "describe_overlaps",
    "find_labels",
    "has_sides",
    "mask_as",
    "may_overlap",
    "objects_or_classes",
    "overlaps",
    "parse_classes",
    "remarks",
    "single",
    "spec_of",
    "value_stats",
    "with_background",
]
