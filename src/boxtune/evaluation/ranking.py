"""Found boxes of each label in the order of their scores, matched as COCO matches them; AP of any redrawn images.

`average_precision` gives COCO's figures of one data set. This module keeps what they are made of, so that errors can be
looked at box by box and a thousand resamples need no second matching. Both agree to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from boxtune.detections import Detections, FloatArray, box_iou
from boxtune.evaluation.average_precision import MAX_DETECTIONS
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.matching import overlap_share

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

IOU_THRESHOLDS: Final[FloatArray] = np.linspace(0.5, 0.95, 10)  # bit for bit those of pycocotools
RECALL_POINTS: Final[FloatArray] = np.linspace(0.0, 1.0, 101)

_ELEMENTS_AT_ONCE = 400_000  # of the arrays below: they stay in the cache
_NEVER_EXACT = 1 - 1e-10  # COCO's highest threshold


@dataclass(frozen=True, eq=False)
class Ranked:
    """All found boxes of one label, best score first; equal scores in the order of images and of boxes in them.

    Attributes:
        label: class name.
        num_truth: `[I]` true boxes of the label in each image.
        scores: `[N]`, falling.
        image: `[N]` position of the image of each box.
        index: `[N]` position of the box in its image's `ranked`.
        truth: `[T, N]` position in the image's `truth` of the box matched at each IoU threshold, -1 for none.
        ignored: `[T, N]` unmatched and in a crowd region: neither right nor wrong.
        counted: `[N]` whether it is among the 100 best of its image and label, which alone COCO AP looks at.
    """

    label: str
    num_truth: IntArray
    scores: FloatArray
    image: IntArray
    index: IntArray
    truth: IntArray
    ignored: BoolArray
    counted: BoolArray

    def __len__(self) -> int:
        return len(self.scores)


def rank_images(images: Sequence[JudgedImage]) -> dict[str, Ranked]:
    """Match the boxes of every image at all of `IOU_THRESHOLDS`; label → its boxes, for all labels, true or found.

    COCO's matching: the best-scored box chooses first, among the true boxes that are left the one with the largest
    IoU at or above the threshold.
    """
    labels = sorted({label for image in images for one in (image.truth, image.ranked) for label in one.labels})
    num_truth = {label: np.zeros(len(images), np.int64) for label in labels}
    parts: defaultdict[str, list[_Part]] = defaultdict(list)
    for number, image in enumerate(images):
        for label in image.truth.labels:
            num_truth[label][number] += 1
        for label in dict.fromkeys(image.ranked.labels):
            parts[label].append(_match_label(image, number, label))
    return {label: _sorted(label, num_truth[label], parts[label]) for label in labels}


@dataclass(frozen=True, eq=False)
class _Part:
    """The boxes of one label in one image, best score first."""

    number: int
    scores: FloatArray
    index: IntArray
    truth: IntArray
    ignored: BoolArray


_NO_BOXES: Final = _Part(
    0,
    np.zeros(0),
    np.zeros(0, np.int64),
    np.zeros((len(IOU_THRESHOLDS), 0), np.int64),
    np.zeros((len(IOU_THRESHOLDS), 0), bool),
)


def scores_of(found: Detections) -> FloatArray:
    """`[N]` scores, 1.0 where there are none."""
    return np.ones(len(found)) if found.scores is None else found.scores


def _match_label(image: JudgedImage, number: int, label: str) -> _Part:
    index = _positions(image.ranked, label)
    scores = scores_of(image.ranked)[index]
    order = np.argsort(-scores, kind="stable")
    index, scores = index[order], scores[order]
    found = image.ranked.xyxy[index]
    true = _positions(image.truth, label)
    limits = np.minimum(IOU_THRESHOLDS, _NEVER_EXACT)
    pairs = _match_by_score(box_iou(found, image.truth.xyxy[true]), limits)
    truth = np.full(pairs.shape, -1, np.int64)
    truth[pairs >= 0] = true[pairs[pairs >= 0]]
    ignored = np.zeros(pairs.shape, bool)
    crowd = _positions(image.crowd, label)
    if len(crowd):
        inside = overlap_share(found, image.crowd.xyxy[crowd]).max(axis=1)
        ignored = (truth < 0) & (inside[None, :] >= limits[:, None])
    return _Part(number, scores, index, truth, ignored)


def _positions(boxes: Detections, label: str) -> IntArray:
    return np.array([place for place, name in enumerate(boxes.labels) if name == label], np.int64)


def _match_by_score(iou: FloatArray, limits: FloatArray) -> IntArray:
    """`[N, G]` IoUs, best score first → `[T, N]` column of each box's partner, -1 for none."""
    num_found, num_true = iou.shape
    pairs = np.full((len(limits), num_found), -1, np.int64)
    if not num_true:
        return pairs
    free = np.ones((len(limits), num_true), bool)
    rows = np.arange(len(limits))
    for place in np.flatnonzero(iou.max(axis=1) >= limits[0]):
        candidates = np.where(free & (iou[place] >= limits[:, None]), iou[place], -1.0)
        best = num_true - 1 - candidates[:, ::-1].argmax(axis=1)  # the last of equal ones, as pycocotools has it
        hit = candidates[rows, best] >= 0
        pairs[hit, place] = best[hit]
        free[rows[hit], best[hit]] = False
    return pairs


