"""Colours, noise, gradients and patterns: what packages, tables and floors are made of. OpenCV on bytes throughout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[Any]  # of np.uint8, which the stubs of OpenCV do not promise
Colour = tuple[int, int, int]

BLACK: Colour = (16, 16, 18)
WHITE: Colour = (250, 250, 248)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB bytes of a colour given by hue, saturation and value, each in 0–1."""
    sector, f = int(hue * 6) % 6, hue * 6 % 1
    p, q, t = value * (1 - saturation), value * (1 - saturation * f), value * (1 - saturation * (1 - f))
    r, g, b = ((value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value), (value, p, q))[sector]
    return int(r * 255), int(g * 255), int(b * 255)


def luminance(colour: Sequence[int]) -> float:
    """Perceived brightness of an RGB colour, 0–255."""
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def near(rng: np.random.Generator, colour: Sequence[int], spread: float) -> Colour:
    """A colour that differs from another by about `spread` in each channel."""
    red, green, blue = (int(np.clip(c + rng.normal(0, spread), 0, 255)) for c in colour)
    return red, green, blue


def contrasting(rng: np.random.Generator, colour: Sequence[int]) -> Colour:
    """An ink that can be read on `colour`: mostly near black or white, sometimes a dark or light hue."""
    dark = luminance(colour) > 125
    if rng.random() < 0.6:
        return BLACK if dark else WHITE
    hue = float(rng.random())
    return hsv(hue, 0.8, 0.35) if dark else hsv(hue, 0.25, 1.0)


def blend(target: ByteArray, mask: ByteArray, colour: Sequence[int]) -> None:
    """Lay a colour over `target` `[H, W, 3]` where the coverage `mask` `[H, W]` (0–255) says so, in place."""
    alpha = cv2.merge([mask, mask, mask])
    flat = np.empty_like(alpha)
    flat[:] = colour
    kept = cv2.multiply(np.ascontiguousarray(target), cv2.bitwise_not(alpha), scale=1 / 255)
    target[:] = cv2.add(kept, cv2.multiply(flat, alpha, scale=1 / 255))


def compose(under: ByteArray, over: ByteArray, mask: ByteArray) -> ByteArray:
    """`over` on `under` by the coverage of `mask`, all of one size."""
    alpha = cv2.merge([mask, mask, mask])
    return cv2.add(cv2.multiply(under, cv2.bitwise_not(alpha), scale=1 / 255), cv2.multiply(over, alpha, scale=1 / 255))


@lru_cache(maxsize=1)
def _noise_bank() -> npt.NDArray[np.int16]:
    """Gaussian noise of unit deviation times 64, drawn once and cut differently every time."""
    return np.clip(np.random.default_rng(20_011).normal(0, 64, (1024, 1024)), -255, 255).astype(np.int16)


def noise(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.int16]:
    """`[H, W]` Gaussian noise with a standard deviation of 64 (a random, mirrored cut of one bank)."""
    bank = _noise_bank()
    y, x = int(rng.integers(1024)), int(rng.integers(1024))
    rows, columns = np.arange(y, y + height) % 1024, np.arange(x, x + width) % 1024
    cut = bank[rows][:, columns]
    return cut[:, ::-1] if rng.random() < 0.5 else cut


def clouds(
    rng: np.random.Generator, height: int, width: int, cells: float = 4.0, octaves: int = 4, stretch: float = 1.0
) -> ByteArray:
    """`[H, W]` smooth random relief over the full range of a byte.

    Args:
        rng: source of chance.
        height: rows.
        width: columns.
        cells: bumps along the longer side of the coarsest octave.
        octaves: how many finer and fainter layers are added.
        stretch: above 1 the bumps are drawn out along x (wood, brushed metal).
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        count = cells * 2**octave
        rows = int(np.clip(count * height / max(height, width), 2, height))
        columns = int(np.clip(count * width / max(height, width) / stretch, 2, width))
        layer = cv2.resize(
            rng.random((rows, columns), dtype=np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        cv2.scaleAdd(layer, 0.6**octave, total, total)
    low, high, *_ = cv2.minMaxLoc(total)
    scale = 255 / max(high - low, 1e-6)
    return cv2.convertScaleAbs(total - low, alpha=scale)


def ramp(stops: Sequence[Sequence[float]]) -> ByteArray:
    """A table `[256, 1, 3]` of colours that runs evenly through the stops, for `coloured`."""
    places = np.linspace(0, 255, len(stops))
    channels = [np.interp(np.arange(256), places, [s[c] for s in stops]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8).reshape(256, 1, 3)


def coloured(relief: ByteArray, stops: Sequence[Sequence[float]]) -> ByteArray:
    """`[H, W, 3]` image of a byte relief, its heights coloured along the stops."""
    return cv2.applyColorMap(relief, ramp(stops))


def gradient(height: int, width: int, first: Sequence[float], second: Sequence[float], angle: float) -> ByteArray:
    """`[H, W, 3]` even change from one colour to the other along a direction in radians."""
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.cos(angle)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.sin(angle)
    relief = ((x + y) * (255 / 2.84) + 127.5).astype(np.uint8)
    return coloured(relief, (first, second))


def stripes(height: int, width: int, first: Colour, second: Colour, period: float, angle: float) -> ByteArray:
    """`[H, W, 3]` bands of two colours with soft edges."""
    x = np.arange(width, dtype=np.float32) * np.cos(angle)
    y = np.arange(height, dtype=np.float32)[:, None] * np.sin(angle)
    phase = (x + y) * (2 * np.pi / period)
    relief = (np.clip(np.sin(phase) * 4, -1, 1) * 127 + 128).astype(np.uint8)
    return coloured(relief, (first, second))


def blobs(rng: np.random.Generator, image: ByteArray, colours: Sequence[Colour], count: int) -> None:
    """Scatter filled ellipses over an image, in place."""
    height, width = image.shape[:2]
    reach = max(height, width)
    for _ in range(count):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.uniform(0.03, 0.3) * reach) + 2, int(rng.uniform(0.03, 0.3) * reach) + 2
        colour = colours[int(rng.integers(len(colours)))]
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)


def rounded(mask: ByteArray, x0: int, y0: int, x1: int, y1: int, radius: int, value: int = 255) -> None:
    """Fill a rectangle with round corners in a mask; `x1` and `y1` are the last pixels inside."""
    radius = int(min(radius, (x1 - x0) // 2, (y1 - y0) // 2))
    if radius < 1:
        cv2.rectangle(mask, (x0, y0), (x1, y1), value, -1)
        return
    cv2.rectangle(mask, (x0 + radius, y0), (x1 - radius, y1), value, -1)
    cv2.rectangle(mask, (x0, y0 + radius), (x1, y1 - radius), value, -1)
    for cx in (x0 + radius, x1 - radius):
        for cy in (y0 + radius, y1 - radius):
            cv2.circle(mask, (cx, cy), radius, value, -1, cv2.LINE_AA)
