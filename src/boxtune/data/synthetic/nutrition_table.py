"""Nutrition tables as the world prints them, each filling its rectangle: European, American, across, in one line."""

from __future__ import annotations

import cv2
import numpy as np

from boxtune.data.synthetic.grids import Grid, Look, paint_grid, random_look
from boxtune.data.synthetic.lettering import Face, paragraph, write, write_fitted
from boxtune.data.synthetic.surfaces import BLACK, WHITE, ByteArray, Colour, blend, contrasting
from boxtune.data.synthetic.vocabulary import LANGUAGES, US_FOOTNOTE, US_ROWS, US_VITAMINS, Language, nutrient_value


def paint_nutrition_table(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """Print a nutrition table over the whole of `target` `[H, W, 3]`, in a layout that suits its shape, in place."""
    height, width = target.shape[:2]
    aspect = width / height
    chance = rng.random()
    if aspect > 2.6:
        painter = _paint_linear if chance < 0.35 else _paint_across if chance < 0.75 else _paint_european
    elif aspect < 1.0:
        painter = _paint_american if chance < 0.45 else _paint_european
    else:
        painter = _paint_american if chance < 0.06 else _paint_linear if chance < 0.1 else _paint_european
    painter(target, rng, ground)


def _languages(rng: np.random.Generator) -> list[Language]:
    names = list(LANGUAGES)
    count = int(rng.choice((1, 2, 3), p=(0.72, 0.18, 0.1)))
    return [LANGUAGES[names[i]] for i in rng.choice(len(names), count, replace=False)]


def _paint_european(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    height, width = target.shape[:2]
    languages = _languages(rng)
    pitch = float(rng.uniform(7, 13) * max(min(height, width) / 200, 0.75))
    count = int(np.clip(height / pitch - 2, 4, 12 if rng.random() < 0.3 else 8))
    values = int(rng.integers(1, 4)) if width > 90 else 1
    comma, slash = languages[0].title != "Nutrition", " / " if rng.random() < 0.7 else "/"
    rows = []
    for i in range(count):
        label = languages[0].nutrients[i]
        if len(languages) > 1:
            label = "  " * label.startswith("  ") + slash.join(lang.nutrients[i].strip() for lang in languages)
        cells = [nutrient_value(rng, i, comma) for _ in range(values)]
        if values == 3 or (values == 2 and width > 150 and rng.random() < 0.3):
            cells[-1] = f"{int(rng.integers(0, 60))}%"
        rows.append([label, *cells])
    heads = [slash.join(lang.per_100 for lang in languages[:2]), languages[0].per_portion, "%*"]
    with_header = rng.random() < 0.85
    grid = Grid(
        rows,
        title=slash.join(lang.title for lang in languages) if rng.random() < 0.6 else "",
        header=["" if rng.random() < 0.6 else languages[0].title, *heads[:values]] if with_header else (),
        footnote=languages[0].words if rng.random() < 0.15 and height > 120 else (),
        bold_rows=frozenset(i for i, row in enumerate(rows) if not row[0].startswith("  "))
        if rng.random() < 0.2
        else frozenset(),
    )
    paint_grid(target, grid, random_look(rng, ground, pitch))


def _paint_across(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """Nutrients as columns: for wide, low places."""
    height, width = target.shape[:2]
    language = _languages(rng)[0]
    columns = int(np.clip(width / 55, 3, 8))
    labels = [language.nutrients[i].strip() for i in range(columns)]
    rows = [
        [head, *(nutrient_value(rng, i, True) for i in range(columns))]
        for head in (language.per_100, language.per_portion)
    ]
    rows = rows[: 1 + (height > 40)]
    look = random_look(rng, ground, height / 3)
    grid = Grid(rows, title=language.title if height > 45 else "", header=["", *labels])
    paint_grid(target, grid, Look(**{**look.__dict__, "label_share": 1 / (columns + 1), "centred": True}))


def _paint_linear(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """One running text, as on small packages."""
    height, width = target.shape[:2]
    boxed = height < 60 or rng.random() < 0.75  # small running text without a frame looks like any other
    panel = WHITE if rng.random() < 0.4 else None
    colour = contrasting(rng, panel or ground)
    if panel is not None:
        target[:] = panel
    words: list[str] = []
    for language in _languages(rng):
        values = [(label.strip(), nutrient_value(rng, i, True)) for i, label in enumerate(language.nutrients[:8])]
        words += f"{language.title} {language.per_100}:".split() + " ".join(f"{a} {b}," for a, b in values).split()
    pad = 4 if boxed or panel is not None else 0
    size = int(np.clip(rng.uniform(7, 13) * max(height, 60) / 90, 5, max(height / 3.2, 6)))
    ink = np.zeros((height, width), np.uint8)
    inner = ink[pad : height - pad, pad : width - pad]
    leading = max(round(size * rng.uniform(1.05, 1.3)), 6)
    lines = max(int((inner.shape[0] - 0.75 * size) // leading), 0)
    if lines:  # spread the lines so that the last one stands at the bottom
        leading = int((inner.shape[0] - 0.75 * size) / lines)
    paragraph(inner, words, Face(size, bold=bool(rng.random() < 0.2)), leading)
    if boxed:
        cv2.rectangle(ink, (0, 0), (width - 1, height - 1), 255, int(rng.integers(1, 3)))
    blend(target, ink, colour)


def _paint_american(target: ByteArray, rng: np.random.Generator, ground: Colour) -> None:
    """Nutrition Facts: a heavy title, bars of three weights, a frame."""
    height, width = target.shape[:2]
    bare = rng.random() < 0.12
    panel = None if bare and rng.random() < 0.5 else WHITE
    colour = BLACK if panel else contrasting(rng, ground)
    if (panel is None and rng.random() < 0.3) or rng.random() < 0.08:
        panel, colour = BLACK, WHITE
    if panel is not None:
        target[:] = panel
    ink = np.zeros((height, width), np.uint8)
    frame = 0 if bare else max(round(width * rng.uniform(0.006, 0.014)), 1)
    pad = 0 if bare and panel is None else frame + max(round(width * 0.025), 2)
    _american_lines(ink[pad : height - pad, pad : width - pad], rng)
    for i in range(frame):
        cv2.rectangle(ink, (i, i), (width - 1 - i, height - 1 - i), 255, 1)
    blend(target, ink, colour)


def _american_lines(ink: ByteArray, rng: np.random.Generator) -> None:
    height = ink.shape[0]
    rows = list(US_ROWS[: 10 if height > 130 else 7])
    vitamins = US_VITAMINS[: int(rng.integers(3, 7)) if height > 110 else 2]
    with_note = height > 150 and rng.random() < 0.8
    parts: list[tuple[str, float]] = [("title", 2.3), ("servings", 1.0), ("size", 1.1), ("bar", 0.7)]
    parts += [("amount", 0.8), ("calories", 1.9), ("bar", 0.4), ("daily", 0.8)]
    parts += [(f"row{i}", 1.0) for i in range(len(rows))] + [("bar", 0.7)]
    parts += [(f"vit{i}", 0.95) for i in range(len(vitamins))] + ([("bar", 0.35), ("note", 2.6)] if with_note else [])
    unit = height / sum(weight for _, weight in parts)
    top = 0.0
    for kind, weight in parts:
        bottom = top + weight * unit
        _american_line(ink, kind, (top, bottom), rng, rows, vitamins)
        top = bottom


def _american_line(
    ink: ByteArray, kind: str, span: tuple[float, float], rng: np.random.Generator,
    rows: list[tuple[str, bool]], vitamins: tuple[str, ...],
) -> None:  # fmt: skip
    (top, bottom), width = span, ink.shape[1]
    size = max(round((bottom - top) * 0.84), 5)
    baseline = round(bottom - (bottom - top) * 0.2)
    half = width * 0.72
    if kind == "bar":
        cv2.rectangle(
            ink, (0, round(top)), (width, max(round(bottom - 0.25 * (bottom - top)), round(top) + 1)), 255, -1
        )
        return
    if kind.startswith(("row", "vit")):
        index = int(kind[3:])
        cv2.line(ink, (0, round(top)), (width, round(top)), 170, 1)
        label, bold = rows[index] if kind.startswith("row") else (vitamins[index], False)
        indent = (len(label) - len(label.lstrip())) * size * 0.3
        text = label.strip()
        used = write_fitted(ink, text, Face(size, bold, 0.9), round(indent), baseline, half - indent)
        if used + indent < half - 2.2 * size:
            write(
                ink, f"{int(rng.integers(0, 40))}g", Face(size, False, 0.9), round(indent + used + 0.4 * size), baseline
            )
        write(ink, f"{int(rng.integers(0, 50))}%", Face(size, kind.startswith("row"), 0.9), width, baseline, "right")
    elif kind == "title":
        write_fitted(ink, "Nutrition Facts", Face(max(round(size * 1.15), 6), True), 0, baseline, width)
    elif kind == "servings":
        cv2.line(ink, (0, round(top)), (width, round(top)), 200, 1)
        write_fitted(ink, f"{int(rng.integers(1, 16))} servings per container", Face(size), 0, baseline, width)
    elif kind == "size":
        write_fitted(ink, "Serving size", Face(size, True), 0, baseline, width * 0.55)
        write_fitted(
            ink, f"2/3 cup ({int(rng.integers(2, 20)) * 5}g)", Face(size, True), width, baseline, width * 0.42, "right"
        )
    elif kind == "amount":
        write_fitted(ink, "Amount per serving", Face(size, True), 0, baseline, width * 0.8)
    elif kind == "calories":
        write_fitted(ink, "Calories", Face(size, True), 0, baseline, width * 0.62)
        write_fitted(ink, str(int(rng.integers(1, 60)) * 10), Face(size, True), width, baseline, width * 0.34, "right")
    elif kind == "daily":
        write_fitted(ink, "% Daily Value*", Face(size, True), width, baseline, width * 0.8, "right")
    elif kind == "note":
        paragraph(
            ink[round(top) + 1 : round(bottom)],
            US_FOOTNOTE,
            Face(max(round(size * 0.3), 5)),
            max(round(size * 0.36), 6),
        )
