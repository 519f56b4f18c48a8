"""The one value that boxes travel in, from the reader of a data set to the metric. NumPy only.

A box is `(x_min, y_min, x_max, y_max)` in pixels of the upright image: continuous coordinates, origin at the upper
left corner of the upper left pixel, so a box around a whole image is `(0, 0, width, height)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from boxtune.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, init=False)
class Detections:
    """Boxes, labels and (for predictions) scores of one image; checked when made, never changed afterwards.

    Args:
        xyxy: `[N, 4]` corner coordinates in pixels, `x_min <= x_max` and `y_min <= y_max`, all finite.
        labels: `N` class names.
        scores: `[N]` confidences in 0–1, or None where there are none (true boxes).

    Raises:
        ValueError: shapes or lengths that do not fit together, corners in the wrong order, numbers that are not finite.
    """

    xyxy: FloatArray
    labels: tuple[str, ...]
    scores: FloatArray | None

    def __init__(self, xyxy: npt.ArrayLike, labels: Iterable[str], scores: npt.ArrayLike | None = None) -> None:
        boxes = np.array(xyxy, dtype=np.float64)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        labels = tuple(labels)
        _check_boxes(boxes, labels)
        boxes.setflags(write=False)
        object.__setattr__(self, "xyxy", boxes)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "scores", None if scores is None else _checked_scores(scores, len(labels)))

    @classmethod
    def empty(cls, *, scored: bool = False) -> Detections:
        """No objects; with `scored`, an empty score array instead of None."""
        return cls(np.zeros((0, 4)), (), np.zeros(0) if scored else None)

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        same_scores = (
            self.scores is other.scores
            if self.scores is None or other.scores is None
            else np.array_equal(self.scores, other.scores)
        )
        return self.labels == other.labels and np.array_equal(self.xyxy, other.xyxy) and same_scores

    __hash__ = None  # type: ignore[assignment]  # arrays inside

    @property
    def areas(self) -> FloatArray:
        """`[N]` areas in square pixels."""
        sides = self.xyxy[:, 2:] - self.xyxy[:, :2]
        return sides[:, 0] * sides[:, 1]

    def select(self, index: npt.ArrayLike) -> Detections:
        """The detections at integer positions, or where a boolean mask is true."""
        chosen = np.arange(len(self))[np.asarray(index, dtype=None if np.size(index) else np.intp)]
        labels = [self.labels[i] for i in chosen]
        return Detections(self.xyxy[chosen], labels, None if self.scores is None else self.scores[chosen])

    def joined(self, other: Detections) -> Detections:
        """These and others behind them.

        Raises:
            ValueError: only one of the two has scores.
        """
        if (self.scores is None) != (other.scores is None) and len(self) and len(other):
            raise ValueError("Boxes with scores and boxes without cannot be joined: give both scores, or neither.")
        parts = [one.scores for one in (self, other) if one.scores is not None]
        whole = np.concatenate([self.xyxy, other.xyxy])
        scores = np.concatenate(parts) if sum(map(len, parts)) == len(whole) and parts else None
        return Detections(whole, [*self.labels, *other.labels], scores)

    def with_boxes(self, xyxy: npt.ArrayLike) -> Detections:
        """The same labels and scores with other boxes `[N, 4]`."""
        return Detections(xyxy, self.labels, self.scores)

    def with_scores(self, scores: npt.ArrayLike | None) -> Detections:
        """The same boxes and labels with other scores `[N]`."""
        return Detections(self.xyxy, self.labels, scores)

    def clipped(self, image_hw: tuple[int, int]) -> Detections:
        """Boxes cut at the borders of an image of `(height, width)` pixels; boxes outside keep zero area."""
        height, width = image_hw
        return self.with_boxes(np.clip(self.xyxy, 0, [width, height, width, height]))

    def scaled(self, factor_x: float, factor_y: float) -> Detections:
        """Boxes of the image resized by these factors."""
        return self.with_boxes(self.xyxy * [factor_x, factor_y, factor_x, factor_y])

    def to_supervision(self, class_names: Sequence[str] | None = None) -> Any:
        """The same as a `supervision.Detections`, for its annotators, trackers and zones.

        Labels are in `data["class_name"]`, as its own connectors write them, and `class_id` is their number.

        Args:
            class_names: whose order numbers the labels; by default that of their first use here, so that numbers of two
                images only agree where names are given.

        Raises:
            DataError: a label is not among the names.
            ConfigError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError:
            raise ConfigError("supervision is not installed: pip install 'boxtune[supervision]' brings it.") from None
        numbers = {name: number for number, name in enumerate(dict.fromkeys(class_names or self.labels))}
        if class_names is not None and (strange := [label for label in self.labels if label not in numbers]):
            raise DataError(f"The label '{strange[0]}' is not among class_names: give the names of all labels.")
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=None if self.scores is None else self.scores.copy(),
            class_id=np.array([numbers[label] for label in self.labels], dtype=np.intp),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    @classmethod
    def from_supervision(cls, detections: Any, class_names: Sequence[str] | None = None) -> Detections:
        """What a `supervision.Detections` says of boxes, labels and scores; its masks and tracks stay behind.

        Args:
            detections: anything with `xyxy` `[N, 4]`, `confidence`, `class_id` and `data`.
            class_names: of the numbers in `class_id`; not needed where `data["class_name"]` has the labels.

        Raises:
            DataError: there are neither names nor numbers that can be named.
            ValueError: as of `Detections`.
        """
        named = detections.data.get("class_name")
        if named is None and len(detections.xyxy):
            named = _names_of(detections.class_id, class_names)
        labels = [] if named is None else [str(name) for name in named]
        return cls(detections.xyxy, labels, detections.confidence)


