"""YOLO folders: `data.yaml` names the classes and where the images are; one text file an image holds its boxes.

A line is `class x_centre y_centre width height`, in fractions of the upright image; a line with more numbers is a
polygon and becomes its bounding box. The labels of `…/images/train/a.jpg` are in `…/labels/train/a.txt`; without that
file the image has no objects.

A folder of `classes.txt`, `images/` and `labels/` without a YAML file is one too, without splits: what Label Studio
exports ("YOLO with Images"). Its `notes.json` has the numbers of the classes, which need not be those of the lines.

A folder is read as a set of its own, whose `data.yaml` may not lead out of it. Where the YAML file itself is named, it
is the user's own description and may lead anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from boxtune.data.formats.place import Place, find_image, leads_out, read_lines
from boxtune.data.formats.state import files_below, state_of_file, state_of_files
from boxtune.data.formats.written import Written
from boxtune.data.images import IMAGE_SUFFIXES
from boxtune.data.records import BadRecordError, Draft, DraftBox, Reading, SkippedRecord
from boxtune.data.splits import UNSPLIT, canonical_split, in_order
from boxtune.detections import xyxy_to_cxcywh
from boxtune.documents import DocumentError, RefusedError, parse_json, parse_yaml
from boxtune.errors import DataError

LOOKED_FOR = "YOLO: data.yaml with train, val and names, or classes.txt, images and labels"

_LABEL_SUFFIXES = (".txt",)
_SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
_CLASSES = "classes.txt"
_NOTES = "notes.json"


def recognises(path: Path) -> bool:
    """Whether a folder holds a YOLO data.yaml, or a file is one, or a folder needs none."""
    found = _find_yaml(path)
    return _needs_no_yaml(path) if found is None else _is_data_yaml(found)


def bears_names(path: Path) -> bool:
    """Whether a folder holds a data.yaml, though perhaps a damaged one, or a file is YAML, or a folder needs none."""
    return _find_yaml(path) is not None or _needs_no_yaml(path)


def split_names(place: Place) -> list[str]:
    """Splits that are there, in order."""
    yaml_path, content = _load(place.local)
    return in_order(canonical_split(key) for key in _split_entries(content, yaml_path))


def read_split(place: Place, split: str) -> Reading:
    """All images of a split with their boxes.

    Raises:
        DataError: data.yaml is wrong, or a folder that it names is missing.
    """
    yaml_path, content = _load(place.local)
    names = _class_names(content, yaml_path)
    root = _root(content, yaml_path, place.local)
    entries = _entries_of_split(content, yaml_path, split, place.local)
    lost: list[SkippedRecord] = []
    drafts = (draft for entry in entries for draft in _read_entry(entry, root, names, lost))
    return Reading(drafts, tuple(dict.fromkeys(names.values())), lost)


def state(place: Place, split: str) -> Iterator[str]:
    """What a reading of the split depends on: all files of labels, and the names of the images.

    Raises:
        DataError: as `read_split`.
    """
    yaml_path, content = _load(place.local)
    root = _root(content, yaml_path, place.local)
    yield state_of_file(yaml_path)
    if yaml_path.name == _CLASSES:
        yield state_of_file(yaml_path.with_name(_NOTES))
    for entry in _entries_of_split(content, yaml_path, split, place.local):
        if entry.is_file():
            yield state_of_file(entry)
            listed = (draft.source for draft in _listed_drafts(entry, root, {}, [], with_boxes=False))
            yield state_of_files(listed)
            continue
        yield state_of_files(files_below(entry, IMAGE_SUFFIXES), names_only=True)
        for folder in {entry, _label_folder(entry)}:
            yield f"{folder} {state_of_files(files_below(folder, _LABEL_SUFFIXES)) if folder.is_dir() else '-'}"


def write_split(folder: Path, split: str, images: Iterable[Written], labels: tuple[str, ...]) -> None:
    """Write `labels/<split>/*.txt`, and the split's line in `data.yaml`."""
    indices = {label: index for index, label in enumerate(labels)}
    for image in images:
        height, width = image.record.image_hw
        detections = image.record.detections
        boxes = xyxy_to_cxcywh(detections.xyxy) / [width, height, width, height]
        rows = zip(detections.labels, boxes, strict=True)
        lines = [f"{indices[label]} {' '.join(f'{number:.9f}' for number in box)}\n" for label, box in rows]
        path = Path(_label_path(str(folder / image.name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    yaml_path = folder / "data.yaml"
    content = yaml.safe_load(yaml_path.read_text(encoding="utf-8")) if yaml_path.exists() else {}
    content = {**content, split: f"images/{split}", "nc": len(labels), "names": dict(enumerate(labels))}
    # "train" and "val" are what other readers insist on; they come first whatever the order of writing.
    ordered = {key: content[key] for key in (*_SPLIT_KEYS, *content) if key in content}
    yaml_path.write_text(yaml.safe_dump(ordered, allow_unicode=True, sort_keys=False), encoding="utf-8")


def _find_yaml(path: Path) -> Path | None:
    files = [path] if path.is_file() else sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    files = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    # data.yaml is the one even where it is damaged: another may be an old copy of it
    preferred = [file for file in files if file.stem == "data" or path.is_file()]
    return next(iter(preferred or [file for file in files if _is_data_yaml(file)]), None)


def _is_data_yaml(path: Path) -> bool:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return "names:" in text and any(f"{key}:" in text for key in _SPLIT_KEYS)


def _load(path: Path) -> tuple[Path, dict[str, Any]]:
    yaml_path = _find_yaml(path)
    if yaml_path is None and _needs_no_yaml(path):
        return path / _CLASSES, {UNSPLIT: "images", "names": _numbered_classes(path)}
    if yaml_path is None:
        raise DataError(f"'{path}' holds no data.yaml with the keys train, val and names. Write one.")
    try:
        content = parse_yaml(yaml_path.read_bytes())
    except RefusedError as error:
        raise DataError(f"'{yaml_path}' has what is not taken here: {error}") from error
    except DocumentError as error:
        raise DataError(
            f"'{yaml_path}' is no YAML file, or is cut off ({error}). Mend it or write it again."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"'{yaml_path}' must hold keys such as train, val and names. Write it again.")
    return yaml_path, content


def _needs_no_yaml(path: Path) -> bool:
    return (path / _CLASSES).is_file() and (path / "labels").is_dir()


def _numbered_classes(folder: Path) -> dict[int, str]:
    """Class names by the numbers that lines of labels have: as `notes.json` says, or else the rows of `classes.txt`."""
    if not (folder / "images").is_dir():
        raise DataError(
            f"'{folder}' has {_CLASSES} and labels, but no folder images. Put the images there: Label Studio exports "
            "them as 'YOLO with Images'."
        )
    notes = folder / _NOTES
    try:
        content = parse_json(notes.read_bytes()) if notes.is_file() else None
    except DocumentError as error:
        raise DataError(
            f"'{notes}' is no JSON file, or is cut off ({error}). Export it again, or remove it."
        ) from error
    categories = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(categories, list):
        return dict(enumerate(read_lines(folder / _CLASSES)))
    if not all(isinstance(one, dict) and {"id", "name"} <= one.keys() for one in categories):
        raise DataError(f"'{notes}' has a category without id or name. Export it again, or remove it.")
    names = {one["id"]: one["name"] for one in categories if isinstance(one["id"], int)}
    if len(names) < len(categories):
        raise DataError(f"'{notes}': each category needs a whole number of its own as id. Mend it, and the labels.")
    return names


def _split_entries(content: dict[str, Any], yaml_path: Path) -> dict[str, Any]:
    """Key → what is said of it; `test:` may be left blank, as in Ultralytics' own files."""
    keys = (UNSPLIT,) if yaml_path.name == _CLASSES else _SPLIT_KEYS
    entries = {key: content[key] for key in keys if key in content and not (key == "test" and not content[key])}
    for key, entry in entries.items():
        if not entry:
            raise DataError(f"'{yaml_path}': {key} says nothing. Name the folder of its images, or remove the line.")
    if not entries:
        raise DataError(f"'{yaml_path}' names no images. Add train and val.")
    return entries


def _class_names(content: dict[str, Any], path: Path) -> dict[int, str]:
    names = content.get("names")
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not names:
        raise DataError(f"'{path}': names must be a list of class names, or index: name. Add it.")
    for index, name in names.items():
        if not isinstance(index, int) or isinstance(name, bool) or not isinstance(name, str | int | float):
            raise DataError(f"'{path}': class {index!r}: {name!r} is not index: text. Put the name in quotes.")
    declared = content.get("nc", len(names))
    if declared != len(names):
        raise DataError(f"'{path}': nc is {declared!r}, but there are {len(names)} names. Mend one of them.")
    return {index: str(names[index]) for index in sorted(names)}


def _root(content: dict[str, Any], yaml_path: Path, named: Path) -> Path:
    """The folder that entries start from: `path`, absolute or from the YAML's folder, or that folder itself.

    The last also where `path` leads nowhere: trainers write there where the set lay on their own machine. `named` is
    what the user gave, the folder or the file.
    """
    root = yaml_path.parent / str(content.get("path") or ".")
    if not root.is_dir():
        return yaml_path.parent
    _refuse_leaving(root, yaml_path, "path", named)
    return root


def _refuse_leaving(place: Path, yaml_path: Path, key: str, named: Path) -> None:
    if named.is_dir() and leads_out(place, named):
        raise DataError(
            f"'{yaml_path}': {key} leads out of '{named}', to '{place}'. If you trust it, name the file itself and not "
            f"its folder: --data {yaml_path}."
        )


def _locate(root: Path, item: Any, yaml_path: Path, key: str, named: Path) -> Path:
    if not isinstance(item, str):
        raise DataError(f"'{yaml_path}': {key} is {item!r}, not a folder, a list of folders or a .txt file.")
    # Roboflow writes ../train/images for the folder train/images beside the YAML.
    candidates = (root / item, yaml_path.parent / item, yaml_path.parent / item.removeprefix("../"))
    found = [candidate for candidate in candidates if candidate.exists()]
    if found:
        inside = [candidate for candidate in found if not leads_out(candidate, named)]
        chosen = inside[0] if inside and named.is_dir() else found[0]
        _refuse_leaving(chosen, yaml_path, key, named)
        return chosen
    raise DataError(f"'{yaml_path}': {key} leads to '{root / item}', which does not exist. Mend {key} or path.")


def _entries_of_split(content: dict[str, Any], yaml_path: Path, split: str, named: Path) -> list[Path]:
    """Folders of images, or lists of them, that a split consists of."""
    root = _root(content, yaml_path, named)
    return [
        _locate(root, item, yaml_path, key, named)
        for key, entry in _split_entries(content, yaml_path).items()
        if canonical_split(key) == split
        for item in (entry if isinstance(entry, list) else [entry])
    ]


def _read_entry(entry: Path, root: Path, names: dict[int, str], lost: list[SkippedRecord]) -> Iterator[Draft]:
    if entry.is_file():
        yield from _listed_drafts(entry, root, names, lost)
        return
    labelled = set()
    before = _as_prefix(entry)
    for image in files_below(entry, IMAGE_SUFFIXES):
        draft = _draft(image, root, image.removeprefix(before), names)
        labelled.add(draft.source)
        yield draft
    folder = _label_folder(entry)
    for path in files_below(folder, _LABEL_SUFFIXES) if folder != entry and folder.is_dir() else []:
        if path not in labelled and Path(path).stem != "classes":
            lost.append(SkippedRecord(path, "labels without an image. Add the image or remove the file."))


def _listed_drafts(
    listing: Path, root: Path, names: dict[int, str], lost: list[SkippedRecord], *, with_boxes: bool = True
) -> Iterator[Draft]:
    for line in read_lines(listing):
        try:
            path = find_image([listing.parent, root], line, root)
        except BadRecordError as bad:
            lost.append(SkippedRecord(f"{listing.name}, '{line}'", bad.reason))
        else:
            yield _draft(str(path), root, line, names, with_boxes=with_boxes)


def _draft(image: str, root: Path, name: str, names: dict[int, str], *, with_boxes: bool = True) -> Draft:
    path, before = _label_path(image), _as_prefix(root)
    image_id = (image.removeprefix(before) if image.startswith(before) else name).replace(os.sep, "/")
    draft = Draft(image_id, Path(image), path, relative=True)
    try:
        lines = _text(path).splitlines() if with_boxes else []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                draft.boxes.append(_box(line, names, f"{path}, line {number}"))
    except BadRecordError as bad:
        draft.problem = bad
    except UnicodeDecodeError:
        draft.problem = BadRecordError("the file is no text. Write it again.")
    return draft


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:  # noqa: PTH123
            return file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""


def _as_prefix(folder: Path) -> str:
    """What paths in a folder begin with; nothing where it is the one we are in."""
    return os.path.join(folder, "") if folder.parts else ""  # noqa: PTH118


def _label_folder(entry: Path) -> Path:
    return Path(_label_path(str(entry / "a.jpg"))).parent


def _label_path(image: str) -> str:
    """`labels/` instead of the last `images/` of the path, or beside the image where there is none."""
    path = os.sep + os.path.splitext(image)[0] + ".txt"  # noqa: PTH122
    before, found, after = path.rpartition(f"{os.sep}images{os.sep}")
    return (f"{before}{os.sep}labels{os.sep}{after}" if found else path).removeprefix(os.sep)


def _box(line: str, names: dict[int, str], source: str) -> DraftBox:
    try:
        index, *numbers = [float(word) for word in line.split()]
    except ValueError:
        raise BadRecordError(f"{line!r} holds something that is no number. Mend the line.", source) from None
    if index not in names:
        raise BadRecordError(
            f"class {index:g} is not among the {len(names)} names of classes. Mend the line or add the name.", source
        )
    label = names[int(index)]
    if len(numbers) == 4:
        x, y, width, height = numbers
        return DraftBox((x - width / 2, y - height / 2, x + width / 2, y + height / 2), label, source)
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[0::2], numbers[1::2]
        return DraftBox((min(xs), min(ys), max(xs), max(ys)), label, source)
    raise BadRecordError(
        f"{len(numbers) + 1} numbers are neither a box (class and 4) nor a polygon (class and 3 points or more). "
        "Mend the line.",
        source,
    )
