"""Records in Arrow files that are mapped into memory: one is made when it is asked for, none is kept.

The pages of a file belong to the system, which shares them between processes and takes them back when it wants; a list
of a million records costs gigabytes, and each worker of a DataLoader copies it bit by bit.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from boxtune.data.columns import IntArray, RecordColumns
from boxtune.data.formats.hub import RowImage
from boxtune.data.records import ImageSource, Record
from boxtune.detections import Detections
from boxtune.errors import DataError

ImageOf = Callable[[str, str], ImageSource]
"""`(image as it is written, source)` → the image."""

_SCHEMA = pa.schema(
    [
        ("id", pa.binary()),
        ("image", pa.binary()),
        ("source", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("labels", pa.list_(pa.int32())),
        ("xyxy", pa.list_(pa.float64())),
    ]
)
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class RecordFile:
    """One Arrow file of records.

    Attributes:
        path: of the file.
        labels: names that the numbers in it stand for.
        prefix: comes before every id.
        image_of: makes the images, or None where they are files.
    """

    path: Path
    labels: tuple[str, ...]
    prefix: str = ""
    image_of: ImageOf | None = None


def write_records(path: Path, records: Iterable[Record]) -> tuple[str, ...]:
    """Write an Arrow file, some thousand records at a time; returns the labels that its numbers stand for.

    Raises:
        OSError: it cannot be written.
    """
    codes: dict[str, int] = {}
    left = iter(records)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        while rows := list(itertools.islice(left, _ROWS_AT_ONCE)):
            writer.write_batch(_batch(rows, codes))
    return tuple(codes)


class MappedRecords(Sequence[Record]):
    """The records of some files, one after the other, or a choice of them. Sent to another process, it maps them anew.

    Args:
        files: written by `write_records`.
        order: positions of the chosen records over all files; None for all.

    Raises:
        OSError: a file is not there.
        pyarrow.ArrowInvalid: a file is none of these, or was cut short.
    """

    def __init__(self, files: Sequence[RecordFile], order: IntArray | None = None) -> None:
        self._files = tuple(files)
        self._order = order
        self._labels = tuple(dict.fromkeys(label for file in files for label in file.labels))
        self._batches = [batch for file in files for batch in _map(file, self._labels)]
        sizes = np.array([batch.num_rows for batch in self._batches], dtype=np.int64)
        self._ends, self._num_rows = np.cumsum(sizes), int(sizes.sum())
        self._starts = self._ends - sizes

    def __len__(self) -> int:
        return self._num_rows if self._order is None else len(self._order)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> MappedRecords: ...

    def __getitem__(self, index: int | slice) -> Record | MappedRecords:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        batch, row = self._place(index)
        return batch.record(row)

    def __iter__(self) -> Iterator[Record]:
        return (self[position] for position in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_again, (self._files, self._order)

    @classmethod
    def joined(cls, parts: Sequence[MappedRecords]) -> MappedRecords:
        """The records of all parts, one part after the other."""
        files = [file for part in parts for file in part._files]
        if all(part._order is None for part in parts):
            return cls(files)
        ends = np.cumsum([0, *(part._num_rows for part in parts)])
        orders = [np.arange(len(part)) if part._order is None else part._order for part in parts]
        return cls(files, np.concatenate([start + order for start, order in zip(ends[:-1], orders, strict=True)]))

    def select(self, positions: IntArray) -> MappedRecords:
        """The records at these positions, in this order; the files stay mapped once."""
        chosen = object.__new__(MappedRecords)
        chosen.__dict__.update(self.__dict__)
        chosen._order = positions if self._order is None else self._order[positions]
        return chosen

    def file_of(self, index: int) -> Path:
        """The file that a record is in."""
        return self._place(index)[0].file.path

    def columns(self, positions: IntArray) -> RecordColumns:
        """The records at these positions as arrays, in this order."""
        positions = positions if self._order is None else self._order[positions]
        numbers = np.searchsorted(self._ends, positions, side="right")
        ids: list[str] = []
        sizes, counts = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        xyxy, labels = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)]
        for run in np.split(np.arange(len(positions)), np.flatnonzero(np.diff(numbers)) + 1) if len(positions) else []:
            batch, rows = self._batches[numbers[run[0]]], positions[run] - self._starts[numbers[run[0]]]
            boxes, num_boxes = batch.boxes_of(rows)
            ids += map(batch.id_of, rows.tolist())
            sizes.append(batch.sizes_of(rows))
            counts.append(num_boxes)
            xyxy.append(batch.xyxy[boxes])
            labels.append(batch.codes[batch.label[boxes]])
        return RecordColumns(
            ids,
            np.concatenate(sizes),
            np.concatenate(counts),
            np.concatenate(xyxy),
            np.concatenate(labels),
            self._labels,
        )

    def _place(self, index: int) -> tuple[_Batch, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        position = index % len(self) if self._order is None else int(self._order[index])
        number = int(np.searchsorted(self._ends, position, side="right"))
        return self._batches[number], position - int(self._starts[number])


class _Batch:
    """Some thousand rows of a file, as views of the mapped memory.

    Args:
        file: that they are in.
        rows: of the schema above.
        codes: the file's number of a label → that over all files.
    """

    def __init__(self, file: RecordFile, rows: pa.RecordBatch, codes: IntArray) -> None:
        self.file, self.codes = file, codes
        self.num_rows = rows.num_rows
        self._ids, self._images, self._sources = (_Texts(rows[name]) for name in ("id", "image", "source"))
        self._height, self._width = (_view(rows[name], np.int32) for name in ("height", "width"))
        self._box_ends = _view(rows["labels"].offsets, np.int32)  # that of the row before, that of the row
        self.label = _view(rows["labels"].values, np.int32)
        self.xyxy = _view(rows["xyxy"].values, np.float64).reshape(-1, 4)

    def id_of(self, row: int) -> str:
        return self.file.prefix + self._ids[row]

    def record(self, row: int) -> Record:
        file, text, source = self.file, self._images[row], self._sources[row]
        boxes = slice(*self._box_ends[row : row + 2])
        image_hw = int(self._height[row]), int(self._width[row])
        detections = Detections(self.xyxy[boxes], [file.labels[code] for code in self.label[boxes].tolist()])
        image = Path(text) if file.image_of is None else file.image_of(text, source)
        return Record(self.id_of(row), image, image_hw, detections, source)

    def sizes_of(self, rows: IntArray) -> IntArray:
        return np.stack([self._height[rows], self._width[rows]], axis=1).astype(np.int64)

    def boxes_of(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Positions of the boxes of some rows, one row after the other, and their number in each."""
        firsts, ends = self._box_ends[rows], self._box_ends[rows + 1]
        counts = (ends - firsts).astype(np.int64)
        before = np.cumsum(counts) - counts
        return np.repeat(firsts - before, counts) + np.arange(counts.sum()), counts


