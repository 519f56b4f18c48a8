"""Pascal VOC: one XML file an image.

Layouts that are found: `JPEGImages/`, `Annotations/` and `ImageSets/Main/train.txt` …; folders `train/`, `valid/` …
of XML files beside their images (Roboflow); one folder of XML files beside their images.

VOC counts pixels from 1 and its corners belong to the box, so that a box over a whole image of W×H is (1, 1, W, H).
Read, it becomes (x_min − 1, y_min − 1, x_max, y_max); written, the way back, with up to two decimals.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from boxtune.data.formats.place import Place, find_image, read_lines
from boxtune.data.formats.written import Written
from boxtune.data.images import IMAGE_SUFFIXES
from boxtune.data.records import BadRecordError, Draft, DraftBox, Reading, SkippedRecord, declared_size
from boxtune.data.splits import UNSPLIT, canonical_split, in_order, split_in_name
from boxtune.errors import DataError

LOOKED_FOR = "VOC: Annotations/*.xml, or *.xml beside the images, in one folder or in train/, valid/, test/"

# Control characters do not parse back, and a carriage return comes back as a line feed.
_NOT_XML = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SPLIT_LISTS = ("train", "val", "test", "trainval")


def recognises(path: Path) -> bool:
    """Whether a folder looks like VOC."""
    return path.is_dir() and bool(_xml_files(path))


def split_names(place: Place) -> list[str]:
    """Splits that are there, in order."""
    return in_order(_xml_files(place.local))


def read_split(place: Place, split: str) -> Reading:
    """All images of a split with their boxes.

    Raises:
        DataError: the place is no folder of XML files.
    """
    root = place.local
    files = _xml_files(root)
    if split not in files:
        raise DataError(f"'{root}' holds no XML files for the split '{split}'.")
    reading = Reading([])
    for path in files[split]:
        name = path.relative_to(root).as_posix()
        if path.is_file():
            reading.drafts.append(_draft(path, root, name))
        else:
            reading.lost.append(SkippedRecord(name, f"no such file. Add it, or take it out of {split}.txt."))
    return reading


def write_split(folder: Path, split: str, images: Iterable[Written], labels: tuple[str, ...]) -> None:
    """Write `Annotations/*.xml` and `ImageSets/Main/<split>.txt`."""
    annotations, lists = folder / "Annotations", folder / "ImageSets" / "Main"
    annotations.mkdir(exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
    stems = []
    for image in images:
        name = image.name.rpartition("/")[2]
        stems.append(Path(name).stem)
        tree = ET.ElementTree(_annotation(name, image))
        ET.indent(tree)
        tree.write(annotations / f"{stems[-1]}.xml", encoding="utf-8", xml_declaration=True)
    (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


def _xml_files(root: Path) -> dict[str, list[Path]]:
    """Split → XML files; those that a list names but that are missing too."""
    if not root.is_dir():
        return {}
    annotations = root / "Annotations"
    if annotations.is_dir():
        listed = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in _SPLIT_LISTS}
        listed = {name: path for name, path in listed.items() if path.is_file()}
        if {"train", "val"} <= listed.keys():
            listed.pop("trainval", None)  # the two together, once more
        if listed:
            return {name: _listed(path, annotations) for name, path in listed.items()}
        return _by_split({UNSPLIT: sorted(annotations.rglob("*.xml"))})
    folders = [child for child in sorted(root.iterdir()) if child.is_dir() and split_in_name(child.name)]
    by_folder = {canonical_split(split_in_name(f.name) or UNSPLIT): sorted(f.rglob("*.xml")) for f in folders}
    return _by_split(by_folder) or _by_split({split_in_name(root.name) or UNSPLIT: sorted(root.glob("*.xml"))})


def _by_split(files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    return {split: found for split, found in files.items() if found}


def _listed(listing: Path, annotations: Path) -> list[Path]:
    return [annotations / f"{Path(line).name}.xml" for line in read_lines(listing)]


def _draft(path: Path, root: Path, name: str) -> Draft:
    draft = Draft(path.stem if path.parent.name == "Annotations" else name.removesuffix(".xml"), path, name)
    try:
        tree = _parse(path)
        draft.image = _image(tree, path, root)
        draft.declared_hw = declared_size(_number(tree.findtext("size/height")), _number(tree.findtext("size/width")))
        draft.boxes = [_box(element, f"{name}, object {i}") for i, element in enumerate(tree.findall("object"), 1)]
    except BadRecordError as bad:
        draft.problem = bad
    return draft


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding nobody knows
        raise BadRecordError(f"the XML does not parse ({error}). Mend the file or write it again.") from error


def _image(tree: ET.Element, path: Path, root: Path) -> Path:
    """The file that `filename` names, or one named like the XML: tools rename one and forget the other."""
    folders = [path.parent, root / "JPEGImages", root / "images", root]
    named = (tree.findtext("filename") or "").strip()
    wanted = [named] if named else []
    wanted += [path.stem + spelt for suffix in sorted(IMAGE_SUFFIXES) for spelt in (suffix, suffix.upper())]
    for name in wanted:
        image = find_image(folders, name, root)
        if image.is_file():
            return image
    missing = folders[1] if folders[1].is_dir() else path.parent
    return missing / wanted[0]


def _box(element: ET.Element, source: str) -> DraftBox:
    label, bndbox = element.findtext("name"), element.find("bndbox")
    if bndbox is None or not label:
        raise BadRecordError("an object without name or bndbox. Add it.", source)
    numbers = []
    for corner in _CORNERS:
        number = _number(bndbox.findtext(corner))
        if number is None:
            raise BadRecordError(f"{corner} is {bndbox.findtext(corner)!r}, not a number. Mend it.", source)
        numbers.append(number)
    x_min, y_min, x_max, y_max = numbers
    return DraftBox((x_min - 1, y_min - 1, x_max, y_max), label, source)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _annotation(name: str, image: Written) -> ET.Element:
    height, width = image.record.image_hw
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = "JPEGImages"
    ET.SubElement(root, "filename").text = name
    size = ET.SubElement(root, "size")
    for side, pixels in (("width", width), ("height", height), ("depth", 3)):
        ET.SubElement(size, side).text = str(pixels)
    detections = image.record.detections
    for box, label in zip(detections.xyxy.tolist(), detections.labels, strict=True):
        element = ET.SubElement(root, "object")
        if _NOT_XML.search(label):
            raise DataError(f"The label {label!r} holds a character that XML cannot hold. Rename the class.")
        ET.SubElement(element, "name").text = label
        ET.SubElement(element, "difficult").text = "0"
        bndbox = ET.SubElement(element, "bndbox")
        for corner, value in zip(_CORNERS, (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True):
            ET.SubElement(bndbox, corner).text = f"{value:.2f}".rstrip("0").rstrip(".")
    return root
