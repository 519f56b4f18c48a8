"""Thresholds, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from boxtune.errors import DataError
from boxtune.evaluation.assignment import count_image
from boxtune.evaluation.confidence import OperatingPoint, confidence, judged_boxes, precision_recall_curves
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


def test_curves_by_hand_and_against_ap():
    images = [image("a", [(BOX, "x"), (FAR, "x")], [(BOX, "x", 0.9), ([200, 0, 250, 50], "x", 0.6), (FAR, "x", 0.5)])]
    curve = precision_recall_curves(rank_images(images))[0]
    assert (curve.label, curve.iou) == ("x", 0.5)
    assert curve.recall == (0.5, 0.5, 1.0)
    assert curve.precision == (1.0, 0.5, 2 / 3)
    assert curve.scores == (0.9, 0.6, 0.5)
    assert curve.ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_curves_of_random_images_have_the_labels_ap():
    images = random_images(7, 30)
    metrics = measured(images)
    curves = precision_recall_curves(rank_images(images), (0.5,))
    assert {one.label: one.ap for one in curves} == pytest.approx(
        {label: row["ap50"] for label, row in metrics.per_class.items() if row["num_boxes"]}
    )


@pytest.mark.parametrize("iou", [0.4, 0.52, 1.0, 50])
def test_other_overlaps_have_no_curve(iou):
    with pytest.raises(DataError, match="No curve at IoU"):
        precision_recall_curves(rank_images(random_images(0)), (iou,))
