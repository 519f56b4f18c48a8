"""What was found in pictures as a COCO data set, for tools that show or mend boxes (FiftyOne, CVAT, Label Studio).

Other than COCO results (`predictions.json` of an evaluation) it needs no data set whose numbers it could use: it has
its own `images`, also those without boxes, and `categories`. Each annotation has a `score` besides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boxtune.detections import Detections, xyxy_to_xywh
from boxtune.whole_files import whole_file

COCO_FILE: Final = "coco.json"


@dataclass(frozen=True)
class FoundPicture:
    """A picture that was looked at.

    Attributes:
        file_name: where it lies, from the folder of pictures, with `/` between folders.
        image_hw: height and width of the upright picture, in pixels.
        boxes: with scores, in pixels of the upright picture.
    """

    file_name: str
    image_hw: tuple[int, int]
    boxes: Detections


def write_coco_dataset(path: Path, pictures: Iterable[FoundPicture], labels: Sequence[str]) -> None:
    """Write the file, whole or not at all; it is never all in memory.

    Args:
        path: of the file.
        pictures: gone through twice, in the same order.
        labels: the first categories, numbered from 1; other labels that were found follow.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(_texts(pictures, labels))


def _texts(pictures: Iterable[FoundPicture], labels: Sequence[str]) -> Iterator[str]:
    category_ids = {label: number for number, label in enumerate(dict.fromkeys(labels), start=1)}
    yield '{\n"images": ['
    yield from _rows(_images(pictures))
    yield '],\n"annotations": ['
    yield from _rows(_annotations(pictures, category_ids))
    yield '],\n"categories": ['  # last: only now all labels are known
    yield from _rows({"id": number, "name": label} for label, number in category_ids.items())
    yield "]\n}\n"


def _rows(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, entry in enumerate(entries):
        yield ("\n" if number == 0 else ",\n") + json.dumps(entry, ensure_ascii=False)


def _images(pictures: Iterable[FoundPicture]) -> Iterator[dict[str, Any]]:
    for image_id, picture in enumerate(pictures, start=1):
        height, width = picture.image_hw
        yield {"id": image_id, "file_name": picture.file_name, "width": width, "height": height}


def _annotations(pictures: Iterable[FoundPicture], category_ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Of all pictures; labels that have no number yet get one."""
    number = 0
    for image_id, picture in enumerate(pictures, start=1):
        boxes = picture.boxes
        assert boxes.scores is not None
        rows = zip(boxes.labels, xyxy_to_xywh(boxes.xyxy).tolist(), boxes.areas, boxes.scores, strict=True)
        for label, xywh, area, score in rows:
            number += 1
            yield {
                "id": number,
                "image_id": image_id,
                "category_id": category_ids.setdefault(label, len(category_ids) + 1),
                "bbox": [round(value, 2) for value in xywh],
                "area": round(float(area), 2),
                "iscrowd": 0,
                "score": round(float(score), 4),
            }
