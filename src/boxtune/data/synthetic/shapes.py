"""Coloured shapes and characters on any ground: `red circle`, `blue star`, `letter B`."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic import surfaces
from boxtune.data.synthetic.grounds import open_ground, surroundings
from boxtune.data.synthetic.lettering import Face, word
from boxtune.data.synthetic.placing import Canvas, fixed_point, free_place, polygon_box, turned

FloatArray = npt.NDArray[np.float64]

COLOURS: dict[str, surfaces.Colour] = {
    "red": (214, 32, 36), "green": (38, 160, 60), "blue": (36, 74, 210), "yellow": (245, 215, 40),
    "orange": (245, 135, 25), "purple": (130, 45, 165), "pink": (245, 130, 180), "brown": (115, 70, 35),
    "black": (18, 18, 20), "white": (246, 246, 244), "grey": (130, 130, 132), "cyan": (60, 200, 215),
}  # fmt: skip


def _ring(count: int, radii: tuple[float, ...] = (1.0,), start: float = -np.pi / 2) -> FloatArray:
    angle = start + np.arange(count) * 2 * np.pi / count
    radius = np.resize(radii, count)[:, None]
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1) * radius


def _heart() -> FloatArray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    return np.stack([np.sin(t) ** 3, y], axis=-1)


def _crescent() -> FloatArray:
    outer, inner = np.linspace(0.6, 2 * np.pi - 0.6, 30), np.linspace(2 * np.pi - 0.9, 0.9, 30)
    return np.concatenate([
        np.stack([np.cos(outer), np.sin(outer)], -1),
        np.stack([0.42 + 0.66 * np.cos(inner), 0.72 * np.sin(inner)], -1),
    ])  # fmt: skip


SHAPES: dict[str, FloatArray] = {
    "circle": _ring(48),
    "ellipse": _ring(48) * [1.0, 0.55],
    "triangle": _ring(3),
    "square": _ring(4, start=np.pi / 4),
    "rectangle": _ring(4, start=np.pi / 4) * [1.0, 0.5],
    "diamond": _ring(4) * [0.65, 1.0],
    "pentagon": _ring(5),
    "hexagon": _ring(6),
    "star": _ring(10, (1.0, 0.42)),
    "cross": np.concatenate([turned(np.array([(-1, -3), (1, -3), (1, -1)]) / 3.0, k * np.pi / 2) for k in range(4)]),
    "arrow": np.array([(-1, -0.3), (0.2, -0.3), (0.2, -0.75), (1, 0), (0.2, 0.75), (0.2, 0.3), (-1, 0.3)]),
    "heart": _heart(),
    "crescent": _crescent(),
}  # fmt: skip
_CHARACTERS = "ABDEFGHKMNPQRSTXYZ23456789"


def paint_shapes(rng: np.random.Generator, image_hw: tuple[int, int]) -> Canvas:
    """0–12 shapes or characters; a picture names them all by colour and form, or by one of the two."""
    ground = open_ground if rng.random() < 0.25 else surroundings
    canvas = Canvas(ground(rng, image_hw))
    naming = ("both", "form", "colour")[int(rng.choice(3, p=(0.6, 0.25, 0.15)))]
    few_forms = rng.choice(list(SHAPES), int(rng.integers(1, 6)), replace=False).tolist()
    few_colours = rng.choice(list(COLOURS), int(rng.integers(1, 6)), replace=False).tolist()
    lettered = rng.random() < 0.2
    taken: list[list[float]] = []
    for _ in range(int(rng.integers(0, 13))):
        colour = few_colours[int(rng.integers(len(few_colours)))]
        if lettered and rng.random() < 0.7:
            form = _paint_character(rng, canvas, taken, COLOURS[colour])
        else:
            form = few_forms[int(rng.integers(len(few_forms)))]
            form = form if _paint_shape(rng, canvas, taken, SHAPES[form], COLOURS[colour]) else None
        if form is not None:
            canvas.add(taken[-1], _name(naming, colour, form))
    canvas.absent = _near_misses(rng, canvas.labels, naming, few_forms, few_colours)
    return canvas


def _name(naming: str, colour: str, form: str) -> str:
    return {"both": f"{colour} {form}", "form": form, "colour": f"{colour} shape"}[naming]


def _near_misses(
    rng: np.random.Generator, present: list[str], naming: str, forms: list[str], colours: list[str]
) -> list[str]:
    """Labels of the same kind that nothing in the picture has: first those that share a colour or a form."""
    other_forms = forms + rng.choice(list(SHAPES), 3).tolist()
    other_colours = colours + rng.choice(list(COLOURS), 3).tolist()
    names = {_name(naming, colour, form) for colour in other_colours for form in other_forms}
    return sorted(names - set(present))


def _size(rng: np.random.Generator, image_hw: tuple[int, int]) -> float:
    return float(np.exp(rng.uniform(np.log(0.05), np.log(0.45))) * min(image_hw))


def _paint_shape(
    rng: np.random.Generator, canvas: Canvas, taken: list[list[float]], form: FloatArray, colour: surfaces.Colour
) -> bool:
    """Put a shape where there is room; its box goes to `taken`."""
    angle = rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(-0.4, 0.4)
    points = turned(form * [1.0, rng.uniform(0.85, 1.15)], angle) * _size(rng, canvas.image_hw) / 2
    box = polygon_box(points)
    place = free_place(rng, taken, (box[2] - box[0], box[3] - box[1]), canvas.image_hw)
    if place is None:
        return False
    points = points - box[:2] + place
    taken.append(polygon_box(points).tolist())
    x0, y0, x1, y1 = (int(v) for v in taken[-1])
    behind = np.array(cv2.mean(canvas.image[y0:y1, x0:x1])[:3])
    jitter = surfaces.near(rng, colour, 10)
    cv2.fillPoly(canvas.image, [fixed_point(points)], jitter, cv2.LINE_AA, 4)
    if rng.random() < 0.3 or np.abs(behind - colour).max() < 60:  # an edge, so that it can be seen
        inside = points.mean(axis=0) + (points - points.mean(axis=0)) * 0.93
        edge = surfaces.BLACK if surfaces.luminance(colour) > 90 else surfaces.WHITE
        cv2.polylines(canvas.image, [fixed_point(inside)], True, edge, 1, cv2.LINE_AA, 4)
    return True


def _paint_character(
    rng: np.random.Generator, canvas: Canvas, taken: list[list[float]], colour: surfaces.Colour
) -> str | None:
    char = _CHARACTERS[int(rng.integers(len(_CHARACTERS)))]
    size = int(np.clip(_size(rng, canvas.image_hw) * 1.3, 12, 150)) // 4 * 4
    mask = word(char, Face(size, bold=bool(rng.random() < 0.5))).mask
    height, width = mask.shape
    place = free_place(rng, taken, (width, height), canvas.image_hw)
    if place is None:
        return None
    x, y = int(place[0]), int(place[1])
    surfaces.blend(canvas.image[y : y + height, x : x + width], mask, colour)
    taken.append([x, y, x + width, y + height])
    return f"{'number' if char.isdigit() else 'letter'} {char}"
