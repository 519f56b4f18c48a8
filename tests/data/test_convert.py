from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxtune.data import convert
from boxtune.data.convert import convert_dataset
from boxtune.data.dataset import DetectionDataset, available_splits, load_dataset
from boxtune.data.records import Record
from boxtune.detections import Detections
from boxtune.errors import BoxtuneError, DataError, SaveError

FORMATS = ("coco", "yolo", "voc", "jsonl")
HW = (300, 400)
# What a format keeps of a coordinate, in pixels.
PRECISION = {"coco": 1e-9, "yolo": 1e-6, "voc": 0.005 + 1e-9, "jsonl": 0}
LABELS = [
    "cat",
    "big dog",
    "œuf & <lait>",
    'l\'"eau"',
    "栄養 成分",
    "yes",
    "0",
    " padded ",
    "a: b",
    "tab\tand\nline",
    "🍕",
]


class Drawn:
    """An image that never was a file."""

    def load(self) -> Image.Image:
        return Image.new("RGB", HW[::-1], "navy")


def boxes():
    corner = st.tuples(st.floats(0, 390), st.floats(0, 290), st.floats(1, 400), st.floats(1, 300))
    return corner.map(lambda b: (b[0], b[1], min(b[0] + b[2], 400), min(b[1] + b[3], 300)))


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=25, deadline=None)
@given(images=st.lists(st.lists(st.tuples(boxes(), st.sampled_from(LABELS)), max_size=4), min_size=1, max_size=3))
def test_every_box_and_label_comes_back(to, images):
    records = [
        Record(
            f"ü {i}", Drawn(), HW, Detections([box for box, _ in image], [label for _, label in image]), f"image {i}"
        )
        for i, image in enumerate(images)
    ]
    source = DetectionDataset(records, tuple(LABELS), "drawn", "val")
    with tempfile.TemporaryDirectory() as folder:
        result = convert_dataset(source, to, Path(folder) / "out")
        back = load_dataset(Path(folder) / "out", "val")
        assert back.format == to
        assert result.num_images == {"val": len(images)}
        for before, after in zip(records, back.records, strict=True):
            assert after.image_hw == before.image_hw
            assert after.detections.labels == before.detections.labels
            np.testing.assert_allclose(after.detections.xyxy, before.detections.xyxy, atol=PRECISION[to], rtol=0)
        if to in ("coco", "yolo"):
            assert back.labels == tuple(LABELS)


def test_through_all_four_formats_and_back(tmp_path, put_coco):
    for split in ("train", "val"):
        put_coco(tmp_path / "start" / f"{split}.json")
    place = tmp_path / "start"
    for to in (*FORMATS, "coco"):
        convert_dataset(place, to, tmp_path / f"{place.name}-{to}")
        place = tmp_path / f"{place.name}-{to}"
        assert available_splits(place) == ["train", "val"]
    for split in ("train", "val"):
        first, last = load_dataset(tmp_path / "start", split), load_dataset(place, split)
        assert set(first.labels) == set(last.labels)
        for before, after in zip(first.records, last.records, strict=True):
            assert after.detections.labels == before.detections.labels
            np.testing.assert_allclose(after.detections.xyxy, before.detections.xyxy, atol=0.006)
            assert after.image.read_bytes() == before.image.read_bytes()


@pytest.mark.parametrize("to", FORMATS)
def test_real_sets_convert(shared_data, tmp_path, to):
    result = convert_dataset(shared_data / "trash", to, tmp_path / "out", split="val")
    assert (result.num_images, result.num_boxes) == ({"val": 18}, {"val": 24})
    before, after = load_dataset(shared_data / "trash", "val"), load_dataset(tmp_path / "out", "val")
    for one, other in zip(before.records, after.records, strict=True):
        np.testing.assert_allclose(one.detections.xyxy, other.detections.xyxy, atol=0.006)


@pytest.mark.parametrize("to", FORMATS)
def test_a_lying_photo_is_written_upright(tmp_path, put_coco, put_image, to):
    put_coco(tmp_path / "set" / "train.json", lambda content: content["images"][0].update(width=30, height=40))
    photo = put_image(tmp_path / "set" / "images" / "a.jpg", orientation=6)
    convert_dataset(tmp_path / "set", to, tmp_path / "out")
    record = load_dataset(tmp_path / "out", "train").records[0]
    with Image.open(record.image) as written:
        assert (written.size, written.format) == ((30, 40), "JPEG")
        assert written.getexif().get(0x0112, 1) == 1
    assert record.detections.xyxy[0].tolist() == pytest.approx([1, 2, 11, 22], abs=1e-6)
    assert record.image.read_bytes() != photo.read_bytes()


