"""One image after the model was asked: its truth and what was found. What every figure is computed from."""

from __future__ import annotations

from dataclasses import dataclass, field

from boxtune.detections import Detections


@dataclass(frozen=True)
class JudgedImage:
    """Truth and findings of one image; without its pixels.

    Attributes:
        sample_id: unique in an evaluation.
        truth: true boxes in pixels.
        predicted: found boxes in the same pixels; without scores, each counts as scored 1.0.
        crowd: regions of many objects that nobody outlined (COCO's `iscrowd`).
        readable: whether the answer could be read, as it was or repaired; None for boxes from a file.
    """

    sample_id: str
    truth: Detections
    predicted: Detections
    crowd: Detections = field(default_factory=Detections.empty)
    readable: bool | None = None
