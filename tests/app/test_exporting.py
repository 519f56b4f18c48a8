"""COCO files that stand alone."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from boxtune.app.exporting import coco_of
from boxtune.data.dataset import load_dataset
from boxtune.detections import Detections

FOUND = Detections([[10, 20, 30, 60], [0, 0, 5, 5], [1, 1, 4, 4]], ["b", "a", "a"], [0.9, 0.3, 0.29996])


def test_boxes_at_or_above_the_least_score():
    content = coco_of(
        [("x.jpg", (100, 200), FOUND), ("y.jpg", (50, 60), Detections.empty(scored=True))], ("a", "b"), 0.3
    )
    assert content["categories"] == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    assert [image["file_name"] for image in content["images"]] == ["x.jpg", "y.jpg"]
    assert [(one["category_id"], one["bbox"], one["score"]) for one in content["annotations"]] == [
        (2, [10, 20, 20, 40], 0.9),
        (1, [0, 0, 5, 5], 0.3),
        (1, [1, 1, 3, 3], 0.3),  # rounded as on the page
    ]


def test_pictures_of_one_name_stay_apart():
    content = coco_of(
        [("x.jpg", (10, 10), FOUND), ("x.jpg", (10, 10), FOUND), ("x.jpg (2)", (10, 10), FOUND)], ("a",), 0.95
    )
    assert [image["file_name"] for image in content["images"]] == ["x.jpg", "x.jpg (2)", "x.jpg (2) (2)"]
    assert len({image["id"] for image in content["images"]}) == 3


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 1))
def test_every_box_is_there_once_or_below(scores, least):
    boxes = Detections([[0, 0, n + 1, 1] for n in range(len(scores))], ["a"] * len(scores), scores)
    content = coco_of([("x", (50, 50), boxes)], ("a",), least)
    assert [one["score"] for one in content["annotations"]] == [s for s in (round(s, 4) for s in scores) if s >= least]


def test_the_file_is_a_data_set(tmp_path, samples):
    samples[0].image.save(tmp_path / "x.png")
    boxes = Detections([[10, 20, 30, 60]], ["a"], [0.5])
    content = coco_of([("x.png", samples[0].image_hw, boxes)], ("a",), 0.0)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (read,) = load_dataset(tmp_path)
    assert read.detections == boxes.with_scores(None)
