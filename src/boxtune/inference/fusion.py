"""Boxes of the text and of the detection head as one list: what both found rises, what one found stays.

Two boxes agree where they have one label and overlap; each agrees with one other at most, the surest pairs first. Of a
pair the score is 1 − (1 − p)(1 − q), as of two witnesses who err independently, and the box lies between the two,
weighted by score (weighted boxes fusion, Solovyev et al. 2021, arXiv 1910.13302, eq. 2). A box that one of them found
alone keeps its score: fusion takes nothing away.
"""

from __future__ import annotations

import numpy as np

from boxtune.detections import Detections, box_iou

AGREE_IOU = 0.5
_NO_SCORE = 1e-12  # of both together: neither box is better known


def fuse(text: Detections, head: Detections, agree_iou: float = AGREE_IOU) -> Detections:
    """The boxes of both with scores: those of the text in their order, then those that the head found alone.

    Args:
        text, head: boxes of one image with scores, in the same pixels.
        agree_iou: overlap from which two boxes of one label are the same object.
    """
    assert text.scores is not None
    assert head.scores is not None
    partner = _partners(text, head, agree_iou)
    agreed = np.flatnonzero(partner >= 0)
    boxes, scores = text.xyxy.copy(), text.scores.copy()
    p, q = text.scores[agreed, None], head.scores[partner[agreed], None]
    share = np.divide(p, p + q, out=np.full_like(p, 0.5), where=p + q > _NO_SCORE)
    boxes[agreed] = share * text.xyxy[agreed] + (1 - share) * head.xyxy[partner[agreed]]
    scores[agreed] = (1 - (1 - p) * (1 - q))[:, 0]
    alone = np.setdiff1d(np.arange(len(head)), partner[agreed])
    return Detections(boxes, text.labels, scores).joined(head.select(alone))


def _partners(text: Detections, head: Detections, agree_iou: float) -> np.ndarray:
    """`[N]` the head's box that agrees with each box of the text, −1 where none does."""
    partner = np.full(len(text), -1)
    if not len(text) or not len(head):
        return partner
    assert text.scores is not None
    assert head.scores is not None
    same = np.array(text.labels, dtype=object)[:, None] == np.array(head.labels, dtype=object)[None]
    overlap = np.where(same, box_iou(text.xyxy, head.xyxy), 0.0)
    free = np.ones(len(head), dtype=bool)
    for index in np.argsort(-text.scores, kind="stable"):
        fitting = np.flatnonzero(free & (overlap[index] >= agree_iou))
        if len(fitting):
            best = fitting[np.argmax(head.scores[fitting])]
            partner[index], free[best] = best, False
    return partner
