"""Charts: round ticks, lines that break, texts that stay texts."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from boxtune.detections import Detections
from boxtune.evaluation.page.charts import MAX_POINTS, Axis, Line, heat_map, histogram, line_chart, round_steps, shapes
from boxtune.evaluation.page.pictures import MAX_BOXES, drawn_boxes

UNIT = Axis("x", 0, 1)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 37, [0, 10, 20, 30]),
        (300, 560, [300, 350, 400, 450, 500, 550]),
        (2, 2, [2]),
    ],
)
def test_round_steps(low, high, ticks):
    assert round_steps(low, high) == ticks


@pytest.mark.parametrize(("low", "high"), [(0.7, 1.4), (0.9, 1.1), (0.01, 100), (1, 1e6), (3, 3.0001), (0.05, 20)])
def test_logarithmic_ticks_are_few_and_inside(low, high):
    ticks = Axis("x", low, high, log=True).ticks()
    assert 2 <= len(ticks) <= 9
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_a_line_breaks_where_there_is_no_value():
    chart = line_chart("t", [Line("a", [0, 0.25, 0.5, 0.75, 1], [0, 1, None, math.nan, 1])], UNIT, UNIT)
    path = re.search(r'class="line c0" d="([^"]*)"', chart.svg)[1]
    assert (path.count("M"), path.count("L")) == (2, 1)
    assert chart.key == ()


def test_long_lines_are_thinned_and_keep_their_ends():
    xs = np.linspace(0, 1, 50_000)
    chart = line_chart("t", [Line("a", xs.tolist(), xs.tolist()), Line("b", [0, 1], [0, 1], None)], UNIT, UNIT)
    path = re.search(r'class="line c0" d="([^"]*)"', chart.svg)[1]
    assert path.count("L") == MAX_POINTS - 1
    assert path.startswith("M46.0 190.0")
    assert path.endswith("L348.0 10.0")
    assert chart.key == (("a", "c0"), ("b", "compare"))


def test_names_are_escaped():
    axis = Axis("<b>x</b>", 0, 1)
    charts = [
        line_chart("<i>", [Line("a", [0], [1], points=True)], axis, axis),
        histogram("<i>", [0, 1], [3], "<b>"),
        heat_map("<i>", [[0, 1]]),
        shapes("<i>", [(0.5, 0.5)]),
    ]
    for chart in charts:
        assert "<i>" not in chart.svg
        assert "<b>" not in chart.svg


def test_text_of_boxes_stays_in_the_picture():
    boxes = Detections(
        [[0, 0, 20, 20], [380, 290, 400, 300], [-50, 100, 900, 200]], ["a" * 90, "cat", "dog"], [1, 0.5, 0]
    )
    for box in drawn_boxes(boxes, (300, 400), (), ["correct", "background", ""]):
        assert 0 <= box.text_x <= 400
        assert 0 <= box.text_y <= 300
        assert box.x >= 0
        assert box.x + box.width <= 400
    texts = [box.text for box in drawn_boxes(boxes, (300, 400), (), ["correct", "background", ""])]
    assert texts == ["a" * 23 + "… 1.00", "cat 0.50 background", "dog 0.00"]


def test_no_more_boxes_than_a_picture_can_show():
    boxes = Detections([[0, 0, 9, 9]] * (MAX_BOXES + 1), ["a"] * (MAX_BOXES + 1))
    assert len(drawn_boxes(boxes, (10, 10), ())) == MAX_BOXES
