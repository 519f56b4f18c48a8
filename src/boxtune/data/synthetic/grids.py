"""Printed tables of rows and columns, painted so that they fill their rectangle to the edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic.lettering import CAP_HEIGHT, Face, paragraph, word, write_fitted
from boxtune.data.synthetic.surfaces import BLACK, WHITE, ByteArray, Colour, blend, contrasting, hsv, luminance, rounded


@dataclass(frozen=True)
class Grid:
    """What a table says: the first cell of a row is its label, `  ` before it indents."""

    rows: Sequence[Sequence[str]]
    title: str = ""
    header: Sequence[str] = ()
    footnote: Sequence[str] = ()
    bold_rows: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Look:
    """How a table is printed.

    Attributes:
        ink: colour of text and rules.
        panel: colour of the ground, or None to print on what is there.
        accent: fill of the header, or None.
        zebra: every other row is tinted.
        frame: width of the frame in pixels, 0 for none.
        rules: rule below each row; 0 none, 1 hair, 2 strong.
        header_rule: rules above and below the header only.
        column_rules: rules between columns.
        radius: of the panel's corners.
        centred: values stand in the middle of their columns, not at the right.
        face: letters; the size is set by the height of the rows.
        fill: size of the letters relative to the height of a row.
        label_share: width of the label column, or 0 to choose it by the number of columns.
    """

    ink: Colour = BLACK
    panel: Colour | None = None
    accent: Colour | None = None
    zebra: bool = False
    frame: int = 0
    rules: int = 0
    header_rule: bool = False
    column_rules: bool = False
    radius: int = 0
    centred: bool = False
    face: Face = field(default=Face(10))
    fill: float = 0.8
    label_share: float = 0.0

    @property
    def bare(self) -> bool:
        """Only text: nothing marks the table's border."""
        return self.panel is None and not self.frame


def random_look(rng: np.random.Generator, ground: Colour, pitch: float) -> Look:
    """A plausible print on a package whose ground colour is given, for rows of about `pitch` pixels."""
    chance = rng.random(8)
    panel: Colour | None = None
    if chance[0] < 0.45:
        panel = (
            WHITE
            if chance[1] < 0.7
            else hsv(float(rng.random()), float(rng.uniform(0.05, 0.9)), float(rng.uniform(0.2, 1)))
        )
    ink = contrasting(rng, panel or ground)
    accent = None
    if chance[2] < 0.3:
        accent = ink if chance[1] < 0.5 else hsv(float(rng.random()), 0.75, 0.7)
    rules = int(rng.choice(3, p=(0.35, 0.5, 0.15)))
    return Look(
        ink=ink, panel=panel, accent=accent, zebra=bool(chance[3] < 0.2), rules=rules,
        frame=int(rng.integers(1, 4)) if chance[4] < 0.45 else 0, header_rule=bool(chance[5] < 0.5),
        column_rules=bool(chance[6] < 0.3), radius=int(rng.integers(2, 9)) if chance[7] < 0.25 else 0,
        centred=bool(rng.random() < 0.25), fill=float(rng.uniform(0.62, 0.95)),
        face=Face(10, bold=bool(rng.random() < 0.15), stretch=float(rng.choice((0.8, 0.9, 1.0, 1.1)))),
        label_share=0.0 if rng.random() < 0.7 else float(rng.uniform(0.35, 0.6)),
    )  # fmt: skip


def paint_grid(target: ByteArray, grid: Grid, look: Look) -> None:
    """Print a table over the whole of `target` `[H, W, 3]`, in place; its ink or panel reaches all four sides."""
    height, width = target.shape[:2]
    _paint_ground(target, look)
    lines = _line_heights(grid, height, look)
    pad_x = 0 if look.bare and not look.zebra and look.accent is None else max(round(0.02 * width), look.frame + 2)
    ink, reverse = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    face, edges = _columns(grid, look, lines, width - 2 * pad_x)
    edges = edges + pad_x
    for index, (kind, cells, top, bottom) in enumerate(lines):
        accent = look.accent if kind in ("title", "header") else None
        if accent is not None:
            cv2.rectangle(target, (0, 0 if index == 0 else round(top)), (width, round(bottom)), accent, -1)
        elif look.zebra and kind == "row" and index % 2:
            _tint(target, round(top), round(bottom), look)
        layer = ink if accent is None or abs(luminance(look.ink) - luminance(accent)) >= 90 else reverse
        row_face = replace(face, bold=face.bold or kind != "row" or index in grid.bold_rows)
        _write_line(layer, kind, cells, (top, bottom), (pad_x, edges), look, row_face)
    _rule(ink, lines, edges, look)
    blend(target, ink, look.ink)
    if reverse.any():
        blend(target, reverse, WHITE if luminance(look.ink) < 125 else BLACK)


def _paint_ground(target: ByteArray, look: Look) -> None:
    if look.panel is None:
        return
    if look.radius:
        mask = np.zeros(target.shape[:2], np.uint8)
        rounded(mask, 0, 0, target.shape[1] - 1, target.shape[0] - 1, look.radius)
        blend(target, mask, look.panel)
    else:
        target[:] = look.panel


