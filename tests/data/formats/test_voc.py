from __future__ import annotations

import pytest

from boxtune.data.dataset import available_splits, load_dataset
from boxtune.errors import DataError

XML = """<annotation><filename>{name}.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>cat &amp; dog</name><part><bndbox><xmin>9</xmin></bndbox></part>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def put(xml_folder, image_folder, put_image, names=("a", "b"), xml=XML):
    xml_folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        put_image(image_folder / f"{name}.jpg")
        (xml_folder / f"{name}.xml").write_text(xml.format(name=name))


def test_the_pixel_count_from_one_is_taken_off(tmp_path, put_image):
    put(tmp_path, tmp_path, put_image)
    dataset = load_dataset(tmp_path)
    assert dataset.detections(0).xyxy.tolist() == [[0, 0, 40, 30]]
    assert dataset.labels == ("cat & dog",)
    assert dataset.records[0].id == "a"


def test_the_layout_of_the_challenge(tmp_path, put_image):
    put(tmp_path / "Annotations", tmp_path / "JPEGImages", put_image)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, stems in (("train", "a\n"), ("val", "b\n"), ("trainval", "a\nb\n"), ("cat_train", "a  1\n")):
        (lists / f"{name}.txt").write_text(stems)
    assert available_splits(tmp_path) == ["train", "val"]
    assert [record.id for record in load_dataset(tmp_path, "val").records] == ["b"]
    assert [record.id for record in load_dataset(tmp_path).records] == ["train/a", "val/b"]


def test_folders_of_splits(tmp_path, put_image):
    put(tmp_path / "train", tmp_path / "train", put_image)
    put(tmp_path / "valid", tmp_path / "valid", put_image, ["c"])
    assert available_splits(tmp_path) == ["train", "val"]
    assert len(load_dataset(tmp_path, "train")) == 2


def test_a_renamed_image_is_found_by_the_name_of_its_xml(tmp_path, put_image):
    put(tmp_path, tmp_path, put_image, ["a"], XML.replace("{name}.jpg", "IMG_001.jpg"))
    assert load_dataset(tmp_path).records[0].image == tmp_path / "a.jpg"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("</annotation>", "", r"a\.xml: the XML does not parse"),
        ("<xmax>40</xmax>", "<xmax>wide</xmax>", r"a\.xml, object 1: xmax is 'wide', not a number"),
        ("<xmax>40</xmax>", "", "xmax is None"),
        ("<xmax>40</xmax>", "<xmax>60</xmax>", "a.xml, object 1: box .* lies outside"),
        ("<name>cat &amp; dog</name>", "", "an object without name or bndbox"),
        ("<width>40</width>", "<width>41</width>", "says 41×30 pixels, the image has 40×30"),
        ("{name}.jpg", "../../../../etc/passwd", "leads out of the data set's folder"),
        ("<annotation>", '<?xml version="1.0" encoding="klingon"?><annotation>', "does not parse"),
    ],
)
def test_bad_xml(tmp_path, put_image, old, new, words):
    put(tmp_path, tmp_path, put_image, ["a"], XML.replace(old, new))
    put(tmp_path, tmp_path, put_image, ["b"])
    with pytest.raises(DataError, match=words):
        load_dataset(tmp_path)
    assert [record.id for record in load_dataset(tmp_path, on_error="skip").records] == ["b"]


def test_a_listed_xml_and_an_image_that_are_missing(tmp_path, put_image):
    put(tmp_path / "Annotations", tmp_path / "JPEGImages", put_image)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nghost\n")
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    dataset = load_dataset(tmp_path, on_error="skip")
    assert len(dataset) == 1
    assert "ghost.xml: no such file" in str(dataset.skipped[0])
    assert "JPEGImages/b.jpg' does not exist" in str(dataset.skipped[1])


def test_a_size_of_zero_means_not_known(tmp_path, put_image):
    put(tmp_path, tmp_path, put_image, ["a"], XML.replace("<width>40</width>", "<width>0</width>"))
    assert len(load_dataset(tmp_path)) == 1
