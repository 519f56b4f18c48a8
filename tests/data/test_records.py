from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxtune.data import records
from boxtune.data.records import BadRecordError, DraftBox, declared_size

NUMBERS = st.one_of(
    st.floats(-60, 460),
    st.integers(-3, 420),
    st.sampled_from([math.nan, math.inf, -math.inf, None, "7", "seven", 10**400, [1], True]),
)
CORNERS = st.one_of(
    st.tuples(st.floats(-3, 200), st.floats(-3, 150), st.floats(180, 405), st.floats(140, 304)),
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.lists(NUMBERS, max_size=5),
)


@given(
    boxes=st.lists(st.builds(DraftBox, CORNERS, st.sampled_from(["cat", "dog", ""]), st.just("line 1")), max_size=4),
    relative=st.booleans(),
)
def test_boxes_are_checked_together_as_one_by_one(boxes, relative):
    def one_by_one() -> np.ndarray:
        return np.reshape([records._check_box(box, (300, 400), relative) for box in boxes], (-1, 4))

    found = [outcome(one_by_one), outcome(lambda: records._check_boxes(boxes, (300, 400), relative))]
    assert found[0] == found[1]


def outcome(check: Callable[[], np.ndarray]) -> list[list[float]] | str:
    try:
        return check().tolist()
    except BadRecordError as bad:
        return str(bad)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (30, 40, (30, 40)),
        (30.4, 39.6, (30, 40)),
        (0, 40, None),
        (30, None, None),
        ("30", 40, None),
        (math.inf, 40, None),
        (math.nan, 40, None),
    ],
)
def test_declared_sizes(height, width, size):
    assert declared_size(height, width) == size
