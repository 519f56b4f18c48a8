"""Figures that rest on the best one-to-one assignment of found to true boxes, whatever their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxtune.detections import Detections
from boxtune.evaluation.matching import inside_crowd, match


@dataclass(frozen=True)
class ImageCounts:
    """What the assignment says of one image."""

    iou: tuple[float, ...]
    num_boxes: int
    num_predictions: int


def count_image(truth: Detections, predicted: Detections, crowd: Detections | None = None) -> ImageCounts:
    """Assign the boxes of one image. A found box without partner that lies in a `crowd` region is not counted."""
    matches = match(truth, predicted)
    num_predictions = len(predicted)
    if crowd is not None and len(crowd):
        left_over = inside_crowd(predicted, crowd)
        left_over[matches.predicted_index] = False
        num_predictions -= int(left_over.sum())
    return ImageCounts(tuple(matches.iou.tolist()), len(truth), num_predictions)


def assignment_figures(images: Sequence[ImageCounts]) -> dict[str, Any]:
    """The figures of `Metrics` that rest on the assignment."""
    iou = np.array([value for image in images for value in image.iou])
    boxes = sum(image.num_boxes for image in images)
    found = sum(image.num_predictions for image in images)
    hits = int((iou >= 0.5).sum())
    rate70 = share((iou >= 0.7).sum(), boxes)
    return {
        "mean_iou": float(iou.mean()) if iou.size else None,
        "median_iou": float(np.median(iou)) if iou.size else None,
        "mean_iou_all": share(iou.sum(), boxes),
        "detection_rate50": share(hits, boxes),
        "rate70": rate70,
        "detection_rate70": rate70,
        "precision50": share(hits, found) if found else (0.0 if boxes else None),
        "recall50": share(hits, boxes),
        "f1_50": share(2 * hits, boxes + found),
        "count_error": share(sum(abs(image.num_boxes - image.num_predictions) for image in images), len(images)),
    }


def share(part: float, whole: int) -> float | None:
    """`part / whole`, None of nothing."""
    return float(part) / whole if whole else None
