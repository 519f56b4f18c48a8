"""What a threshold of confidence does: precision and recall along it, and the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from boxtune.detections import FloatArray
from boxtune.evaluation.assignment import ImageCounts
from boxtune.evaluation.ranking import IOU_THRESHOLDS, BoolArray, Ranked


@dataclass(frozen=True)
class OperatingPoint:
    """All labels together, boxes below a score left out; right is a box at IoU 0.5 (COCO's matching, by score).

    Attributes:
        threshold: boxes with at least this score stay.
        precision: share of those found that are right; None where no box is left.
        recall: share of true boxes found.
        f1: harmonic mean, 0 where no box is left.
        num_predictions: boxes that are left.
    """

    threshold: float
    precision: float | None
    recall: float
    f1: float
    num_predictions: int


@dataclass(frozen=True)
class Confidence:
    """Figures along the threshold. Goes into metrics.json; curves along recall are in `precision_recall`.

    Attributes:
        points: rising thresholds 0.00, 0.05 … 0.95; empty where scores rank nothing or there is no true box.
        best: the point of highest F1 among all thresholds that differ, None as above and where no box is right. It
            was chosen on these images, so its F1 flatters: choose it on one split, and use it on another.
        f1_by_iou: `0.50`, `0.55` … `0.95` → F1 of all found boxes, best assignment, whatever their scores.
        f1_mean_iou: mean over them ("F1@mIoU"): the figure for models without scores. None without boxes at all.
    """

    points: tuple[OperatingPoint, ...]
    best: OperatingPoint | None
    f1_by_iou: dict[str, float]
    f1_mean_iou: float | None


def confidence(ranked: Mapping[str, Ranked], counts: Sequence[ImageCounts]) -> Confidence:
    """What a threshold does to precision and recall at IoU 0.5, and F1 without any.

    A found box left out by a threshold never had the first choice over one that stays, so boxes are matched once.

    Args:
        ranked: of `rank_images`.
        counts: of `count_image`, one an image.
    """
    f1_by_iou = _f1_by_iou(counts)
    mean = float(np.mean(list(f1_by_iou.values()))) if f1_by_iou else None
    scores, right = judged_boxes(ranked)
    num_truth = sum(int(one.num_truth.sum()) for one in ranked.values())
    if not num_truth or len(np.unique(scores)) < 2:
        return Confidence((), None, f1_by_iou, mean)
    points = tuple(_point(threshold, scores, right, num_truth) for threshold in np.arange(20) / 20)
    best = _best(scores, right, num_truth) if right.any() else None  # every threshold would have the same F1 of 0
    return Confidence(points, best, f1_by_iou, mean)


def judged_boxes(ranked: Mapping[str, Ranked], level: int = 0) -> tuple[FloatArray, BoolArray]:
    """`[N]` scores of all boxes that are right or wrong, and `[N]` whether they are right; crowds are left out.

    Args:
        ranked: of `rank_images`.
        level: position in `IOU_THRESHOLDS`.
    """
    scores = [one.scores[~one.ignored[level]] for one in ranked.values()]
    right = [(one.truth[level] >= 0)[~one.ignored[level]] for one in ranked.values()]
    return np.concatenate([np.zeros(0), *scores]), np.concatenate([np.zeros(0, bool), *right])


def _point(threshold: float, scores: FloatArray, right: BoolArray, num_truth: int) -> OperatingPoint:
    stays = scores >= threshold
    found, hits = int(stays.sum()), int(right[stays].sum())
    precision = hits / found if found else None
    return OperatingPoint(float(threshold), precision, hits / num_truth, 2 * hits / (found + num_truth), found)


def _best(scores: FloatArray, right: BoolArray, num_truth: int) -> OperatingPoint:
    """Among all scores that occur; of equal F1 the highest threshold, which leaves the fewest boxes."""
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * right[order].cumsum() / (np.arange(1, len(order) + 1) + num_truth)
    f1[:-1][np.diff(scores[order]) == 0] = -1  # a threshold takes all boxes of a score, or none
    return _point(float(scores[order][f1.argmax()]), scores, right, num_truth)


def _f1_by_iou(counts: Sequence[ImageCounts]) -> dict[str, float]:
    iou = np.array([value for one in counts for value in one.iou])
    total = sum(one.num_boxes + one.num_predictions for one in counts)
    if not total:
        return {}
    return {f"{threshold:.2f}": float(2 * (iou >= threshold).sum() / total) for threshold in IOU_THRESHOLDS}
