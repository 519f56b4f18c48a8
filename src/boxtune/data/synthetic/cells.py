"""Round things, many at once: blood smears as a microscope shows them, and look-alikes (bubbles, coins, berries)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic import surfaces
from boxtune.data.synthetic.grounds import surroundings
from boxtune.data.synthetic.placing import Canvas, fixed_point, free_place, polygon_box
from boxtune.data.synthetic.surfaces import ByteArray

FloatArray = npt.NDArray[np.float64]

# Red, white, platelet; some laboratories only speak of cells.
_NAMES = (
    ("red blood cell", "white blood cell", "platelet"),
    ("RBC", "WBC", "Platelets"),
    ("RBC", "WBC", "platelet"),
    ("erythrocyte", "leukocyte", "thrombocyte"),
    ("red cell", "white cell", "platelet"),
    ("cell", "cell", "platelet"),
    ("pink cell", "purple cell", "purple speck"),
)


def _rim(rng: np.random.Generator, centre: FloatArray, radius: float, flatness: float, roughness: float) -> FloatArray:
    """`[32, 2]` outline of something roundish."""
    angle = np.arange(32) * (2 * np.pi / 32)
    bumps = sum(rng.normal(0, roughness / k) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4, 5))
    around = np.stack([np.cos(angle), np.sin(angle) * flatness], axis=-1) * (radius * (1 + bumps))[:, None]
    turn = rng.uniform(0, np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    return around @ np.array([[cos, sin], [-sin, cos]]) + centre


def paint_smear(rng: np.random.Generator, image_hw: tuple[int, int]) -> Canvas:
    """A blood smear: red cells with a pale middle, few white cells with a lobed nucleus, platelets."""
    height, width = image_hw
    hue = float(rng.normal(0.01, 0.02)) % 1
    pale = surfaces.hsv(
        float(rng.choice((0.13, 0.35, 0.6, 0.9))), float(rng.uniform(0.01, 0.09)), float(rng.uniform(0.76, 0.95))
    )
    pink = surfaces.hsv(hue, float(rng.uniform(0.2, 0.45)), float(rng.uniform(0.62, 0.88)))
    deep = tuple(int(c * 0.75) for c in pink)
    red, white, platelet = _NAMES[int(rng.integers(len(_NAMES)))]
    density: ByteArray = np.zeros(image_hw, np.uint8)
    canvas = Canvas(np.zeros((height, width, 3), np.uint8))
    radius = float(rng.uniform(0.045, 0.115)) * max(image_hw)
    _paint_red(rng, canvas, density, radius, red)
    if rng.random() < 0.6:  # a darker rim
        soft = cv2.GaussianBlur(density, (0, 0), radius * 0.16)
        density = cv2.addWeighted(density, 1.35, soft, -0.35, 0)
    density = cv2.GaussianBlur(density, (0, 0), max(radius * float(rng.uniform(0.02, 0.06)), 0.6))
    grain = surfaces.clouds(rng, height // 2, width // 2, 20, 2)
    density = cv2.addWeighted(density, 1, cv2.resize(grain, (width, height)), 0.06, 0)
    canvas.image = surfaces.coloured(density, (pale, pink, deep))
    for _ in range(int(rng.choice((0, 1, 2, 3), p=(0.2, 0.5, 0.2, 0.1)))):
        _paint_white(rng, canvas, radius * float(rng.uniform(1.1, 1.9)), white)
    for _ in range(int(rng.poisson(1.2))):
        _paint_platelet(rng, canvas, radius * float(rng.uniform(0.18, 0.42)), platelet)
    canvas.absent = [*sorted({red, white, platelet} - set(canvas.labels)), "bubble", "coin"]
    return canvas


def _paint_red(
    rng: np.random.Generator, canvas: Canvas, density: npt.NDArray[np.uint8], radius: float, name: str
) -> None:
    """Add red cells to the map of density; where two overlap it is denser. Each hides at most half of another."""
    height, width = density.shape
    room = (height + radius) * (width + radius) / (np.pi * radius**2)
    count = int(min(room * rng.uniform(0.1, 1.0), rng.integers(4, 31)))
    taken: list[list[float]] = []
    overlap = float(rng.choice((0.05, 0.25, 0.4, 0.55)))
    for _ in range(count):
        r = radius * float(rng.uniform(0.8, 1.2))
        place = free_place(rng, taken, (2 * r, 2 * r), (int(height + r * 1.4), int(width + r * 1.4)), overlap)
        if place is None:
            continue
        taken.append([place[0], place[1], place[0] + 2 * r, place[1] + 2 * r])
        centre = np.array(place) + r - 0.7 * r
        points = _rim(rng, centre, r, float(rng.uniform(0.72, 1)), 0.045)
        layer_box = polygon_box(points)
        x0, y0 = np.maximum(np.floor(layer_box[:2]).astype(int), 0)
        x1, y1 = min(int(layer_box[2]) + 1, width), min(int(layer_box[3]) + 1, height)
        if x1 <= x0 or y1 <= y0:
            continue
        cell = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(cell, [fixed_point(points - [x0, y0])], int(rng.integers(105, 150)), cv2.LINE_AA, 4)
        if rng.random() < 0.7:
            middle = centre + rng.normal(0, 0.1 * r, 2) - [x0, y0]
            shade = int(rng.integers(20, 100))
            cv2.circle(
                cell, (int(middle[0]), int(middle[1])), max(int(r * rng.uniform(0.2, 0.5)), 1), shade, -1, cv2.LINE_AA
            )
            cell = np.minimum(cv2.GaussianBlur(cell, (0, 0), r * 0.14), cell if shade > 90 else 255)
        part = density[y0:y1, x0:x1]
        part[:] = cv2.add(part, cell) if rng.random() < 0.6 else cv2.max(part, cell)
        canvas.add(layer_box, name)


def _paint_white(rng: np.random.Generator, canvas: Canvas, radius: float, name: str) -> None:
    height, width = canvas.image_hw
    centre = rng.uniform(0.02, 0.98, 2) * [width, height]
    hue = float(rng.uniform(0.66, 0.82))
    body = _rim(rng, centre, radius, float(rng.uniform(0.85, 1)), 0.03)
    mask = np.zeros(canvas.image_hw, np.uint8)
    cv2.fillPoly(mask, [fixed_point(body)], int(rng.integers(170, 250)), cv2.LINE_AA, 4)
    surfaces.blend(canvas.image, mask, surfaces.hsv(hue, float(rng.uniform(0.1, 0.35)), float(rng.uniform(0.75, 0.92))))
    nucleus: ByteArray = np.zeros(canvas.image_hw, np.uint8)
    lobes = int(rng.integers(1, 6))
    for k in range(lobes):
        spread = 0.0 if lobes == 1 else 0.42
        angle = 2 * np.pi * k / 5 + rng.uniform(0, 0.5)
        place = centre + radius * spread * np.array([np.cos(angle), np.sin(angle)])
        size = radius * (float(rng.uniform(0.6, 0.9)) if lobes == 1 else float(rng.uniform(0.26, 0.42)))
        cv2.fillPoly(
            nucleus, [fixed_point(_rim(rng, place, size, 0.85, 0.05))], int(rng.integers(200, 250)), cv2.LINE_AA, 4
        )
    nucleus = cv2.GaussianBlur(nucleus, (0, 0), max(radius * 0.03, 0.6))
    surfaces.blend(
        canvas.image, nucleus, surfaces.hsv(hue, float(rng.uniform(0.5, 0.75)), float(rng.uniform(0.35, 0.65)))
    )
    _forget_hidden(canvas, polygon_box(body))
    canvas.add(polygon_box(body), name)


def _forget_hidden(canvas: Canvas, cover: FloatArray) -> None:
    """Drop the boxes that a thing painted later hides by more than a half."""
    kept = []
    for i, (x0, y0, x1, y1) in enumerate(canvas.boxes):
        across, down = min(x1, cover[2]) - max(x0, cover[0]), min(y1, cover[3]) - max(y0, cover[1])
        if max(across, 0) * max(down, 0) <= 0.5 * (x1 - x0) * (y1 - y0):
            kept.append(i)
    canvas.boxes, canvas.labels = [canvas.boxes[i] for i in kept], [canvas.labels[i] for i in kept]


def _paint_platelet(rng: np.random.Generator, canvas: Canvas, radius: float, name: str) -> None:
    height, width = canvas.image_hw
    radius = max(radius, 2.5)
    points = _rim(rng, rng.uniform(0.03, 0.97, 2) * [width, height], radius, float(rng.uniform(0.6, 1)), 0.08)
    cv2.fillPoly(
        canvas.image, [fixed_point(points)], surfaces.hsv(float(rng.uniform(0.62, 0.8)), 0.35, 0.7), cv2.LINE_AA, 4
    )
    middle = points.mean(axis=0) + (points - points.mean(axis=0)) * 0.5
    cv2.fillPoly(
        canvas.image, [fixed_point(middle)], surfaces.hsv(float(rng.uniform(0.66, 0.8)), 0.55, 0.55), cv2.LINE_AA, 4
    )
    canvas.add(polygon_box(points), name)


_ROUND_THINGS = ("bubble", "coin", "berry", "button", "pebble")


def paint_round_things(rng: np.random.Generator, image_hw: tuple[int, int]) -> Canvas:
    """Bubbles, coins, berries, buttons and pebbles, one to three kinds, like cells but not."""
    canvas = Canvas(surroundings(rng, image_hw))
    kinds = rng.choice(_ROUND_THINGS, int(rng.integers(1, 4)), replace=False).tolist()
    base = float(rng.uniform(0.04, 0.12)) * max(image_hw)
    hues = {kind: float(rng.random()) for kind in kinds}
    taken: list[list[float]] = []
    for _ in range(int(rng.integers(1, 25))):
        kind = kinds[int(rng.integers(len(kinds)))]
        r = max(base * float(rng.uniform(0.6, 1.5)), 4.0)
        place = free_place(rng, taken, (2 * r, 2 * r), image_hw, 0.15)
        if place is None:
            continue
        rough = 0.06 if kind == "pebble" else 0.0
        points = _rim(rng, np.array(place) + r, r, float(rng.uniform(0.6, 0.95)) if kind == "pebble" else 1.0, rough)
        taken.append(polygon_box(points).tolist())
        _paint_round(rng, canvas, kind, points, hues[kind])
        canvas.add(taken[-1], kind)
    canvas.absent = [*sorted(set(_ROUND_THINGS) - set(canvas.labels)), "cell", "platelet"]
    return canvas


def _paint_round(rng: np.random.Generator, canvas: Canvas, kind: str, points: FloatArray, hue: float) -> None:
    middle = points.mean(axis=0)

    def fill(scale: float, colour: surfaces.Colour, move: float = 0.0) -> None:
        inner = middle + (points - middle) * scale + move * (points[:1] - middle) * [-1, -1]
        cv2.fillPoly(canvas.image, [fixed_point(inner)], colour, cv2.LINE_AA, 4)

    if kind == "bubble":
        for scale, value in ((1.0, 0.95), (0.9, 0.6), (0.84, 0.75)):
            fill(scale, surfaces.hsv(0.55, 0.12, value))
        fill(0.18, surfaces.WHITE, 0.4)
    elif kind == "coin":
        metal = (0.11, 0.55) if hue < 0.5 else (0.1, 0.06)
        for scale, value in ((1.0, 0.55), (0.92, 0.85), (0.8, 0.7), (0.42, 0.82)):
            fill(scale, surfaces.hsv(*metal, value))
    elif kind == "berry":
        tone = (0.98, 0.66, 0.8)[int(hue * 3)]
        for scale, value, move in ((1.0, 0.3, 0), (0.88, 0.45, 0.03), (0.6, 0.6, 0.1), (0.18, 0.95, 0.35)):
            fill(scale, surfaces.hsv(tone, 0.75, value), move)
    elif kind == "button":
        for scale, value in ((1.0, 0.5), (0.88, 0.8), (0.66, 0.72)):
            fill(scale, surfaces.hsv(hue, 0.6, value))
        fill(0.1, surfaces.BLACK, 0.25)
        fill(0.1, surfaces.BLACK, -0.25)
    else:
        shade = float(rng.uniform(0.3, 0.8))
        fill(1.0, surfaces.hsv(0.08, 0.12, shade * 0.6))
        fill(0.85, surfaces.hsv(0.08, 0.12, shade), 0.06)
