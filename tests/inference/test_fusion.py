"""Two lists of boxes as one: what agrees rises, what stands alone stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxtune.detections import Detections, box_iou
from boxtune.inference.fusion import fuse


def boxes(*rows, labels=None, scores) -> Detections:
    return Detections(rows, labels or ["table"] * len(rows), scores)


NOTHING = Detections.empty(scored=True)


def test_a_pair_becomes_one_box_between_them_with_a_higher_score():
    fused = fuse(boxes([0, 0, 100, 100], scores=[0.6]), boxes([10, 0, 110, 100], scores=[0.2]))
    assert len(fused) == 1
    np.testing.assert_allclose(fused.xyxy, [[2.5, 0, 102.5, 100]])  # three parts of the first to one of the second
    np.testing.assert_allclose(fused.scores, [1 - 0.4 * 0.8])


@pytest.mark.parametrize(
    ("row", "label"),
    [
        pytest.param([60, 0, 160, 100], "table", id="overlap of a quarter"),
        pytest.param([0, 0, 100, 100], "bottle", id="another label"),
    ],
)
def test_what_does_not_agree_stays_as_it_was(row, label):
    text, head = boxes([0, 0, 100, 100], scores=[0.6]), boxes(row, labels=[label], scores=[0.9])
    assert fuse(text, head) == text.joined(head)


def test_an_empty_list_changes_nothing():
    some = boxes([0, 0, 10, 10], [5, 5, 20, 20], scores=[0.6, 0.1])
    assert fuse(some, NOTHING) == some == fuse(NOTHING, some)
    assert len(fuse(NOTHING, NOTHING)) == 0


def test_each_box_agrees_with_one_other_and_the_surest_choose_first():
    text = boxes([0, 0, 100, 100], [0, 0, 90, 100], scores=[0.5, 0.9])
    head = boxes([0, 0, 95, 100], [0, 0, 100, 90], scores=[0.8, 0.3])
    fused = fuse(text, head)
    assert len(fused) == 2
    np.testing.assert_allclose(fused.scores, [1 - 0.5 * 0.7, 1 - 0.1 * 0.2])


def test_boxes_without_any_certainty():
    fused = fuse(boxes([0, 0, 10, 10], scores=[0.0]), boxes([0, 0, 10, 10], scores=[0.0]))
    assert fused.scores.tolist() == [0]


@st.composite
def some_boxes(draw):
    rows = draw(st.lists(st.tuples(*[st.integers(0, 20)] * 4, st.sampled_from("ab"), st.floats(0, 1)), max_size=6))
    corners = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d, _, _ in rows]
    return Detections(corners, [row[4] for row in rows], [row[5] for row in rows])


@given(some_boxes(), some_boxes())
def test_nothing_is_lost_and_no_score_falls(text, head):
    fused = fuse(text, head)
    pairs = len(text) + len(head) - len(fused)
    assert 0 <= pairs <= min(len(text), len(head))
    assert fused.labels[: len(text)] == text.labels
    assert (fused.scores[: len(text)] >= text.scores - 1e-12).all()
    for label in "ab":
        assert sum(one == label for one in fused.labels) >= sum(one == label for one in text.labels)
    for box in fused.xyxy:  # each lies where one was found
        near = np.concatenate([np.zeros(1), box_iou([box], np.concatenate([text.xyxy, head.xyxy]))[0]])
        assert near.max() >= 0.5 or (box[2:] == box[:2]).any()
