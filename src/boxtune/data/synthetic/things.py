"""Things on the ground or a table: bottles, cans, paper and bags; receipts and cards; road signs by a road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic import surfaces
from boxtune.data.synthetic.grounds import open_ground, surroundings
from boxtune.data.synthetic.lettering import Face, paragraph, write, write_fitted
from boxtune.data.synthetic.package_parts import PAINTERS
from boxtune.data.synthetic.placing import Canvas, free_place
from boxtune.data.synthetic.surfaces import ByteArray
from boxtune.data.synthetic.vocabulary import BRANDS, PROSE, phrase

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sprite:
    """A thing seen from straight ahead: pixels `[H, W, 3]` and the coverage `[H, W]` of its silhouette."""

    image: ByteArray
    mask: ByteArray


@dataclass(frozen=True)
class Thing:
    """A kind of thing: what it may be made of, width / height, how it is drawn."""

    materials: tuple[str, ...]
    aspect: float
    draw: Callable[[np.random.Generator, int, int, str], Sprite]


_TONES = {
    "glass": ((0.33, 0.6, 0.35), (0.09, 0.7, 0.3), (0.45, 0.1, 0.75)),
    "metal": ((0.6, 0.04, 0.75), (0.0, 0.8, 0.75), (0.6, 0.8, 0.6), (0.12, 0.5, 0.8)),
    "plastic": ((0.55, 0.12, 0.85), (0.0, 0.85, 0.85), (0.6, 0.8, 0.85), (0.15, 0.8, 0.95), (0.3, 0.7, 0.6)),
    "paper": ((0.1, 0.06, 0.93), (0.08, 0.35, 0.7), (0.6, 0.05, 0.85)),
}


def _tone(rng: np.random.Generator, material: str) -> surfaces.Colour:
    hue, saturation, value = _TONES[material][int(rng.integers(len(_TONES[material])))]
    return surfaces.hsv(
        (hue + rng.normal(0, 0.02)) % 1,
        min(saturation * rng.uniform(0.7, 1.2), 1),
        min(value * rng.uniform(0.8, 1.1), 1),
    )


def _shine(rng: np.random.Generator, height: int, width: int, colour: surfaces.Colour, strength: float) -> ByteArray:
    """A surface curved around an upright axis: darker at the sides, one or two bright streaks."""
    x = np.linspace(-1, 1, width)
    light = 1 - 0.6 * x**2
    for _ in range(int(rng.integers(1, 3))):
        light += strength * np.exp(-(((x - rng.uniform(-0.7, 0.7)) / 0.12) ** 2))
    row = np.clip(light[:, None] * colour, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row, (height, width, 3)))


def _filled(height: int, width: int, points: FloatArray) -> ByteArray:
    """Coverage of a polygon given in shares of the width and height; it touches all four sides."""
    mask = np.zeros((height, width), np.uint8)
    low, high = points.min(axis=0), points.max(axis=0)
    placed = (points - low) / (high - low) * [width - 1, height - 1]
    cv2.fillPoly(mask, [np.round(placed).astype(np.int32)], 255)
    return mask


def _labelled(rng: np.random.Generator, image: ByteArray, top: float, bottom: float) -> None:
    """A brand's label around a bottle or a can, in place."""
    height = image.shape[0]
    part = image[round(height * top) : round(height * bottom)]
    if min(part.shape[:2]) < 6:
        return
    colour = surfaces.hsv(float(rng.random()), 0.7, float(rng.uniform(0.4, 1)))
    part[:] = cv2.addWeighted(part, 0.35, np.full_like(part, colour), 0.65, 0)
    if min(part.shape[:2]) > 14:
        PAINTERS["brand"](part, rng, colour)


def _bottle(rng: np.random.Generator, height: int, width: int, material: str) -> Sprite:
    neck, shoulder, start = rng.uniform(0.14, 0.22), rng.uniform(0.25, 0.42), rng.uniform(0.06, 0.16)
    side = np.array([(neck, 0.0), (neck, start), (neck * 1.1, start + 0.04), (0.5, shoulder), (0.5, 0.97), (0.44, 1.0)])
    mask = _filled(height, width, np.concatenate([side, (side * [-1, 1])[::-1]]))
    image = _shine(rng, height, width, _tone(rng, material), 0.8)
    if rng.random() < 0.7:
        _labelled(rng, image, shoulder + 0.06, rng.uniform(0.7, 0.92))
    image[: max(round(height * 0.05), 1)] = surfaces.hsv(float(rng.random()), 0.7, 0.7)
    return Sprite(image, mask)


