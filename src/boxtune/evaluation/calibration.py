"""Whether a score of 0.8 means that eight of ten are right. The map that mends it is fitted in `calibrate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from boxtune.detections import FloatArray
from boxtune.evaluation.confidence import judged_boxes
from boxtune.evaluation.ranking import BoolArray, Ranked

NUM_BINS: Final = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Found boxes whose score lies in `[low, high)`; the last bin holds 1.0 too.

    Attributes:
        low, high: limits of the scores.
        num_boxes: how many; empty bins are left out.
        mean_score: what the model said.
        share_right: what came true: share with a match at IoU 0.5 (COCO's matching, by score).
    """

    low: float
    high: float
    num_boxes: int
    mean_score: float
    share_right: float


@dataclass(frozen=True)
class Calibration:
    """Reliability of scores at IoU 0.5.

    Attributes:
        num_boxes: found boxes that are right or wrong (crowds left out; unknown labels are wrong).
        ece: expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599): mean distance between
            what was said and what came true, bins weighted by their boxes, 0–1; None without found boxes.
        bins: reliability curve, rising scores.
    """

    num_boxes: int
    ece: float | None
    bins: tuple[ReliabilityBin, ...]


def calibration(ranked: Mapping[str, Ranked]) -> Calibration:
    """Reliability of all scores; `ranked` of `rank_images`."""
    return reliability(*judged_boxes(ranked))


def reliability(scores: FloatArray, right: BoolArray) -> Calibration:
    """Scores `[N]` in 0–1 against what came true `[N]`, in ten bins of equal width."""
    place = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins = []
    for number in np.unique(place):
        inside = place == number
        low, high = float(number / NUM_BINS), float((number + 1) / NUM_BINS)
        said, true = float(scores[inside].mean()), float(right[inside].mean())
        bins.append(ReliabilityBin(low, high, int(inside.sum()), said, true))
    distance = sum(one.num_boxes * abs(one.mean_score - one.share_right) for one in bins)
    return Calibration(len(scores), distance / len(scores) if bins else None, tuple(bins))
