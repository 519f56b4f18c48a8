"""JSONL: one line an image, one file a split (`train.jsonl`, `val.jsonl`). Two forms of line are read.

Ours, which is also the one that is written:

    {"image": "images/a.jpg", "width": 64, "height": 48, "objects": [{"bbox_xyxy_px": [1, 2, 30, 40], "label": "cat"}]}

That of ms-swift (its docs: Customization/Custom-dataset.md, "Grounding"); `messages` is not read:

    {"images": ["a.jpg"], "messages": [], "objects": {"ref": ["cat"], "bbox": [[1, 2, 30, 40]], "bbox_type": "real"}}

There `real` (the default) means pixels of the image file and `norm1` fractions 0–1; a single `ref` names all boxes.
Image names start from the JSONL's folder or from `images/` in it. `width`, `height` and an `id` are optional.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from boxtune.data.formats.place import Place, find_image
from boxtune.data.formats.state import state_of_file
from boxtune.data.formats.written import Written
from boxtune.data.records import BadRecordError, Draft, DraftBox, Reading, declared_size
from boxtune.data.splits import UNSPLIT, in_order, split_in_name
from boxtune.documents import DocumentError, parse_json
from boxtune.errors import DataError

LOOKED_FOR = "JSONL: train.jsonl, val.jsonl"

_NOT_DATA = frozenset({"skipped", "predictions", "metrics", "log"})


def recognises(path: Path) -> bool:
    """Whether a file is a .jsonl, or a folder holds some."""
    return bool(_files(path))


def split_names(place: Place) -> list[str]:
    """Splits that are there, in order."""
    return in_order(_files(place.local))


def read_split(place: Place, split: str) -> Reading:
    """All images of a split with their boxes."""
    return Reading(_drafts(_files(place.local)[split]))


def state(place: Place, split: str) -> Iterator[str]:
    """What a reading of the split depends on."""
    yield state_of_file(_files(place.local)[split])


def write_split(folder: Path, split: str, images: Iterable[Written], labels: tuple[str, ...]) -> None:
    """Write `<split>.jsonl`."""
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for image in images:
            height, width = image.record.image_hw
            detections = image.record.detections
            pairs = zip(detections.xyxy.tolist(), detections.labels, strict=True)
            objects = [{"bbox_xyxy_px": box, "label": label} for box, label in pairs]
            row = {"image": image.name, "width": width, "height": height, "objects": objects}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _files(path: Path) -> dict[str, Path]:
    """Split → file."""
    if path.is_file():
        return {split_in_name(path.stem) or UNSPLIT: path} if path.suffix.lower() == ".jsonl" else {}
    files = [file for file in sorted(path.glob("*.jsonl")) if file.stem not in _NOT_DATA]
    named: dict[str, Path] = {}
    for file in files:
        split = split_in_name(file.stem)
        if split in named:
            raise DataError(f"Two JSONL files for the split '{split}': '{named[split]}' and '{file}'. Give the file.")
        if split:
            named[split] = file
    return named or ({UNSPLIT: files[0]} if len(files) == 1 else {})


def _drafts(path: Path) -> Iterator[Draft]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _draft(line, path, f"{path.name}, line {number}")


def _draft(line: bytes, path: Path, source: str) -> Draft:
    draft = Draft(source, path, source)
    try:
        row = _row(line)
        name = _image_name(row)
        draft.image = find_image([path.parent, path.parent / "images"], name, path.parent)
        draft.id = str(row.get("id", name))
        draft.declared_hw = declared_size(row.get("height"), row.get("width"))
        objects = row.get("objects")
        if "image" in row:
            draft.boxes = _own_boxes(objects, source)
        else:
            draft.boxes = _swift_boxes(objects, source)
            draft.relative = isinstance(objects, dict) and objects.get("bbox_type") == "norm1"
    except BadRecordError as bad:
        draft.problem = bad
    return draft


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except DocumentError as error:
        raise BadRecordError(f"the line is no JSON ({error}). Mend or remove it.") from error
    if not isinstance(row, dict):
        raise BadRecordError("the line is no JSON object {…}. Mend or remove it.")
    return row


def _image_name(row: dict[str, Any]) -> Any:
    if "image" in row:
        return row["image"]
    if "images" not in row:
        raise BadRecordError("the key 'image' is missing. Name the image file.")
    images = [row["images"]] if isinstance(row["images"], str) else row["images"]
    if not isinstance(images, list) or len(images) != 1:
        raise BadRecordError("'images' must name exactly one image. Write a line for each.")
    return images[0]["path"] if isinstance(images[0], dict) and "path" in images[0] else images[0]


def _own_boxes(objects: Any, source: str) -> list[DraftBox]:
    if not isinstance(objects, list):
        raise BadRecordError("the list 'objects' is missing. Write [] where there is nothing on the image.")
    boxes = []
    for number, entry in enumerate(objects, start=1):
        for key in ("bbox_xyxy_px", "label"):
            if not isinstance(entry, dict) or key not in entry:
                raise BadRecordError(f"object {number} has no '{key}'. Add it.")
        boxes.append(_box(entry["bbox_xyxy_px"], entry["label"], source))
    return boxes


def _swift_boxes(objects: Any, source: str) -> list[DraftBox]:
    if objects is None:
        return []
    refs, boxes = (objects.get(key) for key in ("ref", "bbox")) if isinstance(objects, dict) else (None, None)
    if not isinstance(refs, list) or not isinstance(boxes, list):
        raise BadRecordError("'objects' has no lists 'ref' and 'bbox'. Add them.")
    unit = objects.get("bbox_type", "real")
    if unit not in ("real", "norm1"):
        raise BadRecordError(f"bbox_type is {unit!r}. Use 'real' for pixels or 'norm1' for 0–1.")
    refs = refs * len(boxes) if len(refs) == 1 else refs
    if len(refs) != len(boxes):
        raise BadRecordError(f"{len(refs)} entries in ref but {len(boxes)} in bbox. Give one each, or one ref for all.")
    return [_box(box, ref, source) for ref, box in zip(refs, boxes, strict=True)]


def _box(numbers: Any, label: Any, source: str) -> DraftBox:
    if not isinstance(label, str):
        raise BadRecordError(f"the label {label!r} is not text. Write the class name.")
    if not isinstance(numbers, list):
        raise BadRecordError(f"the box {numbers!r} is not a list of four numbers. Mend it.")
    return DraftBox(numbers, label, source)
