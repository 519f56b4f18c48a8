"""What a data set holds: counts, sizes, and a sheet of samples with their boxes, as the model will be shown them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from boxtune.console import plain, say
from boxtune.data.columns import record_columns
from boxtune.data.dataset import DetectionDataset
from boxtune.data.records import Record
from boxtune.data.sample import Sample
from boxtune.inference.draw import draw_detections, sheet
from boxtune.inspection.dataset_figures import SplitCounts


@dataclass(frozen=True)
class DatasetSummary:
    """Figures of a data set; the pairs are the 5th, 50th and 95th percentile.

    Attributes:
        num_images, num_boxes, num_empty: of all images; those without a box.
        boxes_per_label: in the data set's order of labels.
        boxes_per_image: percentiles.
        image_sides_px: percentiles of the longer side.
        box_area_share: percentiles of a box's share of its image.
    """

    num_images: int
    num_boxes: int
    num_empty: int
    boxes_per_label: dict[str, int]
    boxes_per_image: tuple[float, float, float]
    image_sides_px: tuple[float, float, float]
    box_area_share: tuple[float, float, float]


def summarize_dataset(dataset: DetectionDataset) -> DatasetSummary:
    """Count, without decoding an image."""
    counts, sides, shares = [np.zeros(0, dtype=np.intp)], [np.zeros(0)], [np.zeros(0)]
    labels: Counter[str] = Counter()
    for batch in record_columns(dataset.records):
        counts.append(batch.num_boxes)
        sides.append(batch.image_hw.max(axis=1))
        box_sides = batch.xyxy[:, 2:] - batch.xyxy[:, :2]
        shares.append(box_sides.prod(axis=1) / np.repeat(batch.image_hw.prod(axis=1), batch.num_boxes))
        labels.update(
            dict(zip(batch.labels, np.bincount(batch.label, minlength=len(batch.labels)).tolist(), strict=True))
        )
    num_boxes = np.concatenate(counts)
    return DatasetSummary(
        num_images=len(dataset),
        num_boxes=int(num_boxes.sum()),
        num_empty=int((num_boxes == 0).sum()),
        boxes_per_label={label: labels[label] for label in dataset.labels},
        boxes_per_image=_percentiles(num_boxes),
        image_sides_px=_percentiles(np.concatenate(sides)),
        box_area_share=_percentiles(np.concatenate(shares)),
    )


def print_summary(summary: DatasetSummary, title: str, console: Console, splits: Sequence[SplitCounts] = ()) -> None:
    """The figures as small tables; a line a split where there are several."""

    def spread(values: tuple[float, float, float], digits: int = 0) -> str:
        low, middle, high = (f"{value:.{digits}f}" for value in values)
        return f"{middle} ({low} to {high})"

    table = Table(box=None, show_header=False)
    say(console, f"{title}  (median, and 5th to 95th percentile in brackets)")
    table.add_row("images", f"{summary.num_images}, {summary.num_empty} of them without a box")
    table.add_row("boxes", f"{summary.num_boxes}; an image {spread(summary.boxes_per_image)}")
    table.add_row("longer side", f"{spread(summary.image_sides_px)} px")
    table.add_row("box / image area", spread(summary.box_area_share, 3))
    for label, count in summary.boxes_per_label.items():
        table.add_row(plain(f"  {label}"), str(count))
    console.print(table)
    if len(splits) > 1:
        console.print(_split_table(splits))


def _split_table(splits: Sequence[SplitCounts]) -> Table:
    table = Table(box=None)
    for name in ("split", "images", "without a box", "boxes"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split in splits:
        table.add_row(plain(split.name), *(str(n) for n in (split.num_images, split.num_empty, split.num_boxes)))
    return table


def chosen_samples(
    dataset: DetectionDataset,
    num_images: int,
    augment: Literal["none", "light", "strong"] = "none",
    flip: tuple[str, ...] = (),
    seed: int = 0,
) -> Iterator[tuple[Record, Sample]]:
    """Evenly chosen samples with their records, one by one, changed as in training where asked for."""
    from boxtune.data.augmentation import AugmentedDataset, build_transform

    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int))
    changed = augment != "none" or flip
    samples = AugmentedDataset(dataset, build_transform(augment, flip), seed) if changed else dataset
    for index in chosen.tolist():
        yield dataset.records[index], samples[index]


def write_sheet(
    dataset: DetectionDataset,
    path: Path,
    *,
    num_images: int = 24,
    augment: Literal["none", "light", "strong"] = "none",
    flip: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """A contact sheet of evenly chosen samples with their true boxes, changed as in training where asked for."""
    drawn, captions = [], []
    for record, sample in chosen_samples(dataset, num_images, augment, flip, seed):
        drawn.append(draw_detections(sample.image, sample.detections, labels=dataset.labels))
        captions.append(record.caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(drawn, columns=6, cell_px=320, captions=captions).save(path, quality=88)


def _percentiles(values: np.ndarray) -> tuple[float, float, float]:
    if values.size == 0:
        return 0.0, 0.0, 0.0
    low, middle, high = np.percentile(values, [5, 50, 95])
    return float(low), float(middle), float(high)
