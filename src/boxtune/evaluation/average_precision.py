"""COCO average precision of boxes, from dicts in memory. The numbers of pycocotools' `COCOeval`, computed in C++."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

AREAS: Final = ("all", "small", "medium", "large")
"""Below 32², from there below 96², and from 96² square pixels of the image as it is handed in."""

MAX_DETECTIONS: Final = 100
"""COCO looks at the 100 best-scored boxes of a label in an image and leaves out the rest; so do we, and an image with
more objects than that cannot reach an AP of 1."""

_THRESHOLD_50, _THRESHOLD_75 = 0, 5  # positions in 0.50, 0.55 … 0.95


@dataclass(frozen=True)
class AveragePrecision:
    """AP in 0–1, averaged over labels that have true boxes; None where there is no true box to find.

    Attributes:
        map: over the IoU thresholds 0.50, 0.55 … 0.95.
        map50: at IoU 0.50.
        map75: at IoU 0.75.
        by_area: `small`, `medium`, `large` → AP over all thresholds.
        ar100: the share of true boxes found with at most 100 boxes a label and image, over labels and thresholds.
        per_category: category id → (AP, AP at 0.50).
    """

    map: float | None
    map50: float | None
    map75: float | None
    by_area: dict[str, float | None]
    ar100: float | None
    per_category: dict[int, tuple[float | None, float | None]]


def average_precision(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> AveragePrecision:
    """Score COCO results against COCO annotations.

    Args:
        ground_truth: `images`, `annotations` and `categories` with integer ids; an annotation has `id` (not 0, which
            COCO evaluators take for "not matched"), `image_id`, `category_id`, `bbox`, `area` and `iscrowd`.
        results: `image_id`, `category_id`, `bbox`, `score`, all ids known to `ground_truth`. Rows get further keys.
    """
    category_ids = sorted(category["id"] for category in ground_truth["categories"])
    if all(annotation["iscrowd"] for annotation in ground_truth["annotations"]):
        nothing = dict.fromkeys(AREAS[1:])
        return AveragePrecision(None, None, None, nothing, None, dict.fromkeys(category_ids, (None, None)))
    truth = COCO(ground_truth)
    evaluator = COCOeval_faster(truth, truth.loadRes(results), iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    # [threshold, recall point, category, area, limit of detections]; recall has no second axis. -1: nothing to find.
    precision = np.asarray(evaluator.eval["precision"])[..., -1]
    recall = np.asarray(evaluator.eval["recall"])[..., -1]
    everywhere = precision[..., 0]
    return AveragePrecision(
        map=_mean(everywhere),
        map50=_mean(everywhere[_THRESHOLD_50]),
        map75=_mean(everywhere[_THRESHOLD_75]),
        by_area={name: _mean(precision[..., index]) for index, name in enumerate(AREAS) if index},
        ar100=_mean(recall[..., 0]),
        per_category={
            category: (_mean(everywhere[..., index]), _mean(everywhere[_THRESHOLD_50, :, index]))
            for index, category in enumerate(category_ids)
        },
    )


def _mean(values: Iterable[float]) -> float | None:
    """Over the entries where there was something to find."""
    array = np.asarray(values)
    known = array[array > -1]
    return float(known.mean()) if known.size else None
