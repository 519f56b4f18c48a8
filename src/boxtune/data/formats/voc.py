"""Pascal VOC: one XML file an image.

Layouts that are found: `JPEGImages/`, `Annotations/` and `ImageSets/Main/train.txt` …; folders `train/`, `valid/` …
of XML files beside their images (Roboflow); one folder of XML files beside their images.

VOC counts pixels from 1 and its corners belong to the box, so that a box over a whole image of W×H is (1, 1, W, H).
Read, it becomes (x_min − 1, y_min − 1, x_max, y_max); written, the way back, with up to two decimals.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET  # nosec B405
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from boxtune.data.formats.place import Place, find_image, read_lines
from boxtune.data.formats.state import files_below, has_files_below, state_of_file, state_of_files
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


@dataclass(frozen=True)
class _Home:
    """Where the XML files of a split are: all in a folder, and deeper where so said, or those that a list names."""

    folder: Path
    listing: Path | None = None
    deep: bool = True

    def files(self) -> Iterator[str]:
        """Their paths; those that a list names but that are missing too."""
        if self.listing is None:
            return files_below(self.folder, (".xml",), deep=self.deep)
        return (str(self.folder / f"{Path(line).name}.xml") for line in read_lines(self.listing))

    def is_empty(self) -> bool:
        return not has_files_below(self.folder, (".xml",), deep=self.deep)


def recognises(path: Path) -> bool:
    """Whether a folder looks like VOC."""
    return path.is_dir() and bool(_homes(path))


def split_names(place: Place) -> list[str]:
    """Splits that are there, in order."""
    return in_order(_homes(place.local))


def read_split(place: Place, split: str) -> Reading:
    """All images of a split with their boxes.

    Raises:
        DataError: the place is no folder of XML files.
    """
    root = place.local
    homes = _homes(root)
    if split not in homes:
        raise DataError(f"'{root}' holds no XML files for the split '{split}'.")
    lost: list[SkippedRecord] = []
    return Reading(_drafts(homes[split], root, split, lost), lost=lost)


def state(place: Place, split: str) -> Iterator[str]:
    """What a reading of the split depends on: all its XML files."""
    home = _homes(place.local)[split]
    if home.listing is not None:
        yield state_of_file(home.listing)
    yield state_of_files(home.files())


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


def _homes(root: Path) -> dict[str, _Home]:
    """Split → where its XML files are."""
    if not root.is_dir():
        return {}
    annotations = root / "Annotations"
    if annotations.is_dir():
        lists = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in _SPLIT_LISTS}
        listed = {name: _Home(annotations, path) for name, path in lists.items() if path.is_file()}
        if {"train", "val"} <= listed.keys():
            listed.pop("trainval", None)  # the two together, once more
        return listed or _filled({UNSPLIT: _Home(annotations)})
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if split_in_name(entry.name) and entry.is_dir())
    by_folder = {canonical_split(split_in_name(name) or UNSPLIT): _Home(root / name) for name in folders}
    return _filled(by_folder) or _filled({split_in_name(root.name) or UNSPLIT: _Home(root, deep=False)})


def _filled(homes: dict[str, _Home]) -> dict[str, _Home]:
    return {split: home for split, home in homes.items() if not home.is_empty()}


def _drafts(home: _Home, root: Path, split: str, lost: list[SkippedRecord]) -> Iterator[Draft]:
    for path in map(Path, home.files()):
        name = path.relative_to(root).as_posix()
        if path.is_file():
            yield _draft(path, root, name)
        else:
            lost.append(SkippedRecord(name, f"no such file. Add it, or take it out of {split}.txt."))


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
        # expat reads no external entities, and since 2.4 none that unfold to many times the file
        return ET.parse(path).getroot()  # nosec B314
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
    return find_image([missing], wanted[0], root)


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
