from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from boxtune.data.dataset import available_splits, load_dataset
from boxtune.data.splits import split_in_name
from boxtune.errors import DataError


def test_boxes_labels_ids_and_sources(tmp_path, put_coco):
    put_coco(tmp_path / "train.json")
    dataset = load_dataset(tmp_path, "train")
    assert dataset.labels == ("zebra", "ant")
    assert [record.id for record in dataset.records] == ["1", "2"]
    assert dataset.detections(0).xyxy.tolist() == [[1, 2, 11, 22], [5.5, 6, 9.5, 10]]
    assert dataset.detections(0).labels == ("ant", "zebra")
    assert len(dataset.detections(1)) == 0
    assert dataset.records[0].source == "train.json, image 1"
    assert dataset[0].image.mode == "RGB"


@pytest.mark.parametrize(
    ("files", "images", "splits"),
    [
        (["train.json", "val.json"], "images", ["train", "val"]),
        (["train.json"], ".", ["train"]),
        (["annotations/instances_train2017.json", "annotations/instances_val2017.json"], "..", ["train", "val"]),
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], ".", ["train", "val"]),
        (["test/_annotations.coco.json"], ".", ["test"]),
        (["labels.json"], "images", ["all"]),
    ],
)
def test_layouts(tmp_path, put_coco, files, images, splits):
    for name in files:
        put_coco(tmp_path / name, images=images)
    assert available_splits(tmp_path) == splits
    for split in splits:
        assert len(load_dataset(tmp_path, split)) == 2


@pytest.mark.parametrize("home", ["train2017", "images/train2017", "images/train"])
def test_images_in_a_folder_of_the_split(tmp_path, put_coco, put_image, home):
    put_coco(tmp_path / "annotations" / "instances_train2017.json", images="nowhere")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "annotations" / "nowhere" / name).unlink()
        put_image(tmp_path / home / name)
    assert load_dataset(tmp_path).records[0].image.parent == tmp_path / home


def test_captions_and_key_points_beside_the_boxes_are_not_read(tmp_path, put_coco):
    path = put_coco(tmp_path / "annotations" / "instances_train2017.json", images="..")
    for other in ("person_keypoints_train2017.json", "captions_train2017.json"):
        path.with_name(other).write_text(path.read_text())
    assert available_splits(tmp_path) == ["train"]


def test_two_files_for_one_split_are_refused(tmp_path, put_coco):
    put_coco(tmp_path / "train.json")
    put_coco(tmp_path / "train_2.json")
    with pytest.raises(DataError, match="Two COCO files for the split 'train'"):
        load_dataset(tmp_path)


def test_crowd_regions_are_left_out_and_counted(tmp_path, put_coco):
    put_coco(tmp_path / "train.json", lambda content: content["annotations"][0].update(iscrowd=1))
    dataset = load_dataset(tmp_path)
    assert dataset.detections(0).labels == ("zebra",)
    assert dataset.notes == ["train.json: 1 crowd regions (iscrowd 1) left out."]
    assert not dataset.skipped


def test_a_group_that_only_names_others_is_no_class(tmp_path, put_coco):
    def group(content):
        content["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            *({**category, "supercategory": "animals"} for category in content["categories"]),
        ]

    put_coco(tmp_path / "train" / "_annotations.coco.json", group)
    assert load_dataset(tmp_path).labels == ("zebra", "ant")


def annotation(**change):
    return lambda content: content["annotations"][0].update(change)


def image(**change):
    return lambda content: content["images"][0].update(change)


