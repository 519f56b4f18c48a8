"""Thresholds, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from boxtune.evaluation.assignment import count_image
from boxtune.evaluation.confidence import OperatingPoint, confidence, judged_boxes
from boxtune.evaluation.ranking import rank_images
from evaluation.judged_scenes import image, measured, random_images

BOX, FAR = [0, 0, 100, 100], [300, 300, 400, 400]


def along(images):
    return confidence(rank_images(images), [count_image(one.truth, one.predicted, one.crowd) for one in images])


def test_by_hand():
    """Three true boxes; found: right 0.9, wrong 0.6, right 0.5, wrong 0.2. F1: 2/4, 2/5, 4/6, 4/7."""
    images = [
        image("a", [(BOX, "x")], [(BOX, "x", 0.9), (FAR, "x", 0.6)]),
        image("b", [(BOX, "x"), (FAR, "y")], [(BOX, "x", 0.5), (FAR, "x", 0.2)]),
    ]
    found = along(images)
    assert found.best == OperatingPoint(0.5, 2 / 3, 2 / 3, 2 / 3, 3)
    assert [point.threshold for point in found.points] == pytest.approx([n / 20 for n in range(20)])
    at = {round(point.threshold, 2): point for point in found.points}
    assert at[0.0] == OperatingPoint(0.0, 0.5, 2 / 3, 4 / 7, 4)
    assert at[0.55] == OperatingPoint(0.55, 0.5, 1 / 3, 0.4, 2)
    assert at[0.95] == OperatingPoint(0.95, None, 0.0, 0.0, 0)


def test_a_threshold_takes_all_boxes_of_a_score_or_none():
    images = [image("a", [(BOX, "x")], [(BOX, "x", 0.5), (FAR, "x", 0.5), (FAR, "x", 0.1)])]
    assert along(images).best == OperatingPoint(0.5, 0.5, 1.0, 2 / 3, 2)


@pytest.mark.parametrize("seed", range(4))
def test_matching_once_is_matching_what_a_threshold_leaves(seed):
    images = random_images(seed, ties=seed % 2 == 0)
    for point in along(images).points:
        left = [image_of(one, one.predicted.select(one.predicted.scores >= point.threshold - 1e-12)) for one in images]
        scores, right = judged_boxes(rank_images(left))
        num_truth = sum(len(one.truth) for one in images)
        assert (point.num_predictions, point.recall) == (len(scores), pytest.approx(right.sum() / num_truth))


def image_of(one, predicted):
    import dataclasses

    return dataclasses.replace(one, predicted=predicted)


def test_models_without_scores_get_f1_over_ious_and_no_threshold():
    images = random_images(1, scored=False)
    found = along(images)
    assert (found.points, found.best) == ((), None)
    assert found.f1_by_iou["0.50"] == pytest.approx(measured(images).f1_50)
    assert found.f1_mean_iou == pytest.approx(np.mean(list(found.f1_by_iou.values())))
    assert list(found.f1_by_iou) == [f"{0.5 + 0.05 * n:.2f}" for n in range(10)]


def test_nothing_to_measure():
    assert along([image("a", [], [])]).f1_mean_iou is None
    assert along([image("a", [], [(BOX, "x", 0.4), (BOX, "x", 0.3)])]).points == ()
