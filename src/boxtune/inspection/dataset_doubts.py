"""Labels that want a second look: boxes tiny, huge, twice, upside down or outside, and labels spelled in two ways."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boxtune.inspection.dataset_boxes import BoxTable

TINY_PX = 8
"""A box with a side below this many pixels is tiny: after resizing there may be nothing left to see."""

HUGE_SHARE = 0.95
"""A box that covers more of its image than this may have been drawn around the image, not the object."""

TWICE_IOU = 0.95
"""Two boxes of a label in an image that overlap more than this are one object marked twice."""

_OUTSIDE_PX = 2.0
_NAMED = 12


@dataclass(frozen=True)
class Doubt:
    """One kind of doubtful label.

    Attributes:
        kind: empty split, unused, inverted, outside, twice, tiny, huge, or spelling.
        meaning: what it says, for a reader.
        count: how many boxes (of the first two splits and labels, of spelling labels).
        examples: images (or splits, or labels) of some of them.
    """

    kind: str
    meaning: str
    count: int
    examples: tuple[str, ...]


def find_doubts(table: BoxTable, declared_splits: Sequence[str] = ()) -> tuple[Doubt, ...]:
    """Each kind that occurs, the gravest first. None of them is an error by itself: look at the examples.

    Args:
        table: the boxes.
        declared_splits: that the data set has, also those without an image.
    """
    sides = table.xyxy[:, 2:] - table.xyxy[:, :2]
    height, width = table.image_hw[table.image].T
    inverted = (sides <= 0).any(axis=1)
    limits = np.stack([width, height], axis=1) + _OUTSIDE_PX
    outside = ((table.xyxy[:, :2] < -_OUTSIDE_PX) | (table.xyxy[:, 2:] > limits)).any(axis=1)
    cut = np.clip(table.relative, 0, 1)
    share = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
    used = set(np.unique(table.label).tolist())
    unused = [label for number, label in enumerate(table.labels) if number not in used]
    empty = [split for split in dict.fromkeys((*table.splits, *declared_splits)) if split not in _with_boxes(table)]
    found = (
        Doubt("empty split", "not one box in it, so nothing can be judged there", len(empty), tuple(empty[:_NAMED])),
        Doubt("unused", "a label without a box: asked for, and never learned", len(unused), tuple(unused[:_NAMED])),
        _doubt(table, "inverted", "corners swapped, or no area", inverted),
        _doubt(table, "outside", "reaches beyond the image by more than 2 px", outside & ~inverted),
        _doubt(
            table,
            "twice",
            f"a second box of the same label on it (IoU above {TWICE_IOU})",
            _twice(table),
        ),
        _doubt(table, "tiny", f"a side below {TINY_PX} px", (sides < TINY_PX).any(axis=1) & ~inverted),
        _doubt(table, "huge", f"covers more than {HUGE_SHARE:.0%} of its image", (share > HUGE_SHARE) & ~inverted),
        spelling_doubt(table.labels),
    )
    return tuple(doubt for doubt in found if doubt.count)


def _with_boxes(table: BoxTable) -> set[str]:
    return {table.splits[number] for number in np.unique(table.split[table.image]).tolist()}


def spelling_doubt(labels: Iterable[str]) -> Doubt:
    """Labels that differ only in case, accents, spaces, hyphens, or a final s."""
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        groups.setdefault(_plain_form(label), []).append(label)
    twice = [" / ".join(group) for group in groups.values() if len(group) > 1]
    return Doubt("spelling", "labels that may be one, spelled in two ways", len(twice), tuple(twice[:_NAMED]))


def _doubt(table: BoxTable, kind: str, meaning: str, marks: npt.ArrayLike) -> Doubt:
    mask = np.asarray(marks, dtype=bool)
    images = dict.fromkeys(table.image[mask][: 20 * _NAMED].tolist())
    return Doubt(kind, meaning, int(mask.sum()), tuple(table.image_ids[i] for i in list(images)[:_NAMED]))


def _plain_form(label: str) -> str:
    plain = unicodedata.normalize("NFKD", label).casefold()
    plain = re.sub(r"[^\w]|_", "", "".join(sign for sign in plain if not unicodedata.combining(sign)))
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") else plain or label


def _twice(table: BoxTable) -> npt.NDArray[np.bool_]:
    """`[N]` boxes that lie on an earlier one of the same image and label.

    Boxes so alike have nearly the same left edge: sorted by it, each is held against the next ones until the edges are
    too far apart, so that nothing is compared with everything.
    """
    mask = np.zeros(table.num_boxes, dtype=bool)
    order = np.lexsort((table.xyxy[:, 0], table.label, table.image))
    xyxy, image, label = table.xyxy[order], table.image[order], table.label[order]
    areas = (xyxy[:, 2:] - xyxy[:, :2]).clip(0).prod(axis=1)
    for step in range(1, min(32, len(order))):
        here, there = slice(None, -step), slice(step, None)
        same = (image[here] == image[there]) & (label[here] == label[there])
        near = xyxy[there, 0] - xyxy[here, 0] <= (1 - TWICE_IOU) * (xyxy[here, 2] - xyxy[here, 0])
        candidates = np.flatnonzero(same & near)
        if not len(candidates):
            break
        first, second = xyxy[candidates], xyxy[candidates + step]
        overlap = (np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])).clip(0).prod(1)
        union = areas[candidates] + areas[candidates + step] - overlap
        alike = (union > 0) & (overlap > TWICE_IOU * union)
        mask[np.maximum(order[candidates[alike]], order[candidates[alike] + step])] = True
    return mask
