"""What a scene is made of, and where to put the next thing without covering the last."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic.surfaces import ByteArray

FloatArray = npt.NDArray[np.float64]


@dataclass
class Canvas:
    """A picture under work: pixels `[H, W, 3]`, boxes of what is on it, labels that would fit but are not on it."""

    image: ByteArray
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def add(self, box_xyxy: npt.ArrayLike, label: str, least_visible: float = 0.35) -> None:
        """Note a thing, cut at the borders; one that is mostly outside is not noted."""
        x0, y0, x1, y1 = (float(v) for v in np.asarray(box_xyxy))
        height, width = self.image_hw
        cut = [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]
        if cut[2] - cut[0] < 2 or cut[3] - cut[1] < 2:
            return
        if (cut[2] - cut[0]) * (cut[3] - cut[1]) >= least_visible * (x1 - x0) * (y1 - y0):
            self.boxes.append(cut)
            self.labels.append(label)


def free_place(
    rng: np.random.Generator, taken: list[list[float]], size_wh: tuple[float, float], image_hw: tuple[int, int],
    overlap: float = 0.2, tries: int = 12,
) -> tuple[float, float] | None:  # fmt: skip
    """A corner `(x, y)` for a box inside the image that hides at most a share of any box taken, or None."""
    w, h = size_wh
    height, width = image_hw
    if w > width or h > height:
        return None
    others = np.array(taken, dtype=np.float64).reshape(-1, 4)
    areas = np.maximum((others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1]), 1e-6)
    for _ in range(tries):
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        across = np.clip(np.minimum(others[:, 2], x + w) - np.maximum(others[:, 0], x), 0, None)
        down = np.clip(np.minimum(others[:, 3], y + h) - np.maximum(others[:, 1], y), 0, None)
        if not ((across * down) > overlap * np.minimum(areas, w * h)).any():
            return float(x), float(y)
    return None


def polygon_box(points: FloatArray) -> FloatArray:
    """`[4]` hull of corner points `[N, 2]` that OpenCV fills, pixels counted from their upper left corner."""
    return np.concatenate([points.min(axis=0), points.max(axis=0) + 1])


def fixed_point(points: FloatArray) -> npt.NDArray[np.int32]:
    """Points in sixteenths of a pixel, for OpenCV's `shift=4`."""
    return np.round(points * 16).astype(np.int32)


def turned(points: FloatArray, angle: float) -> FloatArray:
    """Points turned around the origin by an angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])
