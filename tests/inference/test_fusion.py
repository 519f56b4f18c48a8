"""Two lists of boxes as one: what agrees rises, what the head found alone counts less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxtune.detections import Detections
from boxtune.inference.fusion import HEAD_ALONE, fuse


def boxes(*rows, labels=None, scores) -> Detections:
    return Detections(rows, labels or ["table"] * len(rows), scores)


NOTHING = Detections.empty(scored=True)


def test_a_pair_becomes_the_box_of_the_text_and_rises_as_far_as_they_are_one():
    text = boxes([0, 0, 100, 100], scores=[0.6])
    same = fuse(text, boxes([0, 0, 100, 100], scores=[0.2]))
    assert same.xyxy.tolist() == text.xyxy.tolist()
    np.testing.assert_allclose(same.scores, [1 - 0.4 * 0.8])
    near = fuse(text, boxes([0, 0, 80, 100], scores=[0.2]))  # IoU 0.8, so a is 0.6
    assert near.xyxy.tolist() == text.xyxy.tolist()
    np.testing.assert_allclose(near.scores, [1 - 0.4 * (1 - 0.2 * 0.6)])
    least = fuse(text, boxes([0, 0, 50, 100], scores=[0.2]))
    np.testing.assert_allclose(least.scores, [0.6])


@pytest.mark.parametrize(
    ("row", "label"),
    [
        pytest.param([60, 0, 160, 100], "table", id="overlap of a quarter"),
        pytest.param([0, 0, 100, 100], "bottle", id="another label"),
    ],
)
def test_what_the_head_found_alone_counts_less(row, label):
    text, head = boxes([0, 0, 100, 100], scores=[0.6]), boxes(row, labels=[label], scores=[0.9])
    assert fuse(text, head) == text.joined(head.with_scores([0.9 * HEAD_ALONE]))


def test_an_empty_list_changes_nothing():
    some = boxes([0, 0, 10, 10], [5, 5, 20, 20], scores=[0.6, 0.1])
    assert fuse(some, NOTHING) == some
    assert fuse(NOTHING, some) == some.with_scores(some.scores * HEAD_ALONE)
    assert len(fuse(NOTHING, NOTHING)) == 0


def test_each_box_agrees_with_one_other_and_the_surest_choose_first():
    text = boxes([0, 0, 100, 100], [0, 0, 100, 100], scores=[0.5, 0.9])
    head = boxes([0, 0, 100, 100], [0, 0, 100, 100], scores=[0.8, 0.3])
    fused = fuse(text, head)
    assert len(fused) == 2
    np.testing.assert_allclose(fused.scores, [1 - 0.5 * 0.7, 1 - 0.1 * 0.2])


@st.composite
def some_boxes(draw):
    rows = draw(st.lists(st.tuples(*[st.integers(0, 20)] * 4, st.sampled_from("ab"), st.floats(0, 1)), max_size=6))
    corners = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d, _, _ in rows]
    return Detections(corners, [row[4] for row in rows], [row[5] for row in rows])


@given(some_boxes(), some_boxes())
def test_nothing_is_lost_and_no_score_of_the_text_falls(text, head):
    fused = fuse(text, head)
    pairs = len(text) + len(head) - len(fused)
    assert 0 <= pairs <= min(len(text), len(head))
    assert fused.labels[: len(text)] == text.labels
    assert (fused.xyxy[: len(text)] == text.xyxy).all()
    assert (fused.scores[: len(text)] >= text.scores - 1e-12).all()
    alone = fused.select(np.arange(len(text), len(fused)))
    before = sorted(zip(map(tuple, head.xyxy), head.labels, head.scores * HEAD_ALONE, strict=True))
    assert all(row in before for row in zip(map(tuple, alone.xyxy), alone.labels, alone.scores, strict=True))