def _sorted(label: str, num_truth: IntArray, parts: Sequence[_Part]) -> Ranked:
    parts = [_NO_BOXES, *parts]  # so that there is something to join
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")
    place = np.concatenate([np.arange(len(part.scores)) for part in parts])
    return Ranked(
        label,
        num_truth,
        scores[order],
        np.repeat([part.number for part in parts], [len(part.scores) for part in parts])[order],
        np.concatenate([part.index for part in parts])[order],
        np.concatenate([part.truth for part in parts], axis=1)[:, order],
        np.concatenate([part.ignored for part in parts], axis=1)[:, order],
        (place < MAX_DETECTIONS)[order],
    )


def average_precisions(ranked: Ranked, weights: IntArray) -> FloatArray:
    """COCO AP of one label on redrawn images: `[B, I]` how often each image is drawn → `[B, T]`.

    It is the AP of a data set in which the copies of an image stand one after the other. NaN where no true box was
    drawn.

    Args:
        ranked: boxes of the label.
        weights: for each of B drawings the number of copies of each image.
    """
    boxes = ranked.num_truth
    num_truth = weights @ boxes
    result = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    if ranked.counted.any() and len(weights):
        columns, copies = _columns(ranked, int(weights.max()))
        rows_at_once = max(1, _ELEMENTS_AT_ONCE // len(columns))
        for start in range(0, len(weights), rows_at_once):
            rows = slice(start, start + rows_at_once)
            drawn = weights[rows][:, ranked.image[columns]]
            if copies is not None:
                drawn = np.where(copies < 0, drawn, drawn > copies)
            for level, precision in enumerate(_each_level(ranked, columns, drawn, np.maximum(num_truth[rows], 1))):
                result[rows, level] = precision
    result[num_truth == 0] = np.nan
    return result


def _each_level(ranked: Ranked, columns: IntArray, drawn: IntArray, num_truth: IntArray) -> Iterator[FloatArray]:
    """`[b]` AP at each threshold.

    Only right boxes move the recall, so only their columns are looked at. Where one is drawn several times in a row,
    the precision of the last copy is the highest, which is what the envelope of the others comes to.
    """
    seen = drawn.cumsum(axis=1)
    for truth, ignored in zip(ranked.truth[:, columns], ranked.ignored[:, columns], strict=True):
        right = np.flatnonzero(truth >= 0)
        if not len(right):
            yield np.zeros(len(drawn))
            continue
        judged = (drawn * ~ignored).cumsum(axis=1) if ignored.any() else seen
        num_right = drawn[:, right].cumsum(axis=1)
        precision = num_right / np.maximum(judged[:, right], 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALL_POINTS, num_right / num_truth[:, None], side="right")
        yield (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALL_POINTS)


def _columns(ranked: Ranked, most_copies: int) -> tuple[IntArray, IntArray | None]:
    """Columns of `ranked` as a data set with copies of its images has them, and which copy each belongs to (-1: all).

    Boxes of one image with the same score stand together, and so do the copies of the whole group: a, b, a, b. A box
    that is alone needs one column for all of its copies.
    """
    kept = np.flatnonzero(ranked.counted)
    same = (np.diff(ranked.image[kept]) == 0) & (np.diff(ranked.scores[kept]) == 0)
    if not same.any() or most_copies < 2:
        return kept, None
    columns: list[int] = []
    copies: list[int] = []
    for group in np.split(kept, np.flatnonzero(~same) + 1):
        repeats = range(most_copies) if len(group) > 1 else (-1,)
        for copy in repeats:
            columns += group.tolist()
            copies += [copy] * len(group)
    return np.array(columns), np.array(copies)


def average_precision_of(scores: FloatArray, right: BoolArray, num_truth: int) -> float:
    """COCO AP at one IoU from boxes that are right or wrong.

    Args:
        scores: `[N]`, in any order; equal ones keep theirs.
        right: `[N]`.
        num_truth: true boxes, above 0.
    """
    order = np.argsort(-scores, kind="stable")
    num_right = right[order].cumsum()
    precision = num_right / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(RECALL_POINTS, num_right / num_truth, side="right")
    return float((envelope * np.diff(reached, prepend=0)).sum() / len(RECALL_POINTS))
