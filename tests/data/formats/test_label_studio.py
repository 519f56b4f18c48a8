"""Exports of Label Studio as they come out of its archive: "COCO with Images" and "YOLO with Images".

Laid out after label_studio_sdk/converter (`convert_to_coco`, `convert_to_yolo`, `exports/yolo.py`): names of uploads
begin with eight signs of a hash, ids and categories count from 0, COCO's sizes are those of the stored image although
its boxes are on the upright one, and YOLO comes without data.yaml.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxtune.data.convert import convert_dataset
from boxtune.data.dataset import available_splits, load_dataset
from boxtune.errors import DataError

INFO = {"year": 2026, "version": "1.0", "contributor": "Label Studio"}
COCO_INFO = {**INFO, "description": "", "url": "", "date_created": "2026-01-31 12:00:00.000001"}
FIRST, SECOND, EMPTY = "0f3a9c1e-cat_1.jpg", "b27d04aa-IMG_2.png", "c9e0117f-none.jpg"


@pytest.fixture
def coco_export(tmp_path, put_image):
    def build(**image: object) -> Path:
        home = tmp_path / "project-7-at-2026-01-31-12-00-0f3a9c1e"
        for name in (FIRST, SECOND, EMPTY):
            put_image(home / "images" / name)
        rows = [(0, 0, [4.0, 3.0, 10.000000000000002, 6.0]), (1, 1, [0.0, 0.0, 40.0, 30.0])]
        content = {
            "images": [
                {"width": 40, "height": 30, "id": number, "file_name": f"images/{name}", **image}
                for number, name in enumerate((FIRST, SECOND, EMPTY))
            ],
            "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "red cell"}],
            "annotations": [
                {
                    "id": number,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": [],
                    "bbox": bbox,
                    "ignore": 0,
                    "iscrowd": 0,
                    "area": bbox[2] * bbox[3],
                }
                for number, category, bbox in rows
            ],
            "info": COCO_INFO,
        }
        (home / "result.json").write_text(json.dumps(content, indent=2))
        return home

    return build


@pytest.fixture
def yolo_export(tmp_path, put_image):
    def build(categories: list[dict[str, object]] | None = None) -> Path:
        home = tmp_path / "project-7-at-2026-01-31-12-00-b27d04aa"
        for name in (FIRST, SECOND, EMPTY):
            put_image(home / "images" / name)
        (home / "labels").mkdir()
        (home / "labels" / "0f3a9c1e-cat_1.txt").write_text("0 0.225 0.2 0.25 0.2\n")
        (home / "labels" / "b27d04aa-IMG_2.txt").write_text("1 0.5 0.5 1.0 1.0\n0 0.25 0.25 0.5 0.5\n")
        (home / "labels" / "c9e0117f-none.txt").write_text("")
        categories = categories or [{"id": 0, "name": "cat"}, {"id": 1, "name": "red cell"}]
        (home / "classes.txt").write_text("".join(f"{category['name']}\n" for category in categories))
        (home / "notes.json").write_text(json.dumps({"categories": categories, "info": INFO}, indent=2))
        return home

    return build


def test_coco(coco_export):
    home = coco_export()
    assert available_splits(home) == ["all"]
    dataset = load_dataset(home)
    assert dataset.labels == ("cat", "red cell")
    assert [record.image.name for record in dataset.records] == [FIRST, SECOND, EMPTY]
    assert dataset.detections(0).xyxy.round(6).tolist() == [[4, 3, 14, 9]]
    assert [dataset.detections(n).labels for n in range(3)] == [("cat",), ("red cell",), ()]
    assert load_dataset(home / "result.json").labels == dataset.labels


def test_coco_of_windows_and_without_sizes(coco_export):
    home = coco_export(width=None, height=None)
    text = (home / "result.json").read_text()
    (home / "result.json").write_text(text.replace("images/", "images\\\\"))
    assert len(load_dataset(home)) == 3


def test_coco_without_its_images_is_refused_by_name(coco_export):
    home = coco_export()
    text = (home / "result.json").read_text()
    (home / "result.json").write_text(text.replace("images/", "/data/upload/7/"))
    with pytest.raises(DataError, match=r"'/data/upload/7/0f3a9c1e-cat_1.jpg' leads out of the data set's folder"):
        load_dataset(home)


def test_yolo(yolo_export):
    home = yolo_export()
    assert available_splits(home) == ["all"]
    dataset = load_dataset(home)
    assert dataset.labels == ("cat", "red cell")
    assert [record.id for record in dataset.records] == [f"images/{name}" for name in (FIRST, SECOND, EMPTY)]
    assert dataset.detections(0).xyxy.round(6).tolist() == [[4, 3, 14, 9]]
    assert dataset.detections(1).labels == ("red cell", "cat")
    assert len(dataset.detections(2)) == 0


def test_both_exports_are_the_same_data(yolo_export, coco_export):
    ours, theirs = load_dataset(yolo_export()), load_dataset(coco_export())
    assert ours.detections(0).labels == theirs.detections(0).labels
    assert ours.detections(0).xyxy.round(6).tolist() == theirs.detections(0).xyxy.round(6).tolist()


def test_numbers_of_classes_are_those_of_the_notes(yolo_export):
    """A label of the project may say `category="1"`: the rows of classes.txt do not count then."""
    home = yolo_export([{"id": 1, "name": "cat"}, {"id": 0, "name": "red cell"}])
    assert load_dataset(home).detections(0).labels == ("red cell",)
    (home / "notes.json").unlink()
    assert load_dataset(home).detections(0).labels == ("cat",)


def test_notes_of_somebody_else_do_not_matter(yolo_export):
    home = yolo_export()
    (home / "notes.json").write_text('["call Ann about the blurred ones"]')
    assert load_dataset(home).labels == ("cat", "red cell")


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ('{"categories": [{"id": 0', r"notes.json' is no JSON file, or is cut off"),
        ('{"categories": [{"name": "cat"}]}', "a category without id or name"),
        ('{"categories": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}', "needs a whole number of its own"),
        ('{"categories": [{"id": "0", "name": "a"}]}', "needs a whole number of its own"),
        ('{"categories": [{"id": 0, "name": ["a"]}]}', "is not index: text"),
        ('{"categories": []}', "names must be a list of class names"),
        ('{"categories": [{"id": 0, "name": "a"}]}', "class 1 is not among the 1 names"),
    ],
)
def test_damaged_notes(yolo_export, notes, said):
    home = yolo_export()
    (home / "notes.json").write_text(notes)
    with pytest.raises(DataError, match=said):
        load_dataset(home)


def test_yolo_without_its_images(yolo_export):
    home = yolo_export()
    (home / "images").rename(home / "elsewhere")
    with pytest.raises(DataError, match=r"no folder images.*'YOLO with Images'"):
        load_dataset(home)
    (home / "images").mkdir()  # what the export without images has
    with pytest.raises(DataError, match="labels without an image"):
        load_dataset(home)


def test_an_index_knows_new_notes(yolo_export):
    home = yolo_export()
    assert load_dataset(home).detections(0).labels == ("cat",)
    (home / "notes.json").write_text('{"categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "red cell"}]}')
    assert load_dataset(home).detections(0).labels == ("dog",)


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_converted_and_read_again(kind, coco_export, yolo_export, tmp_path):
    home = coco_export() if kind == "coco" else yolo_export()
    for to in ("coco", "yolo", "voc", "jsonl"):
        convert_dataset(home, to, tmp_path / to)
        again = load_dataset(tmp_path / to, "train")
        assert sorted(again.detections(n).labels for n in range(3)) == sorted(
            load_dataset(home).detections(n).labels for n in range(3)
        )


@pytest.mark.parametrize("orientation", [6, 8])
def test_coco_of_a_phone_photo(coco_export, put_image, orientation):
    """Its size is that of the stored image, and its boxes are on the upright one, as the page has shown it."""
    home = coco_export()
    put_image(home / "images" / SECOND, orientation=orientation)
    content = json.loads((home / "result.json").read_text())
    content["annotations"][1]["bbox"] = [2.0, 30.0, 20.0, 10.0]  # stored 40×30, upright 30×40
    (home / "result.json").write_text(json.dumps(content))
    dataset = load_dataset(home)
    assert dataset.records[1].image_hw == (40, 30)
    assert dataset.detections(1).xyxy.tolist() == [[2, 30, 22, 40]]
    content["images"][1]["width"] = 41
    (home / "result.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="the annotation says 41×30 pixels, the image has 30×40"):
        load_dataset(home)
