"""The index of a large data set: its checked records, written once, mapped into memory at every later opening.

An index is a folder in the cache with `records.arrow` and `index.json`. Its name says what was read and in which state
the annotations were; it is made anew where anything of that differs. Images are not looked at again: one that was
replaced since is found when it is decoded. Where records were refused, the images that they failed on and the folders
in which others may have appeared count as well.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from filelock import FileLock, Timeout
from PIL import Image

from boxtune.data import formats
from boxtune.data.checking import CheckedDrafts
from boxtune.data.formats.hub import images_of
from boxtune.data.formats.place import Place
from boxtune.data.formats.registry import READERS
from boxtune.data.formats.state import state_of_file
from boxtune.data.records import Reading, Record, SkippedRecord
from boxtune.documents import parse_json
from boxtune.errors import DataError

if TYPE_CHECKING:
    from boxtune.data.mapped_records import ImageOf, MappedRecords

MAX_BYTES = 5 << 30
"""Of all indexes together: those unused for longest are removed above it. A million records take about 200 MB."""

MAX_WAIT_SECONDS = 3600.0
"""For another process that makes the same index; ten million images take less."""

_RECORDS_FILE, _FACTS_FILE = "records.arrow", "index.json"
_ABANDONED_SECONDS = 2 * 24 * 3600  # an index that was not finished by then never will be


@dataclass(frozen=True)
class Opened:
    """One split of a data set.

    Attributes:
        records: that are right.
        labels: class names in their declared order, or None where the format declares none.
        used: labels that a box has.
        skipped: what is wrong, in the reader's order.
        notes: for the user to know.
    """

    records: Sequence[Record]
    labels: tuple[str, ...] | None
    used: frozenset[str]
    skipped: list[SkippedRecord]
    notes: list[str]


def cache_folder() -> Path:
    """Where indexes lie: `index` in `BOXTUNE_CACHE`, or in `boxtune` in the user's folder of caches."""
    own = os.environ.get("BOXTUNE_CACHE")
    home = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "boxtune"
    return home.expanduser() / "index"


def index_folder(place: Place, format_name: str, split: str) -> Path | None:
    """The folder that the index of a split has, or would have; None where nothing tells whether it still holds.

    Raises:
        DataError, OSError: as for reading the split.
    """
    states = list(READERS[format_name].state(place, split))
    if not states:
        return None
    where = place.hub_id or os.path.abspath(place.local)  # noqa: PTH100  a link may lead elsewhere tomorrow
    known = [where, format_name, split, sorted(place.options.items()), _rules(), Image.MAX_IMAGE_PIXELS, states]
    name = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:40]
    return cache_folder() / name


def open_index(folder: Path, place: Place, format_name: str, split: str, prefix: str = "") -> Opened | None:
    """What an index holds, `prefix` before every id; None where there is none that holds. A damaged one is removed.

    Raises:
        DataError: rows of a hub data set cannot be loaded.
    """
    if not folder.is_dir():
        return None
    image_of = images_of(place, split) if format_name == "hub" else None
    try:
        facts = parse_json((folder / _FACTS_FILE).read_bytes())
        path = folder / _RECORDS_FILE
        checksum = facts.pop("crc32")
        if checksum != _crc32(path, facts) or _surroundings(facts["surroundings"]) != facts["surroundings"]:
            raise ValueError("damaged, or no longer true")
        records = _mapped(path, facts, prefix, image_of)
        skipped = [SkippedRecord(**row) for row in facts["skipped"]]
        declared = None if facts["declared"] is None else tuple(facts["declared"])
        used, notes = frozenset(facts["used"]), list(facts["notes"])
    except (OSError, ValueError, KeyError, TypeError):  # ArrowInvalid is a ValueError
        shutil.rmtree(folder, ignore_errors=True)
        return None
    skipped = [SkippedRecord(bad.source, bad.reason, None if bad.id is None else prefix + bad.id) for bad in skipped]
    with contextlib.suppress(OSError):  # somebody else's: it counts as older than it is
        os.utime(folder)
    return Opened(records, declared, used, skipped, notes)


