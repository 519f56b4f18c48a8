"""One image after the model was asked: its truth and what was found. What every figure is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from boxtune.detections import Detections
from boxtune.evaluation.predictions import image_ids


@dataclass(frozen=True)
class JudgedImage:
    """Truth and findings of one image; without its pixels.

    Attributes:
        sample_id: unique in an evaluation.
        truth: true boxes in pixels.
        predicted: found boxes in the same pixels; without scores, each counts as scored 1.0.
        candidates: boxes of lower rank that the answer proper did not hold, with scores. What goes by score (AP,
            precision along recall, errors, calibration) looks at them too; what counts found boxes does not.
        crowd: regions of many objects that nobody outlined (COCO's `iscrowd`).
        readable: whether the answer could be read, as it was or repaired; None for boxes from a file.
    """

    sample_id: str
    truth: Detections
    predicted: Detections
    crowd: Detections = field(default_factory=Detections.empty)
    readable: bool | None = None
    candidates: Detections = field(default_factory=Detections.empty)

    @property
    def ranked(self) -> Detections:
        """All boxes that scores put in order: `predicted`, then `candidates`."""
        return self.predicted.joined(self.candidates) if len(self.candidates) else self.predicted


def in_coco_order(images: Sequence[JudgedImage]) -> list[JudgedImage]:
    """By the ids that they have in COCO files, which decides between boxes of equal score.

    Args:
        images: of a whole data set, in its order.
    """
    numbers = image_ids([image.sample_id for image in images])
    return sorted(images, key=lambda image: numbers[image.sample_id])