def _names_of(class_ids: Any, class_names: Sequence[str] | None) -> list[str]:
    """The labels of numbers that another library has given."""
    if class_names is None or class_ids is None:
        raise DataError(
            'These detections have no labels in data["class_name"]: give class_names, in order of class_id.'
        )
    if strange := [int(number) for number in class_ids if not 0 <= number < len(class_names)]:
        raise DataError(f"There is no name for class_id {strange[0]}: class_names has {len(class_names)}.")
    return [class_names[int(number)] for number in class_ids]


def _check_boxes(boxes: FloatArray, labels: Sequence[str]) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"Boxes must have the shape [N, 4], not {list(boxes.shape)}.")
    if len(labels) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes but {len(labels)} labels: give one label a box.")
    for label in labels:
        if not isinstance(label, str):
            raise ValueError(f"A label must be text, not {label!r}.")
    if not np.isfinite(boxes).all():
        raise ValueError(f"Box {boxes[~np.isfinite(boxes).all(axis=1)][0].tolist()} holds a number that is not finite.")
    swapped = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if swapped.any():
        raise ValueError(f"Box {boxes[swapped][0].tolist()} is not (x_min, y_min, x_max, y_max): a corner is swapped.")


def _checked_scores(scores: npt.ArrayLike, count: int) -> FloatArray:
    array = np.array(scores, dtype=np.float64)
    if array.shape != (count,):
        raise ValueError(f"Scores must have the shape [{count}], not {list(array.shape)}.")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError("Scores must lie in 0–1.")
    array.setflags(write=False)
    return array


def xyxy_to_xywh(boxes: npt.ArrayLike) -> FloatArray:
    """`[N, 4]` corners → `(x_min, y_min, width, height)`, the form of COCO files."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1)


def xywh_to_xyxy(boxes: npt.ArrayLike) -> FloatArray:
    """`[N, 4]` `(x_min, y_min, width, height)` → corners."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)


def xyxy_to_cxcywh(boxes: npt.ArrayLike) -> FloatArray:
    """`[N, 4]` corners → `(x_centre, y_centre, width, height)`, the form of YOLO files and DETR heads."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)


def cxcywh_to_xyxy(boxes: npt.ArrayLike) -> FloatArray:
    """`[N, 4]` `(x_centre, y_centre, width, height)` → corners."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1)


def box_iou(boxes_a_xyxy: npt.ArrayLike, boxes_b_xyxy: npt.ArrayLike) -> FloatArray:
    """Intersection over union of every pair, `[N, 4]` × `[M, 4]` → `[N, M]`; 0 where both boxes are without area."""
    a = np.asarray(boxes_a_xyxy, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(boxes_b_xyxy, dtype=np.float64).reshape(1, -1, 4)
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    iou: FloatArray = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou
