from __future__ import annotations

import pytest

from boxtune.data.dataset import available_splits, load_dataset
from boxtune.errors import DataError

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, big dog]\n"


@pytest.fixture
def folder(tmp_path, put_image):
    def build(data_yaml: str = YAML, lines: str = "1 0.5 0.5 0.25 0.2\n"):
        for split in ("train", "val"):
            for name in ("a.jpg", "b.jpg"):
                put_image(tmp_path / "images" / split / name)
            labels = tmp_path / "labels" / split
            labels.mkdir(parents=True, exist_ok=True)
            (labels / "a.txt").write_text(lines)
        (tmp_path / "data.yaml").write_text(data_yaml)
        return tmp_path

    return build


def test_boxes_and_an_image_without_objects(folder):
    dataset = load_dataset(folder(), "train")
    assert dataset.labels == ("cat", "big dog")
    assert dataset.detections(0).xyxy.tolist() == [[15, 12, 25, 18]]
    assert dataset.detections(0).labels == ("big dog",)
    assert dataset.records[0].id == "images/train/a.jpg"
    assert len(dataset.detections(1)) == 0


@pytest.mark.parametrize(
    "data_yaml",
    [
        "train: images/train\nval: images/val\nnames: {0: cat, 1: big dog}\nnc: 2\n",
        "train: [images/train]\nval: [images/val]\nnames: [cat, big dog]\n",
        "train: ../images/train\nval: ../images/val\nnames: [cat, big dog]\n",
        "path: ../datasets/gone\ntrain: images/train\nval: images/val\nnames: [cat, big dog]\n",
        "train: train.txt\nvalid: images/val\nnames: [cat, big dog]\n",
    ],
)
def test_ways_to_write_the_yaml(folder, data_yaml):
    root = folder(data_yaml)
    (root / "train.txt").write_text("./images/train/a.jpg\nimages/train/b.jpg\n")
    assert available_splits(root) == ["train", "val"]
    assert len(load_dataset(root, "train")) == len(load_dataset(root / "data.yaml", "val")) == 2


def test_roboflow_folders(tmp_path, put_image):
    put_image(tmp_path / "valid" / "images" / "a.jpg")
    (tmp_path / "valid" / "labels").mkdir()
    (tmp_path / "valid" / "labels" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("val: ../valid/images\nnames: [cat]\n")
    assert load_dataset(tmp_path, "val").detections(0).xyxy.tolist() == [[0, 0, 40, 30]]


def test_an_absolute_path_in_the_yaml_is_the_users_wish(folder, tmp_path_factory):
    root = folder()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "set.yaml"
    elsewhere.write_text(YAML.replace("path: .", f"path: {root}"))
    assert len(load_dataset(elsewhere, "train")) == 2


def test_polygons_become_their_bounding_box(folder):
    root = folder(lines="0 0.25 0.5 0.5 0.1 0.75 0.5 0.5 0.9\n")
    assert load_dataset(root, "train").detections(0).xyxy.tolist() == [[10, 3, 30, 27]]


def test_fractions_are_of_the_upright_image(folder, put_image):
    root = folder()
    put_image(root / "images" / "train" / "a.jpg", orientation=8)
    assert load_dataset(root, "train").detections(0).xyxy.tolist() == [[11.25, 16, 18.75, 24]]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a\.txt, line 1: class 2 is not among the 2 names"),
        ("0 0.5 0.5 0.1 0.1\n\n0.5 0.5 0.5 0.1 0.1", r"a\.txt, line 3: class 0\.5 is not"),
        ("0 0.5 0.5 0.1", r"a\.txt, line 1: 4 numbers are neither a box"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"6 numbers are neither a box"),
        ("0 0.5 cat 0.1 0.1", "holds something that is no number"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 0.5 0.5 0 0.1", "no area"),
        ("0 20 15 10 6", "in fractions of the sides lies outside"),
        ("0 1.2 0.5 0.3 0.3", "lies outside its image"),
    ],
)
def test_bad_lines(folder, lines, words):
    root = folder(lines=lines)
    with pytest.raises(DataError, match=words):
        load_dataset(root, "train")
    assert [r.id for r in load_dataset(root, "train", on_error="skip").records] == ["images/train/b.jpg"]


def test_labels_without_an_image_are_told(folder):
    root = folder()
    (root / "images" / "train" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.txt: labels without an image"):
        load_dataset(root, "train")


def test_a_listed_image_may_not_leave_the_folder(folder):
    root = folder("train: train.txt\nnames: [cat, big dog]\n")
    (root / "train.txt").write_text("../../secret.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt, '\.\./\.\./secret\.jpg': .*leads out of"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("data_yaml", "words"),
    [
        ("train: images/train\nnames: [yes]\n", "class 0: True is not index: text"),
        ("train: images/train\nnames: {}\n", "names must be a list"),
        ("train: images/train\nnames: [cat]\nnc: 2\n", "nc is 2, but there are 1 names"),
        ("train: images/gone\nnames: [cat]\n", r"train leads to '.*gone', which does not exist"),
        ("train: 3\nnames: [cat]\n", "train is 3, not a folder"),
        ("train: [\nnames: [cat]\n", "is no YAML file"),
        ("", "data.yaml' must hold keys such as train, val and names"),
        ("path: .\n", "data.yaml' names no images. Add train and val"),
        ("train: images/train\nval: images/val\n", "names must be a list of class names"),
        ("train: images/train\nval: images/val\nnam", "is no YAML file, or is cut off"),
        ("names: [cat, big dog]\ntrain: images/train\nval:\n", "val says nothing. Name the folder"),
        ("train: !!python/object/apply:os.getcwd []\nnames: [cat]\n", "not taken here: .*constructor"),
        ("train: &a images\nval: *a\nnames: [cat]\n", r"data\.yaml' .* \*a in line 2 .* Write the value out"),
    ],
)
def test_bad_yaml(folder, data_yaml, words):
    for format_name in (None, "yolo"):
        with pytest.raises(DataError, match=words) as caught:
            load_dataset(folder(data_yaml), "train", format=format_name)
        assert "\n" not in str(caught.value)


def test_a_blank_test_is_no_split(folder):
    assert available_splits(folder(f"{YAML}test:  # optional\n")) == ["train", "val"]


def test_an_old_copy_is_not_read_for_a_damaged_data_yaml(folder):
    root = folder("train: images/train\n")
    (root / "copy.yaml").write_text(YAML)
    with pytest.raises(DataError, match=r"data\.yaml': names must be a list"):
        load_dataset(root)
    assert len(load_dataset(root / "copy.yaml", "train")) == 2
