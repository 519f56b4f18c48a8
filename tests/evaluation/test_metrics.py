"""Figures of scenes small enough to work out by hand."""

from __future__ import annotations

import json

import pytest

from boxtune.detections import Detections
from boxtune.errors import DataError
from boxtune.evaluation.metrics import Metrics, MetricsAccumulator
from boxtune.evaluation.summary import headline

HW = (200, 200)
BOX = [0, 0, 100, 100]
NOTHING = Detections.empty()
HALF_FOUND = 51 / 101
"""One of two true boxes found, no wrong one: precision 1 at recall 0 … 0.50, which are 51 of COCO's 101 points."""


def one(box=BOX, label="a", score=None) -> Detections:
    return Detections([box], [label], None if score is None else [score])


def measure(*images, labels=()) -> Metrics:
    accumulator = MetricsAccumulator(labels)
    for index, (truth, predicted) in enumerate(images):
        accumulator.update(f"image {index}", HW, truth, predicted)
    return accumulator.compute()


def test_perfect():
    metrics = measure((one(), one(score=0.9)), (one(label="b"), one(label="b", score=0.2)))
    assert (metrics.map, metrics.map50, metrics.map75, metrics.ar100) == (1, 1, 1, 1)
    assert (metrics.map_small, metrics.map_medium, metrics.map_large) == (None, None, 1)
    assert (metrics.mean_iou, metrics.mean_iou_all, metrics.detection_rate50, metrics.rate70) == (1, 1, 1, 1)
    assert (metrics.precision50, metrics.recall50, metrics.f1_50, metrics.count_error) == (1, 1, 1, 0)
    assert metrics.per_class == {
        "a": {"ap": 1, "ap50": 1, "num_boxes": 1},
        "b": {"ap": 1, "ap50": 1, "num_boxes": 1},
    }
    assert (metrics.num_images, metrics.num_boxes, metrics.num_predictions) == (2, 2, 2)


def test_shifted_by_a_quarter():
    """IoU = 75 × 100 / (2 × 100² − 7500) = 0.6: right at the thresholds 0.50, 0.55 and 0.60, wrong at seven others."""
    metrics = measure((one(), one([25, 0, 125, 100], score=0.9)))
    assert metrics.map == pytest.approx(0.3)
    assert (metrics.map50, metrics.map75) == (1, 0)
    assert metrics.mean_iou == metrics.mean_iou_all == pytest.approx(0.6)
    assert (metrics.detection_rate50, metrics.rate70) == (1, 0)


def test_missed():
    metrics = measure((one(), one(score=0.9)), (one(), NOTHING))
    assert metrics.map == pytest.approx(HALF_FOUND)
    assert (metrics.mean_iou, metrics.mean_iou_all, metrics.detection_rate50) == (1, 0.5, 0.5)
    assert (metrics.precision50, metrics.recall50, metrics.f1_50) == (1, 0.5, pytest.approx(2 / 3))
    assert metrics.count_error == 0.5


def test_duplicate():
    """The better-scored copy is right; the other is wrong, after full recall, so AP stays 1."""
    metrics = measure((one(), Detections([BOX, BOX], ["a", "a"], [0.9, 0.8])))
    assert metrics.map == 1
    assert (metrics.precision50, metrics.recall50, metrics.count_error) == (0.5, 1, 1)


def test_wrong_box_before_the_right_one():
    """Precision is 1/2 when recall becomes 1."""
    metrics = measure((one(), Detections([[100, 100, 200, 200], BOX], ["a", "a"], [0.9, 0.8])))
    assert metrics.map == pytest.approx(0.5)


def test_wrong_class_among_known_ones():
    metrics = measure((one(label="a"), one(label="b", score=0.9)), (one(label="b"), NOTHING))
    assert (metrics.map, metrics.mean_iou, metrics.mean_iou_all, metrics.precision50) == (0, None, 0, 0)
    assert metrics.num_unknown_label_predictions == 0


def test_a_label_outside_the_list_is_wrong_in_precision_and_counted():
    found = Detections([BOX, BOX], ["a", "table"], [0.5, 0.9])
    metrics = measure((one(), found))
    assert (metrics.map, metrics.precision50, metrics.num_unknown_label_predictions) == (1, 0.5, 1)
    assert list(metrics.per_class) == ["a"]


def test_a_listed_label_without_true_boxes_is_known_but_not_averaged():
    metrics = measure((one(), Detections([BOX, BOX], ["a", "table"], [0.5, 0.9])), labels=["table", "a"])
    assert (metrics.map, metrics.num_unknown_label_predictions) == (1, 0)
    assert metrics.per_class["table"] == {"ap": None, "ap50": None, "num_boxes": 0}


def test_found_on_an_empty_image():
    metrics = measure((one(), one(score=0.5)), (NOTHING, one(score=0.9)))
    assert metrics.map == pytest.approx(0.5)
    assert (metrics.precision50, metrics.count_error) == (0.5, 0.5)


