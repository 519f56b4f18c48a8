"""Records: what a data set knows of an image before its pixels are decoded, and the checks each record passes.

A reader turns files into `Draft`s as it found them. `check_draft` looks at the image's header and gives a `Record`
whose boxes fit the upright image, or raises `BadRecordError` with the reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from boxtune.data.images import ImageInfo, open_upright_rgb, probe_image, turn_boxes
from boxtune.detections import Detections, FloatArray
from boxtune.errors import DataError

# A box may stick out of its image by this much and is clipped: that is rounding, not a mistake.
_ROUNDING_PX = 2.0
_ROUNDING_SHARE = 0.01
_TOO_LARGE_PX = 2**31  # whole numbers in JSON have no end; no image is so large


@runtime_checkable
class ImageHandle(Protocol):
    """An image that is no file: a row of a table, or one that is drawn when it is asked for. Must be picklable."""

    def load(self) -> Image.Image:
        """The upright image in mode RGB."""


@runtime_checkable
class EncodedImage(ImageHandle, Protocol):
    """An image handle that holds the bytes of an image file."""

    def read(self) -> bytes:
        """The bytes of the file."""


ImageSource = Path | ImageHandle


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set, not decoded.

    Attributes:
        id: unique within its data set.
        image: the image file, or a handle that gives the image.
        image_hw: `(height, width)` of the upright image in pixels.
        detections: true boxes in pixels of the upright image.
        source: where the record stands, such as `train.json, image 5`.
    """

    id: str
    image: ImageSource
    image_hw: tuple[int, int]
    detections: Detections
    source: str

    @property
    def file_name(self) -> str | None:
        """Name of the image file without its folders; None where the image is no file."""
        return self.image.name if isinstance(self.image, Path) else None

    @property
    def caption(self) -> str:
        """The id, and the file's name where the id does not say it."""
        name = self.file_name
        return self.id if not name or Path(name).stem in self.id else f"{self.id} · {name}"

    def read(self) -> bytes | None:
        """The bytes of the image's file; None where the image is painted.

        Raises:
            DataError, OSError: they cannot be read.
        """
        if isinstance(self.image, Path):
            return self.image.read_bytes()
        return self.image.read() if isinstance(self.image, EncodedImage) else None

    def open_image(self, content: bytes | None = None) -> Image.Image:
        """The decoded image, upright and in mode RGB.

        Args:
            content: of the image's file, where it was read before.

        Raises:
            DataError: the image cannot be decoded; names the file.
        """
        if isinstance(self.image, Path):
            return open_upright_rgb(self.image if content is None else content, str(self.image))
        return self.image.load()


@dataclass(frozen=True)
class SkippedRecord:
    """A record that was left out: where it stands, why (with the remedy), and its id where it has one."""

    source: str
    reason: str
    id: str | None = None

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class BadRecordError(DataError):
    """One record is wrong. `reason` says how and what mends it; `source`, where given, is nearer than the record's."""

    def __init__(self, reason: str, source: str | None = None) -> None:
        super().__init__(f"{source}: {reason}" if source else reason)
        self.reason = reason
        self.source = source


@dataclass(frozen=True, slots=True)
class DraftBox:
    """A box as a reader found it: four numbers `(x_min, y_min, x_max, y_max)`, not yet checked."""

    xyxy: Sequence[Any]
    label: str
    source: str


@dataclass(slots=True)
class Draft:
    """An image and its boxes as a reader found them.

    Attributes:
        declared_hw: `(height, width)` that the annotations claim, or None.
        relative: boxes are fractions of the image's sides (0–1), not pixels.
        upright: boxes are on the upright image, even where the declared size is that of the stored one.
        problem: why the record is bad, if the reader saw it already.
    """

    id: str
    image: ImageSource
    source: str
    boxes: list[DraftBox] = field(default_factory=list)
    declared_hw: tuple[int, int] | None = None
    relative: bool = False
    upright: bool = False
    problem: BadRecordError | None = None


