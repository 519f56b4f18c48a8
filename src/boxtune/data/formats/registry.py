"""The formats that are known, and which of them a folder or file is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from boxtune.data.formats import coco, hub, jsonl, voc, yolo
from boxtune.data.formats.place import Place
from boxtune.data.records import Reading
from boxtune.errors import DataError, nearest


class Reader(Protocol):
    """What each module of a format offers."""

    LOOKED_FOR: str

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder looks like this format."""

    def split_names(self, place: Place) -> list[str]:
        """Canonical names of the splits that are there, in order."""

    def read_split(self, place: Place, split: str) -> Reading:
        """What one of those splits holds."""

    def state(self, place: Place, split: str) -> Iterator[str]:
        """Texts of which one differs where `read_split` may find something else than before; images are not looked at.

        None at all where that cannot be told.
        """


READERS: dict[str, Reader] = {"coco": coco, "yolo": yolo, "voc": voc, "jsonl": jsonl, "hub": hub}
# These two are recognised by keys in their files, the others by names. Where nothing is recognised, names alone tell
# whose a damaged file is, and reading it tells what is wrong with it.
_NAMES: dict[str, Callable[[Path], bool]] = {"coco": coco.bears_names, "yolo": yolo.bears_names}


def find_format(place: Place, said: str | None = None) -> str:
    """The format of a data set: the one said, or the only one that the folder or file looks like.

    Raises:
        DataError: an unknown name, or a place that looks like no format or like several; tells what was looked for.
    """
    if said is not None:
        return _check_said(place, said)
    if place.path is None:
        return "hub"
    fitting = [name for name, reader in READERS.items() if reader.recognises(place.path)]
    fitting = fitting or [name for name, bears_names in _NAMES.items() if bears_names(place.path)]
    if len(fitting) == 1:
        _refuse_options(place, fitting[0])
        return fitting[0]
    if fitting:
        raise DataError(f"'{place.spec}' looks like {' and '.join(fitting)}. Say which with --format.")
    looked_for = "; ".join(reader.LOOKED_FOR for reader in READERS.values())
    raise DataError(
        f"'{place.spec}' looks like no data set: there is nothing of {looked_for}. "
        "Give the folder that holds these, or say --format."
    )


def _check_said(place: Place, said: str) -> str:
    if said not in READERS:
        raise DataError(f"Unknown format '{said}'. {nearest(said, READERS)}")
    recognises = _NAMES.get(said, READERS[said].recognises)
    if place.path is not None and not recognises(place.path):
        raise DataError(f"'{place.spec}' is not in the format '{said}': there is no {READERS[said].LOOKED_FOR}.")
    if place.path is None and said != "hub":
        raise DataError(f"'{place.spec}' does not exist here, and only --format hub is read from the hub.")
    _refuse_options(place, said)
    return said


def _refuse_options(place: Place, name: str) -> None:
    if place.options and name != "hub":
        raise DataError(f"'{place.spec}': the format {name} takes no options after '?'.")
