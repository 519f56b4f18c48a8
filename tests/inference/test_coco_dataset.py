"""Found boxes as a COCO data set: what other readers take from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from boxtune.data.dataset import load_dataset
from boxtune.detections import Detections
from boxtune.inference.coco_dataset import FoundPicture, write_coco_dataset
from boxtune.inference.predict import predict_images
from inference.test_predict import RedFinder, photo

TWO = Detections([[1, 2, 11.126, 22], [0, 0, 5, 5]], ["red cell", "tüv"], [0.123456, 1.0])
PICTURES = [
    FoundPicture("a/ü.jpg", (30, 40), TWO),
    FoundPicture("b.jpg", (50, 60), Detections.empty(scored=True)),
    FoundPicture("c.jpg", (10, 10), Detections([[0, 0, 1, 1]], ["cell"], [0.5])),
]


def read_as_fiftyone(path: Path) -> dict[str, tuple[tuple[int, int], list[tuple[str, list[float], float]]]]:
    """What FiftyOne 1.22's `COCODetectionDatasetImporter` (fiftyone/utils/coco.py) takes of a file.

    Each key of an annotation is an argument of `COCOObject` or becomes an attribute of the box, so none may be foreign.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    classes = {category["id"]: category["name"] for category in content["categories"]}
    boxes: dict[int, list[tuple[str, list[float], float]]] = {}
    images = {image["id"]: image for image in content["images"]}
    for row in content["annotations"]:
        assert set(row) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "score"}
        size = images[row["image_id"]]
        x, y, width, height = row["bbox"]
        relative = [x / size["width"], y / size["height"], width / size["width"], height / size["height"]]
        boxes.setdefault(row["image_id"], []).append((classes[row["category_id"]], relative, row["score"]))
    return {
        image["file_name"]: ((image["width"], image["height"]), boxes.get(number, []))
        for number, image in images.items()
    }


def test_as_fiftyone_reads_it(tmp_path):
    write_coco_dataset(tmp_path / "coco.json", PICTURES, ["cell", "red cell"])
    found = read_as_fiftyone(tmp_path / "coco.json")
    assert list(found) == ["a/ü.jpg", "b.jpg", "c.jpg"]
    assert found["b.jpg"] == ((60, 50), [])
    size, boxes = found["a/ü.jpg"]
    assert size == (40, 30)
    assert boxes[0] == ("red cell", pytest.approx([1 / 40, 2 / 30, 10.13 / 40, 20 / 30]), 0.1235)
    assert boxes[1][0] == "tüv"
    content = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert [(one["id"], one["name"]) for one in content["categories"]] == [(1, "cell"), (2, "red cell"), (3, "tüv")]


def test_as_pycocotools_reads_it(tmp_path):
    write_coco_dataset(tmp_path / "coco.json", PICTURES, ["cell", "red cell"])
    coco = COCO(str(tmp_path / "coco.json"))
    assert len(coco.getImgIds()) == 3
    assert [row["score"] for row in coco.loadAnns(coco.getAnnIds(imgIds=[1]))] == [0.1235, 1.0]


def test_nothing_at_all(tmp_path):
    write_coco_dataset(tmp_path / "coco.json", [], [])
    assert json.loads((tmp_path / "coco.json").read_text()) == {"images": [], "annotations": [], "categories": []}


def test_a_failure_leaves_the_older_file(tmp_path):
    path = tmp_path / "coco.json"
    path.write_text("older")

    def broken():
        yield PICTURES[0]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write_coco_dataset(path, broken(), [])
    assert path.read_text() == "older"
    assert [one.name for one in tmp_path.iterdir()] == ["coco.json"]


def test_predict_writes_it_and_our_own_reader_takes_it(tmp_path):
    photos = tmp_path / "photos"
    paths = [photo(photos / "a.png"), photo(photos / "sub" / "b.png", empty=True)]
    predict_images(RedFinder(), paths, tmp_path / "o", min_score=0.5, coco_root=photos)
    rows = json.loads((tmp_path / "o" / "predictions.json").read_text())
    dataset = load_dataset((tmp_path / "o" / "coco.json").rename(photos / "coco.json"))
    assert [record.image.relative_to(photos).as_posix() for record in dataset.records] == ["a.png", "sub/b.png"]
    assert dataset.detections(0) == Detections([[10, 20, 40, 50]], ["red"])
    assert rows[0]["bbox"] == [10, 20, 30, 30]
    predict_images(RedFinder(), paths, tmp_path / "p")
    assert not (tmp_path / "p" / "coco.json").exists()
