"""The words for each metric, as tables and the page show them."""

from __future__ import annotations

from dataclasses import dataclass

PER_IMAGE, POOLED, BORDERS = "Per image, then averaged", "Pooled over the set", "Borders"
OBJECTS, PROBABILITIES, OTHERS = "Objects", "Probabilities", "Others"


@dataclass(frozen=True)
class MetricName:
    """label: the name in words. group: of a table. meaning: one line. higher: whether that is better; None: unknown.

    is_length: the values are lengths, in pixels or the user's unit, and no shares.
    """

    label: str
    group: str
    meaning: str
    higher: bool | None = True
    is_length: bool = False


METRIC_NAMES = {
    "dice": MetricName("Dice", PER_IMAGE, "twice the shared area over the sum of the true and the predicted area"),
    "iou": MetricName("IoU", PER_IMAGE, "the shared area over the area that either covers"),
    "mean_iou": MetricName("Mean IoU", PER_IMAGE, "mean of the IoU of all classes, the background too"),
    "precision": MetricName("Precision", PER_IMAGE, "share of the predicted area that is right"),
    "recall": MetricName("Recall", PER_IMAGE, "share of the true area that was found"),
    "accuracy": MetricName("Pixel accuracy", PER_IMAGE, "share of the pixels that are right"),
    "set_dice": MetricName(
        "Set Dice", POOLED, "Dice of areas summed over the set, each as a share of its image: empty masks can't win it"
    ),
    "pooled_dice": MetricName("Pooled Dice", POOLED, "Dice, the set being one large image"),
    "pooled_iou": MetricName("Pooled IoU", POOLED, "IoU, the set being one large image"),
    "pooled_precision": MetricName("Pooled precision", POOLED, "precision, the set being one large image"),
    "pooled_recall": MetricName("Pooled recall", POOLED, "recall, the set being one large image"),
    "pooled_accuracy": MetricName("Pooled accuracy", POOLED, "share of all pixels of the set that are right"),
    "hd95": MetricName(
        "Hausdorff distance, 95 %", BORDERS, "95 % of each border lies no farther than this from the other", False, True
    ),
    "assd": MetricName("Surface distance", BORDERS, "how far the two borders lie apart on average", False, True),
    "surface_dice": MetricName("Surface Dice", BORDERS, "share of both borders within the tolerance of the other"),
    "boundary_iou": MetricName("Boundary IoU", BORDERS, "IoU of the bands along the inside of both borders"),
    "bowl_score": MetricName(
        "Bowl score", OBJECTS, "found objects over all, averaged over IoU 0.50 to 0.95 (2018 Data Science Bowl)"
    ),
    "object_f1": MetricName(
        "F1 of objects", OBJECTS, "an object is found where the IoU with a predicted one is over 0.5"
    ),
    "v_rand": MetricName("Rand score", OBJECTS, "pairs of pixels joined and parted as in the truth (ISBI 2012)"),
    "v_info": MetricName("Information score", OBJECTS, "what the objects tell of the true ones (ISBI 2012)"),
    "average_precision": MetricName(
        "Average precision", PROBABILITIES, "precision averaged over recall, all thresholds"
    ),
    "roc_auc": MetricName(
        "Area under the ROC curve",
        PROBABILITIES,
        "how often a pixel of the class gets a higher probability than another",
    ),
    "calibration_error": MetricName(
        "Calibration error",
        PROBABILITIES,
        "how far probabilities lie from the shares that are right, on average",
        False,
    ),
}


def metric_name(metric: str) -> MetricName:
    """The words for a metric's key; for an unknown one the key itself."""
    return METRIC_NAMES.get(metric) or MetricName(metric, OTHERS, "", None)
