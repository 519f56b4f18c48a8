"""From the flat print to the photo: waves of a bag, the curvature of a can, then perspective. Forward and back.

Coordinates are continuous pixels: a flat print of `(h, w)` pixels spans `(0, 0)`–`(w, h)`, and so does the photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic.surfaces import ByteArray

FloatArray = npt.NDArray[np.float64]

_NODES = 8  # pixels between the exact nodes of the way back; between them it is interpolated (errors below 0.1 px)


@dataclass(frozen=True)
class Bending:
    """How a flat print lies in a photo.

    Attributes:
        flat_hw: height and width of the print in its own pixels.
        homography: `[3, 3]`, from the (bent) print to the photo.
        turn: half of the angle in radians that the print spans around a can; 0 for a flat one.
        upright: the can's axis runs along y (else along x).
        sag: how far the edges of the can drop, seen from above, relative to the can's radius.
        wave: amplitude in pixels of the wrinkles; 0 for none.
        wave_phase: four numbers that place and space the wrinkles.
    """

    flat_hw: tuple[int, int]
    homography: FloatArray
    turn: float = 0.0
    upright: bool = True
    sag: float = 0.0
    wave: float = 0.0
    wave_phase: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def is_plane(self) -> bool:
        """Nothing but perspective."""
        return self.turn == 0 and self.wave == 0

    def forward(self, points: npt.ArrayLike) -> FloatArray:
        """`[N, 2]` points of the print → of the photo."""
        flat: FloatArray = np.asarray(points, dtype=np.float64)
        bent: FloatArray = flat + self._wrinkle(flat)
        return _projected(self.homography, self._around(bent) if self.turn else bent)

    def back(self, points: npt.ArrayLike) -> FloatArray:
        """`[N, 2]` points of the photo → of the print (beyond its edges: somewhere outside)."""
        inverse: FloatArray = np.linalg.inv(self.homography).astype(np.float64)
        points = _projected(inverse, np.asarray(points, dtype=np.float64))
        if self.turn:
            points = self._unrolled(points)
        if self.wave:
            bent = points
            for _ in range(4):  # the wrinkles are gentle: each round divides the error by about ten
                points = bent - self._wrinkle(points)
        return points

    def warp(self, image: ByteArray, photo_hw: tuple[int, int]) -> ByteArray:
        """The photo of a print given as pixels; black where the print does not reach."""
        height, width = photo_hw
        if self.is_plane:
            half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from the middle of a pixel
            matrix = np.linalg.inv(half) @ self.homography @ half
            return cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        columns, rows = -(-width // _NODES) + 2, -(-height // _NODES) + 2
        x, y = (np.arange(columns) - 0.5) * _NODES, (np.arange(rows) - 0.5) * _NODES
        nodes = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        sources: npt.NDArray[Any] = (self.back(nodes) - 0.5).reshape(rows, columns, 2).astype(np.float32)
        sources = cv2.resize(sources, (columns * _NODES, rows * _NODES), interpolation=cv2.INTER_LINEAR)
        x_of, y_of = cv2.split(sources[_NODES : _NODES + height, _NODES : _NODES + width])
        return cv2.remap(image, x_of, y_of, cv2.INTER_LINEAR)

    def box(self, rect: tuple[float, float, float, float]) -> FloatArray:
        """`[4]` hull in the photo of a rectangle `(x, y, w, h)` of the print, not cut at the photo's borders."""
        points = self.forward(outline(rect))
        return np.concatenate([points.min(axis=0), points.max(axis=0)])

    def box_inside(self, rect: tuple[float, float, float, float], photo_hw: tuple[int, int]) -> FloatArray:
        """`[4]` hull of what the photo shows of a rectangle; one that is turned and cut can end before its corner."""
        points = self.forward(outline(rect))
        for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, photo_hw[1], -1), (1, photo_hw[0], -1)):
            points = _cut(points, axis, limit, sign)
        return np.concatenate([points.min(axis=0), points.max(axis=0)]) if len(points) else np.zeros(4)

    def visible(self, rect: tuple[float, float, float, float], photo_hw: tuple[int, int]) -> float:
        """The share of a rectangle of the print that lies inside the photo."""
        x, y, w, h = rect
        ticks = (np.arange(16) + 0.5) / 16
        grid = np.stack(np.meshgrid(x + w * ticks, y + h * ticks), axis=-1).reshape(-1, 2)
        points = self.forward(grid)
        return float(((points >= 0) & (points <= [photo_hw[1], photo_hw[0]])).all(axis=1).mean())

    def _wrinkle(self, points: FloatArray) -> FloatArray:
        if not self.wave:
            return np.zeros_like(points)
        a, b, fast, slow = self.wave_phase
        height, width = self.flat_hw
        u, v = points[:, 0] * (2 * np.pi / width), points[:, 1] * (2 * np.pi / height)
        return self.wave * np.stack([np.sin(v * fast + a), np.sin(u * slow + b)], axis=-1)

    def _axes(self, points: FloatArray) -> tuple[FloatArray, FloatArray, float, float]:
        """Coordinates around and along the can, the middle and the radius."""
        height, width = self.flat_hw
        around, along = (points[:, 0], points[:, 1]) if self.upright else (points[:, 1], points[:, 0])
        span = width if self.upright else height
        return around, along, span / 2, span / 2 / self.turn

    def _around(self, points: FloatArray) -> FloatArray:
        around, along, middle, radius = self._axes(points)
        angle = (around - middle) / radius
        x, y = middle + radius * np.sin(angle), along + self.sag * radius * (np.cos(angle) - 1)
        return np.stack([x, y] if self.upright else [y, x], axis=-1)

    def _unrolled(self, points: FloatArray) -> FloatArray:
        around, along, middle, radius = self._axes(points)
        sine = (around - middle) / radius
        inside = np.clip(sine, -np.sin(self.turn), np.sin(self.turn))
        angle = np.arcsin(inside)
        u = middle + radius * (angle + (sine - inside) / np.cos(self.turn))  # goes on straight beyond the edge
        v = along - self.sag * radius * (np.cos(angle) - 1)
        return np.stack([u, v] if self.upright else [v, u], axis=-1)


def outline(rect: tuple[float, float, float, float], steps: int = 48) -> FloatArray:
    """`[4 × steps, 2]` points along the border of a rectangle `(x, y, w, h)`."""
    x, y, w, h = rect
    t = np.linspace(0, 1, steps)
    zero, one = np.zeros(steps), np.ones(steps)
    sides = [np.stack(side, axis=-1) for side in ((t, zero), (one, t), (1 - t, one), (zero, 1 - t))]
    return np.concatenate(sides) * [w, h] + [x, y]


def _projected(homography: FloatArray, points: FloatArray) -> FloatArray:
    mapped = points @ homography[:, :2].T + homography[:, 2]
    return mapped[:, :2] / mapped[:, 2:]


def _cut(points: FloatArray, axis: int, limit: float, sign: int) -> FloatArray:
    """The polygon's part on the side of a border where `sign × (coordinate − limit)` is not negative."""
    depth = sign * (points[:, axis] - limit)
    if (depth >= 0).all():
        return points
    following, next_depth = np.roll(points, -1, axis=0), np.roll(depth, -1)
    crossing = (depth >= 0) != (next_depth >= 0)
    share = depth[crossing] / (depth[crossing] - next_depth[crossing])
    crossings = points[crossing] + share[:, None] * (following[crossing] - points[crossing])
    order = np.concatenate([np.flatnonzero(depth >= 0), np.flatnonzero(crossing) + 0.5])
    return np.concatenate([points[depth >= 0], crossings])[np.argsort(order)]
