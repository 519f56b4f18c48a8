"""Which found box belongs to which true box: the best one-to-one assignment, independent of scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from boxtune.detections import Detections, FloatArray, box_iou


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of one image.

    Attributes:
        truth_index: `[M]` position of each pair's true box.
        predicted_index: `[M]` position of its found box.
        iou: `[M]` their overlap, above 0.
    """

    truth_index: npt.NDArray[np.intp]
    predicted_index: npt.NDArray[np.intp]
    iou: FloatArray

    def __len__(self) -> int:
        return len(self.iou)


def match(truth: Detections, predicted: Detections) -> Matches:
    """Pair true and found boxes of the same label so that the sum of their IoUs is as large as it can be.

    Every box is in at most one pair, pairs without overlap are none, and pairs stand in the order of the true boxes.
    Scores play no part (COCO's matching, which goes by score, is in `average_precision`).
    """
    iou = box_iou(truth.xyxy, predicted.xyxy)
    same_label = np.array(truth.labels, dtype=object)[:, None] == np.array(predicted.labels, dtype=object)[None, :]
    # Pairs of different labels are worth nothing, so one assignment over all labels is the best one of each label.
    iou = np.where(same_label, iou, 0.0)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    overlapping = iou[rows, columns] > 0
    rows, columns = rows[overlapping], columns[overlapping]
    return Matches(rows, columns, iou[rows, columns])


def inside_crowd(predicted: Detections, crowd: Detections, share: float = 0.5) -> npt.NDArray[np.bool_]:
    """`[N]` whether at least `share` of a found box lies in a crowd region of its own label.

    Such a box may be one of the many that nobody outlined: it is neither right nor wrong (COCO's `iscrowd`).
    """
    same_label = np.array(predicted.labels, dtype=object)[:, None] == np.array(crowd.labels, dtype=object)[None, :]
    inside = overlap_share(predicted.xyxy, crowd.xyxy) >= share
    return np.asarray((same_label & inside & (predicted.areas[:, None] > 0)).any(axis=1), dtype=bool)


def overlap_share(boxes_xyxy: FloatArray, regions_xyxy: FloatArray) -> FloatArray:
    """`[N, 4]` × `[M, 4]` → `[N, M]` share of each box's area that lies in each region; 0 for boxes without area."""
    lower = np.maximum(boxes_xyxy[:, None, :2], regions_xyxy[None, :, :2])
    upper = np.minimum(boxes_xyxy[:, None, 2:], regions_xyxy[None, :, 2:])
    overlap = np.clip(upper - lower, 0, None).prod(-1)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1)[:, None]
    share: FloatArray = np.divide(overlap, areas, out=np.zeros_like(overlap), where=areas > 0)
    return share
