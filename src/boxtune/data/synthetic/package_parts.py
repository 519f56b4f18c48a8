"""What else is printed on a package: brands, ingredient lists, bar codes, logos, pictures, tables of other things."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from boxtune.data.synthetic import surfaces
from boxtune.data.synthetic.grids import Grid, paint_grid, random_look
from boxtune.data.synthetic.lettering import Face, paragraph, write, write_fitted
from boxtune.data.synthetic.surfaces import BLACK, WHITE, ByteArray, Colour, blend, contrasting, hsv
from boxtune.data.synthetic.vocabulary import BRANDS, LANGUAGES, OTHER_TABLES, SLOGANS, other_value, phrase

Painter = Callable[[ByteArray, np.random.Generator, Colour], None]


def paint_ingredients(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """Running text, sometimes in columns or on a panel; a heading in bold."""
    height, width = target.shape[:2]
    if rng.random() < 0.2:
        target[:] = ground = WHITE if rng.random() < 0.6 else hsv(float(rng.random()), 0.4, 0.9)
    language = LANGUAGES[list(LANGUAGES)[int(rng.integers(len(LANGUAGES)))]]
    size = int(rng.integers(5, 10) + (min(height, width) > 150) * rng.integers(0, 5))
    columns = 2 if width > 180 and rng.random() < 0.25 else 1
    ink = np.zeros((height, width), np.uint8)
    for c in range(columns):
        left, right = width * c // columns, width * (c + 1) // columns - (6 if columns > 1 else 0)
        block = ink[:, left:right]
        head = 0
        if rng.random() < 0.7 and height > 2 * size:
            write_fitted(block, language.ingredients, Face(size + 1, bold=True), 0, size, block.shape[1])
            head = round(size * 1.4)
        start = int(rng.integers(len(language.words)))
        leading = max(round(size * rng.uniform(1.0, 1.35)), 6)
        paragraph(block[head:], language.words, Face(size), leading, justify=bool(rng.random() < 0.5), first=start)
    blend(target, ink, contrasting(rng, ground))


def paint_brand(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """A name in big letters, on a patch of colour or not, with a slogan below."""
    height, width = target.shape[:2]
    hue = float(rng.random())
    style = rng.random()
    if style < 0.35:
        colour = hsv(hue, 0.8, float(rng.uniform(0.4, 1)))
        mask = np.zeros((height, width), np.uint8)
        if style < 0.15:
            cv2.ellipse(mask, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 255, -1, cv2.LINE_AA)
        else:
            surfaces.rounded(mask, 0, 0, width - 1, height - 1, int(rng.integers(0, 14)))
        blend(target, mask, colour)
        ground = colour
    ink = np.zeros((height, width), np.uint8)
    size = int(np.clip(height * rng.uniform(0.4, 0.9), 8, 110))
    name = phrase(rng, BRANDS)
    face = Face(size // 4 * 4 if size > 16 else size, bool(rng.random() < 0.7), 1.0, 0.2 if rng.random() < 0.3 else 0.0)
    middle = round(height * 0.5 + size * 0.3)
    write_fitted(ink, name.upper() if rng.random() < 0.3 else name, face, width // 2, middle, width * 0.85, "middle")
    if height > middle + 10:
        write_fitted(ink, phrase(rng, SLOGANS), Face(max(size // 4, 6)), width // 2, height - 3, width * 0.7, "middle")
    colour = (
        contrasting(rng, ground)
        if rng.random() < 0.6
        else hsv(hue, 0.9, 0.9 if surfaces.luminance(ground) < 110 else 0.5)
    )
    if rng.random() < 0.3:
        blend(target, cv2.dilate(ink, np.ones((3, 3), np.uint8)), contrasting(rng, colour))
    blend(target, ink, colour)


def paint_barcode(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """Bars on white with the number below; sometimes turned, sometimes a two-dimensional code."""
    height, width = target.shape[:2]
    target[:] = WHITE
    if 0.7 < width / height < 1.4 and rng.random() < 0.6:
        count = int(rng.integers(17, 26))
        cells = (rng.random((count, count)) < 0.5).astype(np.uint8) * 235 + 10
        for y, x in ((0, 0), (0, count - 7), (count - 7, 0)):
            cells[y : y + 7, x : x + 7], cells[y + 1 : y + 6, x + 1 : x + 6], cells[y + 2 : y + 5, x + 2 : x + 5] = (
                10,
                245,
                10,
            )
        code = cv2.resize(cells, (max(width - 8, 4), max(height - 8, 4)), interpolation=cv2.INTER_NEAREST)
        target[4 : 4 + code.shape[0], 4 : 4 + code.shape[1]] = code[..., None]
        return
    if height > width:
        turned = np.zeros((width, height, 3), np.uint8)
        _paint_bars(turned, rng)
        target[:] = turned.swapaxes(0, 1)[:, ::-1] if rng.random() < 0.5 else turned.swapaxes(0, 1)[::-1]
    else:
        _paint_bars(target, rng)


def _paint_bars(target: ByteArray, rng: np.random.Generator) -> None:
    height, width = target.shape[:2]
    target[:] = WHITE
    margin = max(width // 16, 3)
    bars = np.where(rng.random(95) < 0.5, 12, 245).astype(np.uint8)
    bars[:3] = bars[-3:] = (12, 245, 12)
    foot = max(round(height * 0.17), 5)
    row = cv2.resize(bars[None], (max(width - 2 * margin, 8), 1), interpolation=cv2.INTER_AREA)
    target[2 : height - foot, margin : margin + row.shape[1]] = row[..., None]
    ink = np.zeros((height, width), np.uint8)
    number = " ".join(f"{int(n):04d}" for n in rng.integers(0, 10_000, 3))
    write_fitted(ink, number, Face(max(foot, 5)), width // 2, height - 1, width - 2 * margin, "middle")
    blend(target, ink, BLACK)


def paint_logo(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """A small sign: roundel, seal, leaf, triangle of arrows, or letters in a ring."""
    height, width = target.shape[:2]
    mask, second = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    cx, cy, r = width // 2, height // 2, max(min(width, height) // 2 - 1, 3)
    form = int(rng.integers(5))
    if form == 0:
        cv2.circle(mask, (cx, cy), r, 255, -1, cv2.LINE_AA)
        cv2.circle(second, (cx, cy), max(r - 4, 1), 255, max(r // 14, 1), cv2.LINE_AA)
        write_fitted(second, phrase(rng, SLOGANS), Face(max(r // 2, 6), bold=True), cx, cy + r // 6, 1.5 * r, "middle")
    elif form == 1:
        turns = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        radii = np.where(np.arange(32) % 2, r, r * 0.86)
        cv2.fillPoly(
            mask,
            [np.stack([cx + radii * np.cos(turns), cy + radii * np.sin(turns)], -1).astype(np.int32)],
            255,
            cv2.LINE_AA,
        )
        write_fitted(second, "BIO", Face(max(r // 2, 6), bold=True), cx, cy + r // 5, 1.3 * r, "middle")
    elif form == 2:
        for k in range(3):
            cv2.ellipse(mask, (cx, cy), (r, r), 0, 120 * k, 120 * k + 85, 255, max(r // 4, 1), cv2.LINE_AA)
    elif form == 3:
        cv2.ellipse(mask, (cx, cy), (r, max(r // 2, 2)), -40, 0, 360, 255, -1, cv2.LINE_AA)
        cv2.line(second, (cx - r // 2, cy + r // 2), (cx + r // 2, cy - r // 2), 255, max(r // 12, 1), cv2.LINE_AA)
    else:
        surfaces.rounded(mask, 0, 0, width - 1, height - 1, r // 2)
        write_fitted(
            second,
            phrase(rng, BRANDS)[:6],
            Face(max(height // 2, 6), bold=True),
            cx,
            cy + height // 6,
            width * 0.8,
            "middle",
        )
    colour = hsv(float(rng.random()), float(rng.uniform(0.5, 1)), float(rng.uniform(0.3, 0.9)))
    blend(target, mask, colour)
    blend(target, second, contrasting(rng, colour))


def paint_picture(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """A photo of something to eat, as far as one can tell: textured blobs under soft light."""
    height, width = target.shape[:2]
    hue = float(rng.random() * 0.2 if rng.random() < 0.6 else rng.random())
    dark, light = hsv(hue, 0.8, 0.25), hsv((hue + 0.05) % 1, 0.5, 0.95)
    relief = surfaces.clouds(rng, height, width, cells=float(rng.uniform(2, 9)), octaves=3)
    picture = surfaces.coloured(relief, (dark, hsv(hue, 0.9, 0.6), light))
    surfaces.blobs(
        rng,
        picture,
        [hsv((hue + d) % 1, 0.7, v) for d, v in ((0.0, 0.8), (0.08, 0.6), (0.3, 0.7))],
        int(rng.integers(3, 14)),
    )
    mask = np.full((height, width), 255, np.uint8)
    if rng.random() < 0.5:
        mask[:] = 0
        cv2.ellipse(mask, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 255, -1, cv2.LINE_AA)
    target[:] = surfaces.compose(np.ascontiguousarray(target), picture, mask)


def paint_other_table(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """A table about anything but nutrition, printed like one."""
    title, labels, kinds = OTHER_TABLES[int(rng.integers(len(OTHER_TABLES)))]
    pitch = float(rng.uniform(10, 20))
    count = int(np.clip(target.shape[0] / pitch - 1, 2, len(labels)))
    rows = [[labels[i], *(other_value(rng, kind) for kind in kinds)] for i in range(count)]
    paint_grid(target, Grid(rows, title=title if rng.random() < 0.7 else ""), random_look(rng, ground, pitch))


def paint_scale(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """Five coloured steps with letters, one of them raised."""
    height, width = target.shape[:2]
    target[:] = WHITE
    chosen, step = int(rng.integers(5)), width / 5
    hues = (0.38, 0.25, 0.14, 0.08, 0.0)
    for i, hue in enumerate(hues):
        inset = 0 if i == chosen else max(round(height * 0.18), 1)
        box = (round(i * step), inset), (round((i + 1) * step) - 1, height - 1 - inset)
        cv2.rectangle(target, *box, hsv(hue, 0.85, 0.75), -1)
        ink = np.zeros((height, width), np.uint8)
        write(
            ink,
            "ABCDE"[i],
            Face(max(round(height * 0.5), 6), bold=True),
            round((i + 0.5) * step),
            round(height * 0.68),
            "middle",
        )
        blend(target, ink, WHITE)


def paint_intake_row(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """The pills of the front of a package: one lozenge a nutrient, amount and share of the daily intake."""
    height, width = target.shape[:2]
    count = int(rng.integers(1, 6))
    step, ink = width / count, np.zeros((height, width), np.uint8)
    for i in range(count):
        mask = np.zeros((height, width), np.uint8)
        surfaces.rounded(mask, round(i * step) + 1, 0, round((i + 1) * step) - 2, height - 1, height // 3)
        blend(target, mask, hsv(float(rng.choice((0.0, 0.12, 0.33, 0.6))), 0.6, 0.9))
        middle, size = round((i + 0.5) * step), max(height // 4, 5)
        for line, text in enumerate(
            (
                ("Energy", "Fat", "Sugars", "Salt", "Fibre")[i],
                f"{int(rng.integers(0, 30))} g",
                f"{int(rng.integers(0, 60))}%",
            )
        ):
            write_fitted(
                ink, text, Face(size, bold=line == 1), middle, round(height * (0.32 + 0.27 * line)), step - 5, "middle"
            )
    blend(target, ink, BLACK)


def paint_slogan(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """One or a few short lines: weight, date, promise, address."""
    height, width = target.shape[:2]
    ink = np.zeros((height, width), np.uint8)
    lines = int(np.clip(height / rng.uniform(10, 26), 1, 6))
    pitch = height / lines
    for i in range(lines):
        face = Face(max(round(pitch * 0.75), 5), bool(rng.random() < 0.4), slant=0.2 if rng.random() < 0.15 else 0.0)
        write_fitted(ink, phrase(rng, SLOGANS), face, 0, round((i + 0.75) * pitch), width)
    blend(target, ink, contrasting(rng, ground))


def paint_nothing(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """Leave the package as it is."""


PAINTERS: dict[str, Painter] = {
    "ingredient list": paint_ingredients,
    "brand": paint_brand,
    "barcode": paint_barcode,
    "logo": paint_logo,
    "picture": paint_picture,
    "other table": paint_other_table,
    "nutrition score": paint_scale,
    "intake row": paint_intake_row,
    "text": paint_slogan,
    "nothing": paint_nothing,
}