def _can(rng: np.random.Generator, height: int, width: int, material: str) -> Sprite:
    lean = 0.05
    side = np.array([(0.42, 0.0), (0.5, lean), (0.5, 1 - lean), (0.42, 1.0)])
    mask = _filled(height, width, np.concatenate([side, (side * [-1, 1])[::-1]]))
    image = _shine(rng, height, width, _tone(rng, material), 0.7)
    _labelled(rng, image, 0.1, 0.9)
    edge = max(round(height * lean), 1)
    image[:edge] = image[-edge:] = surfaces.hsv(0.6, 0.03, 0.8)
    return Sprite(image, mask)


def _cup(rng: np.random.Generator, height: int, width: int, material: str) -> Sprite:
    side = np.array([(0.5, 0.0), (0.5, 0.06), (0.45, 0.08), (rng.uniform(0.28, 0.38), 1.0)])
    mask = _filled(height, width, np.concatenate([side, (side * [-1, 1])[::-1]]))
    image = _shine(rng, height, width, _tone(rng, material), 0.3)
    if rng.random() < 0.6:
        _labelled(rng, image, 0.3, 0.75)
    return Sprite(image, mask)


def _crumpled(rng: np.random.Generator, height: int, width: int, material: str) -> Sprite:
    """A sheet, a bag or a wrapper that was thrown away: a rough outline, folds of light and dark."""
    count = int(rng.integers(7, 16))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    radius = rng.uniform(0.7, 1.0, count)[:, None]
    mask = _filled(height, width, np.stack([np.cos(angle), np.sin(angle)], axis=-1) * radius)
    colour = _tone(rng, material)
    folds = surfaces.clouds(rng, height, width, float(rng.uniform(2, 6)), 3)
    dark = [c * 0.45 for c in colour]
    image = surfaces.coloured(folds, (dark, colour, [min(c * 1.25, 255) for c in colour]))
    corners = rng.uniform(0, 1, (int(rng.integers(4, 12)), 2)) * [width, height]
    for start, end in zip(corners[:-1].astype(int).tolist(), corners[1:].astype(int).tolist(), strict=True):
        shade = [int(min(c * (1.3 if rng.random() < 0.6 else 0.6), 255)) for c in colour]
        cv2.line(image, start, end, shade, 1 + int(rng.integers(max(min(height, width) // 40, 1))), cv2.LINE_AA)
    if min(height, width) > 40 and rng.random() < 0.5:
        part = image[height // 3 : 2 * height // 3, width // 5 : -width // 5]
        PAINTERS["brand"](part, rng, colour)
    return Sprite(image, mask)


def _cap(rng: np.random.Generator, height: int, width: int, material: str) -> Sprite:
    mask = np.zeros((height, width), np.uint8)
    colour = _tone(rng, material)
    cv2.ellipse(mask, (width // 2, height // 2), ((width - 1) // 2, (height - 1) // 2), 0, 0, 360, 255, -1)
    image = np.full((height, width, 3), colour, np.uint8)
    for scale, factor in ((0.8, 1.2), (0.68, 0.85)):
        shade = tuple(min(int(c * factor), 255) for c in colour)
        cv2.ellipse(
            image, (width // 2, height // 2), (int(width * scale / 2), int(height * scale / 2)), 0, 0, 360, shade, -1
        )
    return Sprite(image, mask)


def _carton(rng: np.random.Generator, height: int, width: int, material: str) -> Sprite:
    image = np.full((height, width, 3), _tone(rng, material), np.uint8)
    image[:, : width // 4] = (image[:, : width // 4] * 0.75).astype(np.uint8)
    for kind, top, bottom in (("brand", 0.08, 0.4), ("picture", 0.45, 0.75), ("text", 0.8, 0.95)):
        part = image[round(height * top) : round(height * bottom), width // 4 + 2 : width - 3]
        if min(part.shape[:2]) > 10:
            PAINTERS[kind](part, rng, surfaces.WHITE)
    return Sprite(image, np.full((height, width), 255, np.uint8))


LITTER: dict[str, Thing] = {
    "bottle": Thing(("glass", "plastic"), 0.32, _bottle),
    "can": Thing(("metal",), 0.55, _can),
    "cup": Thing(("paper", "plastic"), 0.75, _cup),
    "wrapper": Thing(("plastic", "paper"), 1.3, _crumpled),
    "paper": Thing(("paper",), 1.1, _crumpled),
    "bag": Thing(("plastic",), 0.9, _crumpled),
    "bottle cap": Thing(("metal", "plastic"), 1.1, _cap),
    "carton": Thing(("paper",), 0.7, _carton),
}


def paint_litter(rng: np.random.Generator, image_hw: tuple[int, int]) -> Canvas:
    """Thrown-away things out of doors or on a table, named by what they are or by what they are made of."""
    canvas = Canvas((open_ground if rng.random() < 0.75 else surroundings)(rng, image_hw))
    by_material = rng.random() < 0.5
    taken: list[list[float]] = []
    for _ in range(int(rng.integers(0, 8))):
        name = list(LITTER)[int(rng.integers(len(LITTER)))]
        thing = LITTER[name]
        material = thing.materials[int(rng.integers(len(thing.materials)))]
        long = float(np.exp(rng.uniform(np.log(0.06), np.log(0.75)))) * min(image_hw)
        height, width = (long, long * thing.aspect) if thing.aspect < 1 else (long / thing.aspect, long)
        sprite = thing.draw(rng, max(round(height), 8), max(round(width), 8), material)
        box = _lay(rng, canvas, taken, sprite, free_turn=True)
        if box is not None:
            canvas.add(box, material if by_material else name)
    known = sorted({m for t in LITTER.values() for m in t.materials}) if by_material else sorted(LITTER)
    canvas.absent = [name for name in known if name not in canvas.labels]
    return canvas


def _lay(
    rng: np.random.Generator, canvas: Canvas, taken: list[list[float]], sprite: Sprite, free_turn: bool
) -> list[float] | None:
    """Turn a sprite, lay it where there is room, with a shadow; gives its box, or None where it found no place."""
    height, width = sprite.mask.shape
    angle = float(rng.uniform(-180, 180)) if free_turn else float(rng.normal(0, 6))
    reach = int(np.ceil(np.hypot(height, width))) + 4
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    matrix[:, 2] += [reach / 2 - width / 2, reach / 2 - height / 2]
    mask = cv2.warpAffine(sprite.mask, matrix, (reach, reach))
    x0, y0, w, h = cv2.boundingRect((mask > 127).astype(np.uint8))
    place = free_place(rng, taken, (w, h), canvas.image_hw)
    if place is None:
        return None
    x, y = int(place[0]), int(place[1])
    image = cv2.warpAffine(sprite.image, matrix, (reach, reach))[y0 : y0 + h, x0 : x0 + w]
    mask = mask[y0 : y0 + h, x0 : x0 + w]
    _drop_shadow(rng, canvas.image, mask, x, y)
    target = canvas.image[y : y + h, x : x + w]
    target[:] = surfaces.compose(np.ascontiguousarray(target), np.ascontiguousarray(image), np.ascontiguousarray(mask))
    taken.append([x, y, x + w, y + h])
    return taken[-1]


def _drop_shadow(rng: np.random.Generator, image: ByteArray, mask: ByteArray, x: int, y: int) -> None:
    size = max(mask.shape)
    pad = max(size // 12, 2)
    dark = cv2.GaussianBlur(
        cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_CONSTANT), (0, 0), max(pad / 2, 0.8)
    )
    dx, dy = x - pad + int(rng.integers(-pad, pad + 1)), y - pad + int(rng.integers(0, pad + 1))
    x0, y0, x1, y1 = (
        max(dx, 0),
        max(dy, 0),
        min(dx + dark.shape[1], image.shape[1]),
        min(dy + dark.shape[0], image.shape[0]),
    )
    if x0 < x1 and y0 < y1:
        part = np.ascontiguousarray(dark[y0 - dy : y1 - dy, x0 - dx : x1 - dx])
        surfaces.blend(image[y0:y1, x0:x1], cv2.convertScaleAbs(part, alpha=0.5), surfaces.BLACK)


def _receipt(rng: np.random.Generator, height: int, width: int) -> Sprite:
    image = np.full((height, width, 3), int(rng.integers(215, 252)), np.uint8)
    ink = np.zeros((height, width), np.uint8)
    size = max(round(width / rng.uniform(13, 22)), 5)
    face, pad = Face(size, mono=bool(rng.random() < 0.6)), max(width // 14, 2)
    write_fitted(
        ink,
        phrase(rng, BRANDS).upper(),
        Face(round(size * 1.6), bold=True),
        width // 2,
        2 * size,
        width - 2 * pad,
        "middle",
    )
    y = 4 * size
    while y < height - 2 * size:
        if rng.random() < 0.12:
            cv2.line(ink, (pad, y - size // 2), (width - pad, y - size // 2), 180, 1)
        else:
            write_fitted(ink, PROSE[int(rng.integers(len(PROSE)))], face, pad, y, width * 0.55)
            write(
                ink, f"{int(rng.integers(0, 30))}.{int(rng.integers(10)) * 10 + 9:02d}", face, width - pad, y, "right"
            )
        y += round(size * 1.5)
    surfaces.blend(image, ink, (40, 40, 60))
    return Sprite(image, np.full((height, width), 255, np.uint8))


def _card(rng: np.random.Generator, height: int, width: int) -> Sprite:
    mask = np.zeros((height, width), np.uint8)
    surfaces.rounded(mask, 0, 0, width - 1, height - 1, max(width // 16, 2))
    first, second = surfaces.hsv(float(rng.random()), 0.6, 0.7), surfaces.hsv(float(rng.random()), 0.5, 0.5)
    image = surfaces.gradient(height, width, first, second, float(rng.uniform(0, 6)))
    if rng.random() < 0.6:
        cv2.rectangle(image, (width // 10, height // 3), (width // 4, height // 2), (215, 180, 90), -1)
    ink = np.zeros((height, width), np.uint8)
    number = " ".join(f"{int(n):04d}" for n in rng.integers(0, 10_000, 4))
    write_fitted(ink, number, Face(max(height // 8, 6)), width // 12, round(height * 0.7), width * 0.8)
    write_fitted(
        ink, phrase(rng, BRANDS), Face(max(height // 7, 6), bold=True), width // 12, round(height * 0.22), width * 0.6
    )
    surfaces.blend(image, ink, surfaces.contrasting(rng, first))
    return Sprite(image, mask)


def _letter(rng: np.random.Generator, height: int, width: int) -> Sprite:
    image = np.full((height, width, 3), int(rng.integers(225, 254)), np.uint8)
    ink = np.zeros((height, width), np.uint8)
    pad, size = max(width // 9, 2), max(round(width / 28), 5)
    paragraph(
        ink[pad : height - pad, pad : width - pad],
        PROSE,
        Face(size),
        round(size * 1.5),
        first=int(rng.integers(len(PROSE))),
    )
    surfaces.blend(image, ink, surfaces.BLACK)
    return Sprite(image, np.full((height, width), 255, np.uint8))


_DESK = {"receipt": (0.42, _receipt), "card": (1.58, _card), "letter": (0.71, _letter)}


def paint_desk(rng: np.random.Generator, image_hw: tuple[int, int]) -> Canvas:
    """Receipts, bank cards and letters on a table."""
    canvas = Canvas(surroundings(rng, image_hw))
    taken: list[list[float]] = []
    for _ in range(int(rng.integers(0, 5))):
        name = list(_DESK)[int(rng.integers(len(_DESK)))]
        aspect, draw = _DESK[name]
        long = float(rng.uniform(0.2, 0.85)) * min(image_hw)
        height, width = (long, long * aspect) if aspect < 1 else (long / aspect, long)
        box = _lay(
            rng,
            canvas,
            taken,
            draw(rng, max(round(height), 16), max(round(width), 16)),
            free_turn=bool(rng.random() < 0.3),
        )
        if box is not None:
            canvas.add(box, name)
    canvas.absent = [name for name in (*_DESK, "key", "pen", "table") if name not in canvas.labels]
    return canvas


_SIGNS: dict[str, tuple[int, float, surfaces.Colour, surfaces.Colour, str]] = {
    # corners (0: round), turn, rim, face, text
    "stop sign": (8, np.pi / 8, (245, 245, 245), (190, 20, 30), "STOP"),
    "speed limit sign": (0, 0.0, (200, 20, 30), (248, 248, 248), "number"),
    "yield sign": (3, np.pi / 2, (200, 20, 30), (248, 248, 248), ""),
    "warning sign": (3, -np.pi / 2, (200, 20, 30), (248, 240, 220), "!"),
    "priority sign": (4, 0.0, (248, 248, 248), (250, 195, 30), ""),
    "parking sign": (4, np.pi / 4, (240, 240, 245), (25, 70, 180), "P"),
    "no entry sign": (0, 0.0, (190, 20, 30), (190, 20, 30), "bar"),
}


def _sign(rng: np.random.Generator, size: int, kind: str) -> Sprite:
    corners, turn, rim, face, text = _SIGNS[kind]
    angle = turn + np.arange(corners or 40) * 2 * np.pi / (corners or 40)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    span = points.max(axis=0) - points.min(axis=0)
    height, width = max(round(size * span[1] / 2), 8), max(round(size * span[0] / 2), 8)
    mask, inner, ink = (
        _filled(height, width, points),
        np.zeros((height, width), np.uint8),
        np.zeros((height, width), np.uint8),
    )
    middle = -points.min(axis=0) / span * [width - 1, height - 1]
    cv2.fillPoly(inner, [np.round(middle + points * 0.8 * np.array([width, height]) / span).astype(np.int32)], 255)
    image = np.full((height, width, 3), rim, np.uint8)
    surfaces.blend(image, inner, face)
    x, y = round(middle[0]), round(middle[1])
    if text == "bar":
        cv2.rectangle(
            ink, (round(width * 0.2), round(height * 0.42)), (round(width * 0.8), round(height * 0.58)), 255, -1
        )
    elif text:
        shown = f"{int(rng.integers(1, 13)) * 10}" if text == "number" else text
        tall = max(round(height * (0.3 if len(shown) > 2 else 0.5)), 6)
        write_fitted(ink, shown, Face(tall, bold=True), x, y + round(tall * 0.36), width * 0.7, "middle")
    surfaces.blend(image, ink, surfaces.WHITE if surfaces.luminance(face) < 120 else surfaces.BLACK)
    return Sprite(image, mask)


def paint_road(rng: np.random.Generator, image_hw: tuple[int, int]) -> Canvas:
    """Road signs on posts before sky, buildings and trees."""
    height, width = image_hw
    hue = float(rng.uniform(0.52, 0.62))
    image = surfaces.gradient(height, width, surfaces.hsv(hue, 0.4, 0.9), surfaces.hsv(hue, 0.05, 0.95), np.pi / 2)
    horizon = int(height * rng.uniform(0.45, 0.85))
    for _ in range(int(rng.integers(0, 6))):
        x, w = int(rng.integers(-40, width)), int(rng.integers(30, 160))
        colour = surfaces.hsv(float(rng.random()), 0.2, float(rng.uniform(0.3, 0.8)))
        cv2.rectangle(image, (x, int(horizon * rng.uniform(0.2, 0.9))), (x + w, horizon), colour, -1)
    surfaces.blobs(
        rng,
        image[horizon // 2 : horizon + 10],
        [surfaces.hsv(0.3, 0.6, 0.35), surfaces.hsv(0.25, 0.5, 0.5)],
        int(rng.integers(0, 9)),
    )
    image[horizon:] = surfaces.coloured(
        surfaces.clouds(rng, height - horizon, width, 20, 4), ((55, 55, 58), (130, 128, 126))
    )
    canvas = Canvas(image)
    coarse = rng.random() < 0.25
    taken: list[list[float]] = []
    for _ in range(int(rng.integers(0, 6))):
        kind = list(_SIGNS)[int(rng.integers(len(_SIGNS)))]
        size = float(np.exp(rng.uniform(np.log(0.06), np.log(0.5)))) * min(image_hw)
        box = _lay(rng, canvas, taken, _sign(rng, max(int(size), 12), kind), free_turn=False)
        if box is None:
            continue
        x, foot = round((box[0] + box[2]) / 2), round(box[3])
        below = min(foot + round(size * rng.uniform(0.5, 3)), height)
        clear = not any(b[0] < x + 3 and b[2] > x - 3 and b[1] < below and b[3] > foot for b in taken[:-1])
        if clear and foot < below:
            cv2.rectangle(canvas.image, (x - 1, foot), (x + 1 + int(size / 40), below), (120, 122, 125), -1)
            taken.append([x - 2, foot, x + 3, below])
        canvas.add(box, "road sign" if coarse else kind)
    canvas.absent = ["traffic light"] if coarse else [kind for kind in _SIGNS if kind not in canvas.labels]
    canvas.absent += ["road sign"] if coarse and not canvas.labels else []
    return canvas