BAD = {
    "box outside": (annotation(bbox=[30, 2, 20, 5]), "annotation 17: box .* lies outside its image of 40×30"),
    "no area": (annotation(bbox=[3, 2, 0, 5]), "annotation 17: .* has no area"),
    "not finite": (annotation(bbox=[3, 2, float("nan"), 5]), "annotation 17: .*not finite"),
    "no numbers": (annotation(bbox=["3", 2, 1, 5]), "annotation 17: 'bbox' is .*not four numbers"),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), "annotation 17: 'bbox' is None"),
    "category": (annotation(category_id=99), r"annotation 17: unknown category_id 99; there are 5, 3\."),
    "no category": (lambda c: c["annotations"][0].pop("category_id"), "unknown category_id None"),
    "no such image": (annotation(image_id=99), "annotation 17: there is no image with the id 99"),
    "no image id": (lambda c: c["annotations"][0].pop("image_id"), "annotation without 'image_id'"),
    "not a dict": (lambda c: c["annotations"].append(3), "annotation number 3: an annotation without"),
    "duplicate": (lambda c: c["images"].append(c["images"][0]), "the image id '1' is used 2 times"),
    "missing image": (image(file_name="c.jpg"), r"image 1: Image '.*c\.jpg' does not exist"),
    "no name": (lambda c: c["images"][0].pop("file_name"), "image 1: the image name None is not text"),
    "climbing": (image(file_name="../../etc/passwd"), "image 1: .*leads out of the data set's folder"),
    "absolute": (image(file_name="/etc/passwd"), "image 1: .*leads out of the data set's folder"),
    "backslashes": (image(file_name="..\\..\\secret.jpg"), "image 1: .*leads out of the data set's folder"),
    "size": (image(width=80), "image 1: the annotation says 80×30 pixels, the image has 40×30"),
    "no id": (lambda c: c["images"][1].pop("id"), "image number 2: an image without an id"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_named_or_skipped(tmp_path, put_coco, name):
    change, words = BAD[name]
    put_coco(tmp_path / "train.json", change)
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(tmp_path)
    assert "train.json" in str(caught.value)
    assert "--on-error skip" in str(caught.value)
    assert "\n" not in str(caught.value)
    skipped_path = tmp_path / "out" / "skipped.jsonl"
    dataset = load_dataset(tmp_path, on_error="skip", skipped_path=skipped_path)
    rows = [json.loads(line) for line in skipped_path.read_text().splitlines()]
    assert len(rows) == len(dataset.skipped) > 0
    assert rows[0]["reason"] == dataset.skipped[0].reason
    assert len(dataset) in (1, 2)


def test_a_bad_box_drops_its_whole_image(tmp_path, put_coco):
    put_coco(tmp_path / "train.json", annotation(category_id=99))
    assert [record.id for record in load_dataset(tmp_path, on_error="skip").records] == ["2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [], "annotations": [], "categories": [', "is no JSON file, or is cut off"),
        ('{"images": [], "annot', "is no JSON file, or is cut off"),
        ("", r"train\.json' is empty\. Write it again, or remove it"),
        ("[1, 2]", r"train\.json' has no list 'images'; .*move it away"),
        ('{"images": []}', r"train\.json' has no list 'annotations'; .*Write it again"),
        ('{"images": [], "annotations": {}, "categories": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category without id or name"),
        ('{"images": [], "annotations": [], "categories": []}', "has no image in train"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "two categories with the id 1",
        ),
    ],
)
def test_files_that_are_no_coco(tmp_path, content, words):
    (tmp_path / "train.json").write_text(content)
    for spec, format_name in ((tmp_path, None), (tmp_path, "coco"), (tmp_path / "train.json", None)):
        with pytest.raises(DataError, match=words):
            load_dataset(spec, format=format_name)


WHOLE = '{"images": [], "annotations": [], "categories": []}'
DAMAGED = {
    "cut": WHOLE[:30],
    "cut within the first key": WHOLE[:5],
    "empty": "",
    "a list": "[1, 2]",
    "no annotations": '{"images": [], "categories": []}',
    "no text": "\udcff",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize(
    ("healthy", "damaged"),
    [
        ("train.json", "val.json"),
        ("val.json", "train.json"),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json"),
        ("train/labels.json", "test/annotations.json"),
    ],
)
def test_a_damaged_split_is_no_missing_one(tmp_path, put_coco, healthy, damaged, content):
    put_coco(tmp_path / healthy, images="..")
    path = tmp_path / damaged
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, errors="surrogateescape")
    split = split_in_name(path.stem) or split_in_name(path.parent.name)
    assert split in available_splits(tmp_path)
    for wanted, format_name in ((split, None), (None, "coco")):
        with pytest.raises(DataError, match=rf"{re.escape(damaged)}' (is|has) .*(Write it again|remove it)"):
            load_dataset(tmp_path, wanted, format=format_name)
    path.unlink()
    assert available_splits(tmp_path) == [split_in_name(healthy.split("/")[-1]) or "train"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my_val_set.json", WHOLE[:30]),
        ("my_val_set.json", ""),
        ("my_val_set.json", '{"images": []}'),
        ("valid/labels.json", WHOLE[:-1].replace("categories", "cat")),
        ("train.json", WHOLE[:30]),  # beside a whole train_2.json, an old copy perhaps
    ],
)
def test_a_damaged_file_with_a_split_in_its_name(tmp_path, put_coco, name, content):
    put_coco(tmp_path / "train_2.json")
    (tmp_path / "valid").mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{re.escape(name)}' (is|has) "):
        load_dataset(tmp_path)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", ["annotations.json", "_annotations.coco.json", "annotations/instances.json"])
