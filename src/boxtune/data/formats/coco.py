"""COCO detection files: one JSON a split with `images`, `annotations` and `categories`.

Layouts that are found: a JSON file; a folder of `train.json`, `val.json` …; `annotations/instances_train2017.json`
beside `train2017/`; `train/_annotations.coco.json` (Roboflow). Boxes are `[x_min, y_min, width, height]` in pixels.
Annotations with `iscrowd` 1 mark regions, not objects: they are left out, and the reading's notes count them.
Label Studio writes the size of the stored image and boxes on the upright one (HumanSignal/label-studio#6608).
A damaged file that bears a split's name is that split: reading it says what is wrong, and the split is not missed.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from boxtune.data.formats.place import Place, find_image
from boxtune.data.formats.state import state_of_file
from boxtune.data.formats.written import Written
from boxtune.data.records import BadRecordError, Draft, DraftBox, Reading, SkippedRecord, declared_size
from boxtune.data.splits import UNSPLIT, in_order, split_in_name
from boxtune.detections import xyxy_to_xywh
from boxtune.documents import DocumentError, parse_json
from boxtune.errors import DataError

LOOKED_FOR = "COCO: train.json, annotations/instances_train*.json or train/_annotations.coco.json"

_KEYS = ("images", "annotations", "categories")
_ID_TYPES = (int, str)
# Names that nothing but the annotations of a split has; a word of a split alone is in `test_results.json` too.
_OWN_NAME = re.compile(r"(instances_)?(train|training|val|valid|validation|dev|test|testing)\d*")
_OWN_NAME_WITHOUT_SPLIT = re.compile(r"_annotations\.coco|annotations|instances")

_State = Literal["whole", "damaged", "doubtful"]


def recognises(path: Path) -> bool:
    """Whether a file or folder looks like COCO, told from the names of files and of the keys in them."""
    if path.is_file():
        return path.suffix.lower() == ".json" and _num_keys(path) == len(_KEYS)
    return any(state == "whole" for _, _, state in _candidates(path))


def bears_names(path: Path) -> bool:
    """Whether a file or folder has COCO's names, though perhaps nothing in it that is whole."""
    return bool(_annotation_files(path))


def split_names(place: Place) -> list[str]:
    """Splits that are there, in order."""
    return in_order(_annotation_files(place.local))


def read_split(place: Place, split: str) -> Reading:
    """All images of a split with their boxes.

    Raises:
        DataError: the file is no JSON, or lacks a section.
    """
    return read_file(_annotation_files(place.local)[split])


def state(place: Place, split: str) -> Iterator[str]:
    """What a reading of the split depends on."""
    yield state_of_file(_annotation_files(place.local)[split])


def read_file(path: Path) -> Reading:
    """All images of one annotation file with their boxes.

    Raises:
        DataError: the file is no JSON, or lacks a section.
    """
    content = _load(path)
    names = _category_names(content["categories"], path)
    drafts, lost = _image_drafts(content["images"], path, upright=_is_of_label_studio(content))
    num_crowds = 0
    for number, annotation in enumerate(_consumed(content["annotations"]), start=1):
        source = f"{path.name}, annotation {_id_or_number(annotation, number)}"
        if isinstance(annotation, dict) and annotation.get("iscrowd"):
            num_crowds += 1
            continue
        try:
            draft = _draft_of(annotation, drafts)
        except BadRecordError as bad:
            lost.append(SkippedRecord(source, bad.reason))
            continue
        try:
            draft.boxes.append(_box(annotation, names, source))
        except BadRecordError as bad:
            draft.problem = draft.problem or bad
    notes = [f"{path.name}: {num_crowds} crowd regions (iscrowd 1) left out."] if num_crowds else []
    in_file_order = [draft for found in drafts.values() for draft in found]
    used = {box.label for draft in in_file_order for box in draft.boxes}
    labels = _without_parents(content["categories"], names, used)
    return Reading(in_file_order, labels, lost, notes)


