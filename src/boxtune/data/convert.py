"""Write a data set anew as COCO, YOLO, VOC or JSONL, images included."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from boxtune.data.dataset import DetectionDataset, OnError, available_splits, load_dataset
from boxtune.data.formats import coco, jsonl, voc, yolo
from boxtune.data.formats.written import Written
from boxtune.data.images import probe_image
from boxtune.data.records import EncodedImage, Record, SkippedRecord, write_skipped
from boxtune.data.splits import SPLITS, UNSPLIT, canonical_split
from boxtune.errors import DataError, SaveError, nearest

# Formats and modes that every reader of any format takes as they are.
_COPIED_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp"}
_COPIED_MODES = frozenset({"RGB", "L"})
_JPEG_QUALITY = 95
_MAX_STEM_BYTES = 100


class Writer(Protocol):
    """What each module of a format that can be written offers."""

    def write_split(self, folder: Path, split: str, images: list[Written], labels: tuple[str, ...]) -> None:
        """Write the annotations of images that lie in `folder` already."""


WRITERS: dict[str, Writer] = {"coco": coco, "yolo": yolo, "voc": voc, "jsonl": jsonl}


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: the new data set.
        num_images: split → number of its images.
        num_boxes: split → number of its boxes.
        skipped: bad records that were left out on the user's wish.
    """

    folder: Path
    num_images: dict[str, int] = field(default_factory=dict)
    num_boxes: dict[str, int] = field(default_factory=dict)
    skipped: list[SkippedRecord] = field(default_factory=list)


def convert_dataset(
    source: str | Path | DetectionDataset | Mapping[str, DetectionDataset],
    to: str,
    output_dir: Path | str,
    *,
    split: str | None = None,
    format: str | None = None,
    on_error: OnError = "refuse",
    skipped_path: Path | None = None,
    on_image: Callable[[], None] | None = None,
) -> Conversion:
    """Write a data set in another format; each split stays a split.

    Upright RGB and grey JPEG, PNG and BMP files are copied byte for byte. Any other image is written upright in RGB,
    as JPEG (quality 95) where it was one and as PNG otherwise, so that pixels and boxes agree in every reader. Boxes
    keep two decimals of a pixel in VOC, nine decimals of a side in YOLO, and all in COCO and JSONL.

    Args:
        source: a spec as in `load_dataset`, a data set, or split → data set.
        to: coco, yolo, voc or jsonl.
        output_dir: a folder that is new or empty; it is filled aside and appears at the end, or not at all.
        split: write this split only; None writes all. For a spec.
        format, on_error, skipped_path: as in `load_dataset`. For a spec.
        on_image: called after each image, for a progress bar.

    Raises:
        DataError: an unknown format, a bad record, or an image that cannot be decoded.
        SaveError: `output_dir` is not empty, or cannot be written.
    """
    if to not in WRITERS:
        raise DataError(f"Unknown format '{to}' to convert to. {nearest(to, WRITERS)}")
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SaveError(f"'{folder}' is there and not empty. Give another --output-dir or remove it.")
    datasets = _datasets(source, split, format, on_error)
    result = Conversion(folder, skipped=[record for dataset in datasets.values() for record in dataset.skipped])
    try:
        _write_aside(folder, to, datasets, result, on_image)
        if skipped_path is not None:
            write_skipped(skipped_path, result.skipped)
    except OSError as error:
        raise SaveError(
            f"'{folder}' cannot be written ({error.strerror or error}). See to space and rights."
        ) from error
    return result


def _datasets(
    source: str | Path | DetectionDataset | Mapping[str, DetectionDataset],
    split: str | None,
    format_name: str | None,
    on_error: OnError,
) -> dict[str, DetectionDataset]:
    """Split → data set. A set without splits becomes a training set: YOLO must have one, and no format forbids it."""
    if isinstance(source, Mapping):
        named = dict(source)
    elif isinstance(source, DetectionDataset):
        named = {source.split or UNSPLIT: source}
    else:
        splits = available_splits(source, format_name) if split is None else [canonical_split(split)]
        named = {name: load_dataset(source, name, format_name, on_error) for name in splits}
    for name in named.keys() - {*SPLITS, UNSPLIT}:
        raise DataError(f"A split '{name}' has no place in the formats; they have {', '.join(SPLITS)}. Rename it.")
    return {"train" if name == UNSPLIT else name: dataset for name, dataset in named.items()}


def _write_aside(
    folder: Path,
    to: str,
    datasets: dict[str, DetectionDataset],
    result: Conversion,
    on_image: Callable[[], None] | None,
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        aside.chmod(0o755)  # mkdtemp makes it the user's alone; the data set is no secret
        labels = tuple(dict.fromkeys(label for dataset in datasets.values() for label in dataset.labels))
        names = _FreshNames()
        for split, dataset in datasets.items():
            home = "JPEGImages" if to == "voc" else f"images/{split}"
            (aside / home).mkdir(parents=True, exist_ok=True)
            written = []
            for record in dataset.records:
                written.append(_write_image(record, aside, home, names))
                if on_image is not None:
                    on_image()
            WRITERS[to].write_split(aside, split, written, labels)
            result.num_images[split] = len(written)
            result.num_boxes[split] = sum(len(record.detections) for record in dataset.records)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write_image(record: Record, folder: Path, home: str, names: _FreshNames) -> Written:
    stem = names.fresh(_stem(record))
    content = _bytes(record)
    if content is not None:
        info = probe_image(content, record.source)
        if info.orientation == 1 and info.mode in _COPIED_MODES and info.file_format in _COPIED_SUFFIXES:
            name = f"{home}/{stem}{_COPIED_SUFFIXES[info.file_format]}"
            (folder / name).write_bytes(content)
            return Written(name, record)
    is_jpeg = content is not None and info.file_format in ("JPEG", "MPO")
    name = f"{home}/{stem}{'.jpg' if is_jpeg else '.png'}"
    record.open_image().save(folder / name, quality=_JPEG_QUALITY)  # PNG has no quality and ignores it
    return Written(name, record)


def _bytes(record: Record) -> bytes | None:
    """The bytes of the image file, or None for an image that never was a file."""
    if isinstance(record.image, Path):
        return record.image.read_bytes()
    return record.image.read() if isinstance(record.image, EncodedImage) else None


def _stem(record: Record) -> str:
    """A file name without suffix that every system takes: letters, digits, `_`, `-` and `.`."""
    name = record.image.stem if isinstance(record.image, Path) else record.id
    safe = re.sub(r"[^\w.-]+", "_", name).strip("._")
    return safe.encode()[:_MAX_STEM_BYTES].decode(errors="ignore") or "image"


class _FreshNames:
    """Gives each name once, whatever the case of its letters; in all splits together, as VOC has one folder."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def fresh(self, stem: str) -> str:
        """The stem, or the stem with the first free number."""
        name, number = stem, 1
        while name.casefold() in self._used:
            number += 1
            name = f"{stem}-{number}"
        self._used.add(name.casefold())
        return name