def test_nothing_found():
    metrics = measure((one(), NOTHING))
    assert (metrics.map, metrics.map50, metrics.ar100, metrics.mean_iou_all, metrics.precision50) == (0, 0, 0, 0, 0)
    assert (metrics.mean_iou, metrics.median_iou) == (None, None)
    assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))).mean_iou is None


def test_no_true_box_at_all():
    metrics = measure((NOTHING, one(score=0.9)), (NOTHING, NOTHING))
    assert (metrics.map, metrics.mean_iou, metrics.detection_rate50, metrics.ar100) == (None,) * 4
    assert (metrics.precision50, metrics.count_error) == (0, 0.5)


def test_no_images():
    metrics = MetricsAccumulator(["a"]).compute()
    assert (metrics.map, metrics.parse_rate, metrics.count_error, metrics.num_images) == (None, None, None, 0)


def test_sizes():
    """Areas 31², 32² and 96²: COCO's limits belong to both neighbours, so the last two count twice."""
    boxes = [[0, 0, 31, 31], [40, 0, 72, 32], [100, 100, 196, 196]]
    truth = Detections(boxes, ["a"] * 3)
    found = Detections([boxes[0], boxes[2]], ["a"] * 2, [0.9, 0.8])
    metrics = measure((truth, found))
    assert metrics.map_small == metrics.map_medium == pytest.approx(HALF_FOUND)
    assert metrics.map_large == 1


def test_answers():
    accumulator = MetricsAccumulator()
    for index, status in enumerate(["ok", "repaired", "malformed", "ok"]):
        accumulator.update(str(index), HW, one(), NOTHING, status=status, truncated=status == "malformed")
    metrics = accumulator.compute()
    assert (metrics.parse_rate, metrics.repaired_rate, metrics.malformed_rate) == (0.75, 0.25, 0.25)
    assert metrics.truncated_rate == 0.25


def test_nothing_is_said_of_answers_where_nothing_was_written():
    """As by a detection head."""
    accumulator = MetricsAccumulator()
    for index in range(3):
        accumulator.update(str(index), HW, one(), one(score=0.9), status=None)
    metrics = accumulator.compute()
    rates = (metrics.parse_rate, metrics.repaired_rate, metrics.malformed_rate, metrics.truncated_rate)
    assert rates == (None,) * 4
    assert metrics.map == 1
    assert metrics.intervals is not None
    assert metrics.intervals.figures["parse_rate"] is None
    assert "parse rate" not in dict(headline(metrics))


@pytest.mark.parametrize(
    ("found", "source", "constant"),
    [
        ([one(), one()], "constant 1.0", True),
        ([one(score=0.5), one(score=0.6)], "token probabilities", False),
        ([one(score=0.5), one(score=0.5)], "token probabilities", True),
        ([one(score=0.5), NOTHING], "token probabilities", False),
        ([NOTHING, NOTHING], "token probabilities", False),
        ([one(score=0.5), one()], "token probabilities; constant 1.0 where there were none", False),
    ],
)
def test_score_source(found, source, constant):
    metrics = measure(*[(one(), boxes) for boxes in found])
    assert (metrics.score_source, metrics.scores_constant) == (source, constant)


def test_a_sample_comes_once():
    accumulator = MetricsAccumulator()
    accumulator.update("x", HW, one(), NOTHING)
    with pytest.raises(DataError, match="'x' comes twice"):
        accumulator.update("x", HW, one(), NOTHING)
    accumulator.reset()
    accumulator.update("x", HW, one(), one())
    assert accumulator.compute().map == 1


def test_an_unknown_status_is_refused():
    with pytest.raises(ValueError, match="malformed"):
        MetricsAccumulator().update("x", HW, one(), NOTHING, status="fine")  # type: ignore[arg-type]


def test_order_of_ids_does_not_change_what_is_computed_twice():
    """Compute is a look, not an end: more images may follow."""
    accumulator = MetricsAccumulator()
    accumulator.update("10", HW, one(), one(score=0.9))
    assert accumulator.compute().map == 1
    accumulator.update("9", HW, one(), NOTHING)
    assert accumulator.compute().map == pytest.approx(HALF_FOUND)


def test_to_dict_is_json_without_nan():
    for metrics in (measure((NOTHING, NOTHING)), measure((one(), one(score=0.5)))):
        plain = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
        assert plain == metrics.to_dict()
        assert {"map", "map50", "map75", "mean_iou", "parse_rate", "num_images", "num_boxes"} <= plain.keys()


def test_more_than_a_hundred_objects_cap_recall():
    """COCO looks at 100 boxes an image and label: 100 of 125 can be found; the assignment looks at all."""
    boxes = [[x, y, x + 5, y + 5] for x in range(0, 200, 8) for y in range(0, 40, 8)]
    truth = Detections(boxes, ["a"] * 125)
    metrics = measure((truth, truth.with_scores([0.5] * 125)))
    assert metrics.ar100 == pytest.approx(0.8)
    assert metrics.detection_rate50 == 1
