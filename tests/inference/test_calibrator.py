"""The saved map of scores: it rises strictly, comes back from its file, and a bad file is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from boxtune.detections import Detections
from boxtune.errors import ModelError, SaveError
from boxtune.inference.calibrator import Calibrator, read_calibrator
from boxtune.inference.decoding import Answer
from boxtune.inference.detector import load_detector
from boxtune.inference.prediction import made_out
from boxtune.models.tiny import save_tiny

TEMPERATURE = Calibrator("temperature", 2.5, -0.7, num_boxes=80)
ISOTONIC = Calibrator("isotonic", said=(0.2, 0.5, 0.9), true=(0.0, 0.4, 0.4), num_boxes=80)


@pytest.mark.parametrize("calibrator", [TEMPERATURE, ISOTONIC, Calibrator("temperature", 0.05, 20.0)])
def test_order_is_kept_strictly(calibrator):
    scores = np.unique(
        np.concatenate([np.linspace(0, 1, 10_001), 1 - np.logspace(-9, -1, 200), np.logspace(-9, -1, 200)])
    )
    mended = calibrator.apply(scores)
    assert (np.diff(mended) > 0).all()
    assert 0 <= mended.min() <= mended.max() <= 1


def test_values():
    assert Calibrator("temperature").apply(np.array([0.1, 0.5, 0.9])) == pytest.approx([0.1, 0.5, 0.9])
    assert Calibrator("temperature", 2.0).apply(np.array([0.9])) == pytest.approx([0.75], abs=1e-3)  # √9 : 1
    assert ISOTONIC.apply(np.array([0.2, 0.35, 0.7])) == pytest.approx([0.0, 0.2, 0.4], abs=1e-3)
    assert TEMPERATURE.apply(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("calibrator", [TEMPERATURE, ISOTONIC])
def test_round_trip(tmp_path, calibrator):
    calibrator.save(tmp_path)
    assert read_calibrator(tmp_path) == calibrator


def test_no_file_is_none_and_no_folder_cannot_be_written(tmp_path):
    assert read_calibrator(tmp_path) is None
    with pytest.raises(SaveError, match="cannot be written"):
        TEMPERATURE.save(tmp_path / "nowhere")


BAD = {
    "not json": "{",
    "a list": "[]",
    "a key too few": {"bias": ...},
    "a key too many": {"code": "import os"},
    "version": {"version": 2},
    "kind": {"kind": "pickle"},
    "temperature 0": {"temperature": 0},
    "negative temperature": {"temperature": -1.0},
    "more digits than a float holds": {"temperature": 10**400},
    "so flat that all scores are alike": {"temperature": 1e308},
    "so steep that it is a step": {"temperature": 1e-320},
    "half a box": {"num_boxes": 3.5},
    "fewer than no boxes": {"num_boxes": -3},
    "lists in lists without end": "[" * 100_000,
    "text for a number": {"temperature": "2"},
    "not finite": {"bias": float("inf")},
    "true for a number": {"bias": True},
    "knots that are no list": {"said": 0.5},
    "knots above 1": {"said": [0.1, 1.5], "true": [0.1, 0.2]},
    "knots of two lengths": {"said": [0.1, 0.5], "true": [0.1]},
    "knots that fall": {"said": [0.5, 0.1], "true": [0.1, 0.2]},
    "knots that stand": {"said": [0.5, 0.5], "true": [0.1, 0.2]},
    "shares that fall": {"said": [0.1, 0.5], "true": [0.2, 0.1]},
    "isotonic without knots": {"kind": "isotonic"},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_bad_files_are_refused(tmp_path, change):
    path = tmp_path / "calibration.json"
    if isinstance(change, str):
        path.write_text(change)
    else:
        TEMPERATURE.save(tmp_path)
        content = {**json.loads(path.read_text()), **change}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    with pytest.raises(ModelError, match=r"calibration\.json.*boxtune calibrate"):
        read_calibrator(tmp_path)


def test_the_detector_applies_it(tmp_path):
    save_tiny("qwen2_vl", tmp_path)
    plain = load_detector(str(tmp_path), labels=["table"], max_new_tokens=8)
    assert plain.calibrator is None
    TEMPERATURE.save(tmp_path)
    mended = load_detector(str(tmp_path), labels=["table"], max_new_tokens=8)
    assert mended.calibrator == TEMPERATURE
    assert load_detector(str(tmp_path), calibrated=False).calibrator is None
    answer, question = written_answer(plain)
    before, after = (
        made_out(answer, one.style.codec, question.image_hw, question.input_hw, ("table",), one.calibrator)
        for one in (plain, mended)
    )
    before, after = before.result.detections, after.result.detections
    assert before.xyxy.tolist() == after.xyxy.tolist()
    assert after.scores == pytest.approx(TEMPERATURE.apply(before.scores))


def written_answer(detector):
    """An answer with one box, as a trained model would have written it."""
    image = Image.new("RGB", (200, 100))
    text = detector.style.codec.encode(Detections([[10, 10, 100, 80]], ["table"]), (100, 200), (100, 200))
    spans = tuple((place, place + 1) for place in range(len(text)))
    return Answer(text, spans, np.full(len(text), -0.2), truncated=False), detector.encoder.question(image, ("table",))
