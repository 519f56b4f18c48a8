"""Precision along recall, as COCO interpolates it: the curves whose mean is AP. They lie in curves.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from boxtune.detections import FloatArray
from boxtune.documents import parse_json
from boxtune.errors import DataError
from boxtune.evaluation.ranking import IOU_THRESHOLDS, RECALL_POINTS, Ranked

OVERLAPS: Final = ("0.50", "0.75", "0.50:0.95")
"""Least IoU of a right box; the last is the mean over COCO's ten."""

FILE_NAME: Final = "curves.json"

_DECIMALS = 6  # of what is written: AP from the file is exact to this
_LEVELS: Final = {"0.50": slice(0, 1), "0.75": slice(5, 6), "0.50:0.95": slice(0, len(IOU_THRESHOLDS))}

Curve = tuple[float, ...]
"""`[101]` precision at the recalls 0.00, 0.01 … 1.00: the highest at that recall or a larger one, 0 beyond the last."""


@dataclass(frozen=True)
class PrecisionCurves:
    """Of one model on one data set.

    Attributes:
        mean: one of `OVERLAPS` → mean over labels; its mean is `map50`, `map75` and `map`. Empty without a true box.
        per_class: label that has true boxes → the same of the label alone.
    """

    mean: dict[str, Curve]
    per_class: dict[str, dict[str, Curve]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the recalls beside them."""
        return {
            "recall": _rounded(RECALL_POINTS.tolist()),
            "mean": {overlap: _rounded(curve) for overlap, curve in self.mean.items()},
            "per_class": {
                label: {overlap: _rounded(curve) for overlap, curve in curves.items()}
                for label, curves in self.per_class.items()
            },
        }

    def write(self, folder: Path) -> None:
        """Write curves.json; errors are those of the disk."""
        (folder / FILE_NAME).write_text(json.dumps(self.to_dict(), ensure_ascii=False) + "\n", encoding="utf-8")


def read_curves(folder: Path) -> PrecisionCurves:
    """The curves.json of a folder.

    Raises:
        DataError: it is not there, or is something else.
    """
    path = folder / FILE_NAME
    try:
        content = parse_json(path.read_bytes())
        return PrecisionCurves(_curves(content["mean"]), {k: _curves(v) for k, v in content["per_class"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no curves of boxtune ({error}): evaluate again.") from None


def precision_curves(ranked: Mapping[str, Ranked]) -> PrecisionCurves:
    """The curves of every label that has true boxes, and their mean.

    Equal to `COCOeval.eval["precision"]` of pycocotools for all areas and 100 boxes a label and image.

    Args:
        ranked: of `rank_images`.
    """
    by_label = {one.label: _interpolated(one) for one in ranked.values() if one.num_truth.any()}
    mean = np.mean(list(by_label.values()), axis=0) if by_label else None
    return PrecisionCurves(
        {} if mean is None else _at_overlaps(mean), {label: _at_overlaps(curves) for label, curves in by_label.items()}
    )


def _interpolated(ranked: Ranked) -> FloatArray:
    """`[T, 101]` of one label."""
    num_truth = int(ranked.num_truth.sum())
    curves = np.zeros((len(IOU_THRESHOLDS), len(RECALL_POINTS)))
    for level, (truth, ignored) in enumerate(zip(ranked.truth, ranked.ignored, strict=True)):
        right = truth[ranked.counted & ~ignored] >= 0
        hits = right.cumsum()
        envelope = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        first = np.searchsorted(hits / num_truth, RECALL_POINTS, side="left")
        reached = first < len(hits)
        curves[level, reached] = envelope[first[reached]]
    return curves


def _at_overlaps(curves: FloatArray) -> dict[str, Curve]:
    """`[T, 101]` → one curve for each of `OVERLAPS`."""
    return {overlap: tuple(curves[levels].mean(axis=0).tolist()) for overlap, levels in _LEVELS.items()}


def _curves(content: Mapping[str, Any]) -> dict[str, Curve]:
    return {overlap: tuple(float(value) for value in content[overlap]) for overlap in OVERLAPS if overlap in content}


def _rounded(values: Any) -> list[float]:
    return [round(value, _DECIMALS) for value in values]