def build_index(folder: Path, checked: CheckedDrafts, reading: Reading) -> None:
    """Check all drafts of a reading and write an index, aside first; where another process was faster, its index stays.

    Raises:
        OSError: the cache cannot be written.
    """
    from boxtune.data.columns import used_labels
    from boxtune.data.mapped_records import MappedRecords, RecordFile, write_records

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        path = aside / _RECORDS_FILE
        labels = write_records(path, checked)
        written = MappedRecords([RecordFile(path, labels)])
        dropped = checked.refuse_twins(written)
        kept = written.select(np.delete(np.arange(len(written)), dropped)) if dropped else written
        facts = {
            "file_labels": labels,
            "declared": reading.labels,
            "used": sorted(used_labels(kept)),
            "dropped": dropped,
            "skipped": [asdict(bad) for bad in checked.skipped],
            "notes": reading.notes,
            "surroundings": _surroundings(checked.surroundings),
        }
        _write_safely(aside / _FACTS_FILE, json.dumps({**facts, "crc32": _crc32(path, facts)}))
        _put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _remove_oldest(folder)


@contextlib.contextmanager
def building(folder: Path, spec: str) -> Iterator[bool]:
    """One process at a time builds an index, the others wait: those of a training in several, and any other.

    Args:
        folder: of the index.
        spec: the data set, for messages.

    Yields:
        Whether nobody was at it; if not, an index may be there now.

    Raises:
        DataError: it takes somebody too long.
        OSError: the cache cannot be written.
    """
    locks = folder.parent.with_name("locks")
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{folder.name}.lock")  # the system releases that of a process that has ended
    was_free = True
    try:
        lock.acquire(blocking=False)
    except Timeout:
        was_free = False
        try:
            lock.acquire(timeout=MAX_WAIT_SECONDS)
        except Timeout:
            raise DataError(
                f"Another process has been making the index of '{spec}' for {MAX_WAIT_SECONDS / 60:.0f} minutes: wait "
                f"for it and start again, end it, or set BOXTUNE_CACHE to another folder than '{folder.parent.parent}'."
            ) from None
    try:
        yield was_free
    finally:
        lock.release()


def forget_index(records: MappedRecords, index: int) -> None:
    """Remove the index that a record comes from: its image is no longer what it was."""
    shutil.rmtree(records.file_of(index).parent, ignore_errors=True)


def _mapped(path: Path, facts: dict[str, Any], prefix: str, image_of: ImageOf | None) -> MappedRecords:
    from boxtune.data.mapped_records import MappedRecords, RecordFile

    records = MappedRecords([RecordFile(path, tuple(facts["file_labels"]), prefix, image_of)])
    if not facts["dropped"]:
        return records
    return records.select(np.delete(np.arange(len(records)), facts["dropped"]))


@functools.cache
def _rules() -> str:
    """What decides about records: the code that reads and checks them, so that no version has to be raised by hand."""
    here = Path(__file__).parent
    digest = hashlib.sha256(PIL.__version__.encode())
    for file in sorted([*here.glob("*.py"), *Path(formats.__path__[0]).glob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _surroundings(paths: Iterable[str]) -> dict[str, str]:
    return {os.path.abspath(path): state_of_file(path) for path in paths}  # noqa: PTH100


def _crc32(path: Path, facts: dict[str, Any]) -> int:
    """A checksum of the two files: a crash or a bad disk may leave either half right."""
    value = zlib.crc32(json.dumps(facts).encode())
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            value = zlib.crc32(content, value)
    return value


def _write_safely(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _remove_oldest(newest: Path) -> None:
    """Remove what was unused for longest, down to `MAX_BYTES`, and what was never finished."""
    try:
        folders = sorted((entry for entry in newest.parent.iterdir() if entry != newest), key=_last_used)
        sizes = {folder: _num_bytes(folder) for folder in folders}
        total = _num_bytes(newest) + sum(sizes.values())
        for folder in folders:
            abandoned = folder.name.startswith(".") and time.time() - _last_used(folder) > _ABANDONED_SECONDS
            if abandoned or (total > MAX_BYTES and not folder.name.startswith(".")):
                shutil.rmtree(folder)
                total -= sizes[folder]
    except OSError:  # another process removes, too; what is left will be seen next time
        return


def _last_used(folder: Path) -> float:
    return folder.stat().st_mtime


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if folder.is_dir() else 0
