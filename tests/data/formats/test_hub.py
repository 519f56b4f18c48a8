from __future__ import annotations

import pickle

import datasets
import pytest
from datasets import ClassLabel, Features, List, Value

from boxtune import hub
from boxtune.data.dataset import available_splits, load_dataset
from boxtune.detections import Detections
from boxtune.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def open_food_facts(tmp_path, image_bytes):
    """The schema of openfoodfacts/nutrition-table-detection."""

    def build(bbox=(0.1, 0.25, 0.5, 0.75), orientation=1, name="nutrition-table", **columns):
        rows = {
            "image_id": ["0009800892204_1", "2"],
            "image": [{"bytes": image_bytes(40, 30, "JPEG", orientation), "path": None}] * 2,
            "width": [40, 40],
            "height": [30, 30],
            "meta": [{"barcode": "1"}] * 2,
            "objects": [
                {"bbox": [list(bbox)], "category_id": [0], "category_name": [name]},
                {"bbox": [], "category_id": [], "category_name": []},
            ],
            **columns,
        }
        features = Features(
            {
                "image_id": Value("string"),
                "image": datasets.Image(),
                "width": Value("int64"),
                "height": Value("int64"),
                "meta": {"barcode": Value("string")},
                "objects": {
                    "bbox": List(List(Value("float32"))),
                    "category_id": List(Value("int64")),
                    "category_name": List(Value("string")),
                },
            }
        )
        (tmp_path / "off" / "data").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "off" / "data" / "train-00000-of-00001.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
        return tmp_path / "off"

    return build


def cppe(image, category, boxes=((4.0, 6.0, 10.0, 12.0),)):
    rows = {
        "image_id": [7],
        "image": [{"bytes": image, "path": None}],
        "width": [40],
        "height": [30],
        "objects": [{"bbox": [list(box) for box in boxes], "category": [0] * len(boxes)}],
    }
    features = Features(
        {
            "image_id": Value("int64"),
            "image": datasets.Image(),
            "width": Value("int32"),
            "height": Value("int32"),
            "objects": {"bbox": List(List(Value("float32"))), "category": List(category)},
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


def test_open_food_facts_boxes_are_y_first_fractions(open_food_facts):
    folder = open_food_facts()
    assert available_splits(folder) == ["train"]
    dataset = load_dataset(folder, "train")
    assert dataset.format == "hub"
    assert dataset.detections(0).xyxy[0].tolist() == pytest.approx([10, 3, 30, 15], abs=1e-5)
    assert dataset.labels == ("nutrition-table",)
    assert [record.id for record in dataset.records] == ["0009800892204_1", "2"]
    assert "yxyx_norm" in dataset.notes[0]
    assert len(dataset.detections(1)) == 0


def test_fractions_of_a_photo_that_was_measured_lying(open_food_facts):
    dataset = load_dataset(open_food_facts(orientation=6), "train")
    assert dataset.image_hw(0) == (40, 30)
    assert dataset.detections(0).xyxy[0].tolist() == pytest.approx([30 - 15, 10, 30 - 3, 30], abs=1e-5)


def test_images_stay_undecoded_and_travel_to_workers(open_food_facts, monkeypatch):
    from PIL import Image

    folder = open_food_facts()
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda self: pytest.fail("a pixel was decoded"))
        dataset = load_dataset(folder, "train")
    assert pickle.loads(pickle.dumps(dataset))[0].image.size == (40, 30)


def test_coco_pixels_with_class_names(tmp_path, image_bytes):
    cppe(image_bytes(), ClassLabel(names=["mask", "glove"])).to_parquet(tmp_path / "validation.parquet")
    dataset = load_dataset(tmp_path / "validation.parquet", "val")
    assert dataset.labels == ("mask", "glove")
    assert dataset.detections(0).xyxy.tolist() == [[4, 6, 14, 18]]
    assert dataset.detections(0).labels == ("mask",)
    assert dataset.records[0].id == "7"


def test_a_list_of_objects_in_an_oddly_named_folder(tmp_path, image_bytes):
    features = Features(
        {
            "image": datasets.Image(),
            "objects": List({"bbox": List(Value("float32")), "label": ClassLabel(names=["mask", "glove"])}),
        }
    )
    rows = {
        "image": [{"bytes": image_bytes(), "path": None}] * 2,
        "objects": [[{"bbox": [1, 2, 3, 4], "label": 1}], []],
    }
    folder = tmp_path / "set [1] ü*"
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "test.parquet")
    dataset = load_dataset(folder, "test")
    assert dataset.detections(0) == Detections([[1, 2, 4, 6]], ["glove"])
    assert [record.id for record in dataset.records] == ["0", "1"]


