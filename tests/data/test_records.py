"""Checks that every record passes, whatever format it is from."""

from __future__ import annotations

import json
import os

import pytest

from boxtune.data.dataset import load_dataset
from boxtune.data.records import BadRecordError, Draft, DraftBox, check_draft
from boxtune.errors import DataError

NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")


def test_names_that_are_not_utf8_are_refused(tmp_path, put_image):
    image = put_image(tmp_path / NOT_UTF8)
    with pytest.raises(BadRecordError, match=r"the name 'caf\\udce9.jpg' is not UTF-8.*Rename the file"):
        check_draft(Draft("1", image, "row 1"))
    image = put_image(tmp_path / "a.jpg")
    with pytest.raises(BadRecordError, match=r"the name '\\ud800' is not UTF-8.*label"):
        check_draft(Draft("1", image, "row 1", [DraftBox((1, 2, 3, 4), "\ud800", "row 1")]))
    with pytest.raises(BadRecordError, match=r"the name 'x\\udcff' is not UTF-8"):
        check_draft(Draft("x\udcff", image, "row 1"))
    assert check_draft(Draft("é", image, "row 1", [DraftBox((1, 2, 3, 4), "目", "row 1")])).id == "é"


def test_they_can_be_skipped_and_are_listed(tmp_path, put_image):
    for name in ("a.jpg", "b.jpg", NOT_UTF8):
        image = put_image(tmp_path / "d" / "images" / name)
        label = tmp_path / "d" / "labels" / image.with_suffix(".txt").name
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "d" / "data.yaml").write_text("train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load_dataset(str(tmp_path / "d"))
    skipped = tmp_path / "skipped.jsonl"
    kept = load_dataset(str(tmp_path / "d"), on_error="skip", skipped_path=skipped)
    assert [record.file_name for record in kept.records] == ["a.jpg", "b.jpg"]
    (row,) = map(json.loads, skipped.read_text(encoding="utf-8").splitlines())
    assert "caf" in row["id"]
    assert "not UTF-8" in row["reason"]
