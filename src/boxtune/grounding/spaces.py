"""Coordinate spaces: what the numbers in a model's text mean.

Each family has learned one convention, and a box written in another is silently shifted, so a space is declared by the
family, saved by its `name` in checkpoints, and never guessed from the numbers. A space divides each side of the image
into equal units; text holds whole units, and the last one is never written: 0…999 of 1000 units, or 0…W'−1 of W' pixels
(Qwen3-VL's own answers never exceed 999). A coordinate therefore loses at most half a unit to rounding, and at most
one unit where it lies at the right or lower border. A side that would round to nothing is widened to one unit, so that
no object vanishes; its two edges move by at most one unit, or two at the right or lower border.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Size = tuple[int, int]


@dataclass(frozen=True)
class CoordinateSpace(ABC):
    """A convention for coordinates in text; subclasses say into how many units a side is divided."""

    name: ClassVar[str]

    @abstractmethod
    def units(self, input_hw: Size) -> Size:
        """The number of units along x and along y, for an input image of `(height, width)` pixels."""

    def bounds(self, input_hw: Size) -> Size:
        """The largest x and the largest y (in this order) that text may hold; the smallest are 0."""
        units_x, units_y = self.units(input_hw)
        return units_x - 1, units_y - 1

    def to_text_units(self, xyxy_px: npt.ArrayLike, image_hw: Size, input_hw: Size) -> IntArray:
        """Boxes as whole numbers for text.

        Args:
            xyxy_px: `[N, 4]` boxes in pixels of the upright image; what lies outside of the image is cut.
            image_hw: `(height, width)` of the upright image in pixels.
            input_hw: `(height, width)` of the image that the model sees, in pixels.

        Returns:
            `[N, 4]` integers within `bounds`, with `x1 < x2` and `y1 < y2` (unless a side has one unit only).
        """
        exact = np.asarray(xyxy_px, dtype=np.float64).reshape(-1, 4) * self._units_per_pixel(image_hw, input_hw)
        limit = np.array(self.bounds(input_hw) * 2)
        whole = np.clip(np.rint(exact), 0, limit).astype(np.int64)
        return _widened(whole, exact, limit)

    def to_pixels(self, values: npt.ArrayLike, image_hw: Size, input_hw: Size) -> FloatArray:
        """`[N, 4]` numbers of a text (fractions allowed) → `[N, 4]` boxes in pixels of the upright image."""
        return np.asarray(values, dtype=np.float64).reshape(-1, 4) / self._units_per_pixel(image_hw, input_hw)

    def _units_per_pixel(self, image_hw: Size, input_hw: Size) -> FloatArray:
        units_x, units_y = self.units(input_hw)
        if min(*image_hw, units_x, units_y) < 1:
            raise ValueError(f"An image of {image_hw} pixels as an input of {input_hw}: each side needs at least 1.")
        height, width = image_hw
        return np.array([units_x / width, units_y / height] * 2)


@dataclass(frozen=True)
class Relative1000(CoordinateSpace):
    """0–1000 of the image, clamped to 0…999, whatever its size: Qwen2-VL and Qwen3-VL."""

    name: ClassVar[str] = "relative_1000"

    def units(self, input_hw: Size) -> Size:
        """A thousand along each side."""
        return 1000, 1000


@dataclass(frozen=True)
class InputPixels(CoordinateSpace):
    """Pixels of the resized image that the model sees, clamped to W'−1 and H'−1: Qwen2.5-VL."""

    name: ClassVar[str] = "input_pixels"

    def units(self, input_hw: Size) -> Size:
        """Width and height of the input image."""
        height, width = input_hw
        return width, height


def _widened(whole: IntArray, exact: FloatArray, limit: IntArray) -> IntArray:
    """Give sides that rounded to nothing one unit: the unit that holds the middle of the side."""
    low, high = whole[:, :2], whole[:, 2:]
    middle = np.clip((exact[:, :2] + exact[:, 2:]) / 2, 0, None)
    unit = np.clip(np.floor(middle).astype(np.int64), 0, np.maximum(limit[:2] - 1, 0))
    flat = high <= low
    low = np.where(flat, unit, low)
    high = np.where(flat, np.minimum(unit + 1, limit[:2]), high)
    return np.concatenate([low, high], axis=1)
