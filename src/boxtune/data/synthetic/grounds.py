"""What lies behind things: tables, walls, shelves; and out of doors grass, gravel, sand, asphalt, fallen leaves."""

from __future__ import annotations

import cv2
import numpy as np

from boxtune.data.synthetic import surfaces
from boxtune.data.synthetic.package_parts import PAINTERS
from boxtune.data.synthetic.surfaces import ByteArray


def surroundings(rng: np.random.Generator, image_hw: tuple[int, int]) -> ByteArray:
    """What is behind the package: wood, cloth, stone, a plain wall, or a shelf with other packages."""
    height, width = image_hw
    style, hue = rng.random(), float(rng.random())
    if style < 0.3:
        wood = surfaces.clouds(rng, height, width, float(rng.uniform(8, 30)), 3, stretch=float(rng.uniform(6, 20)))
        picture = surfaces.coloured(
            wood, (surfaces.hsv(0.07, 0.6, 0.3), surfaces.hsv(0.08, 0.5, float(rng.uniform(0.5, 0.9))))
        )
        return picture if rng.random() < 0.5 else np.ascontiguousarray(picture[:, ::-1])
    if style < 0.5:
        return surfaces.coloured(
            surfaces.clouds(rng, height, width, float(rng.uniform(2, 40)), 4),
            (surfaces.hsv(hue, 0.15, 0.3), surfaces.hsv(hue, 0.1, 0.9)),
        )
    if style < 0.75:
        first, second = (
            surfaces.hsv(hue, 0.2, float(rng.uniform(0.1, 0.95))),
            surfaces.hsv(hue, 0.2, float(rng.uniform(0.2, 0.95))),
        )
        return surfaces.gradient(height, width, first, second, float(rng.uniform(0, 6.3)))
    if style < 0.85:
        first, second = surfaces.hsv(hue, 0.5, 0.7), surfaces.hsv((hue + 0.1) % 1, 0.2, 0.9)
        return surfaces.stripes(height, width, first, second, float(rng.uniform(6, 60)), float(rng.uniform(0, 3.1)))
    return _shelf(rng, height, width)


def _shelf(rng: np.random.Generator, height: int, width: int) -> ByteArray:
    picture = np.full((height, width, 3), surfaces.hsv(0.1, 0.1, float(rng.uniform(0.1, 0.4))), np.uint8)
    x = -int(rng.integers(0, 60))
    while x < width:
        w, top = int(rng.integers(40, 160)), int(rng.integers(0, height // 3))
        colour = surfaces.hsv(float(rng.random()), 0.7, float(rng.uniform(0.3, 0.9)))
        cv2.rectangle(picture, (x, top), (x + w - 4, height), colour, -1)
        name = picture[max(top + 10, 0) : top + 60, max(x + 4, 0) : max(x + w - 8, 0)]
        if min(name.shape[:2]) > 12:
            PAINTERS["brand"](name, rng, colour)
        x += w
    return picture


def open_ground(rng: np.random.Generator, image_hw: tuple[int, int]) -> ByteArray:
    """A piece of ground out of doors, seen from above."""
    height, width = image_hw
    style = int(rng.integers(5))
    if style == 0:
        return _grass(rng, height, width)
    if style == 1:
        return _gravel(rng, height, width)
    if style == 2:
        return _leaves(rng, height, width)
    hue, saturation = ((0.1, 0.35), (0.6, 0.05))[style - 3]
    slow = surfaces.clouds(rng, height, width, float(rng.uniform(2, 6)), 2)
    grains = surfaces.clouds(rng, height, width, float(rng.uniform(40, 120)), 2)
    relief = cv2.addWeighted(slow, 0.35, grains, 0.65, 0)
    value = float(rng.uniform(0.5, 0.95))
    return surfaces.coloured(
        relief, (surfaces.hsv(hue, saturation, value * 0.35), surfaces.hsv(hue, saturation, value))
    )


def _grass(rng: np.random.Generator, height: int, width: int) -> ByteArray:
    hue = float(rng.uniform(0.17, 0.36))
    picture = surfaces.coloured(
        surfaces.clouds(rng, height, width, 12, 5), (surfaces.hsv(hue, 0.6, 0.08), surfaces.hsv(hue, 0.6, 0.6))
    )
    count = int(rng.integers(100, 400))
    roots = rng.uniform(0, 1, (count, 2)) * [width, height]
    tips = roots + rng.normal(0, 1, (count, 2)) * rng.uniform(8, 30)
    shades = rng.uniform(0.3, 0.85, count)
    for root, tip, shade in zip(roots.astype(int).tolist(), tips.astype(int).tolist(), shades, strict=True):
        cv2.line(picture, root, tip, surfaces.hsv(hue, 0.55, float(shade)), 1 + (shade > 0.7), cv2.LINE_AA)
    return picture


def _gravel(rng: np.random.Generator, height: int, width: int) -> ByteArray:
    hue = float(rng.uniform(0.05, 0.14))
    picture = surfaces.coloured(
        surfaces.clouds(rng, height, width, 40, 3), (surfaces.hsv(hue, 0.2, 0.15), surfaces.hsv(hue, 0.2, 0.5))
    )
    size = rng.uniform(3, 16)
    for _ in range(int(rng.integers(150, 350))):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = int(size * rng.uniform(0.5, 1.4)) + 1, int(size * rng.uniform(0.4, 1)) + 1
        shade = surfaces.hsv(hue, float(rng.uniform(0, 0.3)), float(rng.uniform(0.3, 0.9)))
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, shade, -1, cv2.LINE_AA)
    return picture


def _leaves(rng: np.random.Generator, height: int, width: int) -> ByteArray:
    picture = surfaces.coloured(
        surfaces.clouds(rng, height, width, 20, 4), (surfaces.hsv(0.08, 0.5, 0.08), surfaces.hsv(0.08, 0.4, 0.4))
    )
    for _ in range(int(rng.integers(60, 160))):
        centre = int(rng.integers(width)), int(rng.integers(height))
        long = int(rng.uniform(8, 34))
        shade = surfaces.hsv(
            float(rng.uniform(0.04, 0.15)), float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.2, 0.65))
        )
        cv2.ellipse(
            picture, centre, (long, max(long // 3, 1)), float(rng.uniform(0, 180)), 0, 360, shade, -1, cv2.LINE_AA
        )
    return picture
