"""Boxes to and from the `supervision` package, the real one."""

from __future__ import annotations

import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st

from boxtune.detections import Detections
from boxtune.errors import ConfigError, DataError

TWO = Detections([[10, 20.25, 30, 41.5], [0, 0, 5, 5]], ["red cell", "table"], [0.75, 0.125])
corner = st.floats(0, 4000, allow_nan=False)
name = st.text(min_size=1, max_size=8).filter(lambda text: not text.endswith("\0"))  # NumPy drops these


@st.composite
def scenes(draw) -> Detections:
    points = draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=5))
    boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in points]
    labels = draw(st.lists(name, min_size=len(boxes), max_size=len(boxes)))
    scores = draw(st.none() | st.lists(st.floats(0, 1), min_size=len(boxes), max_size=len(boxes)))
    return Detections(boxes, labels, scores)


@given(scenes())
def test_there_and_back(scene):
    assert Detections.from_supervision(scene.to_supervision()) == scene


def test_what_supervision_is_given():
    given_out = TWO.to_supervision()
    assert isinstance(given_out, supervision.Detections)
    assert given_out.xyxy.tolist() == [[10, 20.25, 30, 41.5], [0, 0, 5, 5]]
    assert given_out.confidence.tolist() == [0.75, 0.125]
    assert given_out.class_id.tolist() == [0, 1]
    assert given_out["class_name"].tolist() == ["red cell", "table"]
    assert TWO.to_supervision(["table", "x", "red cell"]).class_id.tolist() == [2, 0]
    given_out.xyxy[:] = 0  # a copy: ours never changes
    assert TWO.xyxy[0, 3] == 41.5


def test_its_own_tools_take_it():
    picture = np.zeros((60, 60, 3), np.uint8)
    drawn = supervision.BoxAnnotator().annotate(picture.copy(), TWO.to_supervision())
    drawn = supervision.LabelAnnotator().annotate(drawn, TWO.to_supervision())
    assert drawn.any()
    sure = TWO.to_supervision()
    kept = Detections.from_supervision(sure[sure.confidence > 0.5])
    assert kept == TWO.select([0])
    double = Detections(np.tile(TWO.xyxy, (2, 1)), TWO.labels * 2, np.tile(TWO.scores, 2))
    assert len(Detections.from_supervision(double.to_supervision().with_nms(0.5))) == 2


def test_empty_ones():
    for scene in (Detections.empty(), Detections.empty(scored=True)):
        assert scene.to_supervision().is_empty()
        assert Detections.from_supervision(scene.to_supervision()) == scene
    assert Detections.from_supervision(supervision.Detections.empty()) == Detections.empty(scored=True)


def test_numbers_without_names():
    numbered = supervision.Detections(np.array([[1.0, 2, 3, 4]]), class_id=np.array([1]))
    assert Detections.from_supervision(numbered, ["a", "b"]) == Detections([[1, 2, 3, 4]], ["b"])
    with pytest.raises(DataError, match=r"no labels in data.*give class_names"):
        Detections.from_supervision(numbered)
    with pytest.raises(DataError, match="no name for class_id 1: class_names has 1"):
        Detections.from_supervision(numbered, ["a"])
    with pytest.raises(DataError, match="give class_names"):
        Detections.from_supervision(supervision.Detections(np.array([[1.0, 2, 3, 4]])), ["a"])


def test_what_cannot_be():
    with pytest.raises(DataError, match="'red cell' is not among class_names"):
        TWO.to_supervision(["table"])
    with pytest.raises(ValueError, match="a corner is swapped"):
        Detections.from_supervision(supervision.Detections(np.array([[9.0, 2, 3, 4]]), class_id=np.array([0])), ["a"])


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"boxtune\[supervision\]"):
        TWO.to_supervision()
