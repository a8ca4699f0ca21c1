"""Display names of the metrics, for tables and the report."""

from __future__ import annotations

from dataclasses import dataclass

PER_IMAGE, POOLED, BORDERS = "Per image, then averaged", "Pooled over the set", "Borders"
OBJECTS, PROBABILITIES, OTHERS = "Objects", "Probabilities", "Others"


@dataclass(frozen=True)
class MetricName:
    """Display name of a metric.

    label: the name in words. group: heading of its table. meaning: one line. higher: whether higher is better; None if
    unknown or neither. is_number: whether values are numbers of objects, or lengths, instead of fractions. is_length:
    whether they are lengths, in pixels or the user's unit.
    """

    label: str
    group: str
    meaning: str
    higher: bool | None = True
    is_number: bool = False
    is_length: bool = False


METRIC_NAMES = {
    "dice": MetricName("Dice", PER_IMAGE, "twice the intersection over the sum of the true and the predicted area"),
    "iou": MetricName("IoU", PER_IMAGE, "intersection over union of the true and the predicted area"),
    "mean_iou": MetricName("Mean IoU", PER_IMAGE, "mean IoU over all classes, background included"),
    "precision": MetricName("Precision", PER_IMAGE, "fraction of the predicted area that is correct"),
    "recall": MetricName("Recall", PER_IMAGE, "fraction of the true area that is predicted"),
    "accuracy": MetricName("Pixel accuracy", PER_IMAGE, "fraction of the pixels that are correct"),
    "set_dice": MetricName(
        "Set Dice",
        POOLED,
        "Dice of summed areas, as fractions of their images: predicting nothing scores 0",
    ),
    "pooled_dice": MetricName("Pooled Dice", POOLED, "Dice, the set being one large image"),
    "pooled_iou": MetricName("Pooled IoU", POOLED, "IoU, the set being one large image"),
    "pooled_precision": MetricName("Pooled precision", POOLED, "precision, the set being one large image"),
    "pooled_recall": MetricName("Pooled recall", POOLED, "recall, the set being one large image"),
    "pooled_accuracy": MetricName("Pooled accuracy", POOLED, "fraction of all pixels of the set that are correct"),
    "hd95": MetricName(
        "Hausdorff distance, 95 %",
        BORDERS,
        "95 % of each border is within this distance of the other",
        False,
        True,
        True,
    ),
    "assd": MetricName(
        "Surface distance", BORDERS, "average symmetric distance between the two borders", False, True, True
    ),
    "surface_dice": MetricName("Surface Dice", BORDERS, "fraction of both borders within the tolerance of the other"),
    "boundary_iou": MetricName("Boundary IoU", BORDERS, "IoU of the bands along the inside of both borders"),
    "object_f1": MetricName("F1 of objects", OBJECTS, "F1 score of objects; a match has an IoU above 0.5"),
    "object_f1_75": MetricName(
        "F1 of objects, IoU 0.75", OBJECTS, "F1 score of objects; a match has an IoU above 0.75"
    ),
    "bowl_score": MetricName(
        "AP of objects, IoU 0.5 to 0.95",
        OBJECTS,
        "TP / (TP + FP + FN) of objects, averaged over IoU 0.50 to 0.95 (the score of the 2018 Data Science Bowl)",
    ),
    "count_error": MetricName(
        "Count error", OBJECTS, "mean absolute difference of the numbers of predicted and true objects", False, True
    ),
    "count_bias": MetricName(
        "Count bias", OBJECTS, "predicted minus true objects: above 0 too many, below 0 too few", None, True
    ),
    "relative_count_error": MetricName(
        "Count error, relative", OBJECTS, "the absolute differences of all images together, per true object", False
    ),
    "split_rate": MetricName(
        "Splits per object", OBJECTS, "true objects that two or more predicted ones share, per true object", False
    ),
    "merge_rate": MetricName(
        "Merges per object", OBJECTS, "predicted objects that cover two or more true ones, per true object", False
    ),
    "v_rand": MetricName("Rand score", OBJECTS, "agreement on which pairs of pixels share an object (ISBI 2012)"),
    "v_info": MetricName(
        "Information score", OBJECTS, "normalized mutual information with the true objects (ISBI 2012)"
    ),
    "average_precision": MetricName(
        "Average precision", PROBABILITIES, "precision averaged over recall, at all thresholds"
    ),
    "roc_auc": MetricName(
        "Area under the ROC curve",
        PROBABILITIES,
        "chance that a pixel of the class has a higher probability than one of another class",
    ),
    "calibration_error": MetricName(
        "Calibration error",
        PROBABILITIES,
        "expected calibration error: mean gap between probability and observed frequency",
        False,
    ),
}


def metric_name(metric: str) -> MetricName:
    """The display name of a metric's key; for an unknown one the key itself."""
    return METRIC_NAMES.get(metric) or MetricName(metric, OTHERS, "", None)
