"""What was found as one COCO file that stands alone: images, categories, and boxes with their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from boxtune.detections import Detections
from boxtune.evaluation.predictions import coco_ground_truth

Row = tuple[str, tuple[int, int], Detections]
"""Name of a picture, its `(height, width)` in pixels, found boxes with scores."""


def coco_of(rows: Sequence[Row], labels: Sequence[str], min_score: float) -> dict[str, Any]:
    """A COCO data set of the found boxes; each annotation carries its `score`, which COCO's own tools pass over.

    Args:
        rows: every picture, also those without boxes; names that come twice get a number.
        labels: categories in order.
        min_score: boxes with a lower score are left out.
    """
    kept = [(name, image_hw, _from(found, min_score)) for name, image_hw, found in _named_apart(rows)]
    content = coco_ground_truth(kept, labels)
    scores = [score for _, _, found in kept for score in _scores(found)]
    for annotation, score in zip(content["annotations"], scores, strict=True):
        annotation["score"] = score
    return content


def _from(found: Detections, min_score: float) -> Detections:
    return found.select([score >= min_score for score in _scores(found)])


def _scores(found: Detections) -> list[float]:
    assert found.scores is not None, "found boxes have scores"
    return [round(float(score), 4) for score in found.scores]  # as the page shows them, so that both hide the same


def _named_apart(rows: Sequence[Row]) -> list[Row]:
    taken: set[str] = set()
    apart = []
    for name, image_hw, found in rows:
        fresh, number = name, 2
        while fresh in taken:
            fresh, number = f"{name} ({number})", number + 1
        taken.add(fresh)
        apart.append((fresh, image_hw, found))
    return apart
