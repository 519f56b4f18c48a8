"""Boxes of the text and of the detection head as one list: what both found rises.

Two boxes agree where they have one label and overlap; each agrees with one other at most, the surest pairs first. Of a
pair the box is that of the text, which was written number after number, each knowing the ones before, and lay closer
wherever it was measured. Its score becomes 1 − (1 − p)(1 − q a), as of two witnesses who err independently, the second
heard as far as it says the same: a rises from 0 at the least overlap to 1 where the boxes are one. A box that the text
found alone keeps its score. One that the head found alone counts less, as in weighted boxes fusion, where it would be
divided by the number of models (Solovyev et al. 2021, arXiv 1910.13302); 0.3 was the best of 1, 0.5, 0.4, 0.3 and 0
beside the embedded model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from boxtune.detections import Detections, FloatArray, box_iou
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.head_decoding import CONFIDENT
from boxtune.inference.prediction import Prediction

AGREE_IOU = 0.5
HEAD_ALONE = 0.3


def fuse(text: Detections, head: Detections, agree_iou: float = AGREE_IOU) -> Detections:
    """The boxes of both with scores: those of the text in their order, then those that the head found alone.

    Args:
        text, head: boxes of one image with scores, in the same pixels.
        agree_iou: overlap from which two boxes of one label are the same object.
    """
    assert text.scores is not None
    assert head.scores is not None
    partner, overlap = _partners(text, head, agree_iou)
    paired = partner >= 0
    agreement = np.where(paired, (overlap - agree_iou) / (1 - agree_iou), 0.0)
    second = np.where(paired, head.scores[partner] if len(head) else 0.0, 0.0)
    risen = text.with_scores(np.minimum(text.scores + (1 - text.scores) * second * agreement, 1.0))
    alone = head.select(np.setdiff1d(np.arange(len(head)), partner))
    assert alone.scores is not None
    return risen.joined(alone.with_scores(HEAD_ALONE * alone.scores))


def _partners(text: Detections, head: Detections, agree_iou: float) -> tuple[np.ndarray, FloatArray]:
    """`[N]` the head's box that agrees with each box of the text, −1 where none does; `[N]` their IoU."""
    partner, shared = np.full(len(text), -1), np.zeros(len(text))
    if not len(text) or not len(head):
        return partner, shared
    assert text.scores is not None
    assert head.scores is not None
    same = np.array(text.labels, dtype=object)[:, None] == np.array(head.labels, dtype=object)[None]
    overlap = np.where(same, box_iou(text.xyxy, head.xyxy), 0.0)
    free = np.ones(len(head), dtype=bool)
    for index in np.argsort(-text.scores, kind="stable"):
        fitting = np.flatnonzero(free & (overlap[index] >= agree_iou))
        if len(fitting):
            best = fitting[np.argmax(head.scores[fitting])]
            partner[index], shared[index], free[best] = best, overlap[index, best], False
    return partner, shared


def seen(found: Detections, candidates: Detections, text: Prediction | None = None) -> Prediction:
    """A prediction with these boxes; what was written, if anything was."""
    if text is None:
        return Prediction(DecodeResult("ok", found), "", False, candidates)
    return replace(text, result=replace(text.result, detections=found, spans=()), candidates=candidates)


def together(text: Prediction, found: Detections) -> Prediction:
    """Text and head fused: the answer is what the text answered and what the scores are sure of."""
    answered = len(text.result.detections)
    fused = fuse(text.result.detections.joined(text.candidates), found)
    assert fused.scores is not None
    is_answer = (np.arange(len(fused)) < answered) | (fused.scores >= CONFIDENT)
    return seen(fused.select(is_answer), fused.select(~is_answer), text)
