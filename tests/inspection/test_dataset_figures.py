"""Figures of boxes by hand, shapes, doubtful labels, and annotations read without pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from boxtune.data.dataset import load_dataset
from boxtune.errors import DataError
from boxtune.inspection.dataset_anchors import suggest_anchors
from boxtune.inspection.dataset_boxes import BoxTable, read_annotations, table_of
from boxtune.inspection.dataset_doubts import find_doubts, spelling_doubt
from boxtune.inspection.dataset_explore import explore_table
from boxtune.inspection.dataset_figures import area_covered, box_figures, histogram
from training.runs import write_coco


def table(boxes, sizes=((100, 200),), image=None, label=None, labels=("a",)) -> BoxTable:
    """Images of (height, width); boxes on the first one unless said."""
    count = len(boxes)
    return BoxTable(
        image_ids=[f"image {n}" for n in range(len(sizes))],
        image_hw=np.array(sizes),
        split=np.zeros(len(sizes), dtype=np.intp),
        splits=("all",),
        xyxy=np.array(boxes, dtype=float).reshape(-1, 4),
        image=np.array([0] * count if image is None else image, dtype=np.intp),
        label=np.array([0] * count if label is None else label, dtype=np.intp),
        labels=labels,
    )


def coco(path, boxes, sizes=((100, 200),), names=("a",)):
    path.mkdir(exist_ok=True)
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": h, "width": w} for n, (h, w) in enumerate(sizes, 1)],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes, 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }
    (path / "train.json").write_text(json.dumps(content))
    return path


def test_counts_and_places_by_hand():
    figures = box_figures(table([[0, 0, 20, 10], [100, 50, 200, 100]], sizes=((100, 200), (50, 50))))
    only = figures.splits[0]
    assert (only.num_images, only.num_empty, only.num_boxes) == (2, 1, 2)
    assert only.boxes_per_label == {"a": 2}
    assert figures.size_classes == {"small": 1, "medium": 1, "large": 0}
    assert figures.boxes_per_image.counts == (1, 0, 1)
    centres = np.array(figures.centres)
    assert centres.sum() == 2
    assert centres[1, 1] == centres[18, 18] == 1  # centres at (0.05, 0.05) and (0.75, 0.75) of 24 cells
    assert sum(figures.box_ratios.counts) == sum(figures.box_sides.counts) == 2


def test_covered_area_counts_overlaps_once():
    boxes = [[0, 0, 100, 100], [0, 0, 100, 100], [50, 0, 150, 100], [0, 0, 10, 10]]
    shares = area_covered(table(boxes, sizes=((100, 200), (9, 9), (10, 10)), image=[0, 0, 0, 2]))
    assert shares == pytest.approx([0.75, 1.0])


def test_covered_area_agrees_with_painting():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 65, (400, 2, 2)), axis=1).reshape(-1, 4)
    image = rng.integers(0, 50, 400)
    painted = np.zeros((50, 64, 64), dtype=bool)
    for (x1, y1, x2, y2), place in zip(corners, image, strict=True):
        painted[place, y1:y2, x1:x2] = True
    shares = area_covered(table(corners, sizes=[(64, 64)] * 50, image=image))
    assert shares == pytest.approx(painted.mean(axis=(1, 2))[np.unique(image)])


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0], [1.0, 5.0, 400.0]])
def test_histograms_hold_every_value(values, log):
    found = histogram(values, log=log)
    assert sum(found.counts) == len(values)
    assert list(found.edges) == sorted(set(found.edges))


def test_anchors_find_the_shapes_that_are_there():
    wide, tall, small = [0, 0, 160, 20], [0, 0, 20, 90], [0, 0, 10, 5]
    three = suggest_anchors(table([wide, tall, small] * 20))
    assert [len(one.sizes) for one in three] == [3]  # six shapes are not in three
    assert three[0].mean_iou == pytest.approx(1)
    assert three[0].sizes == ((0.05, 0.05), (0.1, 0.9), (0.8, 0.2))
    assert suggest_anchors(table([])) == ()


def test_more_anchors_fit_better():
    rng = np.random.default_rng(1)
    corners = np.concatenate([np.zeros((500, 2)), rng.uniform(1, 100, (500, 2))], axis=1)
    found = suggest_anchors(table(corners))
    assert [len(one.sizes) for one in found] == [3, 6, 9]
    assert found[0].mean_iou < found[1].mean_iou < found[2].mean_iou < 1
    assert found == suggest_anchors(table(corners))


def test_each_doubt_is_found():
    boxes = {
        "inverted": [50, 50, 40, 60],
        "outside": [150, 20, 240, 60],
        "tiny": [10, 10, 15, 60],
        "huge": [0, 0, 200, 99],
        "fine": [20, 20, 90, 70],
        "twice": [20, 20, 90.5, 70],
    }
    found = {doubt.kind: doubt for doubt in find_doubts(table(list(boxes.values())))}
    assert set(found) == {"inverted", "outside", "tiny", "huge", "twice"}
    assert {doubt.count for doubt in found.values()} == {1}
    assert found["tiny"].examples == ("image 0",)


def test_splits_and_labels_without_boxes_are_doubts():
    boxes = [[20, 20, 90, 70]]
    fine = table(boxes, labels=("a",), label=[0])
    assert find_doubts(fine, fine.splits) == ()
    found = {doubt.kind: doubt for doubt in find_doubts(table(boxes, labels=("a", "bee"), label=[0]), ("train", "val"))}
    assert (found["unused"].count, found["unused"].examples) == (1, ("bee",))
    assert "val" in found["empty split"].examples
    assert set(found) == {"unused", "empty split"}


def test_other_labels_and_images_are_not_twice():
    same = [[20, 20, 90, 70]] * 3
    assert not find_doubts(table(same, sizes=((100, 200),) * 2, image=[0, 0, 1], label=[0, 1, 0], labels=("a", "b")))
    assert find_doubts(table(same))[0].count == 2


@pytest.mark.parametrize(
    ("labels", "twice"),
    [
        (("Cat", "cat"), 1),
        (("nutrition table", "nutrition-table", "Nutrition_Table"), 1),
        (("café", "cafe", "dogs", "dog"), 2),
        (("gas", "ga", "a", "as"), 0),
        (("猫", "犬", "+", "-"), 0),
    ],
)
def test_labels_in_two_spellings(labels, twice):
    assert spelling_doubt(labels).count == twice


def test_annotations_are_enough(tmp_path):
    folder = coco(tmp_path / "coco", [[10, 10, 20, 20], [90, 90, -30, 5], [150, 50, 100, 10]])
    with pytest.raises(DataError):
        load_dataset(folder)
    read, skipped = read_annotations(str(folder))
    assert (read.num_images, read.num_boxes, skipped) == (1, 3, [])
    assert {doubt.kind for doubt in find_doubts(read)} == {"inverted", "outside"}
    assert json.dumps(explore_table(read, "x").to_dict())


def test_bad_annotations_are_named(tmp_path):
    folder = coco(tmp_path / "coco", [[10, 10, 20, 20], [0, 0, 1], [0, 0, float("nan"), 4]])
    with pytest.raises(DataError, match="has no image whose size is known"):
        read_annotations(str(folder))
    folder = coco(tmp_path / "coco", [[10, 10, 20, 20], [0, 0, 1]])
    read, skipped = read_annotations(str(folder))
    assert read.num_boxes == 1
    assert "not four numbers" in skipped[0].reason


def test_both_ways_give_the_same_table(tmp_path):
    write_coco(tmp_path / "coco", 6, labels=("b", "a"))
    one, (other, _) = table_of(load_dataset(tmp_path / "coco")), read_annotations(str(tmp_path / "coco"))
    assert explore_table(one, "x") == explore_table(other, "x")
    assert one.labels == ("b", "a")