def test_a_damaged_set_without_splits(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(DataError, match=rf"{re.escape(name)}' (is|has) .*(Write it again|remove it)"):
        load_dataset(tmp_path)


def test_other_json_files_do_no_harm(tmp_path, put_coco):
    put_coco(tmp_path / "annotations" / "instances_train2017.json", images="..")
    put_coco(tmp_path / "annotations" / "instances_val2017.json", images="..")
    others = {
        "package.json": '{"name": "x"}',
        "broken.json": "{",
        "test_results.json": '{"map": 0.5}',
        "train_log.json": '{"step": 1}\n{"step": 2}\n',
        "val_predictions.json": '[{"image_id": 1}]',
        "train.json": '["a.jpg", "b.jpg"]',
        "train_state.json": "",
        "annotations.json": "{",
        "labels.json": '{"images": ',
        "test/a.json": '{"shapes": []}',
        "annotations/captions_val2017.json": '{"images": [], "annotations": []}',
        "annotations/image_info_test2017.json": '{"images": [], "categories": []}',
    }
    (tmp_path / "test").mkdir()
    for name, content in others.items():
        (tmp_path / name).write_text(content)
    assert available_splits(tmp_path) == ["train", "val"]
    assert len(load_dataset(tmp_path)) == 4


def test_a_set_in_another_format_may_have_a_train_json(tmp_path, put_image):
    put_image(tmp_path / "a.jpg")
    (tmp_path / "train.jsonl").write_text('{"image": "a.jpg", "objects": []}')
    (tmp_path / "train.json").write_text("[1, 2]")
    assert load_dataset(tmp_path).format == "jsonl"


@pytest.mark.parametrize("x", [-2, 32])
def test_rounding_at_the_border_is_clipped(tmp_path, put_coco, x):
    put_coco(tmp_path / "train.json", annotation(bbox=[x, 2, 10, 5]))
    box = load_dataset(tmp_path).detections(0).xyxy[0]
    assert box.tolist() == [max(x, 0), 2, min(x + 10, 40), 7]


@pytest.mark.parametrize(("declared", "box"), [((40, 30), [30 - 22, 1, 30 - 2, 11]), ((30, 40), [1, 2, 11, 22])])
def test_the_declared_size_tells_the_frame_of_the_boxes(tmp_path, put_coco, put_image, declared, box):
    width, height = declared
    put_coco(tmp_path / "train.json", image(width=width, height=height))
    put_image(tmp_path / "images" / "a.jpg", orientation=6)
    dataset = load_dataset(tmp_path)
    assert dataset.image_hw(0) == (40, 30)
    assert dataset.detections(0).xyxy[0].tolist() == box


def test_real_sets(shared_data, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a pixel was decoded"))
    for name, train, val in (("blood-cells", 291, 73), ("doc-tables", 96, 24), ("trash", 72, 18)):
        assert len(load_dataset(shared_data / name, "train")) == train
        assert len(load_dataset(shared_data / name, "valid")) == val


def test_a_real_grey_scan_becomes_rgb(shared_data):
    assert load_dataset(shared_data / "doc-tables", "val")[0].image.mode == "RGB"
