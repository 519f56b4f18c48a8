"""Where things stand on a flat package: a main table, and around it brands, ingredients, codes and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Rect = tuple[int, int, int, int]

TABLE = "nutrition table"

# What a cell may hold: weight, smallest width and height, and the range of width / height that suits it.
_SUITED: dict[str, tuple[float, int, int, float, float]] = {
    "ingredient list": (3.2, 50, 22, 0.25, 9.0),
    "brand": (1.6, 60, 24, 0.9, 8.0),
    "barcode": (1.1, 40, 28, 0.35, 3.2),
    "logo": (1.0, 16, 16, 0.3, 4.0),
    "picture": (1.3, 40, 40, 0.3, 4.0),
    "other table": (0.15, 90, 60, 0.5, 3.0),
    "nutrition score": (0.4, 50, 20, 1.2, 4.0),
    "intake row": (0.4, 60, 30, 1.0, 7.0),
    "text": (1.6, 30, 8, 0.3, 40.0),
    "nothing": (0.9, 0, 0, 0.0, 1e9),
}
_LARGEST_SIDE = {"barcode": 190, "logo": 130, "nutrition score": 170, "intake row": 260, "other table": 330}


@dataclass(frozen=True)
class Part:
    """One thing on a package: its kind, its rectangle `(x, y, w, h)` in pixels of the print, the seed of its looks."""

    kind: str
    rect: Rect
    seed: int


def lay_out(rng: np.random.Generator, flat_wh: tuple[int, int], main: Rect, tables: int) -> list[Part]:
    """Parts that fill a print around its main rectangle, `tables` of them nutrition tables (the main one first)."""
    gap = int(rng.integers(2, 15))
    cells = [cell for region in _around(rng, flat_wh, main, gap) for cell in _split(rng, region, gap)]
    cells.sort(key=lambda r: -min(r[2], r[3]))
    parts = [Part(TABLE if tables else _kind(rng, main), main, _seed(rng))]
    tables = max(tables, 1)
    for cell in cells:
        if len(parts) < tables and min(cell[2], cell[3]) >= 44 and max(cell[2], cell[3]) >= 60:
            parts.append(Part(TABLE, _shrunk(rng, cell), _seed(rng)))
        else:
            kind = _kind(rng, cell)
            parts.append(Part(kind, _suiting(rng, kind, cell), _seed(rng)))
    return parts


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def replacement(part: Part) -> Part:
    """What stands in the place of a table that would be mostly outside of the photo."""
    return Part("ingredient list" if part.rect[3] > 20 else "nothing", part.rect, part.seed)


def _around(rng: np.random.Generator, flat_wh: tuple[int, int], main: Rect, gap: int) -> list[Rect]:
    """The four regions beside a rectangle; either the upper and lower or the side ones take the corners."""
    (width, height), (x, y, w, h) = flat_wh, main
    if rng.random() < 0.5:
        regions = [
            (gap, gap, width - 2 * gap, y - 2 * gap), (gap, y + h + gap, width - 2 * gap, height - y - h - 2 * gap),
            (gap, y, x - 2 * gap, h), (x + w + gap, y, width - x - w - 2 * gap, h),
        ]  # fmt: skip
    else:
        regions = [
            (x, gap, w, y - 2 * gap), (x, y + h + gap, w, height - y - h - 2 * gap),
            (gap, gap, x - 2 * gap, height - 2 * gap), (x + w + gap, gap, width - x - w - 2 * gap, height - 2 * gap),
        ]  # fmt: skip
    return [r for r in regions if r[2] >= 12 and r[3] >= 8]


def _split(rng: np.random.Generator, region: Rect, gap: int) -> list[Rect]:
    """Cut a region in two, again and again, until the cells are small enough."""
    x, y, w, h = region
    limit = rng.uniform(70, 260)
    if max(w, h) < limit or min(w, h) < 14:
        return [region]
    share = rng.uniform(0.28, 0.72)
    if w > h * rng.uniform(0.8, 1.6):
        cut = int(w * share)
        halves = [(x, y, cut - gap // 2, h), (x + cut + gap - gap // 2, y, w - cut - gap + gap // 2, h)]
    else:
        cut = int(h * share)
        halves = [(x, y, w, cut - gap // 2), (x, y + cut + gap - gap // 2, w, h - cut - gap + gap // 2)]
    return [cell for half in halves if half[2] >= 12 and half[3] >= 8 for cell in _split(rng, half, gap)]


def _kind(rng: np.random.Generator, rect: Rect) -> str:
    _, _, w, h = rect
    names = [
        n
        for n, (_, least_w, least_h, low, high) in _SUITED.items()
        if w >= least_w and h >= least_h and low <= w / h <= high
    ]
    weights = np.array([_SUITED[n][0] for n in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def _shrunk(rng: np.random.Generator, cell: Rect) -> Rect:
    """A rectangle inside a cell, often all of it."""
    x, y, w, h = cell
    if rng.random() < 0.5:
        return cell
    nw, nh = max(int(w * rng.uniform(0.7, 1)), min(w, 50)), max(int(h * rng.uniform(0.7, 1)), min(h, 44))
    return x + int(rng.integers(w - nw + 1)), y + int(rng.integers(h - nh + 1)), nw, nh


def _suiting(rng: np.random.Generator, kind: str, cell: Rect) -> Rect:
    """The part of a cell that a thing takes: codes and signs have a largest size, logos are square."""
    x, y, w, h = cell
    most = _LARGEST_SIDE.get(kind, 10_000)
    nw, nh = min(w, most), min(h, most)
    if kind in ("logo", "nutrition score"):
        ratio = 1.0 if kind == "logo" else 2.2
        nw, nh = min(nw, int(nh * ratio)), min(nh, int(nw / ratio))
    return x + int(rng.integers(w - nw + 1)), y + int(rng.integers(h - nh + 1)), max(nw, 4), max(nh, 4)