@pytest.mark.parametrize(
    ("kind", "mode", "suffix"), [("TIFF", "I;16", ".png"), ("PNG", "RGBA", ".png"), ("JPEG", "CMYK", ".jpg")]
)
def test_images_that_not_every_reader_takes_become_rgb(tmp_path, put_coco, put_image, kind, mode, suffix):
    put_coco(tmp_path / "set" / "train.json")
    put_image(tmp_path / "set" / "images" / "a.jpg", kind=kind, mode=mode)
    convert_dataset(tmp_path / "set", "coco", tmp_path / "out")
    record = load_dataset(tmp_path / "out", "train").records[0]
    assert record.image.suffix == suffix
    with Image.open(record.image) as image:
        assert image.mode == "RGB"


def test_names_are_safe_and_unique(tmp_path, put_coco, put_image):
    names = ["a/x y.jpg", "b/x y.jpg", "b/X_Y.jpg", "c/.hidden..jpg", f"c/{'ü' * 100}.jpg"]

    def many(content):
        content["images"] = [{"id": i, "file_name": name} for i, name in enumerate(names)]
        content["annotations"] = []

    put_coco(tmp_path / "set" / "train.json", many)
    for name in names:
        put_image(tmp_path / "set" / name)
    convert_dataset(tmp_path / "set", "voc", tmp_path / "out")
    written = [record.image.name for record in load_dataset(tmp_path / "out").records]
    assert written == ["x_y.jpg", "x_y-2.jpg", "X_Y-3.jpg", "hidden.jpg", f"{'ü' * 50}.jpg"]


def test_a_full_folder_is_not_touched(tmp_path, put_coco):
    put_coco(tmp_path / "set" / "train.json")
    (tmp_path / "out").mkdir()
    convert_dataset(tmp_path / "set", "coco", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SaveError, match="is there and not empty"):
        convert_dataset(tmp_path / "set", "voc", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_crash_leaves_nothing_behind(tmp_path, put_coco, monkeypatch):
    put_coco(tmp_path / "set" / "train.json")
    monkeypatch.setattr(convert.coco, "write_split", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert_dataset(tmp_path / "set", "coco", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_skipped_records_of_all_splits_are_written_together(tmp_path, put_coco):
    for split in ("train", "val"):
        put_coco(tmp_path / "set" / f"{split}.json", lambda content: content["images"][0].update(width=1))
    skipped = tmp_path / "skipped.jsonl"
    result = convert_dataset(tmp_path / "set", "yolo", tmp_path / "out", on_error="skip", skipped_path=skipped)
    assert result.num_images == {"train": 1, "val": 1}
    assert len(result.skipped) == len(skipped.read_text().splitlines()) == 2


def test_progress_is_told(tmp_path, put_coco):
    put_coco(tmp_path / "set" / "train.json")
    calls = []
    convert_dataset(tmp_path / "set", "coco", tmp_path / "out", on_image=lambda: calls.append(1))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "vocc"}, "Unknown format 'vocc' to convert to. Did you mean 'voc'"),
        ({"to": "hub"}, "Unknown format 'hub' to convert to"),
        ({"to": "voc", "split": "test"}, "has no split 'test'"),
    ],
)
def test_wrong_questions(tmp_path, put_coco, options, words):
    put_coco(tmp_path / "set" / "train.json")
    with pytest.raises(DataError, match=words):
        convert_dataset(tmp_path / "set", output_dir=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("to", "label"), [("voc", "bell\x07"), ("voc", "a\rb")])
def test_a_label_that_a_format_cannot_hold_is_refused(tmp_path, to, label):
    record = Record("1", Drawn(), HW, Detections([[1, 2, 3, 4]], [label]), "image 1")
    with pytest.raises(BoxtuneError, match="XML cannot hold"):
        convert_dataset(DetectionDataset([record], (label,), "x"), to, tmp_path / "out")


def test_split_names_that_no_format_knows(tmp_path):
    dataset = DetectionDataset([], ("cat",), "x")
    with pytest.raises(DataError, match="A split 'night' has no place"):
        convert_dataset({"night": dataset}, "coco", tmp_path / "out")
