"""The pair of files that an evaluation leaves behind can be scored again, to the same figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from boxtune.detections import Detections
from boxtune.errors import SaveError
from boxtune.evaluation.coco import score_files
from boxtune.evaluation.metrics import MetricsAccumulator
from boxtune.evaluation.predictions import category_labels, image_ids, write_ground_truth, write_predictions


@pytest.mark.parametrize(
    ("sample_ids", "numbers"),
    [
        (["139", "7", "0"], [139, 7, 0]),
        (["7", "b"], [1, 2]),
        (["7", "07"], [1, 2]),
        (["-7", "8"], [1, 2]),
        (["٣", "8"], [1, 2]),
        (["9" * 30, "8"], [1, 2]),
        ([], []),
    ],
)
def test_image_ids(sample_ids, numbers):
    assert list(image_ids(sample_ids).values()) == numbers


def test_categories_keep_their_order():
    truths = [Detections([[0, 0, 1, 1]] * 2, ["z", "c"]), Detections.empty()]
    assert category_labels(["b", "c", "b"], truths) == ("b", "c", "z")


@pytest.mark.parametrize("names", [["10", "9", "8"], ["x.jpg", "ü 1", "a/b"]])
def test_pair_scores_as_the_evaluation_did(tmp_path, names):
    rng = np.random.default_rng(3)
    truths, found = [], []
    for name in names:
        corner = rng.uniform(0, 100, (6, 2))
        truth = Detections(np.hstack([corner, corner + rng.uniform(5, 80, (6, 2))]), list("aabbzz"))
        moved = np.sort(truth.xyxy.reshape(6, 2, 2) + rng.normal(0, 2, (6, 2, 2)), axis=1).reshape(6, 4)
        truths.append((name, (200, 200), truth))
        found.append((name, Detections(moved, ["a", "b", "b", "b", "z", "stray"])))  # no scores: all ties
    accumulator = MetricsAccumulator(["b", "a"])
    for (name, image_hw, truth), (_, predicted) in zip(truths, found, strict=True):
        accumulator.update(name, image_hw, truth, predicted)
    labels = category_labels(["b", "a"], (truth for _, _, truth in truths))
    write_ground_truth(tmp_path / "ground_truth.json", truths, labels)
    write_predictions(tmp_path / "predictions.json", found, labels)
    again = score_files(tmp_path / "ground_truth.json", tmp_path / "predictions.json").to_dict()
    metrics = accumulator.compute().to_dict()
    for name in ("map", "map50", "map75", "map_large", "ar100", "per_class", "num_images", "num_boxes"):
        assert again[name] == metrics[name], name
    assert again["mean_iou"] == pytest.approx(metrics["mean_iou"], abs=1e-12)
    assert again["num_predictions"] == metrics["num_predictions"] - metrics["num_unknown_label_predictions"] == 15


def test_form_of_the_files(tmp_path):
    box = Detections([[1, 2, 4, 8]], ["a"])
    write_ground_truth(
        tmp_path / "t.json", [("12", (20, 30), box), ("13", (5, 5), Detections.empty())], ["a"], {"13": "b.png"}
    )
    write_predictions(tmp_path / "p.json", [("12", box.with_scores([0.25])), ("13", Detections.empty())], ["a"])
    assert json.loads((tmp_path / "p.json").read_text()) == [
        {"image_id": 12, "category_id": 1, "bbox": [1, 2, 3, 6], "score": 0.25}
    ]
    assert json.loads((tmp_path / "t.json").read_text()) == {
        "images": [
            {"id": 12, "file_name": "12", "height": 20, "width": 30},
            {"id": 13, "file_name": "b.png", "height": 5, "width": 5},
        ],
        "annotations": [
            {"id": 1, "image_id": 12, "category_id": 1, "bbox": [1, 2, 3, 6], "area": 18, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "a"}],
    }


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(SaveError, match="cannot be written"):
        write_predictions(tmp_path / "absent" / "p.json", [], [])
