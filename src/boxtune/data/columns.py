"""Records as arrays, some ten thousand at a time: a million of them are counted without a loop over objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from boxtune.data.records import Record
from boxtune.detections import Detections, FloatArray

IntArray = npt.NDArray[np.int64]

_NUM_AT_ONCE = 1 << 14


@dataclass(frozen=True, eq=False)
class RecordColumns:
    """M records with N boxes.

    Attributes:
        ids: M ids.
        image_hw: `[M, 2]` height and width of the upright images in pixels.
        num_boxes: `[M]` boxes of each image.
        xyxy: `[N, 4]` corners in pixels, image by image.
        label: `[N]` place of each box's label in `labels`.
        labels: names; some may have no box here.
    """

    ids: list[str]
    image_hw: IntArray
    num_boxes: IntArray
    xyxy: FloatArray
    label: IntArray
    labels: tuple[str, ...]

    @property
    def detections(self) -> Iterator[Detections]:
        """The boxes of each image, made one after the other."""
        ends = np.cumsum(self.num_boxes).tolist()
        for labels, start, end in zip(self.box_labels, [0, *ends], ends, strict=False):
            yield Detections(self.xyxy[start:end], labels)

    @property
    def box_labels(self) -> list[tuple[str, ...]]:
        """M tuples: the label of each box, image by image. Equal ones are the same object."""
        made: dict[bytes, tuple[str, ...]] = {}
        found = []
        for codes in np.split(self.label, np.cumsum(self.num_boxes)[:-1]) if self.ids else []:
            key = codes.tobytes()
            if key not in made:
                made[key] = tuple(self.labels[code] for code in codes)
            found.append(made[key])
        return found


@runtime_checkable
class ColumnStore(Protocol):
    """A sequence of records that keeps them as columns."""

    def columns(self, positions: IntArray) -> RecordColumns:
        """The records at these positions, in this order."""

    def select(self, positions: IntArray) -> Sequence[Record]:
        """The same records as a sequence of its own, which copies none."""


def record_columns(records: Sequence[Record]) -> Iterator[RecordColumns]:
    """All records, one batch after the other."""
    for start in range(0, len(records), _NUM_AT_ONCE):
        stop = min(start + _NUM_AT_ONCE, len(records))
        if isinstance(records, ColumnStore):
            yield records.columns(np.arange(start, stop))
        else:
            yield _columns_of(records[start:stop])


def select(records: Sequence[Record], positions: Iterable[int]) -> Sequence[Record]:
    """The records at these positions, in this order."""
    if isinstance(records, ColumnStore):
        return records.select(np.fromiter(positions, dtype=np.int64))
    return [records[position] for position in positions]


def used_labels(records: Sequence[Record]) -> set[str]:
    """Labels that a box has."""
    return {batch.labels[code] for batch in record_columns(records) for code in np.unique(batch.label)}


def _columns_of(records: Sequence[Record]) -> RecordColumns:
    codes: dict[str, int] = {}
    label = [codes.setdefault(name, len(codes)) for record in records for name in record.detections.labels]
    return RecordColumns(
        ids=[record.id for record in records],
        image_hw=np.array([record.image_hw for record in records], dtype=np.int64).reshape(-1, 2),
        num_boxes=np.array([len(record.detections) for record in records], dtype=np.int64),
        xyxy=np.concatenate([np.zeros((0, 4)), *(record.detections.xyxy for record in records)]),
        label=np.array(label, dtype=np.int64),
        labels=tuple(codes),
    )