def write_split(folder: Path, split: str, images: Iterable[Written], labels: tuple[str, ...]) -> None:
    """Write `<split>.json`; ids of images are kept where they are whole numbers, else counted from 1."""
    images = list(images)
    category_ids = {label: number for number, label in enumerate(labels, start=1)}
    keeps_ids = all(image.record.id.isdecimal() and str(int(image.record.id)) == image.record.id for image in images)
    content: dict[str, list[dict[str, Any]]] = {key: [] for key in _KEYS}
    content["categories"] = [{"id": number, "name": label} for label, number in category_ids.items()]
    for number, image in enumerate(images, start=1):
        image_id = int(image.record.id) if keeps_ids else number
        height, width = image.record.image_hw
        content["images"].append({"id": image_id, "file_name": image.name, "width": width, "height": height})
        detections = image.record.detections
        for xywh, label in zip(xyxy_to_xywh(detections.xyxy).tolist(), detections.labels, strict=True):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": xywh,
                    "area": xywh[2] * xywh[3],
                    "iscrowd": 0,
                }
            )
    (folder / f"{split}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _annotation_files(path: Path) -> dict[str, Path]:
    """Split → annotation file, damaged ones too."""
    if path.is_file():
        return {split_in_name(path.stem) or UNSPLIT: path} if path.suffix.lower() == ".json" else {}
    candidates = _candidates(path)
    named = _by_state(candidates, lambda split: split != UNSPLIT)
    if named["whole"] or named["damaged"]:
        return dict(named["doubtful"]) | _one_each(named["whole"]) | dict(named["damaged"])
    unnamed = _by_state(candidates, lambda split: split == UNSPLIT)
    whole_or_not = _one_each(unnamed["whole"]) | dict(unnamed["damaged"])
    return whole_or_not or dict(unnamed["doubtful"]) | dict(named["doubtful"])


def _by_state(
    candidates: list[tuple[str, Path, _State]], wanted: Callable[[str], bool]
) -> dict[_State, list[tuple[str, Path]]]:
    found: dict[_State, list[tuple[str, Path]]] = {"whole": [], "damaged": [], "doubtful": []}
    for split, file, state in candidates:
        if wanted(split):
            found[state].append((split, file))
    return found


def _one_each(files: list[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, file in files:
        if split in found:
            raise DataError(
                f"Two COCO files for the split '{split}': '{found[split]}' and '{file}'. Give the file you mean."
            )
        found[split] = file
    return found


def _candidates(folder: Path) -> list[tuple[str, Path, _State]]:
    """The JSON files where COCO's lie that are COCO, or should be by their name; with their split."""
    found = []
    for home in (folder, folder / "annotations"):
        here = [(split_in_name(file.stem), file) for file in sorted(home.glob("*.json"))]
        coco = [(split or UNSPLIT, file, state) for split, file in here if (state := _state(file, split))]
        # COCO's own folder holds key points and captions of the same images beside the boxes.
        found += [entry for entry in coco if entry[1].stem.startswith("instances_")] or coco
    for file in sorted(folder.glob("*/*.json")):
        split = split_in_name(file.parent.name)
        if split and (state := _state(file, split, in_its_folder=True)):
            found.append((split, file, state))
    return found


def _state(path: Path, split: str | None, *, in_its_folder: bool = False) -> _State | None:
    """What a JSON file is to a split; None: nothing.

    `doubtful` is what may be meant as a split's file, such as `train.json` with a list of names: it is one only where
    the split has no other, so that a stray file does no harm.
    """
    num_keys = _num_keys(path)
    if num_keys == len(_KEYS):
        return "whole"
    stem = path.stem.lower()
    may_be_unsplit = split is None or in_its_folder
    is_own = bool(_OWN_NAME.fullmatch(stem) or (may_be_unsplit and _OWN_NAME_WITHOUT_SPLIT.fullmatch(stem)))
    if split is None and not is_own and not num_keys:
        return None
    content = path.read_bytes()
    try:
        parsed = parse_json(content)
    except DocumentError:
        if is_own or num_keys:
            return "damaged"
        return None if content.strip() else "doubtful"
    is_part = isinstance(parsed, dict) and any(isinstance(parsed.get(key), list) for key in _KEYS)
    if is_part and is_own:
        return "damaged"
    return "doubtful" if is_part or is_own else None


def _num_keys(path: Path) -> int:
    """How many of the sections a file seems to have; it may be large, so it is not read but mapped."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return sum(content.find(f'"{key}"'.encode()) >= 0 for key in _KEYS)


def _load(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    if not text.strip():
        raise DataError(f"'{path}' is empty. Write it again, or remove it.")
    try:
        content = parse_json(text)
    except DocumentError as error:
        raise DataError(f"'{path}' is no JSON file, or is cut off ({error}). Write it again, or remove it.") from error
    for key in _KEYS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"'{path}' has no list '{key}'; a COCO file has {', '.join(_KEYS)}. Write it again, or move it away if "
                "it is no part of the data set."
            )
    return content


def _consumed(entries: list[Any]) -> Iterator[Any]:
    """Each entry, which the list then lets go: a million of them need not be there beside what is made of them."""
    for number, entry in enumerate(entries):
        entries[number] = None
        yield entry


def _category_names(categories: list[Any], path: Path) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for category in categories:
        known = isinstance(category, dict) and isinstance(category.get("id"), _ID_TYPES)
        if not known or not isinstance(category.get("name"), str):
            raise DataError(f"'{path}' has a category without id or name: {category!r}. Give it both.")
        if category["id"] in names:
            raise DataError(f"'{path}' has two categories with the id {category['id']}. Give each an id of its own.")
        names[category["id"]] = category["name"]
    return names


def _without_parents(categories: list[Any], names: dict[Any, str], used: set[str]) -> tuple[str, ...]:
    """Class names in file order, less groups: an unused category which others name as their supercategory."""
    parents = {c.get("supercategory") for c in categories if c.get("supercategory") != c["name"]}
    return tuple(dict.fromkeys(name for name in names.values() if name in used or name not in parents))


def _is_of_label_studio(content: dict[str, Any]) -> bool:
    info = content.get("info")
    return isinstance(info, dict) and info.get("contributor") == "Label Studio"


def _image_drafts(
    images: list[Any], path: Path, *, upright: bool
) -> tuple[dict[Any, list[Draft]], list[SkippedRecord]]:
    """Image id → its drafts: one, or more where the id was used twice (the check names them)."""
    drafts: dict[Any, list[Draft]] = {}
    lost = []
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    folders = _image_folders(path, root)
    for number, image in enumerate(_consumed(images), start=1):
        source = f"{path.name}, image {_id_or_number(image, number)}"
        if not isinstance(image, dict) or not isinstance(image.get("id"), _ID_TYPES):
            lost.append(SkippedRecord(source, "an image without an id. Give it one."))
            continue
        declared_hw = declared_size(image.get("height"), image.get("width"))
        draft = Draft(str(image["id"]), path, source, declared_hw=declared_hw, upright=upright)
        try:
            draft.image = find_image(folders, image.get("file_name"), root)
        except BadRecordError as bad:
            draft.problem = bad
        drafts.setdefault(image["id"], []).append(draft)
    return drafts, lost


def _image_folders(path: Path, root: Path) -> list[Path]:
    """Where images may lie, nearest first."""
    stem = path.stem.removeprefix("instances_")
    names = ["images", f"images/{stem}", stem]
    split = split_in_name(path.stem)
    if split:
        children = [child for home in (root / "images", root) if home.is_dir() for child in sorted(home.iterdir())]
        names += [str(c.relative_to(root)) for c in children if c.is_dir() and split_in_name(c.name) == split]
    return list(dict.fromkeys([path.parent, root, *(root / name for name in names)]))


def _draft_of(annotation: Any, drafts: dict[Any, list[Draft]]) -> Draft:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("image_id"), _ID_TYPES):
        raise BadRecordError("an annotation without 'image_id'. Say which image it is on.")
    if annotation["image_id"] not in drafts:
        raise BadRecordError(f"there is no image with the id {annotation['image_id']}. Mend image_id or add the image.")
    return drafts[annotation["image_id"]][0]


def _box(annotation: dict[str, Any], names: dict[Any, str], source: str) -> DraftBox:
    category, bbox = annotation.get("category_id"), annotation.get("bbox")
    if not isinstance(category, _ID_TYPES) or category not in names:
        known = ", ".join(str(id_) for id_ in list(names)[:10])
        raise BadRecordError(
            f"unknown category_id {category!r}; there are {known}. Mend it or add the category.", source
        )
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(x, int | float) for x in bbox)):
        raise BadRecordError(f"'bbox' is {bbox!r}, not four numbers [x, y, width, height]. Mend it.", source)
    x, y, width, height = bbox
    return DraftBox((x, y, x + width, y + height), names[category], source)


def _id_or_number(entry: Any, number: int) -> str:
    return str(entry["id"]) if isinstance(entry, dict) and "id" in entry else f"number {number}"
