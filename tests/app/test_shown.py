"""Boxes over pictures as HTML: where they lie, what is hidden, and that names stay names."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from boxtune.app.asking import Look, Picture
from boxtune.app.shown import MAX_BOXES, Side, shown_boxes, shown_html
from boxtune.detections import Detections
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Prediction
from evaluation.hostile import HOSTILE

PICTURE = Picture("photo.jpg", Image.new("RGB", (200, 100)), Detections([[0, 0, 100, 100]], ["table"]))
FOUND = Detections([[20, 50, 120, 100], [-10, 0, 50, 20]], ["table", "cell"], [0.9, 0.2])


def look(found: Detections = FOUND, *, text: str = "raw", status: str = "ok", reason: str = "") -> Look:
    return Look(Prediction(DecodeResult(status, found, reason), text, False), 1.234)


def side(*looks: Look, model: str = "m", decoder: str = "text") -> Side:
    return Side(model, decoder, ("table", "cell"), looks)


def test_boxes_in_per_cent_of_the_picture_the_surest_last():
    cell, table = shown_boxes(FOUND, PICTURE, ["table", "cell"])
    assert (table.left, table.top, table.width, table.height) == (10, 50, 50, 50)
    assert (cell.left, cell.top, cell.width, cell.height) == (0, 0, 25, 20)
    assert cell.corners_px == (-10, 0, 50, 20)
    assert (table.label, table.score, cell.score) == ("table", 0.9, 0.2)
    assert table.colour != cell.colour
    assert (cell.text_inside, table.text_inside) == (True, False)


def test_a_flood_of_boxes_is_counted_but_not_drawn():
    many = Detections([[0, 0, 10, 10]] * 900, ["table"] * 900, [n / 1000 for n in range(900)])
    drawn = shown_boxes(many, PICTURE, ["table"])
    assert (len(drawn), drawn[-1].score, drawn[0].score) == (MAX_BOXES, 0.899, 0.4)
    assert f"of {len(many)} boxes shown" in shown_html([PICTURE], [side(look(many))], 0.0)


@pytest.mark.parametrize(("threshold", "num_hidden"), [(0.0, 0), (0.2, 0), (0.21, 1), (0.95, 2)])
def test_boxes_below_the_threshold_are_hidden_at_first(threshold, num_hidden):
    page = shown_html([PICTURE], [side(look())], threshold)
    assert len(re.findall(r'class="bt-box bt-low"', page)) == num_hidden
    assert len(re.findall(r'class="bt-line bt-low"', page)) == num_hidden
    assert f'data-all="2">{2 - num_hidden}</span> of 2 boxes shown · 1.23 s' in page


def test_each_side_has_its_own_answer_and_the_truth():
    page = shown_html(
        [PICTURE, PICTURE], [side(look(), look(), model="first"), side(look(text="other"), look(), model="second")], 0
    )
    assert page.count("<figure>") == page.count("bt-truth") == 4
    assert page.count("<b>first</b>") == page.count("<b>second</b>") == 2
    assert page.count("other") == 1


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.handlers: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_names_that_are_markup_stay_names():
    boxes = Detections([[1, 1, 9, 9]], [HOSTILE], [0.5])
    picture = Picture(HOSTILE, PICTURE.image, boxes.with_scores(None))
    hostile = side(look(boxes, text=HOSTILE, status="repaired", reason=HOSTILE), model=HOSTILE)
    tags = Tags()
    tags.feed(shown_html([picture], [hostile], 0.0))
    assert "script" not in tags.found
    assert "style" not in tags.found
    assert tags.handlers == []


def test_the_head_writes_no_text():
    assert "writes no text" in shown_html([PICTURE], [side(look(text=""), decoder="head")], 0.0)
