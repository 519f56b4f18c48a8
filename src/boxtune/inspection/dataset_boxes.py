"""All boxes of a data set as a few flat arrays, which a million boxes can be counted in within seconds.

They come from an opened data set, whose records were checked, or straight from the annotations: then no picture is
opened, boxes stand as they were written, and those that are upside down or outside their image are there to be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boxtune.data.columns import record_columns
from boxtune.data.dataset import DetectionDataset
from boxtune.data.formats.place import parse_place
from boxtune.data.formats.registry import READERS, find_format
from boxtune.data.images import probe_image
from boxtune.data.records import Draft, Record, SkippedRecord
from boxtune.data.splits import UNSPLIT, choose_splits, in_order
from boxtune.detections import FloatArray
from boxtune.errors import DataError

IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class BoxTable:
    """M images with N boxes.

    Attributes:
        image_ids: M ids.
        image_hw: `[M, 2]` height and width of the upright images in pixels.
        split: `[M]` place in `splits`.
        splits: their names in order; `all` for a data set without splits.
        xyxy: `[N, 4]` corners in pixels; corners may be swapped or outside where annotations were read unchecked.
        image: `[N]` place of each box's image.
        label: `[N]` place in `labels`.
        labels: class names in the data set's order.
    """

    image_ids: list[str]
    image_hw: IntArray
    split: IntArray
    splits: tuple[str, ...]
    xyxy: FloatArray
    image: IntArray
    label: IntArray
    labels: tuple[str, ...]

    @property
    def num_images(self) -> int:
        """M."""
        return len(self.image_ids)

    @property
    def num_boxes(self) -> int:
        """N."""
        return len(self.xyxy)

    @property
    def boxes_per_image(self) -> IntArray:
        """`[M]` counts."""
        return np.bincount(self.image, minlength=self.num_images)

    @property
    def relative(self) -> FloatArray:
        """`[N, 4]` corners as shares of the image's sides, cut at its border."""
        height, width = self.image_hw[self.image].T
        sides = np.stack([width, height, width, height], axis=1)
        return np.asarray(np.clip(self.xyxy / sides, 0, 1), dtype=np.float64)


def table_of(dataset: DetectionDataset) -> BoxTable:
    """The boxes of an opened data set."""
    batches = list(record_columns(dataset.records))
    ids = [image_id for batch in batches for image_id in batch.ids]
    used = {name for batch in batches for name in np.array(batch.labels, dtype=object)[np.unique(batch.label)]}
    labels = (*dataset.labels, *sorted(used - set(dataset.labels)))
    numbers = {label: number for number, label in enumerate(labels)}
    split_names = [_split_of_id(dataset, image_id) for image_id in ids]
    splits = tuple(in_order(set(split_names)))
    places = {name: number for number, name in enumerate(splits)}
    counts = np.concatenate([np.zeros(0, dtype=np.intp), *(batch.num_boxes for batch in batches)])
    codes = (np.array([numbers.get(name, -1) for name in b.labels], dtype=np.intp)[b.label] for b in batches)
    return BoxTable(
        image_ids=ids,
        image_hw=np.concatenate([np.zeros((0, 2), dtype=np.intp), *(batch.image_hw for batch in batches)]),
        split=np.array([places[name] for name in split_names], dtype=np.intp),
        splits=splits,
        xyxy=np.concatenate([np.zeros((0, 4)), *(batch.xyxy for batch in batches)]),
        image=np.repeat(np.arange(len(ids)), counts),
        label=np.concatenate([np.zeros(0, dtype=np.intp), *codes]),
        labels=labels,
    )


def split_of(dataset: DetectionDataset, record: Record) -> str:
    """The split that a record belongs to; where all were read together it stands before its id."""
    return _split_of_id(dataset, record.id)


def _split_of_id(dataset: DetectionDataset, image_id: str) -> str:
    if dataset.split is not None:
        return dataset.split
    before, slash, _ = image_id.partition("/")
    return before if slash else UNSPLIT


def read_annotations(
    spec: str, split: str | None = None, format: str | None = None
) -> tuple[BoxTable, list[SkippedRecord]]:
    """Boxes and image sizes as the annotations declare them; a picture is opened only where they do not say its size.

    Args:
        spec: a folder or file.
        split: one split, or None for all.
        format: as for `load_dataset`.

    Returns:
        The table, and what could not be taken into it.

    Raises:
        DataError: no such data set, split or format, or nothing in it.
    """
    place = parse_place(spec)
    reader = READERS[find_format(place, format)]
    ids: list[str] = []
    sizes: list[tuple[int, int]] = []
    names: list[str] = []
    boxes: list[FloatArray] = []
    labels: list[list[str]] = []
    declared: list[str] = []
    skipped: list[SkippedRecord] = []
    chosen = choose_splits(reader.split_names(place), split, place.spec)
    for name in chosen:
        reading = reader.read_split(place, name)
        declared += reading.labels or ()
        refused: list[SkippedRecord] = []
        for draft in reading.drafts:
            try:
                size, xyxy = _declared(draft)
            except (DataError, TypeError, ValueError) as error:
                refused.append(SkippedRecord(draft.source, str(error), draft.id))
                continue
            if draft.problem is not None:
                refused.append(SkippedRecord(draft.problem.source or draft.source, draft.problem.reason, draft.id))
            ids.append(f"{name}/{draft.id}" if len(chosen) > 1 else draft.id)
            sizes.append(size)
            names.append(name)
            boxes.append(xyxy)
            labels.append([box.label for box in draft.boxes])
        skipped += [*reading.lost, *refused]
    if not ids:
        raise DataError(f"Data set '{spec}' has no image whose size is known: give the pictures, or their sizes.")
    return _table(ids, sizes, names, boxes, labels, dict.fromkeys(declared)), skipped


def _declared(draft: Draft) -> tuple[tuple[int, int], FloatArray]:
    size = draft.declared_hw
    if size is None:
        read = getattr(draft.image, "read", None)
        size = probe_image(read() if read else draft.image).image_hw  # type: ignore[arg-type]
    xyxy = np.array([box.xyxy for box in draft.boxes], dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(xyxy).all():
        raise DataError("a box holds a number that is not finite. Mend or remove it.")
    return size, xyxy * [size[1], size[0], size[1], size[0]] if draft.relative else xyxy


def _table(
    ids: list[str],
    sizes: Sequence[tuple[int, int]],
    split_names: Sequence[str],
    boxes: Sequence[FloatArray],
    box_labels: Sequence[Sequence[str]],
    declared: Iterable[str],
) -> BoxTable:
    used = dict.fromkeys(_flat(box_labels))
    known = tuple(declared)
    labels = (*known, *sorted(set(used) - set(known)))
    numbers = {label: number for number, label in enumerate(labels)}
    splits = tuple(in_order(split_names))
    places = {name: number for number, name in enumerate(splits)}
    counts = np.array([len(of_image) for of_image in boxes], dtype=np.intp)
    return BoxTable(
        image_ids=ids,
        image_hw=np.array(sizes, dtype=np.intp).reshape(-1, 2),
        split=np.array([places[name] for name in split_names], dtype=np.intp),
        splits=splits,
        xyxy=np.concatenate([np.zeros((0, 4)), *boxes]),
        image=np.repeat(np.arange(len(ids)), counts),
        label=np.array([numbers[label] for label in _flat(box_labels)], dtype=np.intp),
        labels=labels,
    )


def _flat(lists: Iterable[Sequence[str]]) -> Iterator[str]:
    return (label for labels in lists for label in labels)
