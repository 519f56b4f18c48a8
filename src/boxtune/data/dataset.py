"""Data sets: opened from a folder, a file, the hub or a synthetic generator, always as a sequence of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, overload

import numpy as np

from boxtune.data.columns import record_columns, select
from boxtune.data.formats.place import Place, parse_place
from boxtune.data.formats.registry import READERS, find_format
from boxtune.data.opening import forget, joined, open_splits
from boxtune.data.records import Record, SkippedRecord, write_skipped
from boxtune.data.sample import Sample
from boxtune.data.splits import canonical_split, choose_splits
from boxtune.detections import Detections
from boxtune.errors import DataError

OnError = Literal["refuse", "skip"]

SYNTHETIC = "synthetic:"
_NAMED_IN_MESSAGE = 3


@dataclass(frozen=True, eq=False)
class DetectionDataset(Sequence[Sample]):
    """Images with their true boxes. An image is decoded when its sample is asked for, and not kept.

    Safe to share between threads and to send to other processes.

    Attributes:
        records: one an image, not decoded; a list, or mapped from the index of a large data set.
        labels: class names in the data set's declared order, or sorted where it declares none.
        name: a short name for reports.
        split: `train`, `val`, `test` or another name; None where all splits were read.
        format: coco, yolo, voc, jsonl, hub or synthetic.
        skipped: bad records that were left out on the user's wish.
        notes: what the format leaves out by rule, or how it was understood, for the user to know.
    """

    records: Sequence[Record]
    labels: tuple[str, ...]
    name: str
    split: str | None = None
    format: str = ""
    skipped: list[SkippedRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> DetectionDataset: ...

    def __getitem__(self, index: int | slice) -> Sample | DetectionDataset:
        """The sample at a position, decoded now; a slice is a data set, and decodes nothing.

        Raises:
            DataError: the image cannot be decoded; names the record.
        """
        if isinstance(index, slice):
            return replace(self, records=self.records[index])
        return self.sample(index)

    def sample(self, index: int, content: bytes | None = None) -> Sample:
        """The sample at a position, decoded now.

        Args:
            index: its position.
            content: of its image's file, where it was read before (`Record.read`).

        Raises:
            DataError: the image cannot be decoded; names the record.
        """
        record = self.records[index]
        try:
            image = record.open_image(content)
            if (image.height, image.width) != record.image_hw:
                (height, width), named = record.image_hw, f" '{record.image}'" if record.file_name else ""
                raise DataError(
                    f"the image{named} has changed its size since it was checked, from {width}×{height} px to "
                    f"{image.width}×{image.height}. Put the old one back or mend its boxes, and start again."
                )
        except DataError as error:
            forget(self.records, index)
            raise DataError(f"{record.source}: {error}") from error
        return Sample(record.id, image, record.detections, record.source)

    def image_hw(self, index: int) -> tuple[int, int]:
        """`(height, width)` of an upright image in pixels, without decoding it."""
        return self.records[index].image_hw

    def detections(self, index: int) -> Detections:
        """True boxes of an image in pixels, without decoding it."""
        return self.records[index].detections

    def subset(self, indices: Iterable[int]) -> DetectionDataset:
        """The images at these positions, in this order."""
        return replace(self, records=select(self.records, indices))

    def split_off(self, fraction: float, seed: int = 0) -> tuple[DetectionDataset, DetectionDataset]:
        """`(rest, held)`: the same images are held back each time, and few change sides when images are added.

        Args:
            fraction: share of the images that is held back, between 0 and 1; at least one image goes to each side.
            seed: another number holds back other images.

        Raises:
            DataError: fewer than two images, or a fraction that is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise DataError(f"The fraction to hold back is {fraction}; give a number between 0 and 1, such as 0.1.")
        if len(self) < 2:
            raise DataError(f"Data set '{self.name}' has {len(self)} image: too few to hold some back. Add images.")
        num_held = min(max(1, round(len(self) * fraction)), len(self) - 1)
        lots = bytearray()
        for batch in record_columns(self.records):
            for image_id in batch.ids:
                lots += hashlib.sha256(f"{seed}/{image_id}".encode()).digest()
        is_held = np.zeros(len(self), dtype=bool)
        is_held[np.argsort(np.frombuffer(lots, dtype="S32"), kind="stable")[:num_held]] = True
        return self.subset(np.flatnonzero(~is_held)), self.subset(np.flatnonzero(is_held))

    def fingerprint(self) -> str:
        """SHA-256 over ids, sizes, boxes and labels (not over pixels): equal for equal annotations, on any machine."""
        digest = hashlib.sha256(repr(self.labels).encode())
        for batch in record_columns(self.records):
            boxes, end = batch.xyxy.astype("<f8").tobytes(), 0
            for row in zip(batch.ids, map(tuple, batch.image_hw.tolist()), batch.box_labels, strict=True):
                start, end = end, end + 32 * len(row[-1])
                digest.update(repr(row).encode() + boxes[start:end])
        return digest.hexdigest()


