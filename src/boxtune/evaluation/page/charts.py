"""Charts as SVG text: lines, histograms, heat maps. Colours are classes of the page's style, for light and dark.

A chart is drawn 360 units wide, so that its letters keep their size on a phone, where it fills the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

WIDTH: Final = 360
HEIGHT: Final = 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 40

MAX_POINTS: Final = 240
"""A line is drawn through at most so many of its points."""

NUM_COLOURS: Final = 8
"""Classes `c0` … `c7` of the style."""


@dataclass(frozen=True)
class Axis:
    """One side of a chart.

    Attributes:
        name: written along it.
        low, high: first and last value; on a logarithmic axis both above 0.
        log: logarithmic.
        percent: values are shares, written in percent.
    """

    name: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one."""
        if self.log:
            return math.log(max(value, 1e-300) / self.low) / (math.log(self.high / self.low) or 1.0)
        return (value - self.low) / ((self.high - self.low) or 1.0)

    def ticks(self) -> list[float]:
        """About five round values."""
        if not self.log:
            return round_steps(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = [m * 10.0**decade for decade in range(first, last + 1) for m in (1, 2, 5)]
        ticks = [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        if len(ticks) < 3:
            return round_steps(self.low, self.high)
        if len(ticks) > 8:
            ticks = [value for value in ticks if math.log10(value) == round(math.log10(value))]
        return ticks[:: math.ceil(len(ticks) / 8)]

    def text(self, value: float) -> str:
        """A value as it is written at a tick."""
        if self.percent:
            return f"{value * 100:.3g} %"
        return short_number(value)


@dataclass(frozen=True)
class Line:
    """One line of a chart; it breaks where a `y` is None or NaN.

    Attributes:
        name: in the key.
        xs, ys: its points.
        colour: number of the colour; None draws it grey and dashed, as a thing to compare with.
        points: a dot at each point, its area told by `weights`.
        joined: False leaves only the dots.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    colour: int | None = 0
    points: bool = False
    weights: Sequence[float] = ()
    joined: bool = True


@dataclass(frozen=True)
class Chart:
    """A drawn chart with what stands around it.

    Attributes:
        title: above it.
        svg: the picture.
        key: (name, style class) of each line; empty where one line needs no name.
        note: a sentence below it.
    """

    title: str
    svg: Markup
    key: tuple[tuple[str, str], ...] = ()
    note: str = ""


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, note: str = "") -> Chart:
    """Lines over a common axis."""
    parts = [_frame(x, y)]
    for line in lines:
        chosen = _thinned(len(line.xs))
        points = [(line.xs[i], line.ys[i]) for i in chosen]
        style = _style(line.colour)
        if line.joined:
            parts.append(f'<path class="line {style}" d="{_path(points, x, y)}"/>')
        if line.points:
            largest = max(line.weights, default=0) or 1
            for i in chosen:
                if _is_number(line.ys[i]):
                    radius = 2 + 5 * math.sqrt(line.weights[i] / largest) if line.weights else 3
                    parts.append(
                        f'<circle class="dot {style}" cx="{_x(line.xs[i], x)}" cy="{_y(line.ys[i], y)}" '
                        f'r="{radius:.1f}"/>'
                    )
    key = tuple((line.name, _style(line.colour)) for line in lines) if len(lines) > 1 else ()
    return Chart(title, _svg("".join(parts), f"{title}: {y.name} over {x.name}"), key, note)


def histogram(
    title: str,
    edges: npt.ArrayLike,
    counts: npt.ArrayLike,
    name: str,
    *,
    of: str = "",
    log: bool = False,
    note: str = "",
) -> Chart:
    """Counts `[N]` of things called `of` between edges `[N + 1]`, as columns."""
    edges, counts = np.asarray(edges, dtype=float), np.asarray(counts, dtype=float)
    x = Axis(name, float(edges[0]), float(edges[-1]), log)
    y = Axis(of, 0.0, float(counts.max(initial=0)) or 1.0)
    bars = []
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            left, right, top = _x(low, x), _x(high, x), _y(count, y)
            bars.append(
                f'<rect class="fill c0" x="{left}" y="{top}" width="{max(right - left - 0.6, 0.6):.1f}" '
                f'height="{HEIGHT - _BOTTOM - top:.1f}"><title>{short_number(low)} to {short_number(high)}: '
                f"{int(count)}</title></rect>"
            )
    return Chart(title, _svg(_frame(x, y) + "".join(bars), f"{title}: how often, over {name}"), (), note)


def heat_map(title: str, grid: npt.ArrayLike, note: str = "") -> Chart:
    """Counts `[rows, columns]` over the image, upper left first; the darkest cell is the fullest."""
    cells = np.asarray(grid, dtype=float)
    side = HEIGHT - 2 * _TOP
    left = (WIDTH - side) / 2
    high, wide = side / cells.shape[0], side / cells.shape[1]
    largest = cells.max(initial=0) or 1
    parts = [f'<rect class="frame" x="{left}" y="{_TOP}" width="{side}" height="{side}"/>']
    for row, column in zip(*np.nonzero(cells), strict=True):
        count = cells[row, column]
        parts.append(
            f'<rect class="fill c1" x="{left + column * wide:.1f}" y="{_TOP + row * high:.1f}" width="{wide:.1f}" '
            f'height="{high:.1f}" fill-opacity="{0.08 + 0.92 * count / largest:.2f}"><title>{int(count)}</title></rect>'
        )
    return Chart(title, _svg("".join(parts), title), (), note)


def shapes(title: str, sides: Sequence[tuple[float, float]], note: str = "") -> Chart:
    """Boxes of `(width, height)` drawn around one centre within a frame of 1 × 1."""
    side = HEIGHT - 2 * _TOP
    left = (WIDTH - side) / 2
    parts = [f'<rect class="frame" x="{left}" y="{_TOP}" width="{side}" height="{side}"/>']
    for number, (width, height) in enumerate(sides):
        w, h = width * side, height * side
        parts.append(
            f'<rect class="line {_style(number)}" x="{WIDTH / 2 - w / 2:.1f}" y="{HEIGHT / 2 - h / 2:.1f}" '
            f'width="{w:.1f}" height="{h:.1f}"><title>{width:.3f} × {height:.3f}</title></rect>'
        )
    return Chart(title, _svg("".join(parts), title), (), note)


def round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= about + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short_number(value: float) -> str:
    """`1200000` → `1.2M`, `0.25` → `0.25`."""
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            divisor = 1e3 if sign == "k" else limit
            return f"{value / divisor:.3g}{sign}"
    return f"{value:.0f}" if value == round(value) else f"{value:.3g}"


def _style(colour: int | None) -> str:
    return "compare" if colour is None else f"c{colour % NUM_COLOURS}"


def _thinned(count: int) -> list[int]:
    if count <= MAX_POINTS:
        return list(range(count))
    return [int(i) for i in np.unique(np.linspace(0, count - 1, MAX_POINTS).round())]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _x(value: float, axis: Axis) -> float:
    share = min(1.0, max(0.0, axis.place(value)))
    return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)


def _y(value: float | None, axis: Axis) -> float:
    share = min(1.0, max(0.0, axis.place(value or 0.0)))
    return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def _path(points: Sequence[tuple[float, float | None]], x: Axis, y: Axis) -> str:
    steps, pen_down = [], False
    for px, py in points:
        if _is_number(py):
            steps.append(f"{'L' if pen_down else 'M'}{_x(px, x)} {_y(py, y)}")
        pen_down = _is_number(py)
    return "".join(steps)


def _frame(x: Axis, y: Axis) -> str:
    """Grid lines, ticks and names of the axes."""
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in y.ticks():
        at = _y(tick, y)
        parts.append(f'<path class="grid" d="M{_LEFT} {at}H{right}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 5}" y="{at + 3.5}">{escape(y.text(tick))}</text>')
    for tick in x.ticks():
        at = _x(tick, x)
        # The last number of an axis would stick out of the picture if it were centred.
        anchor = " end" if at > right - 12 else " middle"
        parts.append(f'<path class="grid" d="M{at} {bottom}v4"/>')
        parts.append(
            f'<text class="tick{anchor}" x="{at if anchor == " middle" else right}" y="{bottom + 15}">'
            f"{escape(x.text(tick))}</text>"
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="name middle" x="{middle}" y="{HEIGHT - 7}">{escape(x.name)}</text>')
    if y.name:
        at = (_TOP + bottom) / 2
        parts.append(f'<text class="name middle" transform="translate(11 {at}) rotate(-90)">{escape(y.name)}</text>')
    return "".join(parts)


def _svg(content: str, described: str) -> Markup:
    # its parts are escaped where they are made
    return Markup(  # nosec B704
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">{content}</svg>'
    )
