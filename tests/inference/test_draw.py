"""Drawn boxes, told from the pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from boxtune.detections import Detections
from boxtune.inference.draw import (
    PALETTE,
    draw_detections,
    label_colour,
    line_width,
    readable_on,
    sheet,
    shortened,
    text_place,
)

GREY = (128, 128, 128)


def blank(width: int = 400, height: int = 300, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (width, height), GREY).convert(mode)


def test_the_line_is_where_the_box_is():
    image = blank()
    drawn = np.asarray(draw_detections(image, Detections([[100, 80, 300, 200]], ["table"], [0.5])))
    colour, width = label_colour("table"), line_width(image)
    assert drawn.shape == (300, 400, 3)
    for inside, outside in (((140, 100), (140, 99)), ((140, 299), (140, 300)), ((199, 200), (200, 200))):
        assert tuple(drawn[inside]) == colour
        assert tuple(drawn[outside]) == GREY
    assert (drawn[80, 110:290] == colour).all()
    assert (drawn[80 + width : 200 - width, 100 + width : 300 - width] == GREY).all()


def test_the_text_has_a_ground_of_the_label_above_the_box():
    drawn = np.asarray(draw_detections(blank(), Detections([[100, 80, 300, 200]], ["table"])))
    above = drawn[60:80, 100:140].reshape(-1, 3)
    assert (above == label_colour("table")).all(axis=1).sum() > 100
    assert (above == readable_on(label_colour("table"))).all(axis=1).any()


def test_the_original_stays():
    image = blank()
    before = image.tobytes()
    box = Detections([[10, 10, 50, 50]], ["a"])
    assert draw_detections(image, box, box) is not image
    assert image.tobytes() == before


def test_truth_is_black_and_white_over_a_found_box_on_the_same_line():
    box = Detections([[100, 80, 300, 200]], ["a"])
    drawn = np.asarray(draw_detections(blank(), box, box))
    colours = {tuple(pixel) for pixel in drawn[80, 100:300].tolist()}
    assert {(0, 0, 0), (255, 255, 255)} <= colours
    assert tuple(drawn[81, 250]) == label_colour("a")  # the wider line of the found box shows beside it


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "RGBA", "P", "I;16"])
def test_every_mode(mode):
    image = Image.new(mode, (60, 40))
    assert draw_detections(image, Detections([[5, 5, 30, 30]], ["a"])).mode == "RGB"


def test_nothing_to_draw():
    image = blank()
    for predicted, truth in ((None, None), (Detections.empty(), Detections.empty(scored=True))):
        assert draw_detections(image, predicted, truth).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (2000, 1500)])
@pytest.mark.parametrize("label", ["", "a\nb\tc", "营养成分表", "🍎👩‍👩‍👧", "\ud800", "x" * 5000, "\u202eabc", "\x00"])
def test_any_label_on_any_size(size, label):
    boxes = [[0, 0, *size], [-50, -50, 5000, 5000], [1, 1, 1, 1], [900, 900, 950, 950], [-9, -9, -5, -5]]
    detections = Detections(boxes, [label] * 5, [0, 0.25, 0.5, 0.75, 1])
    assert draw_detections(blank(*size), detections, detections).size == size


@pytest.mark.parametrize(
    ("box", "below", "expected"),
    [
        ((100, 80, 299, 199), False, (100, 60)),
        ((100, 80, 299, 199), True, (100, 200)),
        ((100, 5, 299, 199), False, (100, 5)),
        ((100, 80, 299, 295), True, (100, 276)),
        ((380, 80, 399, 199), False, (340, 60)),
        ((0, 0, 399, 5), True, (0, 6)),
    ],
)
def test_text_place(box, below, expected):
    assert text_place(box, (60, 20), (400, 300), below=below) == expected


@given(st.tuples(*[st.integers(0, 99)] * 4), st.integers(1, 100), st.integers(1, 100), st.booleans())
def test_text_stays_inside(corners, width, height, below):
    x1, y1, x2, y2 = corners
    box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    x, y = text_place(box, (width, height), (100, 100), below=below)
    assert 0 <= x <= 100 - width
    assert 0 <= y <= 100 - height


def test_colours():
    labels = [f"label {i}" for i in range(8)]
    assert len({label_colour(label, labels) for label in labels}) == 8
    assert label_colour("table") == label_colour("table", ["other"]) in PALETTE
    contrast = [abs(a - b) for a, b in itertools.combinations([sum(c) for c in PALETTE], 2)]
    assert min(contrast) > 0  # no two are of one brightness


def test_shortened():
    font = ImageFont.load_default(size=12)
    assert shortened("short", font, 200) == "short"
    cut = shortened("a very long label indeed", font, 60)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 60


def test_sheet():
    images = [
        Image.new("RGB", size, colour) for size, colour in (((50, 100), "red"), ((300, 30), "blue"), ((9, 9), "lime"))
    ]
    drawn = sheet(images, columns=2, cell_px=80, captions=["one", "two", "x" * 500])
    pixels = np.asarray(drawn)
    gap = 4
    assert drawn.width == gap + 2 * (80 + gap)
    assert tuple(pixels[gap + 40, gap + 40]) == (255, 0, 0)
    assert tuple(pixels[gap + 40, gap + 84 + 40]) == (0, 0, 255)
    assert tuple(pixels[gap + 5, gap + 2]) == (244, 244, 242)  # beside the upright picture: paper
    assert sheet(images, columns=9, cell_px=80).width == gap + 3 * (80 + gap)


def test_sheet_refuses():
    with pytest.raises(ValueError, match="at least one"):
        sheet([])
    with pytest.raises(ValueError, match="captions"):
        sheet([blank()], captions=[])
