"""The assignment: hand-made scenes, and properties that hold for all boxes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.detections import Detections, box_iou
from boxtune.evaluation.matching import inside_crowd, match


def test_pairs_by_label_only():
    truth = Detections([[0, 0, 10, 10], [0, 0, 10, 10]], ["a", "b"])
    predicted = Detections([[0, 0, 10, 10], [0, 0, 10, 5]], ["b", "a"])
    matches = match(truth, predicted)
    assert matches.truth_index.tolist() == [0, 1]
    assert matches.predicted_index.tolist() == [1, 0]
    assert matches.iou == pytest.approx([0.5, 1.0])


def test_the_best_sum_wins_over_the_best_pair():
    truth = Detections([[0, 0, 10, 10], [4, 0, 14, 10]], ["a", "a"])
    predicted = Detections([[2, 0, 12, 10], [6, 0, 16, 10]], ["a", "a"])
    # Greedy by order would be free to give box 0 of the prediction to truth 1 and leave truth 0 with nothing.
    assert match(truth, predicted).predicted_index.tolist() == [0, 1]


def test_a_touching_box_is_no_pair():
    assert len(match(Detections([[0, 0, 10, 10]], ["a"]), Detections([[10, 0, 20, 10]], ["a"]))) == 0


@pytest.mark.parametrize("sizes", [(0, 0), (0, 2), (2, 0)])
def test_empty_sides(sizes):
    truth, predicted = (Detections([[0, 0, 1, 1]] * size, ["a"] * size) for size in sizes)
    assert len(match(truth, predicted)) == 0


def test_crowd_takes_boxes_that_lie_in_it_by_half():
    crowd = Detections([[0, 0, 10, 10]], ["a"])
    predicted = Detections([[1, 1, 3, 3], [8, 0, 12, 4], [8, 0, 13, 4], [1, 1, 3, 3], [5, 5, 5, 5]], list("aaaba"))
    assert inside_crowd(predicted, crowd).tolist() == [True, True, False, False, False]
    assert inside_crowd(predicted, Detections.empty()).tolist() == [False] * 5


@st.composite
def scenes(draw):
    count = draw(st.integers(0, 4))
    corner = st.integers(0, 12)
    boxes = [(draw(corner), draw(corner), draw(corner), draw(corner)) for _ in range(count)]
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    return Detections(boxes, [draw(st.sampled_from("ab")) for _ in range(count)])


@given(scenes(), scenes())
@settings(max_examples=150, deadline=None)
def test_properties(truth, predicted):
    matches = match(truth, predicted)
    assert len(set(matches.truth_index)) == len(set(matches.predicted_index)) == len(matches)
    assert ((matches.iou > 0) & (matches.iou <= 1)).all()
    for row, column, iou in zip(matches.truth_index, matches.predicted_index, matches.iou, strict=True):
        assert truth.labels[row] == predicted.labels[column]
        assert iou == box_iou(truth.xyxy[row], predicted.xyxy[column])[0, 0]
    assert match(predicted, truth).iou.sum() == pytest.approx(matches.iou.sum())
    assert matches.iou.sum() == pytest.approx(best_sum(truth, predicted))


def best_sum(truth: Detections, predicted: Detections) -> float:
    """By trying all assignments."""
    if len(truth) > len(predicted):
        truth, predicted = predicted, truth
    iou = box_iou(truth.xyxy, predicted.xyxy)
    iou *= np.array([[a == b for b in predicted.labels] for a in truth.labels]).reshape(iou.shape)
    orders = itertools.permutations(range(len(predicted)), len(truth))
    return max((sum(iou[i, j] for i, j in enumerate(order)) for order in orders), default=0.0)
