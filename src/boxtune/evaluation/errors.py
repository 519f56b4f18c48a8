"""Which mistakes cost how much: the error kinds of TIDE (Bolya et al. 2020, arXiv 2008.08115)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from boxtune.detections import FloatArray, box_iou
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.ranking import BoolArray, IntArray, Ranked, average_precision_of, rank_images, scores_of

FoundKind = Literal["correct", "classification", "localisation", "both", "duplicate", "background", "ignored"]
ErrorKind = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]

ERROR_KINDS: Final[tuple[ErrorKind, ...]] = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
FOREGROUND_IOU: Final = 0.5
BACKGROUND_IOU: Final = 0.1


@dataclass(frozen=True)
class FoundBox:
    """The verdict on one found box.

    Attributes:
        sample_id: its image.
        index: its position in the image's `ranked`.
        kind: `correct` (a true positive at IoU 0.5), an error kind, or `ignored` (in a crowd region, or beyond the 100
            boxes of a label that COCO looks at).
        label, score: as found; 1.0 where there was no score.
        truth_index: position in the image's `truth` of the box it was matched to or measured against; None for
            `background` and `ignored`.
        iou: overlap with that true box; for `background` the largest with any, 0 for `ignored`.
    """

    sample_id: str
    index: int
    kind: FoundKind
    label: str
    score: float
    truth_index: int | None
    iou: float


@dataclass(frozen=True)
class MissedBox:
    """A true box that nothing was matched to.

    Attributes:
        sample_id: its image.
        index: its position in the image's `truth`.
        label: its class.
        covered: a found box with a classification or localisation error was meant for it; such a box is not counted as
            `missed`, as in the paper.
    """

    sample_id: str
    index: int
    label: str
    covered: bool


@dataclass(frozen=True)
class ErrorSummary:
    """What goes into metrics.json.

    Attributes:
        ap50: AP at IoU 0.5 as it is; None without a true box.
        counts: error kind → how many.
        dap50: error kind → what AP50 would gain were errors of this one kind mended and all others kept. The gains do
            not add up to 1 − AP50 (paper, section 2.3).
        dap50_false_positive: the gain without any wrong box.
        dap50_false_negative: the gain without any missing one.
    """

    ap50: float | None
    counts: dict[ErrorKind, int]
    dap50: dict[ErrorKind, float | None]
    dap50_false_positive: float | None
    dap50_false_negative: float | None


@dataclass(frozen=True)
class ErrorAnalysis:
    """The summary, and each box behind it.

    Attributes:
        summary: counts and gains.
        found: every found box, images in order, boxes in the order of `ranked`.
        missed: every true box without a match.
    """

    summary: ErrorSummary
    found: tuple[FoundBox, ...]
    missed: tuple[MissedBox, ...]


def analyse_errors(images: Sequence[JudgedImage], ranked: Mapping[str, Ranked] | None = None) -> ErrorAnalysis:
    """Give every found and every missed box its kind, and weigh the kinds.

    Conditions and their order are those of the authors' program (tidecv 1.0.1, `quantify.py`), matching and AP those of
    COCO: localisation (0.1 ≤ IoU ≤ 0.5 with a true box of the same label), classification (IoU ≥ 0.5 with one of
    another), duplicate (its true box is taken), background (IoU ≤ 0.1 with any), else both.

    Args:
        images: judged.
        ranked: of `rank_images(images)`, where it is at hand.
    """
    ranked = rank_images(images) if ranked is None else ranked
    matched, ignored = _matches(images, ranked)
    found: list[FoundBox] = []
    missed: list[MissedBox] = []
    for image, partner, left_out in zip(images, matched, ignored, strict=True):
        verdicts = _found_boxes(image, partner, left_out)
        found += verdicts
        missed += _missed_boxes(image, partner, verdicts)
    return ErrorAnalysis(_summary(found, missed, _num_truth(ranked)), tuple(found), tuple(missed))


def _num_truth(ranked: Mapping[str, Ranked]) -> dict[str, int]:
    return {label: int(one.num_truth.sum()) for label, one in ranked.items() if one.num_truth.any()}


def _matches(images: Sequence[JudgedImage], ranked: Mapping[str, Ranked]) -> tuple[list[IntArray], list[BoolArray]]:
    """Of each image: `[N]` the true box matched at IoU 0.5 (-1: none), and `[N]` whether the box is left out."""
    matched = [np.full(len(image.ranked), -1, np.int64) for image in images]
    ignored = [np.zeros(len(image.ranked), bool) for image in images]
    for one in ranked.values():
        left_out = one.ignored[0] | ~one.counted
        for number, index, truth, out in zip(one.image, one.index, one.truth[0], left_out, strict=True):
            matched[number][index] = -1 if out else truth
            ignored[number][index] = out
    return matched, ignored


# ---- verdicts ------------------------------------------------------------------------------------------------------


def _found_boxes(image: JudgedImage, partner: IntArray, left_out: BoolArray) -> list[FoundBox]:
    iou = box_iou(image.ranked.xyxy, image.truth.xyxy)
    true = np.array(image.truth.labels, dtype=object)
    taken = np.isin(np.arange(len(true)), partner)
    verdicts = []
    for index, (label, score) in enumerate(zip(image.ranked.labels, scores_of(image.ranked), strict=True)):
        if left_out[index]:
            verdict: tuple[FoundKind, int | None, float] = ("ignored", None, 0.0)
        elif partner[index] >= 0:
            verdict = ("correct", int(partner[index]), float(iou[index, partner[index]]))
        else:
            verdict = _mistake(iou[index], true == label, taken)
        kind, truth_index, overlap = verdict
        verdicts.append(FoundBox(image.sample_id, index, kind, label, float(score), truth_index, overlap))
    return verdicts


def _mistake(iou: FloatArray, same_label: BoolArray, taken: BoolArray) -> tuple[FoundKind, int | None, float]:
    """Kind of a wrong box, the true box it is measured against, and their overlap; all arguments `[G]`."""
    if not len(iou):
        return "background", None, 0.0
    same, other, of_taken = (np.where(mask, iou, 0.0) for mask in (same_label, ~same_label, same_label & taken))
    if BACKGROUND_IOU <= same.max() <= FOREGROUND_IOU:
        return "localisation", int(same.argmax()), float(same.max())
    if other.max() >= FOREGROUND_IOU:
        return "classification", int(other.argmax()), float(other.max())
    if of_taken.max() >= FOREGROUND_IOU:
        return "duplicate", int(of_taken.argmax()), float(of_taken.max())
    if iou.max() <= BACKGROUND_IOU:
        return "background", None, float(iou.max())
    return "both", int(iou.argmax()), float(iou.max())


def _missed_boxes(image: JudgedImage, partner: IntArray, verdicts: Sequence[FoundBox]) -> list[MissedBox]:
    meant = {one.truth_index for one in verdicts if one.kind in ("classification", "localisation")}
    free = sorted(set(range(len(image.truth))) - set(partner.tolist()))
    return [MissedBox(image.sample_id, index, image.truth.labels[index], index in meant) for index in free]


# ---- gains ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Table:
    """All boxes that count, as AP sees them: `[N]` label, score, right; and label → number of true boxes."""

    labels: npt.NDArray[np.object_]
    scores: FloatArray
    right: BoolArray
    num_truth: dict[str, int]

    def ap50(self) -> float | None:
        """Mean over labels. One that has neither true nor found boxes left says nothing, one with found boxes 0."""
        precisions = []
        for label, count in self.num_truth.items():
            of_label = self.labels == label
            if count:
                precisions.append(average_precision_of(self.scores[of_label], self.right[of_label], count))
            elif of_label.any():
                precisions.append(0.0)
        if not precisions:
            return 1.0 if self.num_truth else None  # everything was missed, and that has been mended
        return float(np.mean(precisions))


def _summary(found: Sequence[FoundBox], missed: Sequence[MissedBox], num_truth: dict[str, int]) -> ErrorSummary:
    counted = [one for one in found if one.kind != "ignored"]
    as_it_is = _table(counted, num_truth)
    ap50 = as_it_is.ap50()
    lost = [one for one in missed if not one.covered]
    kinds = [one.kind for one in counted]
    counts: dict[ErrorKind, int] = {kind: len(lost) if kind == "missed" else kinds.count(kind) for kind in ERROR_KINDS}

    def gain(mended: _Table) -> float | None:
        after = mended.ap50()
        return None if ap50 is None or after is None else after - ap50

    def without(drop: Callable[[FoundBox], bool]) -> _Table:
        return _table([one for one in counted if not drop(one)], num_truth)

    free = {(one.sample_id, one.index): one.label for one in missed}
    return ErrorSummary(
        ap50=ap50,
        counts=counts,
        dap50={
            "classification": gain(_mended(counted, "classification", free, num_truth)),
            "localisation": gain(_mended(counted, "localisation", free, num_truth)),
            "both": gain(without(lambda one: one.kind == "both")),
            "duplicate": gain(without(lambda one: one.kind == "duplicate")),
            "background": gain(without(lambda one: one.kind == "background")),
            "missed": gain(_table(counted, _less(num_truth, [one.label for one in lost]))),
        },
        dap50_false_positive=gain(without(lambda one: one.kind != "correct")),
        dap50_false_negative=gain(_table(counted, _less(num_truth, [one.label for one in missed]))),
    )


def _table(boxes: Sequence[FoundBox], num_truth: dict[str, int]) -> _Table:
    ranked = sorted(boxes, key=lambda one: -one.score)
    return _Table(
        np.array([one.label for one in ranked], dtype=object),
        np.array([one.score for one in ranked], dtype=np.float64),
        np.array([one.kind == "correct" for one in ranked], dtype=bool),
        num_truth,
    )


def _mended(
    boxes: Sequence[FoundBox],
    kind: ErrorKind,
    free: Mapping[tuple[str, int], str],
    num_truth: dict[str, int],
) -> _Table:
    """Boxes of this kind made right where their true box is free, the best-scored one a true box; the rest removed."""
    best: dict[tuple[str, int], FoundBox] = {}
    for one in boxes:
        place = (one.sample_id, -1 if one.truth_index is None else one.truth_index)
        if one.kind == kind and place in free and (place not in best or best[place].score < one.score):
            best[place] = one
    right = [dataclasses.replace(one, kind="correct", label=free[place]) for place, one in best.items()]
    chosen = {(one.sample_id, one.index): one for one in right}
    after = [chosen.get((one.sample_id, one.index), one) for one in boxes]
    return _table([one for one in after if one.kind != kind], num_truth)


def _less(num_truth: dict[str, int], labels: Sequence[str]) -> dict[str, int]:
    fewer = Counter(labels)
    return {label: count - fewer[label] for label, count in num_truth.items()}