def test_a_broken_parquet_file(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"cannot be loaded .* whole parquet files"):
        load_dataset(tmp_path)


def test_the_meaning_of_boxes_can_be_said(tmp_path, image_bytes):
    cppe(image_bytes(), ClassLabel(names=["mask"])).to_parquet(tmp_path / "a.parquet")
    assert load_dataset(f"{tmp_path}?boxes=xyxy_px").detections(0).xyxy.tolist() == [[4, 6, 10, 12]]
    with pytest.raises(DataError, match=r"unknown boxes=xyxy_pixel\. Did you mean 'xyxy_px'"):
        load_dataset(f"{tmp_path}?boxes=xyxy_pixel")
    with pytest.raises(DataError, match=r"unknown option 'box'\. Did you mean 'boxes'"):
        load_dataset(f"{tmp_path}?box=xyxy_px")


def test_numbers_without_names_want_names(tmp_path, image_bytes):
    cppe(image_bytes(), Value("int64")).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"objects\.category holds numbers without names.*\?names="):
        load_dataset(tmp_path)
    assert load_dataset(f"{tmp_path}?names=mask,glove").labels == ("mask", "glove")


def test_pixels_under_the_schema_of_fractions_are_refused_with_the_way_out(open_food_facts):
    with pytest.raises(DataError, match=r"train, row 0: box .*lies outside.*read as yxyx_norm; say \?boxes="):
        load_dataset(open_food_facts(bbox=(3, 10, 15, 30)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": [None, None]}, "train, row 0: Image 'train, row 0' is missing|row holds no bytes"),
        ({"image": [{"bytes": b"text", "path": None}] * 2}, "row 0.* is no image"),
        ({"image_id": ["same", "same"]}, "'same' is used 2 times"),
        ({"bbox": (0.5, 0.25, 0.1, 0.75)}, "swapped corners"),
        ({"bbox": (0.5, 0.25, 0.1)}, "is not four numbers"),
        ({"width": [99, 40]}, "says 99×30 pixels"),
        ({"name": ""}, "empty label"),
    ],
)
def test_bad_rows(open_food_facts, change, words):
    with pytest.raises(DataError, match=words):
        load_dataset(open_food_facts(**change))


def test_columns_that_say_nothing_of_boxes(tmp_path, image_bytes):
    rows = cppe(image_bytes(), Value("string")).remove_columns(["width"])
    renamed = rows.map(lambda row: {"objects": {"bbox": row["objects"]["bbox"], "category_name": ["x"]}})
    renamed.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"what its boxes mean is not known. Say \?boxes="):
        load_dataset(tmp_path)
    rows.remove_columns(["objects"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no column 'objects'; it has height, image"):
        load_dataset(tmp_path)


def test_a_hub_id_goes_to_the_hub(monkeypatch, image_bytes):
    asked = []

    def load(name, config, *, split, **options):
        asked.append((name, config, split, options))
        return cppe(image_bytes(), ClassLabel(names=["mask"]))

    monkeypatch.setattr(hub, "answers", lambda: True)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *args, **options: ["train", "validation"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert available_splits("owner/masks") == ["train", "val"]
    dataset = load_dataset("owner/masks?revision=abc&config=small", "valid")
    assert dataset.name == "owner/masks"
    assert asked == [("owner/masks", "small", "validation", {"revision": "abc"})]


def test_what_the_hub_answers_is_one_line(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("no route to host\nlong tail")

    monkeypatch.setattr(hub, "answers", lambda: True)
    monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
    with pytest.raises(DataError, match=r"'owner/gone' cannot be loaded \(no route to host\)") as caught:
        load_dataset("owner/gone")
    assert "\n" not in str(caught.value)


def test_a_file_without_a_split_in_its_name(tmp_path, image_bytes):
    path = tmp_path / "set" / "photos.parquet"
    path.parent.mkdir()
    cppe(image_bytes(), ClassLabel(names=["mask", "glove"])).to_parquet(path)
    assert len(load_dataset(path)) == 1
    assert load_dataset(path.parent).split == "all"
