"""Which images two sets share, by short digests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxtune.data.dataset import DetectionDataset
from boxtune.data.digests import image_digests, pack_digests, unpack_digests
from boxtune.data.records import Record
from boxtune.detections import Detections
from boxtune.errors import DataError

BOX = Detections([[1, 2, 30, 40]], ["x"])
RECORD = Record("1", Path("1.png"), (50, 60), BOX, "row 1")


def digest(record: Record, split: str | None = "train") -> int:
    return int(image_digests(DetectionDataset([record], ("x",), "made", split))[0])


def test_what_tells_images_apart():
    same = digest(RECORD)
    assert same == digest(replace(RECORD, image=Path("elsewhere/1.png"), source="another file"), "val")
    changed = [
        replace(RECORD, id="2"),
        replace(RECORD, image_hw=(60, 50)),
        replace(RECORD, detections=Detections([[1, 2, 30, 41]], ["x"])),
        replace(RECORD, detections=Detections([[1, 2, 30, 40]], ["y"])),
    ]
    assert len({same, *map(digest, changed)}) == 5


def test_without_boxes_the_split_does():
    empty = replace(RECORD, detections=Detections.empty())
    assert digest(empty, "train") != digest(empty, "val")


def test_no_images_have_no_digests():
    assert len(image_digests(DetectionDataset([], (), "made"))) == 0


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_packed_and_unpacked(values):
    assert unpack_digests(pack_digests(np.array(values, dtype=np.uint32))).tolist() == sorted(values)


@pytest.mark.parametrize("text", ["?", "AAAA", 3, None])
def test_other_text_is_refused(text):
    with pytest.raises(DataError, match="no digests of images"):
        unpack_digests(text)
