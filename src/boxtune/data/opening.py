"""Splits as they are opened: small ones as lists, large ones from their index, which is made where there is none."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from boxtune.console import say
from boxtune.data import index
from boxtune.data.checking import CheckedDrafts
from boxtune.data.columns import ColumnStore, used_labels
from boxtune.data.formats.place import Place
from boxtune.data.formats.registry import READERS
from boxtune.data.index import Opened
from boxtune.data.records import Reading, Record, check_reading

INDEXED_FROM = 20_000
"""Images of a split that get an index: fewer are read in seconds and need some 40 MB as a list."""

_IMAGE_FOLDERS = ("images", "JPEGImages")


def open_splits(place: Place, format_name: str, prefixes: dict[str, str]) -> list[Opened]:
    """All splits; where one has an index, all have, so that they can be joined.

    Args:
        place, format_name: of the data set.
        prefixes: split → what comes before its ids.

    Raises:
        DataError, OSError: it cannot be read.
    """
    parts = [open_split(place, format_name, split, prefix) for split, prefix in prefixes.items()]
    if not any(isinstance(part.records, ColumnStore) for part in parts):
        return parts
    return [
        part if isinstance(part.records, ColumnStore) else open_split(place, format_name, split, prefix, 0)
        for part, (split, prefix) in zip(parts, prefixes.items(), strict=True)
    ]


def open_split(place: Place, format_name: str, split: str, prefix: str = "", indexed_from: int | None = None) -> Opened:
    """One split, from its index where it is large.

    Raises:
        DataError, OSError: it cannot be read.
    """
    reader = READERS[format_name]
    folder = index.index_folder(place, format_name, split)
    opened = None if folder is None else index.open_index(folder, place, format_name, split, prefix)
    if opened is not None:
        return opened
    reading = reader.read_split(place, split)
    drafts = iter(reading.drafts)
    least = INDEXED_FROM if indexed_from is None else indexed_from
    begun = list(itertools.islice(drafts, least))
    if folder is None or len(begun) < least:
        reading.drafts = itertools.chain(begun, drafts)
        return _as_list(reading, prefix)
    reading.drafts = drafts
    try:
        with index.building(folder, place.spec) as was_free:
            if was_free:
                index.build_index(folder, CheckedDrafts(reading, begun, _near(place)), reading)
            opened = index.open_index(folder, place, format_name, split, prefix)
            if opened is None and not was_free:  # who was at it has not come to an end
                anew = reader.read_split(place, split)
                index.build_index(folder, CheckedDrafts(anew, [], _near(place)), anew)
                opened = index.open_index(folder, place, format_name, split, prefix)
    except OSError as error:
        _say_once(f"No index of '{place.spec}' is kept in '{folder.parent}' ({error.strerror or error}).")
    return opened or _as_list(reader.read_split(place, split), prefix)


def joined(parts: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """The records of all parts as one sequence."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, ColumnStore) for part in parts):
        from boxtune.data.mapped_records import MappedRecords

        return MappedRecords.joined([part for part in parts if isinstance(part, MappedRecords)])
    return [record for part in parts for record in part]


def forget(records: Sequence[Record], position: int) -> None:
    """Have the records checked anew at the next opening, since the image of one is not what it was."""
    if isinstance(records, ColumnStore):
        from boxtune.data.mapped_records import MappedRecords

        assert isinstance(records, MappedRecords)
        index.forget_index(records, position)


def _as_list(reading: Reading, prefix: str) -> Opened:
    records, skipped = check_reading(reading, prefix)
    return Opened(records, reading.labels, frozenset(used_labels(records)), skipped, reading.notes)


def _near(place: Place) -> list[Path]:
    """Folders in which an image may appear that was missing, besides those that others are in."""
    if place.path is None:
        return []
    root = place.path if place.path.is_dir() else place.path.parent
    root = root.parent if root.name == "annotations" else root
    return [root, *(root / name for name in _IMAGE_FOLDERS)]


@functools.cache
def _say_once(line: str) -> None:
    say(Console(stderr=True), line)
