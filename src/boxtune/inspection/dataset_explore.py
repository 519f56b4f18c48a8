"""Everything that is known of a data set, as one value: what `boxtune inspect data` shows and gives as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from boxtune.collators.encode import SampleEncoder
from boxtune.data.dataset import DetectionDataset
from boxtune.data.records import SkippedRecord
from boxtune.inspection.dataset_anchors import Anchors, suggest_anchors
from boxtune.inspection.dataset_boxes import BoxTable, table_of
from boxtune.inspection.dataset_copies import Copies, find_copies
from boxtune.inspection.dataset_doubts import Doubt, find_doubts
from boxtune.inspection.dataset_figures import BoxFigures, box_figures
from boxtune.inspection.dataset_lengths import TokenLengths, token_lengths

MAX_NAMED = 50
"""Bad records that are listed; `num_skipped` counts them all."""


@dataclass(frozen=True)
class Exploration:
    """A data set looked at.

    Attributes:
        name: of the data set.
        labels: class names in order.
        figures: counts, sizes, shapes, places.
        anchors: suggested box shapes.
        doubts: labels that want a second look.
        num_skipped: bad records left out.
        skipped: `(where, why)` of the first of them.
        notes: what the format leaves out by rule.
        copies: pictures that come twice; None where no picture was opened.
        lengths: tokens of conversations; None where no model was named.
    """

    name: str
    labels: tuple[str, ...]
    figures: BoxFigures
    anchors: tuple[Anchors, ...]
    doubts: tuple[Doubt, ...]
    num_skipped: int
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    copies: Copies | None
    lengths: TokenLengths | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def explore(
    dataset: DetectionDataset,
    encoder: SampleEncoder | None = None,
    *,
    declared_splits: Sequence[str] = (),
    max_compared: int | None = None,
    console: Console | None = None,
) -> Exploration:
    """Look at an opened data set; pictures are decoded for the search of copies alone.

    Args:
        dataset: all splits, or one.
        encoder: of the model that is to learn from it; None leaves the lengths out.
        declared_splits: all that the data set has; one that is empty is among the doubts.
        max_compared: most pictures that are searched for copies; 0 for none, None for the default.
        console: shows progress there.
    """
    limit = {} if max_compared is None else {"limit": max_compared}
    return explore_table(
        table_of(dataset),
        dataset.name,
        dataset.skipped,
        dataset.notes,
        declared_splits=declared_splits,
        copies=None if max_compared == 0 else find_copies(dataset, console=console, **limit),
        lengths=None if encoder is None else token_lengths(dataset, encoder),
    )


def explore_table(
    table: BoxTable,
    name: str,
    skipped: Sequence[SkippedRecord] = (),
    notes: Sequence[str] = (),
    *,
    declared_splits: Sequence[str] = (),
    copies: Copies | None = None,
    lengths: TokenLengths | None = None,
) -> Exploration:
    """What needs boxes and sizes alone."""
    return Exploration(
        name=name,
        labels=table.labels,
        figures=box_figures(table),
        anchors=suggest_anchors(table),
        doubts=find_doubts(table, declared_splits),
        num_skipped=len(skipped),
        skipped=tuple((record.source, record.reason) for record in skipped[:MAX_NAMED]),
        notes=tuple(notes),
        copies=copies,
        lengths=lengths,
    )
