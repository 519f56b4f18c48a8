"""Drafts of a large data set become records one after the other, while what is refused is kept aside."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from boxtune.data.records import BadRecordError, Draft, Reading, Record, SkippedRecord, check_draft, used_more_than_once

_SHOWN_EVERY = 1000


@dataclass(frozen=True)
class _Refused:
    """A draft that became no record."""

    id: str
    source: str
    reason: SkippedRecord


class CheckedDrafts(Iterable[Record]):
    """The records of a reading that are right; to be gone through once.

    Shows on a terminal how many images were looked at. Ids are remembered by a number each, so that those which are
    used twice are found without keeping a million texts.

    Args:
        reading: whose drafts may have been begun with.
        begun: drafts that were taken from it already.
        near: folders in which images are looked for, besides those that they are found in.
    """

    def __init__(self, reading: Reading, begun: Sequence[Draft], near: Iterable[Path]) -> None:
        self._reading, self._begun = reading, begun
        self._hashes = array("q")
        self._refused: dict[int, _Refused] = {}
        self._folders = {str(folder) for folder in near}
        self._failed_images: set[str] = set()

    def __iter__(self) -> Iterator[Record]:
        console = Console(stderr=True)
        columns = TextColumn("{task.completed:,.0f} images checked"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=None)
            for number, draft in enumerate(self._all_drafts()):
                if number % _SHOWN_EVERY == 0:
                    progress.update(task, completed=number)
                self._hashes.append(hash(draft.id))
                if isinstance(draft.image, Path):
                    self._folders.add(os.path.dirname(draft.image))  # noqa: PTH120
                try:
                    record = check_draft(draft)
                except BadRecordError as bad:
                    self._refuse(number, draft, bad)
                else:
                    yield record

    def _all_drafts(self) -> Iterator[Draft]:
        yield from self._begun
        yield from self._reading.drafts

    def _refuse(self, number: int, draft: Draft, bad: BadRecordError) -> None:
        reason = SkippedRecord(bad.source or draft.source, bad.reason, draft.id)
        self._refused[number] = _Refused(draft.id, draft.source, reason)
        if isinstance(draft.image, Path):
            self._failed_images.add(str(draft.image))

    def refuse_twins(self, written: Sequence[Record]) -> list[int]:
        """Refuse every record whose id another draft has, too; returns their positions in `written`.

        Args:
            written: all records that came out of here, in their order.
        """
        hashes = np.array(self._hashes, dtype=np.int64)
        values, counts = np.unique(hashes, return_counts=True)
        suspects = np.flatnonzero(np.isin(hashes, values[counts > 1]))
        if not len(suspects):
            return []
        passed = np.setdiff1d(np.arange(len(hashes)), np.fromiter(self._refused, dtype=np.int64))
        rows = dict(zip(suspects.tolist(), np.searchsorted(passed, suspects).tolist(), strict=True))
        users: dict[str, list[tuple[int, str]]] = {}
        for number, row in rows.items():
            found = self._refused[number] if number in self._refused else written[row]
            users.setdefault(found.id, []).append((number, found.source))
        dropped = []
        for image_id, uses in users.items():
            for number, source in uses if len(uses) > 1 else ():
                if number not in self._refused:
                    dropped.append(rows[number])
                bad = used_more_than_once(image_id, len(uses))
                self._refused[number] = _Refused(image_id, source, SkippedRecord(source, bad.reason, image_id))
        return sorted(dropped)

    @property
    def skipped(self) -> list[SkippedRecord]:
        """What is wrong, in the reader's order."""
        return [*self._reading.lost, *(self._refused[number].reason for number in sorted(self._refused))]

    @property
    def surroundings(self) -> list[str]:
        """Paths on which it depends whether what was refused would be refused again; none where nothing was.

        The images that failed, and the folders in which an image may have appeared.
        """
        return sorted(self._folders | self._failed_images) if self.skipped else []
