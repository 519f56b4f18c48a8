from __future__ import annotations

import json

import pytest

from boxtune.data.dataset import available_splits, load_dataset
from boxtune.errors import DataError

OWN = {"image": "a.jpg", "width": 40, "height": 30, "objects": [{"bbox_xyxy_px": [1, 2, 3.5, 4], "label": "ça va"}]}


@pytest.fixture
def put_lines(tmp_path, put_image):
    def put(*rows, name="train.jsonl"):
        for image in ("a.jpg", "images/b.jpg"):
            put_image(tmp_path / image)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path

    return put


def test_our_own_form(put_lines):
    folder = put_lines(OWN, "", {"image": "b.jpg", "objects": [], "id": "second"})
    dataset = load_dataset(folder)
    assert dataset.detections(0).xyxy.tolist() == [[1, 2, 3.5, 4]]
    assert dataset.labels == ("ça va",)
    assert [record.id for record in dataset.records] == ["a.jpg", "second"]
    assert dataset.records[1].source == "train.jsonl, line 3"


@pytest.mark.parametrize(
    ("objects", "boxes", "labels"),
    [
        ({"ref": ["cat"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}, [[1, 2, 3, 4], [5, 6, 7, 8]], ("cat", "cat")),
        ({"ref": ["a", "b"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "bbox_type": "real"}, None, ("a", "b")),
        ({"ref": ["a"], "bbox": [[0.5, 0.5, 1, 1]], "bbox_type": "norm1"}, [[20, 15, 40, 30]], ("a",)),
        ({"ref": [], "bbox": []}, [], ()),
        (None, [], ()),
    ],
)
def test_the_form_of_ms_swift(put_lines, objects, boxes, labels):
    row = {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>?"}], "objects": objects}
    detections = load_dataset(put_lines(row)).detections(0)
    assert detections.labels == labels
    assert boxes is None or detections.xyxy.tolist() == boxes


def test_splits_are_told_by_file_names(put_lines):
    put_lines(OWN)
    put_lines(OWN, name="my_validation.jsonl")
    folder = put_lines(OWN, name="skipped.jsonl")
    assert available_splits(folder) == ["train", "val"]
    assert available_splits(folder / "train.jsonl") == ["train"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"image": "a.jpg", ', "line 1: the line is no JSON"),
        ("[1, 2]", "line 1: the line is no JSON object"),
        ({"width": 40}, "line 1: the key 'image' is missing"),
        ({"image": "a.jpg"}, "line 1: the list 'objects' is missing"),
        ({"image": "a.jpg", "objects": [{"label": "x"}]}, "object 1 has no 'bbox_xyxy_px'"),
        ({"image": "a.jpg", "objects": [{"bbox_xyxy_px": [1, 2, 3, 4]}]}, "object 1 has no 'label'"),
        ({"image": "a.jpg", "objects": [{"bbox_xyxy_px": [1, 2, 3], "label": "x"}]}, "is not four numbers"),
        ({"image": "a.jpg", "objects": [{"bbox_xyxy_px": "wide", "label": "x"}]}, "not a list of four numbers"),
        ({"image": "a.jpg", "objects": [{"bbox_xyxy_px": [1, 2, 3, 4], "label": 5}]}, "the label 5 is not text"),
        ({"image": "a.jpg", "objects": [{"bbox_xyxy_px": [1, 2, 3, 4], "label": ""}]}, "empty label"),
        ({"image": "a.jpg", "objects": [{"bbox_xyxy_px": [3, 2, 1, 4], "label": "x"}]}, "swapped corners"),
        ({"image": "../a.jpg", "objects": []}, "leads out of"),
        ({"images": ["a.jpg", "b.jpg"]}, "must name exactly one image"),
        ({"images": ["a.jpg"], "objects": {"ref": ["a"]}}, "no lists 'ref' and 'bbox'"),
        ({"images": ["a.jpg"], "objects": {"ref": ["a", "b"], "bbox": [[1, 2, 3, 4]]}}, "2 entries in ref but 1 in"),
        ({"images": ["a.jpg"], "objects": {"ref": ["a"], "bbox": [[1, 2]]}}, "is not four numbers"),
        ({"images": ["a.jpg"], "objects": {"ref": [], "bbox": [], "bbox_type": "norm1000"}}, "bbox_type is 'norm1000'"),
    ],
)
def test_bad_lines(put_lines, row, words):
    folder = put_lines(row, {"image": "images/b.jpg", "objects": []})
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(folder)
    assert "train.jsonl, line 1" in str(caught.value)
    assert [record.source for record in load_dataset(folder, on_error="skip").records] == ["train.jsonl, line 2"]


def test_a_line_that_is_no_text(put_lines):
    folder = put_lines({"image": "b.jpg", "objects": []})
    with (folder / "train.jsonl").open("ab") as file:
        file.write(b'{"image": "a.jpg", "objects": [{"label": "\xff"}]}\n')
    with pytest.raises(DataError, match="line 2: the line is no JSON"):
        load_dataset(folder)


def test_an_image_on_two_lines_is_refused(put_lines):
    with pytest.raises(DataError, match=r"'a\.jpg' is used 2 times"):
        load_dataset(put_lines(OWN, OWN))