def load_dataset(
    spec: str | Path,
    split: str | None = None,
    format: str | None = None,
    on_error: OnError = "refuse",
    skipped_path: Path | None = None,
) -> DetectionDataset:
    """Open a data set; no image is decoded.

    A local split of many images gets an index in a cache folder at its first opening (see `data/index`); afterwards its
    records are mapped into memory, not read.

    Args:
        spec: a folder or file of any supported format, a hub id `owner/name` (options after `?`, see `formats/hub`),
            or `synthetic:nutrition?n=200&seed=1`.
        split: `train`, `val` or `test` (`valid` and `validation` are `val`); None reads all there are, and then puts
            the split before each id (`val/17`).
        format: coco, yolo, voc, jsonl or hub; None finds it out by looking.
        on_error: what to do with bad records: `refuse` names the first and stops; `skip` leaves out the whole image,
            since an image with some of its boxes would teach that there are no others.
        skipped_path: file that the skipped records are written to, one JSON object a line.

    Raises:
        DataError: no such data set, split or format; a bad record with `refuse`; no image that is left.
    """
    if on_error not in ("refuse", "skip"):
        raise DataError(f"on_error is '{on_error}'; use 'refuse' or 'skip'.")
    if str(spec).startswith(SYNTHETIC):
        from boxtune.data.synthetic import load_synthetic

        return load_synthetic(str(spec), None if split is None else canonical_split(split))
    with _unreadable_as_data_error(str(spec)):
        place = parse_place(str(spec))
        name = find_format(place, format)
        available = READERS[name].split_names(place)
        dataset = _read(place, name, choose_splits(available, split, place.spec))
    if dataset.skipped and on_error == "refuse":
        raise DataError(_complaint(dataset))
    if skipped_path is not None:
        write_skipped(skipped_path, dataset.skipped)
    if not dataset.records:
        reason = (
            f": all {len(dataset.skipped)} records are bad, the first: {dataset.skipped[0]}"
            if dataset.skipped
            else ": what should list them is empty. Write it again, or remove it."
        )
        raise DataError(
            f"Data set '{place.spec}' has no image{f' in {dataset.split}' if dataset.split else ''}{reason}"
        )
    return dataset


def available_splits(spec: str | Path, format: str | None = None) -> list[str]:
    """Names of the splits that a data set has: train, val, test first; `all` for the only one of a set without splits.

    Raises:
        DataError: no such data set or format.
    """
    if str(spec).startswith(SYNTHETIC):
        return ["train", "val", "test"]
    with _unreadable_as_data_error(str(spec)):
        place = parse_place(str(spec))
        return READERS[find_format(place, format)].split_names(place)


@contextmanager
def _unreadable_as_data_error(spec: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" at '{error.filename}'" if error.filename else ""
        raise DataError(
            f"Data set '{spec}' cannot be read{where} ({error.strerror or error}). See to its rights."
        ) from error


def _read(place: Place, format_name: str, splits: list[str]) -> DetectionDataset:
    """The splits one after the other, as one data set."""
    prefixes = [f"{split}/" if len(splits) > 1 else "" for split in splits]
    parts = open_splits(place, format_name, dict(zip(splits, prefixes, strict=True)))
    declared = [label for part in parts for label in part.labels or ()]
    used = {label for part in parts for label in part.used}
    for label in declared:  # those of boxes were checked with their records
        if any("\ud800" <= sign <= "\udfff" for sign in label):
            raise DataError(f"Data set '{place.spec}': the class name {label!a} holds half a character. Rename it.")
    return DetectionDataset(
        records=joined([part.records for part in parts]),
        labels=tuple(dict.fromkeys(declared)) or tuple(sorted(used)),
        name=place.name,
        split=splits[0] if len(splits) == 1 else None,
        format=format_name,
        skipped=[bad for part in parts for bad in part.skipped],
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _complaint(dataset: DetectionDataset) -> str:
    first = " ".join(str(record) for record in dataset.skipped[:_NAMED_IN_MESSAGE])  # each ends in a full stop
    num_more = len(dataset.skipped) - _NAMED_IN_MESSAGE
    more = f" And {num_more} more." if num_more > 0 else ""
    count = len(dataset.skipped)
    how_read = f" {dataset.notes[0]}" if dataset.format == "hub" else ""
    return (
        f"Data set '{dataset.name}' has {count} bad record{'s' if count > 1 else ''}: {first}{more} "
        f"Or leave such images out: --on-error skip.{how_read}"
    )
