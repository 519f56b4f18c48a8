"""Models are loaded when they are asked, and few stay."""

from __future__ import annotations

import pytest

from boxtune.app.asking import Models, Picture
from boxtune.errors import ConfigError
from boxtune.inference.detector import Detector


def test_looks_are_those_of_the_detector(loaded, samples):
    pictures = [Picture(sample.id, sample.image) for sample in samples]
    expected = loaded("x").detect([sample.image for sample in samples])
    looks = list(Models(loaded).look("x", "text", None, pictures))
    assert [look.prediction.result.detections.labels for _, look in looks] == [
        one.detections.labels for one in expected
    ]
    assert all(look.seconds > 0 for _, look in looks)
    asked = next(Models(loaded).look("x", "text", ["red cell"], pictures[:1]))[0]
    assert asked == ("red cell",)


def test_the_last_two_stay_loaded(loaded, samples):
    names = []
    models = Models(lambda name: (names.append(name), loaded(name))[1])
    for name in ("a", "b", "a", "c", "a", "b"):
        list(models.look(name, "text", None, [Picture("x", samples[0].image)]))
    assert names == ["a", "b", "c", "b"]


def test_what_a_model_cannot_do_is_said(taught):
    models = Models(lambda name: Detector(taught, labels=()))
    with pytest.raises(ConfigError, match="no detection head"):
        next(models.look("x", "head", None, []))
    with pytest.raises(ConfigError, match="without labels"):
        next(models.look("x", "text", None, []))
