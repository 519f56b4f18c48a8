from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from boxtune.data.dataset import DetectionDataset, available_splits, load_dataset
from boxtune.data.records import Record
from boxtune.data.splits import split_in_name
from boxtune.detections import Detections
from boxtune.errors import DataError


def records(num_images: int) -> list[Record]:
    detections = Detections([[1, 2, 3, 4]], ["cat"])
    return [Record(f"image-{i}", None, (30, 40), detections, f"line {i}") for i in range(num_images)]


def test_opening_decodes_nothing(tmp_path, put_coco, monkeypatch):
    put_coco(tmp_path / "train.json")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda self: pytest.fail("a pixel was decoded"))
        dataset = load_dataset(tmp_path)
        assert dataset.image_hw(0) == (30, 40)
        assert len(dataset.detections(0)) == 2
        assert isinstance(dataset[:1], DetectionDataset)
    assert dataset[0].image_hw == (30, 40)


def test_threads_and_processes_may_share_it(tmp_path, put_coco):
    put_coco(tmp_path / "train.json")
    dataset = pickle.loads(pickle.dumps(load_dataset(tmp_path)))
    with ThreadPoolExecutor(4) as pool:
        samples = list(pool.map(dataset.__getitem__, [0, 1] * 20))
    assert [sample.id for sample in samples] == ["1", "2"] * 20


def test_all_splits_together_keep_ids_apart(tmp_path, put_coco):
    for name in ("train", "val"):
        put_coco(tmp_path / f"{name}.json")
    dataset = load_dataset(tmp_path)
    assert dataset.split is None
    assert [record.id for record in dataset.records] == ["train/1", "train/2", "val/1", "val/2"]
    assert load_dataset(tmp_path, "validation").split == "val"


def test_a_split_that_is_not_there_names_those_that_are(tmp_path, put_coco):
    for name in ("train", "val"):
        put_coco(tmp_path / f"{name}.json")
    with pytest.raises(DataError, match=r"has no split 'test'. It has: train, val\."):
        load_dataset(tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("instances_train2017", "train"),
        ("VALID", "val"),
        ("my-dev.v2", "val"),
        ("test", "test"),
        ("latest", None),
        ("train_test_split", None),
        ("trainval", None),
    ],
)
def test_splits_in_names(name, split):
    assert split_in_name(name) == split


def test_what_looks_like_nothing_or_like_two_is_refused(tmp_path, put_coco, put_image):
    put_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"looks like no data set.*COCO.*YOLO.*VOC.*JSONL.*parquet.*--format"):
        load_dataset(tmp_path)
    put_coco(tmp_path / "train.json")
    (tmp_path / "train.jsonl").write_text(json.dumps({"image": "a.jpg", "objects": []}))
    with pytest.raises(DataError, match=r"looks like coco and jsonl. Say which with --format"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, format="jsonl").format == "jsonl"


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("no/such/folder", {}, "does not exist here. Give a folder, a file, or a hub id"),
        ("owner/name", {"format": "coco"}, "only --format hub is read from the hub"),
        (".", {"format": "cocoo"}, "Unknown format 'cocoo'. Did you mean 'coco'"),
        (".", {"format": "yolo"}, "is not in the format 'yolo': there is no YOLO: data.yaml"),
        (".", {"on_error": "ignore"}, "on_error is 'ignore'"),
    ],
)
def test_wrong_questions(tmp_path, monkeypatch, spec, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=words):
        load_dataset(spec, **options)


def test_options_belong_to_the_hub(tmp_path, put_coco):
    put_coco(tmp_path / "train.json")
    with pytest.raises(DataError, match="the format coco takes no options"):
        load_dataset(f"{tmp_path}?boxes=xyxy_px")


def test_the_message_names_three_and_counts_the_rest(tmp_path, put_coco):
    def spoil(content):
        content["annotations"] = [{"id": i, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]} for i in range(5)]

    put_coco(tmp_path / "train.json", spoil)
    with pytest.raises(
        DataError, match=r"has 5 bad records: .*annotation 0.*annotation 1.*annotation 2.*\. And 2 more\. Or leave such"
    ):
        load_dataset(tmp_path)


def test_nothing_left_is_an_error(tmp_path, put_coco):
    put_coco(tmp_path / "train.json", lambda content: [image.update(width=1) for image in content["images"]])
    with pytest.raises(
        DataError, match=r"has no image in train: all 2 records are bad, the first: train\.json, image 1"
    ):
        load_dataset(tmp_path, on_error="skip")


def test_an_image_that_breaks_later_is_named(tmp_path, put_coco, put_image):
    put_coco(tmp_path / "train.json")
    dataset = load_dataset(tmp_path)
    put_image(tmp_path / "images" / "a.jpg", width=20)
    with pytest.raises(
        DataError, match=r"train\.json, image 1: the image '.*a\.jpg' has changed its size.*40×30 px to 20×30"
    ):
        dataset[0]
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"train\.json, image 1: .*does not exist"):
        dataset[0]


def test_split_off_is_stable_when_images_are_added():
    small, large = DetectionDataset(records(200), ("cat",), "x"), DetectionDataset(records(210), ("cat",), "x")
    rest, held = small.split_off(0.2, seed=3)
    assert (len(rest), len(held)) == (160, 40)
    assert not {r.id for r in rest.records} & {r.id for r in held.records}
    again = {r.id for r in large.split_off(0.2, seed=3)[1].records}
    assert len(again & {r.id for r in held.records}) >= 36
    assert {r.id for r in small.split_off(0.2, seed=4)[1].records} != {r.id for r in held.records}


@pytest.mark.parametrize(
    ("num_images", "fraction", "words"), [(1, 0.5, "too few"), (9, 0, "between"), (9, 1, "between")]
)
def test_split_off_refuses_what_leaves_a_side_empty(num_images, fraction, words):
    with pytest.raises(DataError, match=words):
        DetectionDataset(records(num_images), ("cat",), "x").split_off(fraction)


def test_two_images_are_one_and_one():
    assert [len(side) for side in DetectionDataset(records(2), ("cat",), "x").split_off(0.01)] == [1, 1]


def test_the_fingerprint_follows_the_annotations(tmp_path, put_coco):
    put_coco(tmp_path / "one" / "train.json")
    put_coco(tmp_path / "two" / "train.json")
    put_coco(tmp_path / "other" / "train.json", lambda content: content["annotations"][0].update(bbox=[1, 2, 10, 21]))
    one, two, other = (load_dataset(tmp_path / name).fingerprint() for name in ("one", "two", "other"))
    assert one == two != other


def test_synthetic_sets_are_handed_on(monkeypatch):
    import boxtune.data.synthetic as synthetic

    made = DetectionDataset(records(3), ("cat",), "nutrition")
    monkeypatch.setattr(synthetic, "load_synthetic", lambda spec, split: made, raising=False)
    assert load_dataset("synthetic:nutrition?n=3", "train") is made
    assert available_splits("synthetic:nutrition") == ["train", "val", "test"]


def test_reading_data_needs_no_torch():
    code = "import sys, boxtune.data.dataset, boxtune.data.convert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