def _tint(target: ByteArray, top: int, bottom: int, look: Look) -> None:
    band = target[top:bottom]
    if band.size:
        band[:] = cv2.addWeighted(band, 0.85, np.full_like(band, look.ink), 0.15, 0)


def _line_heights(grid: Grid, height: int, look: Look) -> list[tuple[str, Sequence[str], float, float]]:
    """`(kind, cells, top, bottom)` of every line; together they fill the height."""
    parts: list[tuple[str, Sequence[str], float]] = []
    if grid.title:
        parts.append(("title", (grid.title,), 1.25))
    if grid.header:
        parts.append(("header", grid.header, 1.1))
    parts += [("row", row, 1.0) for row in grid.rows]
    if grid.footnote:
        parts.append(("footnote", grid.footnote, 1.6))
    total = sum(weight for *_, weight in parts)
    pitch, slack = height / total, 0.0
    if look.bare and look.accent is None:  # the first capitals touch the top, the last baseline the bottom
        slack = pitch * (1 - look.fill * CAP_HEIGHT) * 0.5
        pitch = (height + 2 * slack) / total
    lines, top = [], -slack
    for kind, cells, weight in parts:
        lines.append((kind, cells, top, top + weight * pitch))
        top += weight * pitch
    return lines


def _columns(
    grid: Grid, look: Look, lines: list[tuple[str, Sequence[str], float, float]], width: int
) -> tuple[Face, npt.NDArray[np.float64]]:
    """One face for all rows, and the right edges of the columns from the left border of the text."""
    pitch = next(bottom - top for kind, _, top, bottom in lines if kind == "row")
    face = replace(look.face, size=max(round(pitch * look.fill), 5))
    count = max(len(row) for row in grid.rows)
    gap = 0.45 * face.size
    widest = [max(word(row[c].strip(), face).width for row in grid.rows if c < len(row)) + gap for c in range(count)]
    widest[0] += 0.3 * face.size * any(row[0].startswith("  ") for row in grid.rows)
    excess = sum(widest) / width
    if excess > 1:  # narrower letters first, then smaller ones, the same in every row
        narrow = max(int(20 / excess) / 20, 0.75)
        face = replace(face, stretch=face.stretch * narrow, size=max(round(face.size / max(excess * narrow, 1)), 5))
        widest = [w / excess for w in widest]
    if count == 1:
        return face, np.array([float(width)])
    spare = max(width - sum(widest), 0) / count
    label = look.label_share * width if look.label_share and excess < 0.9 else widest[0] + spare
    values = np.array(widest[1:])
    edges = label + np.concatenate([[0.0], np.cumsum(values / values.sum() * (width - label))])
    return face, edges


def _write_line(
    ink: ByteArray, kind: str, cells: Sequence[str], span: tuple[float, float], columns: tuple[int, np.ndarray],
    look: Look, face: Face,
) -> None:  # fmt: skip
    top, bottom = span
    left, edges = columns
    if kind == "footnote":
        size = max(round((bottom - top) * 0.45), 5)
        room = ink[max(round(top) + 1, 0) : round(bottom), left : round(edges[-1])]
        if room.shape[0] > 4:
            paragraph(room, cells, Face(size, stretch=look.face.stretch), max(round(size * 1.15), 5))
        return
    if kind == "title":
        face = replace(face, size=max(round((bottom - top) * look.fill * 0.85), 5))
    size = face.size
    baseline = round((top + bottom) / 2 + CAP_HEIGHT * size / 2)
    label_room = (edges[0] if len(cells) > 1 else edges[-1]) - left - 1
    indent = (len(cells[0]) - len(cells[0].lstrip())) * 0.15 * size if cells[0] else 0
    if cells[0].strip():
        write_fitted(ink, cells[0].strip(), face, round(left + indent), baseline, max(label_room - indent, 8))
    for i, cell in enumerate(cells[1:], start=1):
        room = edges[i] - edges[i - 1] - (0.45 if kind == "header" else 0.15) * size
        if cell and look.centred and not (look.bare and i == len(edges) - 1):
            write_fitted(ink, cell, face, round((edges[i] + edges[i - 1]) / 2), baseline, room, "middle")
        elif cell:
            write_fitted(ink, cell, face, round(edges[i]), baseline, room, "right")


def _rule(ink: ByteArray, lines: list[tuple[str, Sequence[str], float, float]], edges: np.ndarray, look: Look) -> None:
    height, width = ink.shape
    strength = (0, 150, 255)[look.rules]
    for kind, _, top, bottom in lines:
        if look.header_rule and kind in ("title", "header"):
            cv2.line(ink, (0, round(bottom)), (width, round(bottom)), 255, 1 + (height > 200))
        if strength and kind == "row" and 1 < top < height - 2:
            cv2.line(ink, (0, round(top)), (width, round(top)), strength, 1)
    if look.column_rules:
        first = next(top for kind, _, top, _ in lines if kind != "title")
        for edge in edges[:-1]:
            cv2.line(ink, (round(edge), max(round(first), 0)), (round(edge), height), max(strength, 150), 1)
    if look.frame:
        for i in range(look.frame):
            cv2.rectangle(ink, (i, i), (width - 1 - i, height - 1 - i), 255, 1)
