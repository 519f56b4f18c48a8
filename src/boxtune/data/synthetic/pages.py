"""Scanned pages: paragraphs, headings, figures, page numbers and, above all, tables, mostly without a frame."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic import surfaces
from boxtune.data.synthetic.lettering import Face, fitted, paragraph, write, write_fitted
from boxtune.data.synthetic.photograph import compressed, with_noise
from boxtune.data.synthetic.placing import Canvas
from boxtune.data.synthetic.surfaces import ByteArray
from boxtune.data.synthetic.vocabulary import PROSE

Rect = tuple[int, int, int, int]

_NAMES = (
    {
        "table": "table",
        "figure": "figure",
        "paragraph": "paragraph",
        "heading": "heading",
        "page number": "page number",
    },
    {"table": "table", "figure": "chart", "paragraph": "text", "heading": "title", "page number": "page number"},
    {
        "table": "data table",
        "figure": "picture",
        "paragraph": "text block",
        "heading": "section heading",
        "page number": "folio",
    },
    {"table": "table"},
    {"table": "Table", "figure": "Figure"},
)


def paint_page(rng: np.random.Generator, image_hw: tuple[int, int]) -> Canvas:
    """One page: ink on paper, then skew, blots, noise of the scanner."""
    height, width = image_hw
    ink: ByteArray = np.zeros(image_hw, np.uint8)
    blocks = _compose_page(rng, ink)
    turn = _skew(rng, image_hw)
    ink = cv2.warpAffine(ink, turn, (width, height)) if turn is not None else ink
    canvas = Canvas(_scanned(rng, ink))
    names = _NAMES[int(rng.integers(len(_NAMES)))]
    for kind, rect in blocks:
        if kind in names:
            canvas.add(_turned_box(turn, rect), names[kind])
    canvas.absent = [*sorted(set(names.values()) - set(canvas.labels)), "signature", "stamp", "barcode"]
    if "figure" not in names:
        present = {kind for kind, _ in blocks}
        canvas.absent += ["figure"] if "figure" not in present else []
    return canvas


def _skew(rng: np.random.Generator, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
    if rng.random() < 0.45:
        return None
    height, width = image_hw
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.normal(0, 0.8)), 1.0)
    return np.asarray(turn, dtype=np.float64)


def _turned_box(turn: npt.NDArray[np.float64] | None, rect: Rect) -> npt.NDArray[np.float64]:
    x, y, w, h = rect
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]], dtype=np.float64)
    if turn is not None:
        corners = (corners - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5  # OpenCV counts from the middle of a pixel
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _compose_page(rng: np.random.Generator, ink: ByteArray) -> list[tuple[str, Rect]]:
    """Fill the page from top to bottom; gives `(kind, rectangle of the ink)` of each block."""
    height, width = ink.shape
    left, right = round(width * rng.uniform(0.06, 0.16)), round(width * rng.uniform(0.84, 0.95))
    top, bottom = round(height * rng.uniform(0.04, 0.12)), round(height * rng.uniform(0.85, 0.94))
    size = int(np.clip(round(max(height, width) / rng.uniform(55, 95)), 5, 16))
    face = Face(size, mono=bool(rng.random() < 0.4), stretch=float(rng.choice((0.85, 1.0, 1.1))))
    blocks: list[tuple[str, Rect]] = []
    if rng.random() < 0.7:
        number, at = (
            str(int(rng.integers(1, 400))),
            (bottom + round(0.03 * height)) if rng.random() < 0.6 else max(top - 2 * size, size),
        )
        number = f"-{number}-" if rng.random() < 0.3 else number
        x = width // 2 if rng.random() < 0.6 else right - 4 * size
        _block(
            blocks,
            ink,
            "page number",
            (x - 3 * size, at - size, 6 * size, 2 * size),
            lambda part: write(part, number, face, 3 * size, round(1.5 * size), "middle"),
        )
    style = rng.random()
    if style < 0.22:
        _fill_column(rng, ink, (left, top, right - left, bottom - top), face, blocks, whole_table=True)
    elif style < 0.75:
        _fill_column(rng, ink, (left, top, right - left, bottom - top), face, blocks)
    else:
        if rng.random() < 0.6:
            depth = round((bottom - top) * rng.uniform(0.15, 0.45))
            _fill_column(rng, ink, (left, top, right - left, depth), face, blocks)
            top += depth + size
        gutter = 2 * size
        half = (right - left - gutter) // 2
        for x in (left, left + half + gutter):
            _fill_column(rng, ink, (x, top, half, bottom - top), face, blocks)
    return blocks


def _fill_column(
    rng: np.random.Generator,
    ink: ByteArray,
    area: Rect,
    face: Face,
    blocks: list[tuple[str, Rect]],
    whole_table: bool = False,
) -> None:
    x, y, w, h = area
    size, end = face.size, y + h
    leading = max(round(size * rng.uniform(1.1, 1.7)), 6)
    weights = np.array((0.42, 0.13, 0.13, 0.32))
    if whole_table and rng.random() < 0.7:
        y = _caption(rng, ink, (x, y, w), face, blocks) + size
    while y < end - 3 * leading:
        kind = "table" if whole_table else ("paragraph", "heading", "figure", "table")[int(rng.choice(4, p=weights))]
        room = end - y
        if kind == "heading":
            y = _caption(rng, ink, (x, y, w), face, blocks) + round(size * rng.uniform(0.4, 1.2))
            continue
        low, high = (0.9, 1.0) if whole_table else (0.12, 0.55) if kind != "paragraph" else (0.06, 0.4)
        depth = int(np.clip(rng.uniform(low, high) * h, 4 * leading, room))
        narrow = kind != "paragraph" and rng.random() < 0.6
        width = round(w * rng.uniform(0.5, 1.0)) if narrow else w
        rect = (x + (w - width) // (2 if rng.random() < 0.7 else 1), y, width, depth)
        painter = {"table": _table, "figure": _figure, "paragraph": _text}[kind]
        _block(blocks, ink, kind, rect, lambda part, painter=painter: painter(rng, part, face, leading))
        y += depth + round(size * rng.uniform(1.0, 3.0))
        if not whole_table and rng.random() < 0.06:
            break  # a page need not be full


def _block(blocks: list[tuple[str, Rect]], ink: ByteArray, kind: str, rect: Rect, paint) -> None:
    """Paint into a rectangle of the page and note the hull of the ink that came of it."""
    x, y, w, h = rect
    x, y = max(x, 0), max(y, 0)
    fresh = np.zeros(ink[y : y + h, x : x + w].shape, np.uint8)
    if min(fresh.shape) < 4:
        return
    paint(fresh)
    left, top, width, height = cv2.boundingRect(fresh)
    if width and height:
        part = ink[y : y + h, x : x + w]
        np.maximum(part, fresh, out=part)
        blocks.append((kind, (x + left, y + top, width, height)))


def _caption(
    rng: np.random.Generator, ink: ByteArray, place: tuple[int, int, int], face: Face, blocks: list[tuple[str, Rect]]
) -> int:
    """A heading in bold or capitals; gives the row below it."""
    x, y, w = place
    words = _prose(rng, int(rng.integers(2, 8)))
    text = " ".join(words)
    text = (
        text.upper()
        if rng.random() < 0.5
        else f"Table {int(rng.integers(1, 40))}. {text}"
        if rng.random() < 0.4
        else text.title()
    )
    large = replace(face, size=round(face.size * rng.uniform(1.0, 1.7)), bold=bool(rng.random() < 0.6))
    centred = rng.random() < 0.5
    at, align = (w // 2, "middle") if centred else (0, "left")
    depth = round(large.size * 1.4)
    _block(
        blocks, ink, "heading", (x, y, w, depth), lambda part: write_fitted(part, text, large, at, large.size, w, align)
    )
    return y + depth


def _prose(rng: np.random.Generator, count: int) -> list[str]:
    start = int(rng.integers(len(PROSE)))
    return [PROSE[(start + i) % len(PROSE)] for i in range(count)]


def _text(rng: np.random.Generator, part: ByteArray, face: Face, leading: int) -> None:
    words = _prose(rng, len(PROSE))
    indent = int(rng.integers(0, 4)) * face.size if rng.random() < 0.3 else 0
    paragraph(part[:, indent:], words, face, leading, justify=bool(rng.random() < 0.7))
    lines = (part.shape[0] - face.size) // leading
    if lines > 1 and rng.random() < 0.8:  # the last line ends early
        part[max(lines * leading - 1, 0) :, round(part.shape[1] * rng.uniform(0.2, 0.95)) :] = 0


def _figure(rng: np.random.Generator, part: ByteArray, face: Face, leading: int) -> None:
    """A plot, a bar chart, boxes with lines, or a halftone photo."""
    height, width = part.shape
    style = rng.random()
    if style < 0.25:
        relief = surfaces.clouds(rng, height, width, float(rng.uniform(2, 6)), 4)
        part[:] = np.maximum(relief, 40)
        return
    if style < 0.45:
        _flow_chart(rng, part, face)
        return
    margin = min(3 * face.size, height // 4, width // 4)
    cv2.line(part, (margin, 2), (margin, height - margin), 255, 1)
    cv2.line(part, (margin, height - margin), (width - 2, height - margin), 255, 1)
    if rng.random() < 0.4:
        cv2.rectangle(part, (margin, 2), (width - 2, height - margin), 255, 1)
    for k in range(5):
        write(part, f"{k * 20}", face, margin - 2, round((height - margin) * (1 - k / 5)), "right")
        write(
            part, f"{k * 5}", face, round(margin + (width - margin) * k / 5), height - margin + round(1.2 * face.size)
        )
    xs = np.linspace(margin + 2, width - 4, 24)
    for _ in range(int(rng.integers(1, 4))):
        ys = np.clip(np.cumsum(rng.normal(0, 0.12, 24)) + rng.uniform(0.2, 0.8), 0.03, 0.97) * (height - margin)
        if style < 0.6:
            for x, y in zip(xs[::3], ys[::3], strict=True):
                cv2.rectangle(
                    part,
                    (int(x), int(y)),
                    (int(x + (width - margin) / 12), height - margin),
                    int(rng.integers(90, 255)),
                    -1,
                )
            break
        points = np.stack([xs, ys], axis=-1).astype(np.int32)
        cv2.polylines(part, [points], False, 255, 1, cv2.LINE_AA)
        if rng.random() < 0.5:
            for x, y in points.tolist():
                cv2.circle(part, (x, y), 2, 255, -1)


def _flow_chart(rng: np.random.Generator, part: ByteArray, face: Face) -> None:
    height, width = part.shape
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    step_x, step_y = width / columns, height / rows
    for row in range(rows):
        for column in range(columns):
            x0, y0 = round(column * step_x + 0.15 * step_x), round(row * step_y + 0.2 * step_y)
            x1, y1 = round((column + 0.85) * step_x), round((row + 0.8) * step_y)
            cv2.rectangle(part, (x0, y0), (x1, y1), 255, 1)
            write_fitted(
                part,
                _prose(rng, 1)[0],
                face,
                (x0 + x1) // 2,
                (y0 + y1) // 2 + face.size // 3,
                max(x1 - x0 - 4, 5),
                "middle",
            )
            if column + 1 < columns:
                cv2.line(part, (x1, (y0 + y1) // 2), (round(x1 + 0.3 * step_x), (y0 + y1) // 2), 255, 1)
            if row + 1 < rows:
                cv2.line(part, ((x0 + x1) // 2, y1), ((x0 + x1) // 2, round(y1 + 0.4 * step_y)), 255, 1)


def _table(rng: np.random.Generator, part: ByteArray, face: Face, leading: int) -> None:
    """Columns of numbers or words; rules none, around the head, or everywhere."""
    height, width = part.shape
    small = replace(face, size=max(round(face.size * rng.uniform(0.75, 1.05)), 5))
    pitch = max(leading * rng.uniform(0.8, 1.4), small.size * 1.02)
    rows = max(int((height - small.size) / pitch), 2)
    columns = int(np.clip(rng.integers(2, 10), 2, max(width // (3.2 * small.size), 2)))
    label_share = rng.uniform(1.0, 3.0)
    spans = np.array([label_share, *rng.uniform(0.7, 1.3, columns - 1)])
    edges = np.concatenate([[0.0], np.cumsum(spans / spans.sum())]) * width
    align = ("left", "right", "middle")[int(rng.choice(3, p=(0.3, 0.5, 0.2)))]
    kinds = _column_kinds(rng, columns)
    decimals = rng.integers(0, 4, columns)
    head = int(rng.choice((0, 1, 2), p=(0.25, 0.5, 0.25)))
    skip, gap_every = float(rng.choice((0.0, 0.15, 0.4))), int(rng.integers(3, 8)) if rng.random() < 0.25 else 0
    for row in range(rows + 1):
        baseline = round(small.size * 0.75 + row * pitch)
        if baseline > height - 1 or (gap_every and row > head and row % gap_every == 0):
            continue
        for column in range(columns):
            if row >= head and column and rng.random() < skip * 0.5:
                continue
            kind = "word" if row < head else kinds[column]
            text = _cell(rng, kind, int(decimals[column]))
            x0, x1 = edges[column], edges[column + 1]
            room = x1 - x0 - 0.6 * small.size
            fit = fitted(text, small, room)
            how = "left" if column == 0 or (kinds[column] == "words" and align != "middle") else align
            x = x0 if how == "left" else x1 - 0.3 * small.size if how == "right" else (x0 + x1) / 2
            write(part, text, fit, round(x), baseline, how)
    _table_rules(rng, part, edges, pitch, small.size, head)


def _column_kinds(rng: np.random.Generator, columns: int) -> list[str]:
    """What stands in each column; a list of contents is two columns with dots between."""
    if columns == 2 and rng.random() < 0.4:
        return ["leader", "count"]
    first = ("word", "words", "code", "number")[int(rng.choice(4, p=(0.45, 0.2, 0.25, 0.1)))]
    wordy = 0.1 if rng.random() < 0.7 else 0.7
    return [
        first,
        *(("word", "words")[int(rng.integers(2))] if rng.random() < wordy else "number" for _ in range(columns - 1)),
    ]


def _table_rules(
    rng: np.random.Generator, part: ByteArray, edges: npt.NDArray[np.float64], pitch: float, size: int, head: int
) -> None:
    height, width = part.shape
    rules = rng.random()
    if rules < 0.38:
        return
    below_head = round(size * 0.75 + (max(head, 1) - 1) * pitch + pitch * 0.4)
    for y in (0, below_head, height - 1):
        if rng.random() < 0.85:
            cv2.line(part, (0, y), (width - 1, y), 255, 1)
    if rules > 0.75:
        cv2.rectangle(part, (0, 0), (width - 1, height - 1), 255, 1)
        for x in edges[1:-1]:
            cv2.line(part, (round(x), 0), (round(x), height - 1), 255, 1)
        if rules > 0.85:
            y = size * 0.75 + pitch * 0.35
            while y < height - 2:
                cv2.line(part, (0, round(y)), (width - 1, round(y)), 220, 1)
                y += pitch


def _cell(rng: np.random.Generator, kind: str, decimals: int) -> str:
    """Drawn from few values, so that the pictures of the words are kept."""
    if kind == "word":
        return _prose(rng, 1 + int(rng.random() < 0.3))[0]
    if kind == "words":
        return " ".join(_prose(rng, int(rng.integers(2, 5))))
    if kind == "leader":
        return " ".join(_prose(rng, int(rng.integers(1, 4)))) + " " + "." * int(rng.choice((10, 16, 24)))
    if kind == "count":
        return str(int(rng.integers(1, 300)))
    if kind == "code":
        return f"{'abempv'[int(rng.integers(6))]}{int(rng.integers(40))}"
    value = int(rng.integers(0, 400))
    return f"{value / 10**decimals:.{decimals}f}" if rng.random() < 0.9 else f"-{value}."


def _scanned(rng: np.random.Generator, ink: ByteArray) -> ByteArray:
    """Ink on paper as the scanner saw it: grey or tinted, blurred or hard, with dirt."""
    height, width = ink.shape
    if rng.random() < 0.15:  # punched holes, and the dark edge of a copy
        for share in (0.15, 0.5, 0.85):
            cv2.circle(
                ink, (round(width * 0.03), round(height * share)), max(width // 70, 2), int(rng.integers(120, 255)), -1
            )
    if rng.random() < 0.15:
        thick = max(round(width * rng.uniform(0.005, 0.04)), 2)
        cv2.line(
            ink,
            (int(rng.integers(width)), 0) if rng.random() < 0.4 else (0, int(rng.integers(2, 12))),
            (width, 4),
            255,
            thick,
        )
    for _ in range(int(rng.integers(0, 25))):
        cv2.circle(
            ink,
            (int(rng.integers(width)), int(rng.integers(height))),
            int(rng.integers(0, 2)),
            int(rng.integers(60, 255)),
            -1,
        )
    style = rng.random()
    if style < 0.35:
        ink = cv2.GaussianBlur(ink, (0, 0), float(rng.uniform(0.4, 0.8)))
    elif style < 0.5:
        ink = cv2.convertScaleAbs(ink, alpha=float(rng.uniform(1.3, 2.5)))
    paper = int(rng.integers(215, 256)) if rng.random() < 0.7 else 255
    dark = int(rng.integers(0, 70))
    tint = (1.0, 1.0, 1.0) if rng.random() < 0.8 else (1.0, float(rng.uniform(0.95, 1)), float(rng.uniform(0.82, 0.98)))
    page = surfaces.coloured(ink, ([paper * t for t in tint], [dark] * 3))
    if rng.random() < 0.4:
        page = with_noise(rng, page, float(rng.uniform(1, 7)))
    return compressed(page, int(rng.integers(40, 95))) if rng.random() < 0.6 else page
