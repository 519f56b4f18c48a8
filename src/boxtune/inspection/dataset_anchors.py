"""Typical box shapes by k-means on IoU, as detectors with anchors want them (Redmon and Farhadi, YOLO9000, 2017).

Qwen-VL has no anchors. The shapes tell what a data set asks for, and how much of it a few shapes can cover.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from boxtune.detections import FloatArray
from boxtune.inspection.dataset_boxes import BoxTable

MAX_BOXES = 50_000
"""Shapes are sought among at most so many boxes, evenly chosen."""

_ROUNDS = 60


@dataclass(frozen=True)
class Anchors:
    """Shapes for one k.

    Attributes:
        sizes: `(width, height)` as shares of the image's sides, smallest area first.
        mean_iou: of every box with the shape that fits it best, laid on one centre.
    """

    sizes: tuple[tuple[float, float], ...]
    mean_iou: float


def suggest_anchors(table: BoxTable, ks: tuple[int, ...] = (3, 6, 9), seed: int = 0) -> tuple[Anchors, ...]:
    """The same shapes for the same data; a k above the number of different boxes is left out."""
    relative = table.relative
    sizes = relative[:, 2:] - relative[:, :2]
    sizes = sizes[(sizes > 0).all(axis=1)]
    if len(sizes) > MAX_BOXES:
        sizes = sizes[np.linspace(0, len(sizes) - 1, MAX_BOXES).round().astype(np.intp)]
    different = len(np.unique(sizes, axis=0)) if len(sizes) else 0
    return tuple(_cluster(sizes, k, np.random.default_rng(seed)) for k in ks if k <= different)


def size_iou(sizes: FloatArray, anchors: FloatArray) -> FloatArray:
    """`[N, 2]` × `[K, 2]` → `[N, K]` IoU of boxes laid on one centre."""
    overlap = np.minimum(sizes[:, None], anchors[None]).prod(-1)
    union = sizes.prod(-1)[:, None] + anchors.prod(-1)[None] - overlap
    return np.asarray(overlap / union, dtype=np.float64)


def _cluster(sizes: FloatArray, k: int, rng: np.random.Generator) -> Anchors:
    anchors = _first_anchors(sizes, k, rng)
    nearest = np.full(len(sizes), -1)
    for _ in range(_ROUNDS):
        now = size_iou(sizes, anchors).argmax(axis=1)
        if (now == nearest).all():
            break
        nearest = now
        anchors = np.stack(
            [np.median(sizes[nearest == n], axis=0) if (nearest == n).any() else anchors[n] for n in range(k)]
        )
    anchors = anchors[np.argsort(anchors.prod(axis=1))]
    return Anchors(tuple(map(tuple, anchors.tolist())), float(size_iou(sizes, anchors).max(axis=1).mean()))


def _first_anchors(sizes: FloatArray, k: int, rng: np.random.Generator) -> FloatArray:
    """k-means++: each next one where the boxes fit worst so far."""
    chosen = sizes[rng.integers(len(sizes))][None]
    while len(chosen) < k:
        distance = (1 - size_iou(sizes, chosen).max(axis=1)).clip(0) ** 2
        chosen = np.concatenate([chosen, sizes[rng.choice(len(sizes), p=distance / distance.sum())][None]])
    return chosen
