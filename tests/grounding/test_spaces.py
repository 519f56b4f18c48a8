"""Coordinate spaces: the conventions of the families, and what quantisation may cost."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.grounding.spaces import CoordinateSpace, InputPixels, Relative1000

SPACES = [Relative1000(), InputPixels()]
SIDES = st.integers(10, 8000)


@st.composite
def boxes_in_images(draw: st.DrawFn) -> tuple[list[list[float]], tuple[int, int], tuple[int, int]]:
    height, width = draw(SIDES), draw(SIDES)
    fractions = draw(st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=8))
    boxes = [[min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height] for a, b, c, d in fractions]
    return boxes, (height, width), (draw(SIDES), draw(SIDES))


def test_relative_numbers_follow_the_image_and_stop_at_999() -> None:
    boxes = [[0, 0, 640, 480], [64, 48, 320, 240]]
    assert Relative1000().to_text_units(boxes, (480, 640), (476, 644)).tolist() == [
        [0, 0, 999, 999],
        [100, 100, 500, 500],
    ]


def test_input_pixels_follow_the_resized_image_and_stop_at_its_last_pixel() -> None:
    boxes = [[0, 0, 640, 480], [320, 240, 640, 480]]
    assert InputPixels().to_text_units(boxes, (480, 640), (476, 644)).tolist() == [
        [0, 0, 643, 475],
        [322, 238, 643, 475],
    ]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_bounds_are_x_then_y(space: CoordinateSpace) -> None:
    expected = {"relative_1000": (999, 999), "input_pixels": (643, 475)}
    assert space.bounds((476, 644)) == expected[space.name]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
@pytest.mark.parametrize("box", [[5, 5, 5, 5], [99.9, 99.9, 100, 100], [0, 0, 0.01, 0.01], [100, 0, 100, 100]])
def test_a_thin_box_keeps_an_area(space: CoordinateSpace, box: list[float]) -> None:
    x1, y1, x2, y2 = space.to_text_units([box], (100, 100), (56, 56))[0]
    assert x2 > x1
    assert y2 > y1


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_what_lies_outside_is_cut(space: CoordinateSpace) -> None:
    (values,) = space.to_text_units([[-50, -50, 500, 500]], (100, 100), (100, 100)).tolist()
    assert values == [0, 0, *space.bounds((100, 100))]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_no_boxes_and_empty_images(space: CoordinateSpace) -> None:
    assert space.to_text_units([], (10, 10), (28, 28)).shape == (0, 4)
    assert space.to_pixels([], (10, 10), (28, 28)).shape == (0, 4)
    with pytest.raises(ValueError, match="at least 1"):
        space.to_text_units([[0, 0, 1, 1]], (0, 10), (28, 28))


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
@settings(deadline=None)
@given(case=boxes_in_images())
def test_round_trip_loses_no_more_than_the_stated_quantisation(space: CoordinateSpace, case) -> None:
    boxes, image_hw, input_hw = case
    exact = np.array(boxes).reshape(-1, 4)
    back = space.to_pixels(space.to_text_units(boxes, image_hw, input_hw), image_hw, input_hw)
    unit = np.array([side / units for side, units in zip(image_hw[::-1], space.units(input_hw), strict=True)])
    loss = np.abs(back - exact) / np.tile(unit, 2)
    at_border = exact / np.tile(unit, 2) > np.tile(space.bounds(input_hw), 2)
    thin = np.tile((exact[:, 2:] - exact[:, :2]) / unit < np.where(at_border[:, 2:], 1.5, 1), 2)
    allowed = np.where(thin, np.where(np.tile(at_border[:, 2:], 2), 2.0, 1.0), np.where(at_border, 1.0, 0.5))
    assert (loss <= allowed + 1e-6).all()
    assert (back[:, 2:] > back[:, :2]).all()


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_spaces_are_values(space: CoordinateSpace) -> None:
    assert pickle.loads(pickle.dumps(space)) == space
    assert hash(space) == hash(type(space)())
    assert Relative1000() != InputPixels()
