"""Truth and predictions of a data set in COCO's form, in memory and as a pair of files.

COCO wants integers where data sets have names. Both sides of the pair number things the same way, from the same
lists, so that neither needs a table beside it: an image is its own id where all ids of the data set are integers
(`"139"` → 139), else its place in the data set counted from 1; a category is its place in the list of labels, from 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from boxtune.detections import Detections, xyxy_to_xywh
from boxtune.errors import SaveError

Truth = tuple[str, tuple[int, int], Detections]
"""Sample id, `(height, width)` of its upright image, true boxes."""

Found = tuple[str, Detections] | tuple[str, Detections, Detections]
"""Sample id, found boxes, and candidates beside them where there are any."""


def image_ids(sample_ids: Sequence[str]) -> dict[str, int]:
    """Sample id → COCO image id, for all samples of a data set in its order."""
    if all(_is_integer(sample_id) for sample_id in sample_ids):
        return {sample_id: int(sample_id) for sample_id in sample_ids}
    return {sample_id: place for place, sample_id in enumerate(sample_ids, start=1)}


def _is_integer(text: str) -> bool:
    """Plain digits that come back unchanged: not `007`, `-1` or `٣`, and not beyond 64 bits."""
    return text.isascii() and text.isdigit() and len(text) < 19 and str(int(text)) == text


def category_labels(labels: Iterable[str], truths: Iterable[Detections]) -> tuple[str, ...]:
    """All categories: `labels` in their order, then those that only true boxes have, sorted."""
    listed = tuple(dict.fromkeys(labels))
    others = {label for truth in truths for label in truth.labels} - set(listed)
    return (*listed, *sorted(others))


def coco_ground_truth(
    rows: Sequence[Truth], labels: Sequence[str] = (), file_names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A COCO data set: `images`, `annotations` (`area` of the box, no crowds), `categories`.

    Args:
        rows: every sample, also those without boxes.
        labels: categories in order; labels that only true boxes have follow.
        file_names: sample id → name of the image file; a sample that is not in it has its id there.
    """
    file_names = file_names or {}
    ids = image_ids([sample_id for sample_id, _, _ in rows])
    categories = category_labels(labels, (truth for _, _, truth in rows))
    numbers = {label: number for number, label in enumerate(categories, start=1)}
    annotations = [
        {
            "id": 0,
            "image_id": ids[sample_id],
            "category_id": numbers[label],
            "bbox": bbox.tolist(),
            "area": float(area),
            "iscrowd": 0,
        }
        for sample_id, _, truth in rows
        for label, bbox, area in zip(truth.labels, xyxy_to_xywh(truth.xyxy), truth.areas, strict=True)
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {
        "images": [
            {
                "id": ids[sample_id],
                "file_name": file_names.get(sample_id, sample_id),
                "height": height,
                "width": width,
            }
            for sample_id, (height, width), _ in rows
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in numbers.items()],
    }


def coco_results(rows: Sequence[Found], labels: Sequence[str]) -> list[dict[str, Any]]:
    """COCO results; a box without a score gets 1.0, a box whose label is not in `labels` has no number and is left out.

    Candidates carry `"candidate": true`, which COCO's own tools pass over.

    Args:
        rows: every sample of the data set in its order, also those without boxes (they number the images).
        labels: all categories, as `category_labels` lists them.
    """
    ids = image_ids([row[0] for row in rows])
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    return [
        {
            "image_id": ids[sample_id],
            "category_id": numbers[label],
            "bbox": bbox.tolist(),
            "score": 1.0 if found.scores is None else float(found.scores[index]),
            **({"candidate": True} if place else {}),
        }
        for sample_id, *both in rows
        for place, found in enumerate(both)
        for index, (label, bbox) in enumerate(zip(found.labels, xyxy_to_xywh(found.xyxy), strict=True))
        if label in numbers
    ]


def write_ground_truth(
    path: Path, rows: Sequence[Truth], labels: Sequence[str] = (), file_names: Mapping[str, str] | None = None
) -> None:
    """Write the true boxes of a data set as COCO annotations, for `boxtune score --annotations`.

    Args:
        path: file to write.
        rows, labels, file_names: as for `coco_ground_truth`.

    Raises:
        SaveError: the file cannot be written.
    """
    _write(path, coco_ground_truth(rows, labels, file_names))


def write_predictions(path: Path, rows: Sequence[Found], labels: Sequence[str]) -> None:
    """Write found boxes as COCO results, for `boxtune score --predictions`.

    Args:
        path: file to write.
        rows: as for `coco_results`; the same samples in the same order as for `write_ground_truth`.
        labels: the categories of that file (`category_labels`).

    Raises:
        SaveError: the file cannot be written.
    """
    _write(path, coco_results(rows, labels))


def _write(path: Path, content: Any) -> None:
    try:
        path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror}. Choose another place.") from None