class _Texts:
    def __init__(self, column: pa.Array) -> None:
        _, ends, content = column.buffers()
        self._ends = np.frombuffer(ends, np.int32)
        self._content = memoryview(content if content is not None else b"")

    def __getitem__(self, row: int) -> str:
        return str(self._content[self._ends[row] : self._ends[row + 1]], "utf-8", "surrogatepass")


def _view(column: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A column without gaps; `Array.to_numpy` would load pandas into every worker."""
    return np.frombuffer(column.buffers()[1], dtype)[: len(column)] if len(column) else np.zeros(0, dtype)


def _map(file: RecordFile, labels: tuple[str, ...]) -> Iterator[_Batch]:
    numbers = {label: number for number, label in enumerate(labels)}
    codes = np.array([numbers[label] for label in file.labels], dtype=np.int64)
    reader = pa.ipc.open_file(pa.memory_map(str(file.path)))
    if reader.schema != _SCHEMA:
        raise pa.ArrowInvalid(f"'{file.path}' has other columns.")
    return (_Batch(file, reader.get_batch(number), codes) for number in range(reader.num_record_batches))


def _map_again(files: tuple[RecordFile, ...], order: IntArray | None) -> MappedRecords:
    try:
        return MappedRecords(files, order)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"The index '{files[0].path}' was removed while it was in use. Start again.") from error


def _batch(records: Sequence[Record], codes: dict[str, int]) -> pa.RecordBatch:
    counts = np.array([len(record.detections) for record in records])
    labels = [codes.setdefault(label, len(codes)) for record in records for label in record.detections.labels]
    xyxy = np.concatenate([record.detections.xyxy for record in records]).ravel()
    height, width = np.array([record.image_hw for record in records], dtype=np.int32).T
    columns = [
        pa.array([_encoded(record.id) for record in records], pa.binary()),
        pa.array([_encoded(_as_text(record.image)) for record in records], pa.binary()),
        pa.array([_encoded(record.source) for record in records], pa.binary()),
        pa.array(height),
        pa.array(width),
        pa.ListArray.from_arrays(_offsets(counts), pa.array(labels, pa.int32())),
        pa.ListArray.from_arrays(_offsets(4 * counts), pa.array(xyxy)),
    ]
    return pa.record_batch(columns, _SCHEMA)


def _offsets(counts: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


def _encoded(text: str) -> bytes:
    """Half of a surrogate pair too, which JSON and names of files may hold."""
    return text.encode("utf-8", "surrogatepass")


def _as_text(image: ImageSource) -> str:
    """A whole path, so that it holds in another working directory; the number of a row where it is no file."""
    if isinstance(image, Path):
        return os.path.abspath(image)  # noqa: PTH100  resolve() would follow links
    assert isinstance(image, RowImage), image
    return str(image.index)
