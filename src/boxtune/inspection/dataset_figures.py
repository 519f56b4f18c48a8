"""The figures of a data set's boxes: counts per split, sizes, shapes, places. From a `BoxTable`, without a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boxtune.detections import FloatArray
from boxtune.inspection.dataset_boxes import BoxTable

GRID = 24
"""Cells a side of the map of centres."""

_COVER_GRID = 64  # cells a side in which the covered area of an image is counted
_BINS = 24


@dataclass(frozen=True)
class SplitCounts:
    """One split.

    Attributes:
        name: train, val …, or `all`.
        num_images, num_empty, num_boxes: images, those without a box, boxes.
        boxes_per_label: in the data set's order of labels.
    """

    name: str
    num_images: int
    num_empty: int
    num_boxes: int
    boxes_per_label: dict[str, int]


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie from `edges[i]` to `edges[i + 1]`; `log` where the edges grow by a factor."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    log: bool = False


@dataclass(frozen=True)
class BoxFigures:
    """What the boxes of a data set look like.

    Attributes:
        splits: one a split.
        image_sides_px: longer sides of the images.
        image_ratios: width / height of the images.
        box_sides: square root of a box's share of its image's area, 0–1.
        box_ratios: width / height of the boxes in pixels.
        boxes_per_image: how many.
        area_covered: share of an image that lies under any of its boxes, of images that have one.
        centres: `GRID × GRID` counts of the boxes' centres, upper left first.
        size_classes: COCO's small (below 32² px), medium (below 96²) and large boxes.
    """

    splits: tuple[SplitCounts, ...]
    image_sides_px: Histogram
    image_ratios: Histogram
    box_sides: Histogram
    box_ratios: Histogram
    boxes_per_image: Histogram
    area_covered: Histogram
    centres: tuple[tuple[int, ...], ...]
    size_classes: dict[str, int]


def box_figures(table: BoxTable) -> BoxFigures:
    """Count; boxes without area take part in the counts per split only."""
    sides = table.xyxy[:, 2:] - table.xyxy[:, :2]
    good = (sides > 0).all(axis=1)
    areas = sides[good].prod(axis=1)
    height, width = table.image_hw.T
    image_areas = (height * width)[table.image[good]]
    relative = table.relative
    columns, rows = (np.clip((relative[good, i] + relative[good, i + 2]) / 2 * GRID, 0, GRID - 1) for i in (0, 1))
    centres = np.zeros((GRID, GRID), dtype=np.intp)
    np.add.at(centres, (rows.astype(np.intp), columns.astype(np.intp)), 1)
    return BoxFigures(
        splits=tuple(_split_counts(table, number) for number in range(len(table.splits))),
        image_sides_px=histogram(np.maximum(height, width)),
        image_ratios=histogram(width / height, log=True),
        box_sides=histogram(np.sqrt(np.minimum(areas / image_areas, 1)), low=0, high=1),
        box_ratios=histogram(sides[good, 0] / sides[good, 1], log=True),
        boxes_per_image=_whole_numbers(table.boxes_per_image),
        area_covered=histogram(area_covered(table), low=0, high=1),
        centres=tuple(tuple(row) for row in centres.tolist()),
        size_classes={
            "small": int((areas < 32**2).sum()),
            "medium": int(((areas >= 32**2) & (areas < 96**2)).sum()),
            "large": int((areas >= 96**2).sum()),
        },
    )


def histogram(
    values: npt.ArrayLike, *, low: float | None = None, high: float | None = None, log: bool = False
) -> Histogram:
    """Counts in 24 bins between two ends (those of the values where none are given); `log` for positive values."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return Histogram((low or 0.0, high or 1.0), (0,))
    first = float(array.min()) if low is None else low
    last = float(array.max()) if high is None else high
    if last <= first:
        # One value only: a column with room on both sides.
        first, last = (first / 1.5, first * 1.5) if log else (first - 0.5 * (abs(first) or 1), first * 1.5 or 0.5)
    edges = np.geomspace(first, last, _BINS + 1) if log else np.linspace(first, last, _BINS + 1)
    counts, _ = np.histogram(np.clip(array, edges[0], edges[-1]), edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), log)


def area_covered(table: BoxTable) -> FloatArray:
    """`[images with a box]` share of each image under its boxes, overlaps once, on a grid of 64 × 64 cells.

    A cell counts as far as the boxes' corners say: +1 at the first corner, −1 behind the last, summed along both axes.
    """
    cells = np.round(table.relative * _COVER_GRID).astype(np.intp)
    order = np.argsort(table.image, kind="stable")
    images = np.flatnonzero(table.boxes_per_image)
    place = np.full(table.num_images, -1)
    place[images] = np.arange(len(images))
    shares = np.zeros(len(images))
    x1, y1, x2, y2 = cells[order].T
    owner = place[table.image[order]]
    block = 2048  # images at a time: 2048 × 65 × 65 cells are 35 MB
    for first in range(0, len(images), block):
        inside = slice(*np.searchsorted(owner, [first, first + block]))
        marks = np.zeros((min(block, len(images) - first), _COVER_GRID + 1, _COVER_GRID + 1), dtype=np.int32)
        of = owner[inside] - first
        for ys, xs, sign in ((y1, x1, 1), (y2, x2, 1), (y1, x2, -1), (y2, x1, -1)):
            np.add.at(marks, (of, ys[inside], xs[inside]), sign)
        covered = marks.cumsum(axis=1).cumsum(axis=2)[:, :_COVER_GRID, :_COVER_GRID] > 0
        shares[first : first + block] = covered.mean(axis=(1, 2))
    return shares


def _split_counts(table: BoxTable, number: int) -> SplitCounts:
    images = table.split == number
    inside = images[table.image]
    per_label = np.bincount(table.label[inside], minlength=len(table.labels))
    return SplitCounts(
        name=table.splits[number],
        num_images=int(images.sum()),
        num_empty=int((table.boxes_per_image[images] == 0).sum()),
        num_boxes=int(inside.sum()),
        boxes_per_label=dict(zip(table.labels, per_label.tolist(), strict=True)),
    )


def _whole_numbers(values: npt.NDArray[np.intp]) -> Histogram:
    """Each number its own column where there are few."""
    largest = int(values.max(initial=0))
    if largest > 40:
        return histogram(values, low=0)
    edges = np.arange(largest + 2) - 0.5
    counts, _ = np.histogram(values, edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))