@dataclass
class Reading:
    """What a reader finds in one split.

    Attributes:
        drafts: one an image, to be gone through once; readers that can make them on the way, so that a million of them
            are never there together.
        labels: class names in their declared order, or None where the format declares none.
        lost: bad records that belong to no image; complete when the drafts were gone through.
        notes: what was left out on purpose, for the user to know.
    """

    drafts: Iterable[Draft]
    labels: tuple[str, ...] | None = None
    lost: list[SkippedRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_reading(reading: Reading, prefix: str = "") -> tuple[list[Record], list[SkippedRecord]]:
    """Records that are right and those that are not, in the reader's order; `prefix` goes before every id.

    Where several drafts share an id all of them are bad: nobody knows whose the boxes are.
    """
    records: list[Record] = []
    drafts = list(reading.drafts)
    skipped = list(reading.lost)
    uses = Counter(draft.id for draft in drafts)
    for draft in drafts:
        try:
            if uses[draft.id] > 1:
                raise used_more_than_once(draft.id, uses[draft.id])
            records.append(check_draft(draft, prefix))
        except BadRecordError as bad:
            skipped.append(SkippedRecord(bad.source or draft.source, bad.reason, prefix + draft.id))
    return records, skipped


def used_more_than_once(image_id: str, num_uses: int) -> BadRecordError:
    """What is wrong with each record of an id that several have."""
    return BadRecordError(
        f"the image id '{image_id}' is used {num_uses} times. Give each image one record, with all its boxes and an id "
        "of its own."
    )


def declared_size(height: object, width: object) -> tuple[int, int] | None:
    """`(height, width)` of an annotation, or None where it gives none; some tools write 0 for "not known"."""
    if isinstance(height, int | float) and isinstance(width, int | float) and height > 0 and width > 0:
        if math.inf in (height, width):
            return None
        return round(min(height, _TOO_LARGE_PX)), round(min(width, _TOO_LARGE_PX))
    return None


def check_draft(draft: Draft, prefix: str = "") -> Record:
    """The record of a draft.

    The declared size tells which frame the boxes are in: that of the upright image, or that of the stored image where
    the EXIF orientation swaps the sides; the latter boxes are turned with the image. Orientations 2–4 (mirrored or
    upside down) and square images leave the size as it is, so there the boxes are taken as upright.

    Raises:
        BadRecordError: the image or a box is wrong.
    """
    if draft.problem is not None:
        raise draft.problem
    _check_text(draft)
    info = _probe(draft.image)
    frame_hw = draft.declared_hw or info.image_hw
    if frame_hw not in (info.image_hw, info.stored_hw):
        raise BadRecordError(
            f"the annotation says {frame_hw[1]}×{frame_hw[0]} pixels, the image has "
            f"{info.image_hw[1]}×{info.image_hw[0]}. Give the image that was annotated, or mend the size and the boxes."
        )
    frame_hw = info.image_hw if draft.upright else frame_hw
    xyxy = _check_boxes(draft.boxes, frame_hw, draft.relative)
    if frame_hw != info.image_hw:
        xyxy = turn_boxes(xyxy, info.stored_hw, info.orientation)
    detections = Detections(xyxy, [box.label for box in draft.boxes])
    return Record(prefix + draft.id, draft.image, info.image_hw, detections, draft.source)


def write_skipped(path: Path, skipped: Iterable[SkippedRecord]) -> None:
    """Write one JSON object a skipped record: its id, where it stands, and the reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # half characters, which UTF-8 has no bytes for, come out as JSON writes them: \udce9
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for record in skipped:
            row = {"id": record.id, "source": record.source, "reason": record.reason}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _check_text(draft: Draft) -> None:
    """Half characters stand for the bytes of a file name that is no UTF-8; no file that is written could hold them."""
    texts = (draft.image.name if isinstance(draft.image, Path) else "", draft.id, *(box.label for box in draft.boxes))
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRecordError(
                f"the name {text!a} is not UTF-8, so no result could name it. Rename the file or label."
            ) from None


def _probe(image: ImageSource) -> ImageInfo:
    try:
        if isinstance(image, Path):
            return probe_image(image)
        if isinstance(image, EncodedImage):
            return probe_image(image.read())
    except DataError as error:
        raise BadRecordError(str(error)) from error
    raise TypeError(f"A reader gave an image that cannot be probed: {image!r}.")


def _check_boxes(boxes: Sequence[DraftBox], frame_hw: tuple[int, int], relative: bool) -> FloatArray:
    """`[N, 4]` in pixels, cut at the border: all at once, and one by one only where one of them is wrong."""
    height, width = frame_hw
    sides = np.array([width, height, width, height], dtype=np.float64)
    try:
        numbers = np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError, OverflowError):
        numbers = np.full((len(boxes), 4), np.nan)
    xyxy = numbers * sides if relative else numbers
    clipped = np.clip(xyxy, 0, sides)
    slack = np.maximum(_ROUNDING_PX, _ROUNDING_SHARE * sides)
    fit = (xyxy[:, 2:] > xyxy[:, :2]) & (clipped[:, 2:] > clipped[:, :2])
    near = np.abs(clipped - xyxy) <= slack  # never true of what is not finite
    if fit.all() and near.all() and all(box.label for box in boxes):
        return clipped
    return np.array([_check_box(box, frame_hw, relative) for box in boxes], dtype=np.float64)


def _check_box(box: DraftBox, frame_hw: tuple[int, int], relative: bool) -> FloatArray:
    height, width = frame_hw
    sides = np.array([width, height, width, height], dtype=np.float64)
    numbers = _four_numbers(box)
    shown = f"box {[round(float(x), 4) for x in numbers]}"
    if not box.label:
        raise BadRecordError(f"{shown} has an empty label. Name its class.", box.source)
    xyxy = numbers * sides if relative else numbers
    if not np.isfinite(xyxy).all():
        raise BadRecordError(f"{shown} holds a number that is not finite. Mend or remove it.", box.source)
    if (xyxy[2:] <= xyxy[:2]).any():
        raise BadRecordError(
            f"{shown} (x_min, y_min, x_max, y_max) has no area or swapped corners. Mend or remove it.", box.source
        )
    slack = np.maximum(_ROUNDING_PX, _ROUNDING_SHARE * sides)
    clipped = np.clip(xyxy, 0, sides)
    if (np.abs(clipped - xyxy) > slack).any() or (clipped[2:] <= clipped[:2]).any():
        unit = " in fractions of the sides" if relative else ""
        raise BadRecordError(
            f"{shown}{unit} lies outside its image of {width}×{height} pixels. Mend or remove it, and see that the "
            "coordinates are in the order and unit that the format says.",
            box.source,
        )
    return clipped


def _four_numbers(box: DraftBox) -> FloatArray:
    try:
        numbers = np.array([float(x) for x in box.xyxy], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.zeros(0)
    if numbers.shape != (4,):
        raise BadRecordError(f"box {box.xyxy!r} is not four numbers. Mend or remove it.", box.source)
    return numbers
